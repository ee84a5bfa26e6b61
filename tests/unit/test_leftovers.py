"""Processes that a dead supervisord has left: they keep no port from their project, and are its own."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pipectl.commands.up import result_text
from pipectl.engines.local import start
from pipectl.engines.local.engine import LocalEngine
from pipectl.engines.local.supervisor.supervisor import PROJECT_MARKER
from pipectl.engines.ports import is_free
from pipectl.engines.project import SECRETS, folder_mark
from pipectl.errors import AirflowSilentError, DatabaseSilentError, ForeignAirflowError
from pipectl.observer import Observer
from pipectl.pipeline import access, doctor
from pipectl.pipeline.lifecycle import MovedPort, UpResult
from pipectl.services import of_executor
from pipectl.settings import load
from support.project_copy import copy_project
from support.server_process import free_port
from support.text import plain

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

LISTENING = {each.name: each.port_variable for each in of_executor("LocalExecutor") if each.default_port}
SERVER = """
import socket, sys, time
servers = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
print(flush=True)
time.sleep(600)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project with ports of its own, and what a start fills in."""
    monkeypatch.setenv("PIPECTL_CACHE_DIR", str(tmp_path / "cache"))
    folder = copy_project(tmp_path / "project").folder
    variables = {variable: str(free_port()) for variable in LISTENING.values()}
    variables |= {name: secret.make() for name, secret in SECRETS.items()}
    variables |= {"AIRBYTE_POSTGRES_SUPERUSER_PASSWORD": "secret"}
    (folder / "stack" / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    return folder


def engine_of(project: Path) -> LocalEngine:
    return LocalEngine(load(project, "local"))


def listener(project: Path, mark: str) -> subprocess.Popen[str]:
    """Start a process that listens on all ports of the project."""
    variables = load(project, "local").variables
    ports = [variables[variable] for variable in LISTENING.values()]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, *ports], env={PROJECT_MARKER: mark}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "\n"
    return process


@pytest.fixture
def left(project: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with the project's mark, and no supervisord."""
    with listener(project, folder_mark(project)) as process:
        yield process
        process.kill()


@pytest.fixture
def stranger(project: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of another project."""
    with listener(project, "1:2") as process:
        yield process
        process.kill()


class Start:
    """Starts nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        self.missing: tuple[str, ...] = ()

    def outdated(self, names: Collection[str]) -> dict[str, tuple[str, ...]]:
        del names
        return {}

    def start(self, missing: tuple[str, ...], names: Collection[str]) -> None:
        del missing, names

    def migrate_metadata(self) -> None:
        pass


class Listener(Observer):
    def __init__(self) -> None:
        self.said: list[str] = []

    def report(self, sentence: str) -> None:
        self.said.append(sentence)


def started(project: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[LocalEngine, str]:
    """Start all, but for the services themselves; return what was said."""
    monkeypatch.setattr(start, "find_software", lambda *_: SimpleNamespace())
    monkeypatch.setattr(start, "Start", Start)
    engine, observer = engine_of(project), Listener()
    with engine.lock():
        engine.start(observer)
    return engine, "\n".join(observer.said)


def test_a_start_ends_what_is_left_of_an_earlier_one_and_keeps_its_ports(
    project: Path, monkeypatch: pytest.MonkeyPatch, left: subprocess.Popen[str]
) -> None:
    before = engine_of(project).ports()
    engine, said = started(project, monkeypatch)
    left.wait(10)
    assert engine.moved_ports() == {}
    assert engine_of(project).ports() == before
    assert all(map(is_free, before.values()))
    assert "Ending 1 process of an earlier start" in said


def test_a_start_leaves_a_stranger_alone_and_takes_other_ports(
    project: Path, monkeypatch: pytest.MonkeyPatch, stranger: subprocess.Popen[str]
) -> None:
    engine, said = started(project, monkeypatch)
    assert engine.moved_ports().keys() == LISTENING.keys()
    assert "Ending" not in said
    assert stranger.poll() is None


def test_a_copy_of_data_is_not_made_while_processes_of_an_earlier_start_write_them(
    project: Path, left: subprocess.Popen[str]
) -> None:
    assert engine_of(project).rest(["postgres"]) == ()
    left.wait(10)


@pytest.mark.usefixtures("left")
def test_a_plan_moves_no_port_that_an_earlier_start_holds(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "look_for_software", lambda _: (SimpleNamespace(), (), (), set()))
    monkeypatch.setattr(start, "Start", Start)
    assert engine_of(project).plan(Observer(), executor=None, workers=None).moves == {}


@pytest.mark.usefixtures("left")
def test_what_is_left_is_not_called_a_strangers(project: Path) -> None:
    engine = engine_of(project)
    with pytest.raises(AirflowSilentError, match="is of an earlier start of this project") as raised:
        access.airflow_address(engine)
    assert "pipectl up" in raised.value.hint
    with pytest.raises(DatabaseSilentError, match="is of an earlier start of this project"):
        access.business_databases(engine)
    found = {each.id: each for each in doctor.examine(engine, {"ports", "leftovers"})}
    assert "is held by a process of an earlier start of this project" in found["ports"].found
    assert "1 process of an earlier start" in found["leftovers"].found
    assert {each.remedy for each in found.values()} == {"pipectl up"}


@pytest.mark.usefixtures("stranger")
def test_another_projects_process_is_called_so(project: Path) -> None:
    with pytest.raises(ForeignAirflowError, match="not this project's"):
        access.airflow_address(engine_of(project))


def test_a_port_that_moved_stands_in_the_result() -> None:
    result = UpResult(
        engine="local",
        url="http://127.0.0.1:8082",
        user="admin",
        password="admin",
        ports={"webserver": 8082, "airbyte-mysql": 3306},
        seconds=1.0,
        phases=(),
        started=("webserver",),
        restarted={},
        moved_ports={"webserver": MovedPort(8080, 8082)},
    )
    assert "webserver 8082 (8080 is taken), airbyte-mysql 3306," in plain(result_text(result))
