"""Which value a setting has: options, environment, stack/.env, default."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pipectl import settings
from pipectl.engines.project import unknown_names
from pipectl.errors import UsageError
from support import ROOT

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
    (project / "stack" / ".env").write_text(f"AIRFLOW_PORT={text}\n")
    with pytest.raises(UsageError, match=f"^AIRFLOW_PORT='{text}' in .*/stack/.env is not a port number"):
        settings.load(project).port("webserver")
    monkeypatch.setenv("AIRFLOW_PORT", text)
    with pytest.raises(UsageError, match=f"^The environment variable AIRFLOW_PORT='{text}'") as caught:
        settings.load(project).port("webserver")
    assert "unset AIRFLOW_PORT" in caught.value.hint


@pytest.mark.parametrize(
    "line",
    [
        "AIRFLOW_PARALLELISM=many",
        "AIRFLOW_PARALLELISM=0",
        "AIRFLOW_WORKERS=-1",
        "AIRFLOW_UID=me",
        "AIRFLOW_UID=²",
        "PIPECTL_RETENTION_DAYS=a month",
        "PIPECTL_SEED=1.5",
        "PIPECTL_ALERT_FRAUD_RATE=0.1",
        "PIPECTL_ALERT_LAG_SECONDS=an hour",
        "PIPECTL_ALERT_WEBHOOK=hooks.example/sesame",
        "AIRBYTE_POSTGRES_SSLMODE=on",
        "AIRBYTE_MYSQL_SSLMODE=verify-ca",
        "AIRBYTE_MYSQL_SSLROOTCERT=nowhere.pem",
        "AIRBYTE_MYSQL_SSLROOTCERT=../.env",
        "AIRBYTE_MYSQL_SSLROOTCERT=/etc/passwd",
        f"AIRBYTE_MYSQL_SSLROOTCERT={'x' * 300}",
    ],
)
def test_a_value_that_would_fail_after_the_start_is_refused_before(
    project: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    name, value = line.split("=")
    (project / "stack" / ".env").write_text(f"{line}\n")
    with pytest.raises(UsageError, match=name) as caught:
        settings.load(project).check()
    assert "sesame" not in caught.value.message
    (project / "stack" / ".env").write_text("")
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=name):
        settings.load(project).check()


def test_the_defaults_of_the_example_are_not_refused(project: Path) -> None:
    example = (ROOT / "stack" / ".env.example").read_text(encoding="utf-8")
    (project / "stack" / ".env").write_text("\n".join(re.findall(r"^# ([A-Z_]+=.*)$", example, re.MULTILINE)))
    loaded = settings.load(project)
    loaded.check()
    assert loaded.variables["PIPECTL_RETENTION_DAYS"] == "30"


def test_a_misspelt_name_is_told(project: Path) -> None:
    for name in (".env.example", ".env"):
        (project / "stack" / name).write_text((ROOT / "stack" / ".env.example").read_text(encoding="utf-8"))
    assert list(unknown_names(settings.load(project))) == []
    (project / "stack" / ".env").write_text(
        "AIRFLOW_PORT=1\nAIRFLOW_PROT=1\nPIPECTL_XYZ=1\nAIRFLOW__CORE__X=1\nMY_OWN=1\nMYSQL_IMGE=1\n"
    )
    told = sorted(unknown_names(settings.load(project)))
    assert [sentence.split()[2].strip(",") for sentence in told] == [
        "AIRFLOW_PROT",
        "AIRFLOW__CORE__X",
        "MYSQL_IMGE",
        "PIPECTL_XYZ",
    ]
    assert "the nearest name is AIRFLOW_PORT" in told[0]


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
