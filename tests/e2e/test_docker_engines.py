"""Other ways to an engine than DOCKER_HOST."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipectl.engines.docker.connection import find_host
from support.docker_project import docker, new_docker_project
from support.needs import need_docker

if TYPE_CHECKING:
    from support.docker_project import DockerProject

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.slow]
CONTEXT = "pipectl-test"


def check_pipeline(project: DockerProject) -> None:
    """Run the whole pipeline, and take it away with its data."""
    assert project.json("up")["engine"] == "docker"
    assert project.json("trigger")["state"] == "success"
    project.settle()
    assert project.json("verify-db", "--expect", "reconciled")["ok"]
    assert project.volumes()
    project.run("down", "--volumes", "--yes")
    assert project.volumes() == {}


def test_the_engine_of_a_docker_context_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_docker()
    host = find_host()
    known = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    config = tmp_path / "docker"
    config.mkdir()
    if (known / "config.json").exists():  # says where the Compose plugin is
        shutil.copy2(known / "config.json", config)
    if (known / "cli-plugins").exists():
        (config / "cli-plugins").symlink_to(known / "cli-plugins")
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    docker("context", "create", CONTEXT, "--docker", f"host={host}")
    docker("context", "use", CONTEXT)
    with new_docker_project(tmp_path / "project") as project:
        check_pipeline(project)
        docker("context", "use", "default")
        monkeypatch.setenv("DOCKER_CONTEXT", CONTEXT)
        assert {service["state"] for service in project.json("status")["services"]} == {"stopped"}
        monkeypatch.setenv("DOCKER_CONTEXT", "gone")
        assert "There is no Docker context 'gone'" in project.run("status", code=3).stderr
        monkeypatch.setenv("DOCKER_CONTEXT", CONTEXT)
