"""Data folders: made aside and renamed, copied, and which server runs in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target`, mode 0700, that becomes `target` when the block succeeds.

    An interrupted block leaves no `target`, and what it left beside is removed next time. An empty
    `target` is replaced.

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
            hint="Check its owner and the space on its disk.",
        ) from error
    try:
        yield folder
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_contents(source: Path, target: Path) -> None:
    """Copy all in `source` into the folder `target`, sharing blocks where the file system can.

    Owners are kept where `cp` can; `privileges.hand_over` sets them right afterwards.
    """
    if shutil.which("cp"):
        clone = "-c" if os.uname().sysname == "Darwin" else "--reflink=auto"
        copied = subprocess.run(
            ("cp", "-a", clone, f"{source}/.", str(target)), capture_output=True, check=False
        )
        if copied.returncode == 0:
            return
    # Busybox and others know no such option.
    shutil.copytree(source, target, dirs_exist_ok=True, symlinks=True)


def server_pid(pid_file: Path, names: frozenset[str]) -> int | None:
    """Read the process id of the live server that `pid_file` names; None where the file is stale.

    A pid is only believed where the process has one of `names` and works in the folder of the file: the
    number may have gone to somebody else since.
    """
    import psutil

    try:
        pid = int(pid_file.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0])
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE and process.name() in names
        return pid if alive and Path(process.cwd()).samefile(pid_file.parent) else None
    except (OSError, ValueError, psutil.Error):
        return None
