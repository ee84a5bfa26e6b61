"""The oldest Docker, Compose and Podman that run the stack."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipectl.engines.docker.connection import WITHOUT_DOCKER
from pipectl.errors import EngineError

if TYPE_CHECKING:
    from pipectl.engines.docker.api import EngineVersion

OLDEST_API, OLDEST_ENGINE = (1, 44), "25.0"
OLDEST_COMPOSE = (2, 24)
OLDEST_PODMAN = 5


def require_engine(version: EngineVersion, *, has_celery: bool) -> None:
    """Raise EngineError for an engine that is too old, or does not run Celery's services."""
    if version.is_podman and int(version.version.split(".")[0]) < OLDEST_PODMAN:
        raise EngineError(
            f"Podman {version.version} is older than {OLDEST_PODMAN}.0.",
            hint=f"Update Podman. {WITHOUT_DOCKER}",
        )
    if version.is_podman and has_celery:
        # systemd's timers run Podman's health checks, twice a minute, and nothing does without systemd.
        raise EngineError(
            f"Celery's services wait for health checks, which Podman {version.version} runs too seldom.",
            hint=f"Go back to the local executor: pipectl up --executor local. {WITHOUT_DOCKER}",
        )
    if version.api < OLDEST_API and not version.is_podman:
        raise EngineError(
            f"The Docker engine {version.version} is older than {OLDEST_ENGINE}.",
            hint=f"Update Docker. {WITHOUT_DOCKER}",
        )


def require_compose(version: str) -> None:
    """Raise EngineError for a Compose that is too old, by what it says of itself."""
    if _numbers(version) < OLDEST_COMPOSE:
        raise EngineError(
            f"{version} is too old: the stack needs {'.'.join(map(str, OLDEST_COMPOSE))}.",
            hint=f"Update the Compose plugin of Docker. {WITHOUT_DOCKER}",
        )


def _numbers(version: str) -> tuple[int, ...]:
    match = re.search(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)
