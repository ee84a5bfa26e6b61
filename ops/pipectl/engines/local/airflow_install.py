"""Airflow's own virtual environment, installed once per lock file and shared by all projects of the user."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipectl import json_text, surroundings
from pipectl.engines.local import uv
from pipectl.engines.local.folders import count_files, holds_files
from pipectl.engines.local.install import UvProgress, ignore, install_lock, run_tool
from pipectl.engines.project import restoring
from pipectl.errors import EngineError
from pipectl.names import shell

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.engines.local.install import Report
    from pipectl.observer import Show

# What Airflow 3.3 declares: Python 3.10 to 3.14; the lock file begins at 3.11.
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)
MARKER = "installed.json"
# There from the beginning of an installation to its end.
BEGUN = "installing"


@dataclass(frozen=True)
class AirflowRuntime:
    """An installed environment; its metadata database must have the `alembic_version` `migration_head`."""

    venv: Path
    python: Path
    version: str
    key: str
    migration_head: str


def ensure_airflow(
    cache_dir: Path, requirements: Path, report: Report, show: Show = ignore
) -> AirflowRuntime:
    """Return the environment of the lock file `requirements`, installed under `cache_dir` if missing.

    `report` is told of each long step, `show` how far it is. One that is installed is found in milliseconds,
    without network. A virtual environment cannot be moved, so it is made in place and counts once its marker
    file is there.

    Raises EngineError if this Python is not supported, the lock file is missing, or uv failed.
    """
    require_supported_python(sys.version_info[:2])
    lock = read_lock(requirements)
    key = environment_key(lock)
    folder = cache_dir / f"airflow-{key}"
    runtime = installed_runtime(folder, key)
    if runtime is None:
        with install_lock(cache_dir, f"airflow-{key}", report):
            runtime = installed_runtime(folder, key) or install(folder, key, requirements, lock, report, show)
    return runtime


def look_for_airflow(cache_dir: Path, requirements: Path) -> tuple[AirflowRuntime, str]:
    """Return the environment as `ensure_airflow` would, and what that would install; empty for nothing."""
    lock = read_lock(requirements)
    key = environment_key(lock)
    folder, version = cache_dir / f"airflow-{key}", airflow_version(lock)
    if runtime := installed_runtime(folder, key):
        return runtime, ""
    return AirflowRuntime(folder, folder / "bin" / "python", version, key, ""), _what(version)


def _what(version: str) -> str:
    return f"Airflow {version} (500 MB on disk)"


def require_supported_python(version: tuple[int, ...]) -> None:
    """Raise EngineError if Airflow does not run on this version of Python."""
    if not OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        oldest, newest = (".".join(map(str, limit)) for limit in (OLDEST_PYTHON, NEWEST_PYTHON))
        raise EngineError(
            f"Airflow does not run on Python {'.'.join(map(str, version))}: it needs {oldest} to {newest}.",
            hint=f"Install pipectl with one of these, for example: uv venv --python {newest}",
        )


def read_lock(requirements: Path) -> bytes:
    """Return the lock file's bytes; EngineError if it cannot be read or pins no Airflow."""
    try:
        lock = requirements.read_bytes()
    except OSError as error:
        raise EngineError(
            f"Airflow's lock file {requirements} cannot be read: {error.strerror}.",
            hint=f"Get it back: {restoring(requirements)}",
        ) from error
    if airflow_version(lock) == "":
        raise EngineError(
            f"{requirements} pins no apache-airflow-core.",
            hint=f"Get it back: {restoring(requirements)}",
        )
    return lock


def airflow_version(lock: bytes) -> str:
    """Return the Airflow that a lock file pins; empty if it pins none."""
    pin = re.search(rb"^apache-airflow-core==([0-9][^\s;\\]*)", lock, re.MULTILINE)
    return pin[1].decode() if pin else ""


def environment_key(lock: bytes) -> str:
    """Return what tells environments apart: lock file, Python (where it lies, too) and platform."""
    parts = (lock, sys.version.encode(), os.fsencode(base_interpreter()), platform.platform().encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def base_interpreter() -> str:
    """Return the interpreter behind the running virtual environment, which may lie in a project and go."""
    return str(getattr(sys, "_base_executable", "") or sys.executable)


def installed_runtime(folder: Path, key: str) -> AirflowRuntime | None:
    """Return the environment in `folder`; None if it is missing or its installation was interrupted."""
    python = folder / "bin" / "python"
    try:
        marker = json_text.parse((folder / MARKER).read_text(encoding="utf-8"))
        version, head = str(marker["version"]), str(marker["migration_head"])
        note = folder.with_name(f"{folder.name}.folders")
        is_complete = holds_files(folder, int(marker["files"]), note)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    # The link goes nowhere if the base interpreter was removed.
    return AirflowRuntime(folder, python, version, key, head) if is_complete and python.exists() else None


def install(
    folder: Path, key: str, requirements: Path, lock: bytes, report: Report, show: Show
) -> AirflowRuntime:
    """Install into `folder`; what an interrupted installation left there is completed. Raises EngineError.

    What was complete once, and is no longer, is made anew: the installer would take packages for whole.
    """
    version = airflow_version(lock)
    report(f"Installing {_what(version)}, once for this user")
    python = folder / "bin" / "python"
    if not (folder / BEGUN).exists() or not python.exists():
        shutil.rmtree(folder, ignore_errors=True)
        uv.run(
            ("venv", "--no-project", "--python", base_interpreter(), str(folder)),
            EngineError(
                f"The virtual environment {folder} could not be made.",
                hint="The lines above are uv's. Mend what they name, then run the command again.",
            ),
        )
        (folder / BEGUN).touch()
    uv.run(
        (
            "pip",
            "sync",
            "--python",
            str(python),
            "--require-hashes",
            "--compile-bytecode",
            "--no-progress",
            str(requirements),
        ),
        EngineError(
            f"Airflow {version} could not be installed from {requirements.name}.",
            hint="The lines above are uv's, which takes a proxy from HTTPS_PROXY and a mirror from "
            "UV_DEFAULT_INDEX. Then run the command again: what has been downloaded is kept.",
        ),
        watch=UvProgress(f"Airflow {version}", show),
    )
    head = run_tool(
        (str(python), "-I", str(requirements.with_name("airflow") / "metadata_database.py"), "head"),
        EngineError(
            f"The Airflow that was installed in {folder} does not work.",
            hint=f"Remove that folder: {shell('rm', '-r', folder)}\nThen run the command again.",
        ),
        surroundings.environment(),
    ).strip()
    temporary = folder / f"{MARKER}.new"
    (folder / BEGUN).unlink()
    # With the marker itself.
    files = count_files(folder) + 1
    marker = {"version": version, "migration_head": head, "files": files}
    temporary.write_text(json.dumps(marker), encoding="utf-8")
    temporary.replace(folder / MARKER)
    return AirflowRuntime(folder, python, version, key, head)
