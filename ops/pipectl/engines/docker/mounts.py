"""Whether Airflow's containers may read the project's files that are mounted into them.

Their processes have no capabilities, so file modes count even if they run as root. The databases' containers
copy their files as root with CAP_DAC_OVERRIDE, and read any.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipectl.errors import EngineError
from pipectl.names import listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What the Compose file mounts. In stack/airflow, user.env may hold secrets: Compose alone reads it.
CODE = Path("stack", "airflow")
TREES = (Path("dags"), Path("scripts"), CODE / "config", CODE / "plugins")
FILES = (Path("requirements.txt"), Path("entrypoint.sh"), CODE / "install.env")
# For the installation, and for databases elsewhere.
CERTIFICATES = (".crt", ".pem")
USER = "AIRFLOW_UID"
DEFAULT_USER = 50000


def unreadable(project: Path, user: int, group: int) -> tuple[Path, ...]:
    """Return the mounted files and folders, relative to `project`, that `user` of `group` may not read."""
    return tuple(path for path in _mounted(project) if not _is_readable(project / path, user, group))


def require_readable(project: Path, user: int, engine: Mapping[str, Any]) -> None:
    """Raise EngineError with its cure if a mounted file cannot be read; `engine` is its answer to /info."""
    options = " ".join(engine.get("SecurityOptions") or ())
    if (
        sys.platform != "linux"
        or "Docker Desktop" in str(engine.get("OperatingSystem"))
        or "userns" in options
    ):
        return  # owners are others inside than outside
    group = 0
    if "rootless" in options:
        # The user of this engine is root inside, its other users nobody outside.
        user, group = (os.getuid() if user == 0 else -1), os.getgid()
    paths = unreadable(project, user, group)
    if not paths:
        return
    first = (project / paths[0]).stat()
    which = listed([str(paths[0])], len(paths))
    raise EngineError(
        f"Airflow's containers may not read {which} in {project}: "
        f"{paths[0]} has mode {stat.S_IMODE(first.st_mode):04o} and owner {first.st_uid}.",
        hint=f"Let them: {_cure(paths)}\nOr run them as the owner: set {USER}={first.st_uid} in stack/.env",
    )


def _mounted(project: Path) -> Iterator[Path]:
    """Yield what Airflow reads: folders, Python files, and the single files."""
    for tree in TREES:
        for parent, folders, files in os.walk(project / tree):
            folders[:] = [name for name in folders if name != "__pycache__"]
            yield Path(parent).relative_to(project)
            yield from (Path(parent, name).relative_to(project) for name in files if name.endswith(".py"))
    yield CODE
    for path in sorted((project / CODE).iterdir()):
        if path.suffix in {".py", *CERTIFICATES}:
            yield path.relative_to(project)
    yield from (path for path in FILES if (project / path).exists())


def _is_readable(path: Path, user: int, group: int) -> bool:
    """Whether the modes let a process without capabilities read a file, or list and enter a folder."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return True  # a link to nowhere, which is of no use to anybody
    wanted = 0o5 if stat.S_ISDIR(status.st_mode) else 0o4
    shift = 6 if status.st_uid == user else 3 if status.st_gid == group else 0
    return status.st_mode >> shift & wanted == wanted


def _cure(paths: tuple[Path, ...]) -> str:
    """Return the command that lets everybody read what Airflow reads, and nothing else."""
    singles = (*FILES, *(path for path in paths if path.suffix in CERTIFICATES))
    whole = [str(top) for top in (*TREES, *singles) if any(path.is_relative_to(top) for path in paths)]
    commands = [f"chmod -R a+rX {' '.join(whole)}"] if whole else []
    if any(CODE in {path, path.parent} and path not in (*TREES, *singles) for path in paths):
        commands.append(f"chmod a+rX {CODE} {CODE}/*.py")
    return " && ".join(commands)
