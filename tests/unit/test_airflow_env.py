"""What the lines of airflow.env and user.env mean, and which are refused (tests/integration asks Compose)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipectl.engines import airflow_env
from pipectl.engines.docker.api import EngineVersion
from pipectl.engines.docker.engine import DockerEngine
from pipectl.errors import EngineError, UsageError
from pipectl.observer import Observer
from pipectl.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dags").mkdir()
    path = tmp_path / airflow_env.SHARED
    path.parent.mkdir(parents=True)
    path.write_text("NAME=shared\nKEPT=${SET:-default}\n", encoding="utf-8")
    return tmp_path


def read(project: Path, text: str, **variables: str) -> dict[str, str]:
    (project / airflow_env.OWN).write_text(text, encoding="utf-8")
    return airflow_env.read(project, variables)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=plain # comment", "plain"),
        ("A=a#b", "a#b"),
        ("export A = spaced  \r", "spaced"),
        ("A=", ""),
        ('A={"key": "x y"}', '{"key": "x y"}'),
        ("A='$SET ${SET} \\n # \"'", '$SET ${SET} \\n # "'),
        ('A="$SET \\$SET $$SET \\"\\n" # comment', 'value $SET $SET "\n'),
        ("A=${SET}-${NOPE:-default}-$SET", "value-default-value"),
        ("A=$$5", "$5"),
        ("A=${EMPTY:-default}${EMPTY}", "default"),
        ("A=${NAME}", "shared"),
    ],
)
def test_a_line_means_what_compose_makes_of_it(project: Path, line: str, value: str) -> None:
    assert read(project, f"# mine\n\n{line}\n", SET="value", EMPTY="")["A"] == value


def test_the_users_file_overrides_the_shared_one_and_may_be_missing(project: Path) -> None:
    assert airflow_env.read(project, {"SET": "mine"}) == {"NAME": "shared", "KEPT": "mine"}
    assert read(project, "NAME=own\n")["NAME"] == "own"


def test_a_variable_of_the_shell_overrides_the_projects(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SET", "shell")
    assert airflow_env.read(project, {"SET": "project"})["KEPT"] == "shell"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (SECRET, "is not NAME=value"),
        (f"A: {SECRET}", "is not NAME=value"),
        (f"A-B={SECRET}", "is not NAME=value"),
        (f"A='{SECRET}", "has a quote that does not enclose the whole value"),
        (f"A='a'{SECRET}", "has a quote that does not enclose the whole value"),
        (f"A='it\\'s {SECRET}'", "has a quote that does not enclose the whole value"),
        (f'A="\\t{SECRET}"', "has a backslash in double quotes that is not"),
        (f"A=pa${SECRET}", "refers to a variable that neither"),
        (f"A=${{{SECRET}?x}}", "has a dollar sign that begins no"),
        (f"A={SECRET}$", "has a dollar sign that begins no"),
        (f"AIRFLOW_ADMIN_PASSWORD={SECRET}", "(AIRFLOW_ADMIN_PASSWORD), belongs in stack/.env"),
        (f"A={SECRET}\x07", "holds a character that cannot be printed"),
        ("A=${AIRBYTE_POSTGRES_HOST:-x}", "refers to a variable that neither"),
    ],
)
def test_a_refused_line_is_named_and_not_shown(project: Path, line: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(project, f"# mine\n{line}\n")
    assert f"{project / airflow_env.OWN}, line 2" in caught.value.message
    assert problem in caught.value.message
    assert "(A), " in caught.value.message or not line.startswith("A=")
    assert caught.value.hint
    assert SECRET not in caught.value.message + caught.value.hint


def test_a_file_that_is_no_text_is_a_usage_error(project: Path) -> None:
    (project / airflow_env.OWN).write_bytes(b"A=\xff\n")
    with pytest.raises(UsageError, match="cannot be read: line 1 has the byte 0xFF"):
        airflow_env.read(project, {})


def test_without_the_shared_file_the_engine_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"airflow\.env is missing") as caught:
        airflow_env.read(tmp_path, {})
    assert caught.value.hint.startswith("Get it back: git -C ")
    assert caught.value.hint.endswith(" checkout -- airflow.env")


def test_the_local_engine_starts_nothing_with_a_refused_line(project: Path) -> None:
    (project / airflow_env.OWN).write_text(f"{SECRET}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pipectl", "--project", str(project), "--engine", "local", "up"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "line 1, is not NAME=value" in " ".join(done.stderr.split())
    assert SECRET not in done.stderr + done.stdout
    assert not list(project.glob(".pipectl/*/*"))


def test_the_docker_engine_calls_no_compose_with_a_refused_line(project: Path) -> None:
    class Api:
        host = "unix:///none.sock"

        def containers(self, _: dict[str, str]) -> tuple[()]:
            return ()

        def version(self) -> EngineVersion:
            return EngineVersion("26.1.5", (1, 45), (1, 24), is_podman=False)

    for name in ("docker-compose.yml", "docker-compose.celery.yml"):
        (project / "stack" / name).write_text("no file that Compose could read", encoding="utf-8")
    (project / airflow_env.OWN).write_text(f"{SECRET}\n", encoding="utf-8")
    api: Any = Api()
    settings = Settings(project=project, engine="docker", cache_dir=project / "cache", variables={})
    with pytest.raises(UsageError, match="line 1, is not NAME=value"):
        DockerEngine(settings, api).install(Observer())


def test_the_shipped_file_can_be_read_without_settings() -> None:
    assert airflow_env.read(ROOT, {})["AIRFLOW__CORE__PARALLELISM"] == "4"
    assert airflow_env.read(ROOT, {"AIRFLOW_PARALLELISM": "9"})["AIRFLOW__CORE__PARALLELISM"] == "9"
