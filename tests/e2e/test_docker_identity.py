"""Projects side by side on a real Docker engine: copies, moved folders, lost files and strangers on ports."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from support.docker_project import DockerProject, docker, new_docker_project
from support.impostor import forwarding
from support.project_copy import new_local_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.docker]
VICTIMS = ("webserver", "airbyte-postgres", "airbyte-mysql")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerProject]:
    with new_docker_project(tmp_path_factory.mktemp("first") / "project") as made:
        yield made


def services(project: DockerProject) -> dict[str, dict[str, Any]]:
    return {service["name"]: service for service in project.json("status")["services"]}


def rows_of(project: DockerProject) -> dict[str, Any]:
    return {name: database["rows"] for name, database in project.json("status")["databases"].items()}


def all_healthy(project: DockerProject) -> bool:
    return {service["health"] for service in services(project).values()} <= {"healthy", "waiting"}


def test_each_server_proves_itself(populated: DockerProject) -> None:
    """So that the engine's own look at the ports is not what the tests below see."""
    status = populated.json("status")
    assert status["airflow"]["reachable"]
    assert all(database["reachable"] for database in status["databases"].values())
    identity = populated.variable("PIPECTL_PROJECT_ID")
    assert populated.psql("SHOW cluster_name") == identity
    assert populated.mysql("SELECT @@report_host") == identity


@pytest.mark.slow
def test_a_copy_of_a_project_is_another_project(populated: DockerProject, tmp_path: Path) -> None:
    first = populated
    volumes, containers = first.volumes(), {each["Id"] for each in first.containers().values()}
    rows = first.json("status")["databases"]
    with new_docker_project(tmp_path / "copy") as copy:
        shutil.copytree(first.folder, copy.folder, dirs_exist_ok=True)
        assert copy.json("reset", "--dry-run")["would_delete"] == []
        assert {service["state"] for service in services(copy).values()} == {"stopped"}
        assert "not this project's" in copy.run("trigger", code=4).stderr
        assert "not this project's" in copy.run("verify-db", code=5).stderr
        assert copy.json("down", "--volumes", "--yes")["deleted"] == []
        up = copy.json("up")
        assert any(str(first.folder) in note for note in up["notes"])
        for name in ("PIPECTL_PROJECT_ID", "COMPOSE_PROJECT_NAME", "AIRFLOW_JWT_SECRET", "AIRBYTE_NETWORK"):
            assert copy.variable(name) != first.variable(name)
        assert copy.json("trigger")["state"] == "success"
        assert not copy.volumes().keys() & volumes.keys()
        assert copy.json("down", "--volumes", "--yes")["deleted"]
    assert first.volumes() == volumes
    assert {each["Id"] for each in first.containers().values()} == containers
    assert first.json("status")["databases"] == rows


@pytest.mark.slow
def test_a_moved_project_keeps_its_data(populated: DockerProject) -> None:
    project = populated
    volumes, rows = project.volumes(), rows_of(project)
    elsewhere = DockerProject(project.folder.with_name("moved"), "docker")
    project.run("down")
    project.folder.rename(elsewhere.folder)
    try:
        elsewhere.run("up")
        assert elsewhere.volumes() == volumes
        assert rows_of(elsewhere) == rows
        assert elsewhere.json("verify-db", "--expect", "reconciled")["ok"]
        elsewhere.run("down")
    finally:
        elsewhere.folder.rename(project.folder)
    project.run("up")
    assert rows_of(project) == rows


@pytest.mark.slow
def test_strangers_on_the_ports_are_named_and_not_asked(populated: DockerProject, tmp_path: Path) -> None:
    """The strangers pass everything on to the servers of a project of the local engine."""
    mine = services(populated)
    ids = {name: populated.containers()[f"{name}-1"]["Id"] for name in VICTIMS}
    with new_local_project(tmp_path / "local") as local, ExitStack() as impostors:
        local.run("up")
        theirs = {service["name"]: service for service in local.json("status")["services"]}
        docker("stop", *ids.values())
        for name in VICTIMS:
            impostors.enter_context(forwarding(mine[name]["port"], theirs[name]["port"]))
        for command, code in (
            (("trigger",), 4),
            (("runs",), 4),
            (("verify-db",), 5),
            (("reset", "--data-only", "--yes"), 5),
        ):
            refused = populated.run(*command, code=code).stderr
            assert f"process {os.getpid()} " in refused, command
            assert "not this project's" in refused, command
        assert not populated.json("status")["airflow"]["reachable"]
        healed = populated.json("up")
        assert set(VICTIMS) <= set(healed["moved_ports"])
        assert all_healthy(populated)
        assert local.json("verify-db", "--expect", "empty")["ok"]
    assert populated.json("verify-db", "--expect", "reconciled")["ok"]


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["stack/.env", "stack/.env and .pipectl"])
def test_what_runs_tells_what_was_lost(populated: DockerProject, lost: str) -> None:
    path = populated.folder / "stack" / ".env"
    before = path.read_text(encoding="utf-8")
    containers = {each["Id"] for each in populated.containers().values()}
    path.unlink()
    if "pipectl" in lost:
        shutil.rmtree(populated.folder / ".pipectl")
    assert all_healthy(populated)
    assert populated.json("trigger")["state"] == "success"
    restored = populated.json("up")
    assert any("PIPECTL_PROJECT_ID" in note for note in restored["notes"])
    assert restored["started"] == []
    assert {each["Id"] for each in populated.containers().values()} == containers
    names = ("PIPECTL_PROJECT_ID", "COMPOSE_PROJECT_NAME", "AIRFLOW_FERNET_KEY", "AIRFLOW_POSTGRES_PASSWORD")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert {line for line in before.splitlines() if line.startswith(names)} <= set(lines)


@pytest.mark.slow
def test_ports_are_those_of_what_runs(populated: DockerProject, monkeypatch: pytest.MonkeyPatch) -> None:
    port = services(populated)["webserver"]["port"]
    with monkeypatch.context() as shell:
        shell.setenv("AIRFLOW_PORT", str(port + 1000))
        status = populated.json("status")
        assert status["airflow"]["reachable"]
        assert any(f"webserver runs on port {port}" in note for note in status["notes"])
        assert populated.json("runs")["runs"]
        assert populated.json("up")["ports"]["webserver"] == port + 1000
    status = populated.json("status")
    assert status["airflow"]["url"].endswith(f":{port + 1000}")
    assert status["airflow"]["reachable"]
    assert populated.json("runs")["runs"]
    assert populated.json("up")["ports"]["webserver"] == port
