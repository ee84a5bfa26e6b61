"""What a start says that ends early: of a copy's data, of ports that moved, and of what it leaves running."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipectl import cli, settings
from pipectl.airflow_health import AirflowHealth
from pipectl.engines.local import mariadb, postgres
from pipectl.env_file import EnvFile
from pipectl.errors import AirflowError, EngineError, ExitCode
from pipectl.models import Service
from pipectl.observer import Observer
from pipectl.pipeline import lifecycle
from pipectl.services import SERVICES, of_executor
from support.fake_engine import FakeEngine
from support.project_copy import copy_project

STACK = Path(__file__).resolve().parents[2] / "stack"
EVERY = tuple(service.name for service in SERVICES)
SERVERS = {
    "airbyte-postgres": postgres.PID_FILE,
    "airbyte-mysql": mariadb.PID_FILE,
    "postgres": postgres.PID_FILE,
}

if TYPE_CHECKING:
    from collections.abc import Collection


def data_dir(project: Path, name: str) -> Path:
    return project / ".pipectl" / "volumes" / name / "data"


def pid_file(project: Path, name: str) -> Path:
    return data_dir(project, name) / SERVERS[name]


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A project that has been started and stopped, whose path a shell would take for two words."""
    folder = tmp_path / "the original"
    volumes = (data_dir(folder, name) for name in SERVERS)
    for path in (folder / "dags", folder / "stack" / "airflow", *volumes):
        path.mkdir(parents=True)
    shutil.copy(STACK / "airflow" / "airflow.env", folder / "stack" / "airflow")
    for name in ("airflow", "postgres"):
        shutil.copy(STACK / f"{name}-requirements.txt", folder / "stack")
    variables = {settings.FOLDER: settings.folder_text(folder), "AIRFLOW_JWT_SECRET": "signs"}
    EnvFile(settings.env_path(folder)).update(variables)
    settings.kept_path(folder).write_text(json.dumps(variables))
    return folder


def dry_run(project: Path) -> tuple[int, str]:
    """Return the exit code and what was said."""
    words = ["--project", str(project), "--engine", "local", "up", "--dry-run"]
    done = CliRunner().invoke(cli.app, words)
    return done.exit_code, done.stderr


def copy_of(project: Path) -> Path:
    copy = project.with_name("copy")
    shutil.copytree(project, copy)
    return copy


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("since", ["it runs", "it was stopped", "it was started again"])
def test_a_copy_of_data_in_use_is_not_started(original: Path, name: str, since: str) -> None:
    program = original / ("mariadbd" if name == "airbyte-mysql" else "postgres")
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen((program, "60"), cwd=data_dir(original, name)) as server:
        pid_file(original, name).write_text(f"{server.pid}\n")
        copy = copy_of(original)
        if since == "it was stopped":
            pid_file(original, name).unlink()
        elif since == "it was started again":
            pid_file(original, name).write_text("99999999\n")
        code, said = dry_run(copy)
        server.kill()
    assert code == ExitCode.ENGINE
    assert f"a copy of {original}, and data was in use while it was copied: {name}." in said
    assert f"pipectl --project '{original}' down" in said
    assert "pipectl reset" in said
    assert str(server.pid) not in said
    assert dry_run(original)[0] == ExitCode.DONE


@pytest.mark.parametrize("killed", [False, True])
def test_a_copy_of_data_at_rest_is_started(original: Path, *, killed: bool) -> None:
    if killed:
        for name in SERVERS:
            pid_file(original, name).write_text("99999999\n")
    assert dry_run(copy_of(original))[0] == ExitCode.DONE


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_says_what_a_start_would_take_and_writes_nothing(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project").folder
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (project / "stack" / ".env").write_text(f"AIRFLOW_PORT={port}\n")
        (project / "requirements.txt").write_text("no-such-package>=1\n")
        before = content(project)
        words = ["--project", str(project), "--engine", "local", "up", "--dry-run", "--json"]
        done = CliRunner().invoke(cli.app, words)
        assert done.exit_code == ExitCode.DONE, done.stderr
        assert content(project) == before
    plan = json.loads(done.stdout)
    assert plan["would_start"] == [service.name for service in of_executor("LocalExecutor")]
    assert plan["would_move"]["webserver"]["wanted"] == port
    assert any("requirements.txt" in what for what in plan["would_install"])
    assert (plan["would_restart"], plan["would_remove"]) == ({}, [])
    wrong = CliRunner().invoke(cli.app, [*words, "--executor", "celery"])
    assert wrong.exit_code == ExitCode.USAGE


class Sentences(Observer):
    def __init__(self) -> None:
        self.said: list[str] = []

    def report(self, sentence: str) -> None:
        self.said.append(sentence)


class FailingEngine(FakeEngine):
    """Chooses its ports, and then one service does not start."""

    failed: tuple[str, ...] = ("airbyte-postgres",)
    hint = "Mend it."

    def start(self, observer: Observer, only: Collection[str] = ()) -> tuple[str, ...]:
        del only
        self._fill_in_settings(observer)
        raise EngineError("airbyte-postgres did not start.", hint=self.hint)

    def services(self) -> tuple[Service, ...]:
        return tuple(Service(name, "stopped" if name in self.failed else "running") for name in self._names)


def failure(engine: FakeEngine, observer: Observer) -> EngineError:
    with pytest.raises(EngineError, match="did not start") as raised:
        lifecycle.up(engine, "dag", timeout=1, observer=observer)
    return raised.value


def settings_of(folder: Path, **variables: str) -> settings.Settings:
    (folder / "stack").mkdir(exist_ok=True)
    return settings.Settings(project=folder, engine="auto", cache_dir=folder / "cache", variables=variables)


@pytest.mark.parametrize("hint", ["Mend it.", "Stop it: pipectl down", ""])
def test_a_start_that_fails_names_what_it_leaves_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hint: str
) -> None:
    monkeypatch.setattr(FailingEngine, "hint", hint)
    left = failure(FailingEngine(settings_of(tmp_path)), Observer()).hint
    assert left.startswith("Still running: postgres, airbyte-mysql, webserver, scheduler, dag-processor")
    assert left.endswith(hint)
    assert left.count("pipectl down") == 1


def test_a_start_that_leaves_nothing_running_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FailingEngine, "failed", EVERY)
    assert failure(FailingEngine(settings_of(tmp_path)), Observer()).hint == FailingEngine.hint


def test_a_port_that_was_moved_is_told_even_if_the_start_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FailingEngine, "failed", EVERY)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        engine = FailingEngine(settings_of(tmp_path, AIRFLOW_PORT=str(port)))
        failure(engine, observer := Sentences())
    used = engine.ports()["webserver"]
    assert used != port
    assert f"Port {port} of webserver is taken: {used} instead (remembered in stack/.env)" in observer.said


@pytest.mark.parametrize("restarted", ["scheduler", "worker-1"])
def test_the_api_for_tasks_is_asked_once_for_each_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: str
) -> None:
    answers, asked = ["ConnectError: refused", "", ""], []
    chosen = settings_of(tmp_path)
    chosen.state_dir.mkdir()
    started = before = datetime(2026, 11, 26, tzinfo=UTC)

    class Stack(FakeEngine):
        def services(self) -> tuple[Service, ...]:
            services = super().services()
            return tuple(
                replace(service, started=started if service.name == restarted else before)
                for service in (*services, replace(services[0], name="worker-1"))
            )

        def tasks_api_problem(self) -> str:
            asked.append(started)
            return answers.pop(0)

    for name in ("wait_until_healthy", "wait_until_parsed"):
        monkeypatch.setattr(lifecycle, name, lambda *_, **__: None)
    monkeypatch.setattr(AirflowHealth, "import_failures", lambda *_: ())

    def up() -> None:
        lifecycle.up_locked(Stack(chosen), "dag", timeout=1, observer=Observer())

    with pytest.raises(AirflowError, match="ConnectError: refused"):
        up()
    up()
    up()
    assert len(asked) == 2
    started += timedelta(seconds=9)
    up()
    assert asked[-1] == started
