"""A real Docker engine, and copies of the project that run on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipectl.engines.docker.api import DockerApi
from support.needs import need_docker
from support.project_copy import Project, copy_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCKER_SECONDS = 120
MACHINES_CERTIFICATES = os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt"
INDEX_AND_PROXY = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "HTTPS_PROXY", "https_proxy")


class DockerProject(Project):
    """A copy of the project on the docker engine; containers and databases are asked without pipectl."""

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return every container of this project by service and number, as the engine describes it."""
        if not self.variable("PIPECTL_PROJECT_ID"):
            return {}
        label = f"label=org.pipectl.project={self.variable('PIPECTL_PROJECT_ID')}"
        ids = docker("ps", "--all", "--quiet", "--filter", label).split()
        found = json.loads(docker("inspect", *ids)) if ids else []
        return {
            f"{labels['com.docker.compose.service']}-{labels['com.docker.compose.container-number']}": each
            for each in found
            for labels in [each["Config"]["Labels"]]
        }

    def volumes(self) -> dict[str, str]:
        """Return the time of creation of every volume of this project."""
        if not self.variable("PIPECTL_PROJECT_ID"):
            return {}
        label = f"label=org.pipectl.project={self.variable('PIPECTL_PROJECT_ID')}"
        names = docker("volume", "ls", "--quiet", "--filter", label).split()
        found = json.loads(docker("volume", "inspect", *names)) if names else []
        return {each["Name"]: each["CreatedAt"] for each in found}

    def psql(self, statement: str) -> str:
        container = self.variable("AIRBYTE_POSTGRES_CONTAINER")
        return docker("exec", container, "psql", "-U", "docker", "-d", "airbyte", "-Atc", statement).strip()

    def mysql(self, statement: str) -> str:
        container = self.variable("AIRBYTE_MYSQL_CONTAINER")
        return docker(
            "exec", "--env", "MYSQL_PWD=docker", container, "mysql", "-udocker", "data", "-Ne", statement
        ).strip()

    def ways_to_packages(self) -> str:
        """Put the machine's certificates beside the settings; return the lines that reach its index."""
        shutil.copyfile(MACHINES_CERTIFICATES, self.folder / "stack" / "airflow" / "ca.crt")
        settings = {name: os.environ[name] for name in INDEX_AND_PROXY if name in os.environ}
        settings["SSL_CERT_FILE"] = "/opt/airflow/stack/ca.crt"
        return "".join(f"{name}={value}\n" for name, value in settings.items())

    @property
    def compose_files(self) -> list[str]:
        """The Compose files for this engine, from the project's folder on."""
        podman = ["stack/docker-compose.podman.yml"] if DockerApi().version().is_podman else []
        return ["stack/docker-compose.yml", *podman]

    def compose(self, *arguments: str) -> str:
        """Run plain docker compose as a user would."""
        files = [word for name in self.compose_files for word in ("-f", str(self.folder / name))]
        return docker("compose", *files, *arguments)


def docker(*arguments: str, errors: bool = False) -> str:
    """Run the docker client and return what it wrote, also to stderr if `errors`."""
    done = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        timeout=DOCKER_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout + (done.stderr if errors else "")


@contextmanager
def new_docker_project(folder: Path) -> Iterator[DockerProject]:
    """Copy the project to `folder` for the time of a block, and take what it leaves off the engine."""
    need_docker()
    project = DockerProject(copy_project(folder).folder, "docker")
    try:
        yield project
    finally:
        project.run("down", "--volumes", "--yes")
    assert project.containers() == {}
    assert project.volumes() == {}
