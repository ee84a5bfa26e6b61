"""What the system refuses to do with files: told with the file, and with the disk that is full if one is."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipectl.errors import (
    AirflowError,
    DatabaseError,
    EngineError,
    PipectlError,
    RunFailedError,
    WaitTimeoutError,
)
from pipectl.names import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pipectl.settings import Settings

# PostgreSQL writes its log in files of this size, and ends if there is no space for one.
LEAST_BYTES = 16 * 1024 * 1024
# What a full disk can be the cause of.
AFFECTED = (AirflowError, DatabaseError, EngineError, RunFailedError, WaitTimeoutError)


@contextmanager
def explained(settings: Callable[[], Settings]) -> Iterator[None]:
    """Turn an OSError about a file into an EngineError, and add to any error that a disk is full."""
    try:
        yield
    except AFFECTED as error:
        error.hint = advice(settings) or error.hint
        raise
    except ConnectionError:
        raise
    except OSError as error:
        full = advice(settings)
        if error.filename is None and not full and error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        what = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
        raise EngineError(
            f"A file cannot be used: {what}.", hint=full or "Put that right, then run the command again."
        ) from error


def advice(settings: Callable[[], Settings]) -> str:
    """Return what to do about a full disk of the project; empty if none is full, or there is no project."""
    try:
        found = fullest(folders(settings()))
    except PipectlError:
        return ""
    if found is None:
        return ""
    folder, left = found
    return f"The disk of {folder} is full ({size(left)} left): free space on it, then run the command again."


def folders(settings: Settings) -> tuple[Path, ...]:
    """Return the folders that commands and the local engine's services write to."""
    state, stack = settings.state_dir, settings.env_path.parent
    return state, state / "snapshots", stack, settings.cache_dir, Path(tempfile.gettempdir())


class Space(NamedTuple):
    """What is left on a folder's disk; `files` is None for a file system that bounds bytes alone."""

    folder: Path
    bytes: int
    files: int | None


def spaces(paths: Iterable[Path]) -> tuple[Space, ...]:
    """Return what is left on the disks of folders, or of the nearest folder above each, a disk once."""
    found: dict[int, Space] = {}
    for path in paths:
        existing = next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))
        try:
            status, disk = os.statvfs(existing), existing.stat().st_dev
        except OSError:
            continue
        # A file system without blocks, as some network mounts are, says nothing.
        if status.f_blocks:
            left = status.f_bavail * status.f_frsize
            found.setdefault(disk, Space(existing, left, status.f_favail if status.f_files else None))
    return tuple(found.values())


def fullest(paths: Iterable[Path]) -> tuple[Path, int] | None:
    """Return the first folder whose disk is full, and the bytes that are left on it; None if none is."""
    return next(((space.folder, space.bytes) for space in spaces(paths) if space.bytes < LEAST_BYTES), None)
