"""Where the scripts look for their databases."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline.connections import (
    Database,
    missing_mysql_extension,
    mysql_database,
    postgres_database,
)
from fraud_pipeline.errors import SettingError


def test_defaults_are_the_hosts_and_databases_of_the_stack() -> None:
    assert postgres_database({}) == Database(
        "PostgreSQL", "AIRBYTE_POSTGRES", "airbyte-postgres", 5432, "airbyte", "docker", "docker"
    )
    assert mysql_database({}) == Database(
        "MySQL", "AIRBYTE_MYSQL", "airbyte-mysql", 3306, "data", "docker", "docker"
    )


def test_variables_win_and_empty_ones_do_not_count() -> None:
    database = mysql_database(
        {
            "AIRBYTE_MYSQL_HOST": "127.0.0.1",
            "AIRBYTE_MYSQL_PORT": "3307",
            "AIRBYTE_MYSQL_DATABASE": "other",
            "AIRBYTE_MYSQL_USER": "me",
            "AIRBYTE_MYSQL_PASSWORD": "",
        }
    )

    assert str(database) == "MySQL at 127.0.0.1:3307 (database other, user me)"
    assert database.password == "docker"


@pytest.mark.parametrize("port", ["abc", "0", "65536", "-1", "5432.0", "٣"])
def test_port_that_is_none_is_refused_by_its_variable(port: str) -> None:
    with pytest.raises(SettingError, match=r"^AIRBYTE_POSTGRES_PORT is .* no port from 1 to 65535"):
        postgres_database({"AIRBYTE_POSTGRES_PORT": port})


def test_password_is_not_shown() -> None:
    assert "geheim" not in repr(postgres_database({"AIRBYTE_POSTGRES_PASSWORD": "geheim"}))


def test_nothing_is_told_of_a_driver_that_has_its_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "_mysql_connector", ModuleType("_mysql_connector"))
    assert missing_mysql_extension() is None
