"""Airflow's own virtual environment, installed once per lock file and shared by all projects of the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class AirflowRuntime:
    """An installed environment; its metadata database must have the `alembic_version` `migration_head`."""

    venv: Path
    python: Path
    version: str
    key: str
    migration_head: str


def ensure_airflow(cache_dir: Path, requirements: Path, report: Callable[[str], None]) -> AirflowRuntime:
    """Return the environment of the lock file `requirements`, installed under `cache_dir` where it is missing.

    `report` is told of each long step. One that is installed is found in a few milliseconds, without network.

    Raises EngineError where this Python is not supported, there is no network, or uv failed.
    """
    raise NotImplementedError
