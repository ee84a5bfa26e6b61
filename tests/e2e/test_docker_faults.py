"""What goes wrong with Docker: each ends with one clear sentence and its exit code, and can be mended."""

from __future__ import annotations

import json
import os
import re
import socket
from typing import TYPE_CHECKING

import pytest

from support import engine_socket
from support.docker_project import DockerProject, docker, new_docker_project
from support.needs import images
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.docker]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[DockerProject]:
    with new_docker_project(tmp_path / "project") as found:
        yield found


def sentences(project: DockerProject, *arguments: str, code: int) -> dict[str, str]:
    """Run a command that fails, and return its error."""
    done = project.run(*arguments, "--json", code=code)
    error: dict[str, str] = json.loads(done.stderr.splitlines()[-1])["error"]
    return error


def test_a_stopped_engine_is_named(project: DockerProject, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", "unix:///tmp/there-is-no.sock")
        error = sentences(project, "up", code=3)
    assert error["message"] == (
        "No Docker engine answers at unix:///tmp/there-is-no.sock, which DOCKER_HOST names."
    )
    assert "--engine local" in error["hint"]


def test_an_engine_elsewhere_is_refused(project: DockerProject, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", "ssh://user@host")
        error = sentences(project, "status", code=3)
    assert "not on this machine" in error["message"]


def test_an_engine_that_is_too_old_is_named(
    project: DockerProject, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_socket.engine(socket_path, engine_socket.OLD_DOCKER), monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", f"unix://{socket_path}")
        error = sentences(project, "up", code=3)
    assert error["message"] == "The Docker engine 20.10.24 is older than 25.0."


@pytest.mark.parametrize(("version", "age"), [("1.20", "old"), ("1.99", "new")])
def test_a_docker_command_that_the_engine_refuses_is_named(
    project: DockerProject, monkeypatch: pytest.MonkeyPatch, version: str, age: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("DOCKER_API_VERSION", version)
        error = sentences(project, "up", code=3)
    assert "have no version of the API in common" in error["message"]
    assert f"client version {version} is too {age}" in error["detail"]


@pytest.mark.parametrize(
    "words",
    ["docker: 'compose' is not a docker command.", "Error: looking up compose provider failed"],
    ids=["docker", "podman-docker"],
)
def test_a_missing_compose_plugin_is_named(
    project: DockerProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    client = tmp_path / "bin" / "docker"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\necho "{words}" >&2; exit 1\n')
    client.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
        error = sentences(project, "up", code=3)
    assert error["message"] == "Docker has no Compose plugin."


@pytest.mark.slow
def test_a_package_that_cannot_be_installed_ends_up_at_once(project: DockerProject) -> None:
    requirements = project.folder / "requirements.txt"
    requirements.write_text(requirements.read_text() + "no-such-package-by-anyone==1.0\n")
    error = sentences(project, "up", code=3)
    assert "ends as soon as it is started" in error["message"]
    assert re.search(r"requirements\.txt.*(no-such-package-by-anyone|could not be read)", error["detail"])


@pytest.mark.slow
def test_an_interrupted_up_can_be_run_again(project: DockerProject) -> None:
    started = project.start("up")
    until(lambda: (project.folder / "stack" / ".env").exists() and bool(project.containers()), "containers")
    code, said = project.interrupt(started)
    assert code == 130
    assert "The same command starts the rest." in said
    assert project.json("up")["engine"] == "docker"
    assert project.json("status")["airflow"]["reachable"]

    # The same stack tells what a changed password does, instead of a start for that alone.
    project.set_variable("AIRBYTE_POSTGRES_PASSWORD", "changed")
    error = sentences(project, "up", code=5)
    assert "refused the password of user 'docker'" in error["message"]
    assert "AIRBYTE_POSTGRES_PASSWORD" in error["hint"]


@pytest.mark.slow
def test_a_taken_port_is_replaced_and_remembered(project: DockerProject) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        wanted = holder.getsockname()[1]
        project.set_variable("AIRBYTE_POSTGRES_PORT", str(wanted))
        moved = project.json("up")["moved_ports"]["airbyte-postgres"]
    assert moved["wanted"] == wanted
    assert project.variable("AIRBYTE_POSTGRES_PORT") == str(moved["used"])
    found = project.containers()["airbyte-postgres-1"]["NetworkSettings"]["Ports"]["5432/tcp"]
    assert found == [{"HostIp": "127.0.0.1", "HostPort": str(moved["used"])}]


# In every run tests/e2e/test_docker_identity.py starts a copy beside its project.
@pytest.mark.slow
def test_a_second_clone_gets_names_of_its_own_and_leaves_the_first_alone(project: DockerProject) -> None:
    project.run("up")
    with new_docker_project(project.folder.parent / "second clone") as second:
        said = second.run("up").stderr
        assert "Another project on this machine uses" in said
        first_names = {each["Name"] for each in project.containers().values()}
        second_names = {each["Name"] for each in second.containers().values()}
        assert len(second_names) == len(first_names)
        assert not first_names & second_names
        assert second.variable("AIRBYTE_NETWORK") != project.variable("AIRBYTE_NETWORK")
        before = project.volumes()
        second.run("down", "--volumes", "--yes")
        assert project.volumes() == before
        assert {each["Name"] for each in project.containers().values()} == first_names


@pytest.mark.slow
def test_databases_elsewhere_are_used_and_left_alone(project: DockerProject) -> None:
    name = f"someone-elses-postgres-{os.getpid()}"
    # An address that this machine and every container reach: the gateway of the engine's default network.
    gateway = docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}").strip()
    with socket.socket() as probe:
        try:
            probe.bind((gateway, 0))
        except OSError:
            pytest.skip(f"{gateway} is no address of this machine, as with a rootless engine")
    docker(
        *("run", "--detach", "--name", name, "--publish", f"{gateway}::5432"),
        *("-e", "POSTGRES_USER=docker", "-e", "POSTGRES_PASSWORD=docker", "-e", "POSTGRES_DB=airbyte"),
        *(images()["POSTGRES_IMAGE"], "postgres", "-c", "wal_level=logical"),
    )
    try:
        project.set_variable("AIRBYTE_POSTGRES_HOST", gateway)
        project.set_variable("AIRBYTE_POSTGRES_PORT", docker("port", name, "5432").split(":")[-1].strip())
        project.json("up")
        assert "airbyte-postgres-1" not in project.containers()
        assert project.json("trigger", "--timeout", "60")["state"] == "success"
        count = "SELECT count(*) FROM transactions"
        query = ("exec", name, "psql", "-U", "docker", "-d", "airbyte", "-Atc", count)
        rows = docker(*query)
        assert int(rows) >= 50
        project.run("down", "--volumes", "--yes")
        assert docker(*query) == rows
    finally:
        docker("rm", "--force", "--volumes", name)
