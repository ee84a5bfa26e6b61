"""Where the scripts look for their databases."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline import connections
from fraud_pipeline.connections import (
    Database,
    missing_mysql_extension,
    mysql_database,
    postgres_database,
)
from fraud_pipeline.errors import DatabaseError, SettingError


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


@pytest.mark.parametrize(("seconds", "tries"), [(0.1, 1), (connections.CONNECT_SECONDS + 1, 1), (300, 2)])
def test_a_time_out_that_ran_while_the_process_was_stopped_does_not_count(
    monkeypatch: pytest.MonkeyPatch, seconds: float, tries: int
) -> None:
    psycopg2 = pytest.importorskip("psycopg2")
    now, opened = [0.0], MagicMock()

    def connect(**_: Any) -> MagicMock:
        opened.tries += 1
        if opened.tries == 1:
            now[0] += seconds
            raise psycopg2.OperationalError("connection to server failed: timeout expired")
        return opened

    opened.tries = 0
    monkeypatch.setattr(psycopg2, "connect", connect)
    monkeypatch.setattr("fraud_pipeline.connections.time.monotonic", lambda: now[0])
    database = postgres_database({})
    if tries == 1:
        with (
            pytest.raises(DatabaseError, match="timeout expired"),
            connections.open_postgres(database, "test"),
        ):
            pass
    else:
        with connections.open_postgres(database, "test") as connection:
            assert connection is opened
    assert opened.tries == tries
