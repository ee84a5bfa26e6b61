"""What `up` finds changed since a service was started, and what it says of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pipectl.engines import changes
from pipectl.engines.changes import StartState
from pipectl.engines.docker import replacements
from pipectl.engines.docker.api import Container
from pipectl.engines.docker.engine import DockerEngine
from pipectl.engines.docker.replacements import FILES_LABEL
from pipectl.engines.local.supervisor.program import Program
from pipectl.engines.local.supervisor.supervisor import Supervisor
from pipectl.env_file import EnvFile
from pipectl.observer import Observer
from pipectl.settings import Settings
from support import ROOT
from support.fake_docker import DOCKER

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.engines.docker.api import EngineVersion

USER_ENV = "stack/airflow/user.env"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("common", "metadata", "business"):
        write(tmp_path / "stack" / "postgres" / f"{name}.conf", name)
    write(tmp_path / "stack" / "mysql" / "server.cnf", "[mysqld]")
    write(tmp_path / "stack" / "airflow" / "launcher.py", "start()")
    write(tmp_path / "stack" / "airflow" / "cleanup.py", "clean()")
    write(tmp_path / "stack" / "airflow" / "plugins" / "mine.py", "plug()")
    write(tmp_path / "stack" / "airflow" / "plugins" / "__pycache__" / "mine.pyc", "compiled")
    write(tmp_path / "requirements.txt", "numpy")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "services"),
    [
        ("stack/postgres/common.conf", {"postgres", "airbyte-postgres"}),
        ("stack/postgres/metadata.conf", {"postgres"}),
        ("stack/postgres/business.conf", {"airbyte-postgres"}),
        ("stack/postgres/my own.conf", {"postgres", "airbyte-postgres"}),
        ("stack/mysql/server.cnf", {"airbyte-mysql"}),
        ("stack/airflow/launcher.py", {"scheduler"}),
        ("stack/airflow/plugins/mine.py", {"scheduler"}),
        ("stack/airflow/plugins/another/one.py", {"scheduler"}),
        ("stack/airflow/plugins/__pycache__/mine.pyc", set()),
        ("stack/airflow/cleanup.py", set()),
        ("dags/mine.py", set()),
    ],
)
def test_a_changed_file_concerns_the_services_that_read_it_at_their_start(
    project: Path, path: str, services: set[str]
) -> None:
    names = ("postgres", "airbyte-postgres", "airbyte-mysql", "scheduler")
    before = {name: changes.digests(project, name) for name in names}
    write(project / path, "something else")
    now = {name: changes.digests(project, name) for name in names}
    assert {name for name in names if before[name] != now[name]} == services


def test_every_file_that_the_launcher_loads_counts() -> None:
    launcher = (ROOT / "stack" / "airflow" / "launcher.py").read_text(encoding="utf-8")
    [names] = re.findall(r"neighbour,\s*\(([^)]*)\)", launcher)
    assert sorted(["launcher", *re.findall(r"\w+", names)]) == sorted(changes.LAUNCHED)


def test_an_engines_own_files_count_too_and_one_that_is_deleted(project: Path) -> None:
    before = changes.digests(project, "webserver", "requirements.txt")
    assert "requirements.txt" in before
    (project / "requirements.txt").unlink()
    now = changes.digests(project, "webserver", "requirements.txt")
    assert StartState(files=before).changes(StartState(files=now), ()) == ("requirements.txt",)


def test_settings_are_named_without_their_values_and_with_the_users_file() -> None:
    before = StartState({"A": "1", "GONE": "secret", "SAME": "x"})
    now = StartState({"A": "2", "NEW": "secret", "SAME": "x"})
    assert before.changes(now, {"NEW"}) == ("A", "GONE", f"NEW of {USER_ENV}")
    assert before.changes(before, {"NEW"}) == ()


def test_what_follows_from_a_changed_file_is_not_named_beside_it() -> None:
    before = StartState(files={"lock": "1"}, rest={"its command": "old/python"})
    assert before.changes(StartState(files={"lock": "2"}, rest={"its command": "new/python"}), ()) == (
        "lock",
    )
    assert before.changes(StartState(files={"lock": "1"}, rest={"its command": "new/python"}), ()) == (
        "its command",
    )


def test_what_follows_from_a_port_is_told_by_its_variable_with_its_numbers() -> None:
    before = StartState(
        {"PORT": "3307", "URL": "http://h:3307/x", "OTHER": "3307 a", "SECRET": "z3307"},
        rest={"its command": ["--port=3307"]},
        ports={"AIRBYTE_MYSQL_PORT": 3307, "AIRFLOW_PORT": 8080},
    )
    settings = {"PORT": "3399", "URL": "http://h:3399/x", "OTHER": "3307 a", "SECRET": "z3307"}
    ports = {"AIRBYTE_MYSQL_PORT": 3399, "AIRFLOW_PORT": 8080}
    moved = ("AIRBYTE_MYSQL_PORT (3307 → 3399)",)
    now = StartState(settings, rest={"its command": ["--port=3399"]}, ports=ports)
    assert before.changes(now, ()) == moved
    assert changes.describe(moved) == "AIRBYTE_MYSQL_PORT (3307 → 3399) changed"
    # Beside a file, and a setting that changes in something else too.
    more = replace(now, settings={**settings, "OTHER": "3399 b"}, files={"lock": "1"})
    assert before.changes(more, ()) == ("lock", "OTHER", *moved)
    # What is made of no port stays what it is, and a port that concerns nothing is not named.
    assert replace(now, ports={}).changes(replace(now, rest={}), ()) == ("its command",)
    assert now.changes(replace(now, ports={"AIRFLOW_PORT": 1}), ()) == ()


def test_one_sentence_tells_of_all_services_with_the_same_changes() -> None:
    own = (f"COLOUR of {USER_ENV}",)
    told = list(
        changes.restart_sentences(
            {"webserver": own, "dag-processor": own, "airbyte-mysql": ("stack/mysql/server.cnf",)}
        )
    )
    assert told == [
        f"Restarting webserver, dag-processor: COLOUR of {USER_ENV} changed",
        "Restarting airbyte-mysql: stack/mysql/server.cnf changed",
    ]
    assert list(changes.restart_sentences({"scheduler": own}))[1:] == [changes.TASKS_FAIL]
    assert changes.describe(("a", "b", "c", "d", "e", "f")) == "a, b, c, d, 2 more changed"


def test_airflow_restarts_with_its_metadata_database() -> None:
    running = ("postgres", "airbyte-mysql", "webserver", "scheduler", "worker")
    restarts = changes.with_dependents({"postgres": ("f",), "webserver": ("g",)}, running)
    assert restarts == {
        "postgres": ("f",),
        "webserver": ("g",),
        "scheduler": ("postgres",),
        "worker": ("postgres",),
    }
    assert changes.with_dependents({"airbyte-mysql": ("f",)}, running) == {"airbyte-mysql": ("f",)}
    assert "Restarting scheduler, worker: postgres restarts" in list(changes.restart_sentences(restarts))


def test_a_database_on_another_port_is_told_by_the_variable(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.run_dir.mkdir()

    def mysql(port: int) -> Program:
        return described(tmp_path, command=("serve", f"--port={port}"), ports={"AIRBYTE_MYSQL_PORT": port})

    supervisor.describe(mysql(3307))
    assert supervisor.changes(mysql(3399), 7, ()) == ("AIRBYTE_MYSQL_PORT (3307 → 3399)",)


def described(folder: Path, **changed: Any) -> Program:
    program = Program("web", ("serve",), folder, {"A": "1", "PATH": "/bin"}, {"plugins": "1"})
    return replace(program, **changed)


def test_a_process_is_compared_with_what_it_was_started_with_and_not_with_what_is_written_down(
    tmp_path: Path,
) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.run_dir.mkdir()
    supervisor.describe(described(tmp_path))
    path = supervisor.run_dir / "web.json"
    started = {**json.loads(path.read_text()), "pid": 7}
    path.with_suffix(".started").write_text(json.dumps(started))
    now = described(tmp_path, environment={"A": "2", "PATH": "/bin"})
    # An `up` that was interrupted after this has restarted nothing.
    supervisor.describe(now)
    assert supervisor.changes(now, 7, ()) == ("A",)
    # Another process has read what is written down.
    assert supervisor.changes(now, 8, ()) == ()
    path.with_suffix(".started").write_text(json.dumps({**started, "files": {}}))
    assert supervisor.changes(described(tmp_path), 7, ()) == ("plugins",)


def test_the_terminal_that_up_is_run_in_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.run_dir.mkdir()
    supervisor.describe(described(tmp_path))
    for name in ("HOME", "LANG", "https_proxy"):
        monkeypatch.setenv(name, "/another")
    now = described(tmp_path, environment={"A": "1", "PATH": "/another:/bin"})
    assert supervisor.changes(now, 7, ()) == ()


class FakeApi:
    """An engine whose containers Compose replaces."""

    def __init__(self, before: list[Container], now: list[Container]) -> None:
        self.before = before
        self.now = now
        self.stopped: list[str] = []
        self.started: list[str] = []

    def containers(self, _: dict[str, str]) -> tuple[Container, ...]:
        return tuple(self.now)

    def version(self) -> EngineVersion:
        return DOCKER

    def stop(self, container: str) -> None:
        self.stopped.append(container)

    def start(self, container: str) -> None:
        self.started.append(container)


def container(service: str, identity: str, state: str = "running", **changed: Any) -> Container:
    pid = 1 if state == "running" else None
    values = {"labels": {FILES_LABEL: "plugins:1"}, "environment": {"A": "1"}, "image": "sha256:1", **changed}
    return Container(identity, f"p-{service}-1", service, state, 0, pid, 0, "", **values)


class Told(Observer):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def report(self, sentence: str) -> None:
        self.sentences.append(sentence)


def noted(
    folder: Path, before: list[Container], now: list[Container]
) -> tuple[DockerEngine, list[str], FakeApi]:
    (folder / "stack" / "airflow").mkdir(parents=True, exist_ok=True)
    variables = {"PIPECTL_PROJECT_ID": "me"}
    api: Any = FakeApi(before, now)
    engine = DockerEngine(Settings(folder, "docker", folder / "cache", variables), api)
    told = Told()
    engine._note_restarts({each.name: each for each in before}, told)
    return engine, told.sentences, api


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"labels": {FILES_LABEL: "plugins:2"}}, "plugins"),
        ({"environment": {"A": "2"}}, "A"),
        ({"image": "sha256:2", "environment": {"A": "2"}}, "its image"),
        ({"user": "1000:0"}, "AIRFLOW_UID"),
        ({"published": {8080: 8081}}, "AIRFLOW_PORT (8080 → 8081)"),
        ({}, "its configuration"),
    ],
)
def test_containers_that_compose_replaced_are_named_with_the_cause(
    tmp_path: Path, changed: dict[str, Any], cause: str
) -> None:
    before = [container("webserver", "old", published={8080: 8080}), container("airbyte-mysql", "db")]
    changed = {"published": {8080: 8080}, **changed}
    now = [container("webserver", "new", "created", **changed), container("airbyte-mysql", "db")]
    engine, told, api = noted(tmp_path, before, now)
    assert told == [f"Restarting webserver: {cause} changed"]
    assert engine.restarts() == {"webserver": f"{cause} changed"}
    assert api.stopped == []


PLANNED: dict[str, Any] = {
    "image": "airflow",
    "environment": {"A": "1"},
    "labels": {FILES_LABEL: "plugins:1"},
    "ports": [{"target": 8080, "published": "8080"}],
}


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({}, None),
        ({"labels": {FILES_LABEL: "plugins:2"}}, ("plugins",)),
        ({"environment": {"A": 2}}, ("A",)),
        ({"environment": {"A": "1", "B": "1"}}, ("B",)),
        ({"user": "1000:0"}, ("AIRFLOW_UID",)),
        ({"ports": [{"target": 8080, "published": "8081"}]}, ("AIRFLOW_PORT (8080 → 8081)",)),
        ({"image": "newer"}, ("its image",)),
        ({"environment": {"A": "1", "UNSET": None}}, None),
    ],
)
def test_what_compose_would_replace_is_foreseen_with_the_cause(
    changed: dict[str, Any], cause: tuple[str, ...] | None
) -> None:
    running = container(
        "webserver",
        "old",
        environment={"A": "1", "OF_IMAGE": "x"},
        published={8080: 8080},
        user="airflow",
    )
    others = [
        container("airbyte-mysql", "db", environment={"A": "1", "OF_IMAGE": "x"}),
        container("redis", "gone"),
    ]
    images = {"airflow": ("sha256:1", {"OF_IMAGE": "x"}), "newer": ("", {})}
    services = {
        "webserver": {**PLANNED, **changed},
        "airbyte-mysql": {**PLANNED, "ports": []},
    }
    found = replacements.foresee([running, *others], services, images, ())
    assert found == ({"webserver": cause} if cause else {})


def test_what_needs_a_database_that_compose_would_replace_is_foreseen_too() -> None:
    running = [container(name, name) for name in ("postgres", "scheduler")]
    changed = {**PLANNED, "labels": {FILES_LABEL: "plugins:2"}, "ports": []}
    services = {"postgres": changed, "scheduler": {**PLANNED, "ports": []}}
    found = replacements.foresee(running, services, {"airflow": ("sha256:1", {})}, ())
    assert found == {"postgres": ("plugins",), "scheduler": ("postgres",)}


def test_a_container_that_differs_in_nothing_was_replaced_for_another(tmp_path: Path) -> None:
    before = [container("scheduler", "old"), container("airbyte-mysql", "old")]
    changed = container("airbyte-mysql", "new", "created", labels={FILES_LABEL: "plugins:2"})
    _, told, _ = noted(tmp_path, before, [container("scheduler", "new", "created"), changed])
    assert told[:2] == [
        "Restarting scheduler: airbyte-mysql restarts",
        "Restarting airbyte-mysql: plugins changed",
    ]


def test_a_password_that_the_data_were_made_with_is_not_called_changed_alone(tmp_path: Path) -> None:
    before = [container("airbyte-mysql", "old", environment={"MYSQL_ROOT_PASSWORD": "a"})]
    now = [container("airbyte-mysql", "new", "created", environment={"MYSQL_ROOT_PASSWORD": "b"})]
    _, told, _ = noted(tmp_path, before, now)
    assert told[0].startswith(
        "The databases keep the AIRBYTE_MYSQL_ROOT_PASSWORD that their data were made with"
    )


def test_a_container_in_a_crash_loop_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looping = replace(container("webserver", "loop", "restarting"), restarts=7)
    waiting = container("scheduler", "new", "created")
    api: Any = FakeApi([looping, waiting], [looping, waiting])
    variables = {"PIPECTL_PROJECT_ID": "me"}
    engine = DockerEngine(Settings(tmp_path, "docker", tmp_path / "cache", variables), api)
    monkeypatch.setattr(engine, "_create", lambda: None)
    (tmp_path / "stack" / "airflow").mkdir(parents=True)
    assert engine.start(Told()) == ("webserver", "scheduler")
    assert api.stopped == ["loop"]
    assert set(api.started) == {"loop", "new"}


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("A=it$x", ("A",)),
        ('A="it$x"', ("A",)),
        ("export A = it$x", ("A",)),
        ("A='it$x'", ()),
        ("# A=it$x", ()),
        ("A=", ()),
    ],
)
def test_a_value_that_compose_would_change_is_found(
    tmp_path: Path, line: str, names: tuple[str, ...]
) -> None:
    (tmp_path / ".env").write_text(f"{line}\n", encoding="utf-8")
    assert EnvFile(tmp_path / ".env").expanded() == names


def test_a_first_start_and_a_stack_without_changes_restart_nothing(tmp_path: Path) -> None:
    same = [container("webserver", "old")]
    assert noted(tmp_path, [], [container("webserver", "new", "created")])[1] == []
    assert noted(tmp_path, same, same)[1] == []
    assert noted(tmp_path, [container("webserver", "old", "exited")], same)[1] == []


def test_containers_that_compose_stopped_for_a_database_are_named(tmp_path: Path) -> None:
    before = [container("airbyte-mysql", "old"), container("scheduler", "same")]
    changed = container("airbyte-mysql", "new", "created", labels={FILES_LABEL: "plugins:2"})
    engine, told, _ = noted(tmp_path, before, [changed, container("scheduler", "same", "exited")])
    assert told[:2] == [
        "Restarting scheduler: airbyte-mysql restarts",
        "Restarting airbyte-mysql: plugins changed",
    ]
    assert set(engine.restarts()) == {"airbyte-mysql", "scheduler"}


def test_containers_that_need_a_replaced_metadata_database_are_stopped_first(tmp_path: Path) -> None:
    before = [container(name, name) for name in ("postgres", "scheduler", "airbyte-mysql")]
    changed = container("postgres", "new", "created", labels={FILES_LABEL: "plugins:2"})
    engine, _, api = noted(tmp_path, before, [changed, *before[1:]])
    assert api.stopped == ["scheduler"]
    assert set(engine.restarts()) == {"postgres", "scheduler"}
