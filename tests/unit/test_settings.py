"""Which value a setting has: options, environment, stack/.env, default."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipectl import settings
from pipectl.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("dags", "stack"):
        (tmp_path / name).mkdir()
    for name in ("PIPECTL_DAG_ID", "PIPECTL_PROJECT", "PIPECTL_ENGINE", "AIRFLOW_PORT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.load(project).dag_id == "generate_transaction_and_labels"
    (project / "stack" / ".env").write_text("PIPECTL_DAG_ID=from_the_file\n")
    assert settings.load(project).dag_id == "from_the_file"
    monkeypatch.setenv("PIPECTL_DAG_ID", "from_the_environment")
    assert settings.load(project).dag_id == "from_the_environment"


@pytest.mark.parametrize("text", ["eighty", "0", "65536", "-1"])
def test_a_port_that_is_none_is_a_usage_error(
    project: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("AIRFLOW_PORT", text)
    with pytest.raises(UsageError, match=f"AIRFLOW_PORT='{text}'"):
        settings.load(project).port("webserver")


def test_a_business_database_elsewhere_is_external_and_airflows_own_never_is(project: Path) -> None:
    (project / "stack" / ".env").write_text(
        "AIRBYTE_MYSQL_HOST=db.example.com\nAIRBYTE_MYSQL_PORT=3307\nAIRFLOW_POSTGRES_HOST=db.example.com\n"
    )
    loaded = settings.load(project)
    assert loaded.is_external("airbyte-mysql")
    assert not loaded.is_external("airbyte-postgres")
    assert not loaded.is_external("postgres")
    address = loaded.database("airbyte-mysql")
    assert (address.host, address.port, address.database) == ("db.example.com", 3307, "data")
