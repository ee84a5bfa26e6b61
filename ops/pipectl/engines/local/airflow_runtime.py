"""Airflow's own virtual environment, installed once per lock file and shared by all projects of the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class AirflowRuntime:
    """An installed environment. `migration_head` is the `alembic_version` that its metadata database must have."""

    venv: Path
    python: Path
    version: str
    key: str
    migration_head: str


def ensure_airflow(cache_dir: Path, requirements: Path, report: Callable[[str], None]) -> AirflowRuntime:
    """Return the environment of the lock file `requirements`, installed under `cache_dir` where it is missing.

    `report` is told of each long step. An installed environment is found in a few milliseconds, without network.

    Raises:
        EngineError: this Python is not supported, there is no network, or uv failed (its last lines are the detail).
    """
    raise NotImplementedError
