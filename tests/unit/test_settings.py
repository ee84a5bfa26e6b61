"""Which value a setting has: options, environment, stack/.env, default."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from pipectl import settings
from pipectl.engines.project import new_fernet_key, unknown_names
from pipectl.env_file import EnvFile
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


@pytest.mark.parametrize("text", ["eighty", "0", "65536", "-1", "tcp://10.0.0.1:8080", "²"])
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
        "PIPECTL_ALERT_FRAUD_RATE=1:0",
        "PIPECTL_ALERT_FRAUD_RATE=2e-1:0.1",
        "AIRFLOW_FERNET_KEY=sesame",
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


def test_a_fernet_key_that_was_cut_is_told_from_where_it_comes_back(project: Path) -> None:
    key = new_fernet_key()
    (project / ".pipectl").mkdir()
    settings.kept_path(project).write_text(json.dumps({"AIRFLOW_FERNET_KEY": key}))
    for text in (key[:20], f"{key},{key[:20]}"):
        (project / "stack" / ".env").write_text(f"AIRFLOW_FERNET_KEY={text}")
        with pytest.raises(
            UsageError, match=r"^AIRFLOW_FERNET_KEY in .*/stack/.env is not a Fernet key"
        ) as caught:
            settings.load(project).check()
        assert text not in caught.value.message
        assert f"delete the line: pipectl up takes it from {settings.kept_path(project)}" in caught.value.hint
    (project / "stack" / ".env").write_text("")
    assert settings.load(project).restored == {"AIRFLOW_FERNET_KEY": key}
    (project / "stack" / ".env").write_text(f"AIRFLOW_FERNET_KEY={key},{key}\n")
    settings.load(project).check()


def test_two_services_cannot_be_given_one_port(project: Path) -> None:
    env = project / "stack" / ".env"
    env.write_text("AIRFLOW_PORT=18080\nAIRFLOW_POSTGRES_PORT=18080\n")
    with pytest.raises(UsageError, match=r"^AIRFLOW_PORT='18080' in .* AIRFLOW_POSTGRES_PORT is the same"):
        settings.load(project).check()
    # That of a server elsewhere is no port of this machine; nor does a default count, which gives way.
    env.write_text("AIRFLOW_PORT=3306\nAIRBYTE_MYSQL_HOST=db.example.com\nAIRBYTE_MYSQL_PORT=3306\n")
    settings.load(project).check()
    env.write_text("AIRFLOW_PORT=5432\n")
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


UNIQUE = {
    "PIPECTL_PROJECT_ID": "me",
    "COMPOSE_PROJECT_NAME": "pipectl",
    "AIRBYTE_POSTGRES_CONTAINER": "airbyte-postgres",
    "AIRFLOW_JWT_SECRET": "signs",
}


@pytest.fixture
def original(project: Path) -> Path:
    """A project that has been started, in a folder whose name Compose and dotenv read differently."""
    folder = project / "it's $5 #1; a 100% \u00e9"
    for name in ("dags", "stack", ".pipectl"):
        (folder / name).mkdir(parents=True)
    own = {"PIPECTL_PROJECT_FOLDER": settings.folder_text(folder), "AIRFLOW_FERNET_KEY": "key"}
    variables = UNIQUE | own
    EnvFile(folder / "stack" / ".env").update(variables)
    settings.kept_path(folder).write_text(json.dumps(variables))
    return folder


@pytest.mark.parametrize("lost", ["nothing", "copied state", "copied .env", "original .env"])
def test_a_copy_has_no_part_of_the_identity(original: Path, lost: str) -> None:
    copy = original.with_name("copy")
    shutil.copytree(original, copy)
    if lost == "copied state":
        shutil.rmtree(copy / ".pipectl")
    elif lost != "nothing":
        (settings.env_path(copy if lost == "copied .env" else original)).unlink()
    loaded = settings.load(copy)
    assert loaded.origin == original
    assert not loaded.variables.keys() & UNIQUE.keys()
    assert not loaded.restored.keys() & UNIQUE.keys()
    assert loaded.variables["AIRFLOW_FERNET_KEY"] == "key"  # copied data needs it
    assert settings.load(original).variables.items() >= UNIQUE.items()


@pytest.mark.parametrize("place", ["empty", "a fresh clone", "a started clone", "a link to the new one"])
def test_a_moved_project_keeps_its_identity(original: Path, place: str) -> None:
    moved = original.with_name("moved")
    original.rename(moved)
    if place == "a link to the new one":
        original.symlink_to(moved)
    elif place != "empty":
        (original / "stack").mkdir(parents=True)
        if place == "a started clone":
            EnvFile(original / "stack" / ".env").update({"AIRFLOW_JWT_SECRET": "another"})
    loaded = settings.load(moved)
    assert loaded.origin is None
    assert loaded.variables.items() >= UNIQUE.items()
