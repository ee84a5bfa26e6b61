"""Which value a setting has: options, environment, stack/.env, default."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from pipectl import settings
from pipectl.env_file import EnvFile
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


@pytest.mark.parametrize("text", ["eighty", "0", "65536", "-1", "tcp://10.0.0.1:8080", "²"])
def test_a_port_that_is_none_is_a_usage_error(
    project: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("AIRFLOW_PORT", text)
    with pytest.raises(UsageError, match=f"environment variable AIRFLOW_PORT='{text}'"):
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
