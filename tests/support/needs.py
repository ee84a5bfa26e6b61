"""What tests need of the machine: without it they skip with a reason, or fail if PIPECTL_REQUIRE names it."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

import pytest

from pipectl.engines.docker.api import DockerApi
from pipectl.engines.docker.connection import find_host
from pipectl.engines.docker.pull import IMAGE
from pipectl.engines.local.airflow_install import ensure_airflow
from pipectl.engines.local.binaries import find_mariadb, find_postgres
from pipectl.errors import EngineError
from pipectl.settings import cache_dir
from support import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipectl.engines.local.airflow_install import AirflowRuntime
    from pipectl.engines.local.binaries import MariadbBinaries, PostgresBinaries

AIRFLOW_REQUIREMENTS = ROOT / "stack" / "airflow-requirements.txt"
POSTGRES_REQUIREMENTS = ROOT / "stack" / "postgres-requirements.txt"
# On images that tests/images/build-images.sh built.
STAND_IN_LABEL = "org.pipectl.recipe"
# What need_docker found: each image's digest, or its id if no registry knows it, and which are stand-ins.
DIGESTS: dict[str, str] = {}
STAND_INS: set[str] = set()

Found = TypeVar("Found")


def missing(part: str, reason: str) -> NoReturn:
    """Skip the test, or fail it if PIPECTL_REQUIRE names the part that is missing."""
    if part in os.environ.get("PIPECTL_REQUIRE", "").split(","):
        pytest.fail(f"{part} is required, but {reason}")
    pytest.skip(reason)


def need(part: str, find: Callable[..., Found], *arguments: str) -> Found:
    """Return what `find` returns; the part is missing if it raises EngineError."""
    found, error = _outcome(find, *arguments)
    if error:
        missing(part, str(error))
    return cast("Found", found)


@cache  # what cannot be installed is not tried again for every test
def _outcome(find: Callable[..., object], *arguments: str) -> tuple[object, EngineError | None]:
    try:
        return find(*arguments), None
    except EngineError as error:
        return None, error


def need_program(part: str, *names: str) -> str:
    """Return the path of the first of these programs that PATH has."""
    found = next((path for path in map(shutil.which, names) if path), None)
    return found or missing(part, f"{' or '.join(names)} is not on PATH")


def need_airflow() -> AirflowRuntime:
    """Return the local engine's Airflow, which the first call installs."""
    return need("airflow", _airflow)


def need_postgres() -> PostgresBinaries:
    """Return the local engine's PostgreSQL, which the first call installs."""
    return need("databases", _postgres)


def need_mariadb() -> MariadbBinaries:
    """Return the server of PIPECTL_MYSQL_BIN, or MariaDB, which the first call installs."""
    return need("databases", _mariadb)


def _airflow() -> AirflowRuntime:
    return ensure_airflow(cache_dir(), AIRFLOW_REQUIREMENTS, print)


def _postgres() -> PostgresBinaries:
    return find_postgres(cache_dir(), print, POSTGRES_REQUIREMENTS)


def _mariadb() -> MariadbBinaries:
    return find_mariadb(cache_dir(), print, choice=os.environ.get("PIPECTL_MYSQL_BIN", ""))


def need_docker() -> None:
    """Look for an engine that answers, Compose, and every image of the stack, which the first call pulls.

    The images that the environment names must be what their names say.
    """
    try:
        host = find_host()
    except EngineError as error:
        missing("docker", str(error))
    need("docker", _docker, host)
    for variable, name in images().items():
        if variable in os.environ and name in STAND_INS:
            pytest.fail(f"{variable}={name} is a stand-in, which tests/images/build-images.sh built.")


def skip_on_podman(reason: str) -> None:
    """Skip the test if the engine is Podman."""
    if DockerApi().version().is_podman:
        pytest.skip(f"Podman {reason}")


def _docker(host: str) -> None:
    if shutil.which("docker") is None:
        raise EngineError("There is no docker command.")
    engine = DockerApi(host)
    engine.version()
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        raise EngineError("The docker command has no Compose plugin.")
    for image in images().values():
        if not engine.has_image(image):
            pulled = subprocess.run(["docker", "pull", image], capture_output=True, text=True, check=False)
            if pulled.returncode:
                raise EngineError(f"The image {image} cannot be pulled: {pulled.stderr.strip()}")
        found = engine.get(f"/images/{image}/json")
        DIGESTS[image] = ", ".join(found.get("RepoDigests") or ()) or found["Id"]
        if (found["Config"].get("Labels") or {}).get(STAND_IN_LABEL):
            STAND_INS.add(image)


def images() -> dict[str, str]:
    """Return the images of the stack by variable: those of the environment, else the Compose files' own."""
    files = sorted((ROOT / "stack").glob("docker-compose*.yml"))
    defaults = {name: image for file in files for name, image in IMAGE.findall(file.read_text("utf-8"))}
    return {name: os.environ.get(name) or image for name, image in sorted(defaults.items())}
