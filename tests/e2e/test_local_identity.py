"""Two projects side by side: neither takes the other's servers for its own, whatever is lost or moved."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import uuid
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import psutil
import pytest

from pipectl.airflow_login import sign
from pipectl.models import AirflowAddress
from support.command_lines import command_lines
from support.impostor import forwarding
from support.project_copy import COMMAND_SECONDS, DAG_ID, Project, copy_project, new_local_project
from support.server_process import free_port
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e
VICTIMS = ("webserver", "airbyte-postgres", "airbyte-mysql")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The project whose servers answer at the addresses of the other one."""
    with new_local_project(tmp_path_factory.mktemp("first")) as made:
        yield made


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, first_up: Any) -> Iterator[Project]:
    """A second project in a folder whose path is longer than a socket's may be."""
    assert first_up
    folder = tmp_path_factory.mktemp("second") / ("a long name " * 8) / "project"
    with new_local_project(folder) as made:
        made.run("up")
        yield made


@pytest.fixture
def other(second: Project) -> Project:
    """The second project with everything up and its DAG at rest."""
    second.run("up")
    second.client().settle(DAG_ID)
    return second


def services(project: Project) -> dict[str, dict[str, Any]]:
    return {service["name"]: service for service in project.json("status")["services"]}


def supervisors(project: Project) -> list[psutil.Process]:
    processes = project.processes()
    lines = command_lines(processes)
    return [
        process
        for process in processes
        if any(word.endswith("supervisord.conf") for word in lines.get(process.pid, []))
    ]


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != "zombie"


def runs(project: Project) -> int:
    return len(project.client().call(f"/api/v2/dags/{DAG_ID}/dagRuns?limit=100")["dag_runs"])


def test_another_projects_servers_are_neither_asked_nor_emptied_nor_called_healthy(
    populated: Project, other: Project
) -> None:
    theirs, mine = services(populated), services(other)
    rows, runs_before = populated.json("status")["databases"], runs(populated)
    [supervisor] = supervisors(other)
    supervisor.suspend()
    with ExitStack() as impostors:
        for name in VICTIMS:
            os.kill(mine[name]["pid"], signal.SIGKILL)
        for name in VICTIMS:
            impostors.enter_context(forwarding(mine[name]["port"], theirs[name]["port"]))
        supervisor.resume()

        status = other.json("status")
        states = {service["name"]: service for service in status["services"]}
        assert {states[name]["state"] for name in VICTIMS} == {"crashed"}
        assert not any(states[name]["health"] for name in VICTIMS)
        assert not status["airflow"]["reachable"]
        assert not any(database["reachable"] for database in status["databases"].values())
        assert not any(database["rows"] for database in status["databases"].values())
        assert any(f"process {os.getpid()} " in note for note in status["notes"])

        triggered = other.run("trigger", code=4)
        assert f"process {os.getpid()} " in triggered.stderr
        assert "pipectl up" in triggered.stderr
        for command, code in (
            (("runs",), 4),
            (("unpause",), 4),
            (("open", "--url"), 4),
            (("verify-db",), 5),
            (("load", "--transactions", "10"), 5),
            (("report",), 5),
            (("connections", "--check"), 5),
            (("connections", "--create-slot"), 5),
            (("reset", "--data-only", "--dry-run"), 5),
        ):
            assert "not this project's" in other.run(*command, code=code).stderr, command
        # Airflow or the databases are asked first, as supervisord has just tried or given up on these.
        emptying = other.start("reset", "--data-only", "--yes")
        assert "not this project's" in emptying.communicate(timeout=COMMAND_SECONDS)[1]
        assert emptying.returncode in {4, 5}

        healed = other.json("up")
        assert set(VICTIMS) <= set(healed["moved_ports"])
        assert {service["health"] for service in services(other).values()} <= {"healthy", "waiting"}
    assert populated.json("status")["databases"] == rows
    assert runs(populated) == runs_before
    assert populated.json("verify-db", "--expect", "reconciled")["ok"]
    assert other.json("trigger")["state"] == "success"


def test_all_projects_are_listed_with_what_runs(populated: Project, other: Project) -> None:
    for project in (populated, other):
        [found] = [
            each for each in project.json("projects")["projects"] if each["folder"] == str(project.folder)
        ]
        assert (found["engine"], found["state"], len(found["running"])) == (
            "local",
            "running",
            found["services"],
        )
        assert found["ports"] == project.json("up")["ports"]
        assert found["bytes"] > 1_000_000


@pytest.mark.slow
def test_a_copy_of_a_running_project_starts_nothing_until_it_has_new_data(
    populated: Project, tmp_path: Path
) -> None:
    before = services(populated)
    copy = Project(tmp_path / "copy")
    # Files come and go meanwhile, and cp says so.
    subprocess.run(("cp", "-a", populated.folder, copy.folder), check=False)
    try:
        said = copy.run("up", code=3).stderr
        assert "data was in use while it was copied: postgres, airbyte-postgres, airbyte-mysql." in said
        assert f"pipectl --project {populated.folder} down" in said
        assert {service["state"] for service in services(copy).values()} == {"stopped"}
        assert services(populated) == before
        copy.run("reset", "--yes")
        assert {service["health"] for service in services(copy).values()} <= {"healthy", "waiting"}
    finally:
        copy.run("down", "--volumes", "--yes")
    assert services(populated) == before


def test_what_a_server_is_asked_to_prove_itself_opens_nothing(populated: Project) -> None:
    """A stranger that gets the token may send it to the project's own Airflow."""
    url = populated.json("status")["airflow"]["url"]
    secret = populated.variable("AIRFLOW_JWT_SECRET")
    address = AirflowAddress(url, "", "", secret=secret)
    for scope, code in (("pipectl", 403), ("execution", 404)):
        claims = {"sub": str(uuid.UUID(int=1)), "scope": scope, "aud": address.task_audience}
        with closing(http.client.HTTPConnection(urlsplit(url).netloc)) as connection:
            token = {"Authorization": f"Bearer {sign(address, claims, 20)}"}
            connection.request("GET", "/execution/variables/none", headers=token)
            assert connection.getresponse().status == code, scope


@pytest.mark.slow
def test_a_port_stays_claimed_while_its_service_is_started_again(other: Project, tmp_path: Path) -> None:
    webserver = services(other)["webserver"]
    [supervisor] = supervisors(other)
    supervisor.suspend()
    os.kill(webserver["pid"], signal.SIGKILL)
    try:
        with new_local_project(tmp_path / "third") as third:
            third.set_variable("AIRFLOW_PORT", str(webserver["port"]))
            third.run("up")
            assert services(third)["webserver"]["port"] != webserver["port"]
    finally:
        supervisor.resume()
    until(lambda: services(other)["webserver"]["health"] == "healthy", "the web server at its own port")
    assert services(other)["webserver"]["port"] == webserver["port"]


def test_a_copy_of_a_project_is_another_project(populated: Project, tmp_path: Path) -> None:
    first = populated
    rows, runs_before, started = first.json("status")["databases"], runs(first), services(first)
    with new_local_project(tmp_path / "copy") as copy:
        shutil.copy2(first.folder / "stack" / ".env", copy.folder / "stack" / ".env")
        assert {service["state"] for service in services(copy).values()} == {"stopped"}
        assert "not this project's" in copy.run("trigger", code=4).stderr
        assert copy.json("reset", "--dry-run") == {"would_delete": []}
        up = copy.json("up")
        assert any(str(first.folder) in note for note in up["notes"])
        assert not set(up["ports"].values()) & {service["port"] for service in started.values()}
        assert copy.json("trigger")["state"] == "success"
        assert copy.variable("AIRFLOW_JWT_SECRET") != first.variable("AIRFLOW_JWT_SECRET")
        # Each takes the other's servers for foreign ones, though both have the same passwords.
        copy.run("down")
        copy.set_variable("AIRFLOW_PORT", str(started["webserver"]["port"]))
        assert str(first.folder) in copy.run("runs", code=4).stderr
    assert first.json("status")["databases"] == rows
    assert runs(first) == runs_before
    assert services(first) == started


@pytest.mark.slow
def test_one_setting_makes_every_login_random(tmp_path: Path) -> None:
    with new_local_project(tmp_path / "random") as project:
        project.set_variable("PIPECTL_RANDOM_LOGINS", "1")
        begun = project.json("up")
        assert not any("admin / admin" in note for note in begun["notes"])
        assert project.json("trigger")["state"] == "success"
        assert project.json("verify-db", "--expect", "reconciled")["ok"]
        for name, ask in (("postgres", project.ask_postgres), ("mysql", project.ask_mysql)):
            with pytest.raises(Exception, match=r"authentication failed|Access denied"):
                ask("SELECT 1")  # as docker / docker
            assert len(project.variable(f"AIRBYTE_{name.upper()}_PASSWORD")) > 20
        with pytest.raises(HTTPError):
            project.client(password="admin").call("/api/v2/version")
        password = project.variable("AIRFLOW_ADMIN_PASSWORD")
        assert project.client(password=password).call(f"/api/v2/dags/{DAG_ID}")
        assert project.json("up")["started"] == []


def test_ports_are_those_of_what_runs(other: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    other.run("down")
    port = free_port()
    with monkeypatch.context() as shell:
        shell.setenv("AIRFLOW_PORT", str(port))
        other.run("up")
    status = other.json("status")
    assert status["airflow"] | {"reachable": True} == status["airflow"]
    assert status["airflow"]["url"] == f"http://127.0.0.1:{port}"
    assert any(f"webserver runs on port {port}" in note for note in status["notes"])
    other.run("runs")
    again = other.json("up")
    assert "webserver" in again["restarted"]
    assert again["ports"]["webserver"] == int(other.variable("AIRFLOW_PORT") or 8080) != port
    assert other.json("trigger")["state"] == "success"


def test_a_stack_is_found_wherever_its_commands_are_started(
    other: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {process.pid for process in other.processes()}
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert {service["health"] for service in services(other).values()} <= {"healthy", "waiting"}
    assert other.json("up")["started"] == []
    assert {service["pid"] for service in services(other).values()} <= before


@pytest.mark.parametrize(
    "loss", ["deleted", *(pytest.param(name, marks=pytest.mark.slow) for name in ("emptied", "one secret"))]
)
def test_a_lost_env_file_is_restored(other: Project, loss: str) -> None:
    path = other.folder / "stack" / ".env"
    before = path.read_text(encoding="utf-8")
    secret = next(line for line in before.splitlines() if line.startswith("AIRFLOW_JWT_SECRET="))
    if loss == "deleted":
        path.unlink()
    else:
        path.write_text("" if loss == "emptied" else before.replace(secret, "# nothing"), encoding="utf-8")
    assert {service["health"] for service in services(other).values()} <= {"healthy", "waiting"}
    assert other.json("trigger")["state"] == "success"
    assert other.json("verify-db", "--expect", "reconciled")["ok"]
    restored = other.json("up")
    assert restored["started"] == []
    assert any("AIRFLOW_JWT_SECRET" in note for note in restored["notes"])
    assert secret in path.read_text(encoding="utf-8").splitlines()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_secrets_that_are_lost_for_good_are_named_and_the_data_stays(other: Project) -> None:
    other.populate()
    rows = other.json("status")["databases"]["postgres"]["rows"]
    (other.folder / "stack" / ".env").unlink()
    (other.folder / ".pipectl" / "settings.json").unlink()
    assert other.json("verify-db", "--expect", "reconciled")["ok"]
    assert other.json("runs")["runs"]  # by the administrator's login
    refused = other.run("up", code=3)
    assert "AIRFLOW_FERNET_KEY" in refused.stderr
    assert "reset" not in refused.stderr
    other.run("down")
    begun = other.json("up")
    assert any("AIRFLOW_FERNET_KEY" in note for note in begun["notes"])
    assert other.json("status")["databases"]["postgres"]["rows"] == rows
    assert other.json("trigger")["state"] == "success"


def test_a_stack_whose_state_was_deleted_is_found_and_ended(other: Project) -> None:
    assert other.processes()
    shutil.rmtree(other.folder / ".pipectl")
    assert other.json("down")["stopped"]
    assert not other.processes()


@pytest.mark.slow
def test_no_second_stack_starts_beside_one_whose_state_was_deleted(other: Project) -> None:
    [before] = supervisors(other)
    shutil.rmtree(other.folder / ".pipectl")
    other.run("up")
    [after] = supervisors(other)
    assert after.pid != before.pid
    assert {service["health"] for service in services(other).values()} <= {"healthy", "waiting"}


def test_a_project_that_moves_while_it_runs_keeps_its_stack_and_its_ports(other: Project) -> None:
    other.populate()
    before, ports = other.folder, {name: service["port"] for name, service in services(other).items()}
    running = [psutil.Process(service["pid"]) for service in services(other).values()]
    moved = Project(before.with_name("moved"))
    before.rename(moved.folder)
    try:
        newcomer = copy_project(before)
        assert {service["state"] for service in services(newcomer).values()} == {"stopped"}
        assert "Nothing was running" in newcomer.run("down").stdout
        assert all(map(is_alive, running))
        assert any(str(before) in note for note in moved.json("status")["notes"])
        assert moved.json("up")["moved_ports"] == {}
        assert {name: service["port"] for name, service in services(moved).items()} == ports
        assert not any(str(before) in note for note in moved.json("status")["notes"])
        assert moved.json("trigger")["state"] == "success"
        assert moved.json("verify-db", "--expect", "reconciled")["ok"]
        assert not (before / ".pipectl" / "volumes").exists()
        moved.run("down")
        assert not moved.processes()
        assert not any(map(is_alive, running))
    finally:
        moved.run("down")
        shutil.rmtree(before)
        moved.folder.rename(before)
