"""Data folders: made atomically, copied, deleted."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipectl import json_text, ordinary, surroundings
from pipectl.errors import EngineError, remedy
from pipectl.models import Volume
from pipectl.names import shell
from pipectl.wait import interrupts_ignored

if TYPE_CHECKING:
    from collections.abc import Iterator

CREATED = "created"
PROBE = ".probe.new-"
DATA = "data"
# Two changes within a file system's tick leave the same time.
SAME_TIME_NS = 2_000_000_000
# renameat2(2): paths from the current folder, and both stay. renamex_np(2) on macOS.
HERE, LINUX_EXCHANGE, DARWIN_SWAP = -100, 2, 2


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target`, mode 0700, that becomes `target` when the block succeeds.

    All or nothing: an interrupted block leaves no `target`, and the folder that it leaves beside is removed
    next time. An empty `target` is replaced.

    Raises:
        EngineError: the folder cannot be written.

    """
    prefix = f".{target.name}.new-"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in target.parent.glob(f"{prefix}*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    except OSError as error:
        raise EngineError(
            f"{target.parent} cannot be written: {error.strerror}.",
            hint=remedy(error, target.parent),
        ) from error
    try:
        yield folder
        try:
            folder.rename(target)
        except OSError as error:
            raise EngineError(
                f"{target} is there already, and is not what it should be: {error.strerror}.",
                hint="Start with new data (pipectl reset), or move it away and run the command again.",
            ) from error
    finally:
        with interrupts_ignored():
            shutil.rmtree(folder, ignore_errors=True)


def copy_contents(*places: tuple[Path, Path]) -> None:
    """Copy all in each first folder into the second, side by side, sharing blocks if the file system can.

    Owners are kept if `cp` can; call `privileges.change_owner` afterwards. An exception, Ctrl-C's too, ends
    what copies. Raises EngineError.
    """
    clone = "-c" if os.uname().sysname == "Darwin" else "--reflink=auto"
    copying: list[subprocess.Popen[bytes]] = []
    codes: list[int] = []
    try:
        if shutil.which("cp"):
            for source, target in places:
                copying.append(
                    subprocess.Popen(
                        ("cp", "-a", clone, f"{source}/.", str(target)),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        env=surroundings.environment(),
                    )
                )
            codes = [process.wait() for process in copying]
    finally:
        for process in copying:
            process.kill()
            process.wait()
    for place, code in zip_longest(places, codes):
        # Busybox and others know no such option.
        if code != 0:
            _copy_tree(*place)


def _copy_tree(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)
    except OSError as error:
        first: Any = error
        if isinstance(error, shutil.Error):  # the reasons of all files, in words
            words = str(error.args[0][0][2])
            number = re.match(r"\[Errno (\d+)\]", words)
            first = OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(0, words)
        raise EngineError(
            f"{source} cannot be copied to {target}: {first.strerror}.", hint=remedy(first, target)
        ) from error


def exchange(first: Path, second: Path) -> None:
    """Exchange two folders, in one step if system and file system can; `restore_exchanged` helps if not."""
    import ctypes  # noqa: PLC0415  for a restore alone

    names = os.fsencode(first), os.fsencode(second)
    library = ctypes.CDLL(None)
    with suppress(AttributeError):  # a C library without the function
        if sys.platform == "darwin":
            failed = library.renamex_np(*names, DARWIN_SWAP)
        else:
            failed = library.renameat2(HERE, names[0], HERE, names[1], LINUX_EXCHANGE)
        if not failed:
            return
    spare = spare_of(first)
    first.rename(spare)
    second.rename(first)
    spare.rename(second)


def restore_exchanged(first: Path, second: Path) -> None:
    """Rename what an interrupted exchange, not in one step, has left: back, or to where it goes."""
    spare = spare_of(first)
    if spare.is_dir() and not (first.exists() and second.exists()):
        spare.rename(second if first.exists() else first)


def spare_of(folder: Path) -> Path:
    """Return where a folder lies in the middle of an exchange that is not in one step."""
    return folder.with_name(f".{folder.name}.exchanged")


def shares_blocks(source: Path, target: Path) -> bool:
    """Whether copies of files from one folder to another share their blocks, and so take no space."""
    if sys.platform != "linux":
        return False
    with (
        tempfile.TemporaryDirectory(prefix=PROBE, dir=source) as probe,
        tempfile.TemporaryDirectory(prefix=PROBE, dir=target) as copy,
    ):
        Path(probe, "from").write_bytes(b"a" * 4096)
        copied = subprocess.run(
            ("cp", "--reflink=always", f"{probe}/from", copy),
            capture_output=True,
            check=False,
            env=surroundings.environment(),
        )
        return copied.returncode == 0


def count_files(folder: Path) -> int:
    """How many files are below a folder, byte code aside: fewer than there were, and some were deleted."""
    return _counted(folder)[0]


def holds_files(folder: Path, count: int, note: Path) -> bool:
    """Whether there are as many files below a folder as there were.

    They are counted again once a folder has changed: `note` keeps the folders' times. Counting ten thousand
    files takes 25 ms, and looking at their folders 5.
    """
    known = json_text.read_object(note)
    with suppress(OSError):
        if known and all(os.stat(name).st_mtime_ns == then for name, then in known.items()):  # noqa: PTH116  strings
            return True
    found, times = _counted(folder)
    if found < count:
        return False
    if max(times.values(), default=0) > time.time_ns() - SAME_TIME_NS:
        return True
    json_text.note(note, times)
    return True


def _counted(folder: Path) -> tuple[int, dict[str, int]]:
    """Return how many files there are, and the times at which folders last got or lost one."""
    count, times, left = 0, {}, [os.fspath(folder)]
    # os.walk takes half as long again.
    while left:
        name = left.pop()
        with suppress(OSError):
            times[name] = os.stat(name).st_mtime_ns  # noqa: PTH116  os.scandir's strings
            with os.scandir(name) as entries:
                for entry in entries:
                    if not entry.is_dir():
                        count += 1
                    elif entry.name != "__pycache__" and not entry.is_symlink():
                        left.append(entry.path)
    return count, times


@dataclass(frozen=True)
class VolumeFolder:
    """A volume as a folder. Its file `created` says since when it exists: a folder's own times change."""

    name: str
    path: Path

    def ensure(self) -> None:
        """Make the folder and note the time, if there is none; EngineError if that is not allowed."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            marker = self.path / CREATED
            if not marker.exists():
                marker.write_text(datetime.now(UTC).isoformat(), encoding="ascii")
        except OSError as error:
            raise EngineError(
                f"{self.path} cannot be written: {error.strerror}.",
                hint=remedy(error, self.path),
            ) from error

    def describe(self) -> Volume | None:
        """Return the volume, None if the folder does not exist."""
        if not self.path.is_dir():
            return None
        try:
            created = datetime.fromisoformat(ordinary.read_text(self.path / CREATED, "ascii"))
        except (OSError, ValueError):
            created = datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
        return Volume(self.name, str(self.path), created, disk_usage(self.path))

    def delete(self) -> None:
        """Delete the folder with all in it; EngineError if that is not allowed."""
        if self.path.is_symlink():
            raise EngineError(
                f"{self.path} is a link to {self.path.resolve()}, which pipectl did not make.",
                hint=f"Remove the link alone, what it leads to stays: {shell('rm', self.path)}\n"
                "Then run the command again.",
            )
        hidden = self.path.with_name(f".{self.path.name}.deleted")
        try:
            # Half of a folder is worse than none, so it goes in one step.
            shutil.rmtree(hidden, ignore_errors=True)
            if self.path.exists():
                self.path.rename(hidden)
            if hidden.exists():
                shutil.rmtree(hidden)
        except OSError as error:
            raise EngineError(
                f"{error.filename or self.path} cannot be deleted: {error.strerror or error}.",
                hint=remedy(error, self.path),
            ) from error


def database_volume(state_dir: Path, name: str) -> VolumeFolder:
    """Return the folder of a database's data, which lies in its subfolder DATA."""
    return VolumeFolder(name, state_dir / "volumes" / name)


def server_mark(name: str, data_dir: Path) -> str:
    """Return what the server of a data folder calls itself, and no other project's server does."""
    return f"{name} {hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"


def airflow_volume(state_dir: Path) -> VolumeFolder:
    """Return AIRFLOW_HOME as a volume."""
    return VolumeFolder("airflow", state_dir / "airflow")


def disk_usage(folder: Path) -> int:
    """Return the bytes that the files below a folder take on the disk."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118  os.walk's strings
            except FileNotFoundError:
                continue
    return total
