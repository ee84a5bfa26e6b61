"""A real Docker engine, and copies of the project that run on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from conftest import missing
from project_copy import Project, copy_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCKER_SECONDS = 120


class DockerProject(Project):
    """A copy of the project on the docker engine; containers and databases are asked without pipectl."""

    def variable(self, name: str) -> str:
        """Return what stack/.env says."""
        path = self.folder / "stack" / ".env"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            if line.startswith(f"{name}="):
                return line.split("=", 1)[1]
        return ""

    def set_variable(self, name: str, value: str) -> None:
        """Write a line of stack/.env anew, or add it."""
        path = self.folder / "stack" / ".env"
        old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        lines = [line for line in old if not line.startswith(f"{name}=")]
        path.write_text("\n".join([*lines, f"{name}={value}"]) + "\n", encoding="utf-8")

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

    def compose(self, *arguments: str) -> str:
        """Run plain docker compose as a user would."""
        return docker("compose", "-f", str(self.folder / "stack" / "docker-compose.yml"), *arguments)

    def api(self, path: str, user: str = "admin", password: str = "admin") -> Any:
        """Ask Airflow's REST API without pipectl."""
        url = f"http://127.0.0.1:{self.variable('AIRFLOW_PORT') or 8080}"
        login = urllib.request.Request(  # noqa: S310  loopback
            f"{url}/auth/token",
            json.dumps({"username": user, "password": password}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(login, timeout=30) as answer:  # noqa: S310  loopback
            token = json.load(answer)["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{url}{path}", headers=headers)  # noqa: S310  loopback
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  loopback
            return json.load(answer)


def docker(*arguments: str) -> str:
    """Run the docker client and return what it wrote; its errors are part of a failing test's report."""
    done = subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        timeout=DOCKER_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def require_engine() -> None:
    """Skip the test where no engine answers, or fail it where PIPECTL_REQUIRE names docker."""
    from pipectl.engines.docker.api import DockerApi

    if shutil.which("docker") is None:
        missing("docker", "there is no docker command")
    if not DockerApi().answers():
        missing("docker", f"no Docker engine answers at {DockerApi().host}")
    compose = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if compose.returncode:
        missing("docker", "the docker command has no Compose plugin")


@contextmanager
def new_project(folder: Path) -> Iterator[DockerProject]:
    """Copy the project to `folder` for the time of a block, and take what it leaves off the engine."""
    require_engine()
    copied = copy_project(folder, "docker")
    project = DockerProject(copied.folder, "docker")
    try:
        yield project
    finally:
        project.run("down", "--volumes", "--yes")
    assert project.containers() == {}
    assert project.volumes() == {}
