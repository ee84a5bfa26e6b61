"""Replace this process by a PostgreSQL server, after making sure that a killed one does not stand in its way.

    postgres_start.py DATA_DIR COMMAND...

PostgreSQL refuses to start while the pid in postmaster.pid is alive, even if that number belongs to an
unrelated process by now, and while a child of the killed server is still attached to its memory. Standard
library only, run with `python -I -S` at every start by the supervisor: 15 ms. Without /proc (macOS) only the
second case is left to the supervisor, which tries again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

ORPHANS_END_SECONDS = 2.0
PROC = Path("/proc")


def is_server(pid: int, data_dir: Path) -> bool:
    """Whether `pid` is a living PostgreSQL process of this folder: all of them work in it."""
    try:
        name = (PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
        return name == "postgres" and (PROC / str(pid) / "cwd").samefile(data_dir)
    except OSError:
        return False


def end_orphans(data_dir: Path) -> None:
    """Wait for the children of a killed server, which soon notice its death, then kill what is left."""
    deadline = time.monotonic() + ORPHANS_END_SECONDS
    pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
    while pids := [pid for pid in pids if is_server(pid, data_dir)]:
        if time.monotonic() > deadline:
            # Safe: without their postmaster they can only end, and recovery replays what was committed.
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def clear_the_way(data_dir: Path) -> None:
    """Make a stale postmaster.pid harmless.

    Its first line gets this process's own pid, which the server accepts: it will be this process. The
    rest stays, so that its check for processes still attached to the old shared memory works on.
    """
    lock = data_dir / "postmaster.pid"
    try:
        first, separator, rest = lock.read_text(encoding="utf-8", errors="surrogateescape").partition("\n")
    except FileNotFoundError:
        return
    if first.strip().isdigit() and is_server(int(first), data_dir):
        return  # a living server: the new one says so and ends
    end_orphans(data_dir)
    if not rest:
        lock.unlink()  # killed while it wrote the file; the server refuses an empty one
        return
    renewed = lock.with_name("postmaster.pid.new")
    renewed.write_text(f"{os.getpid()}{separator}{rest}", encoding="utf-8", errors="surrogateescape")
    owner = lock.stat()
    os.chown(renewed, owner.st_uid, owner.st_gid)
    renewed.replace(lock)


if __name__ == "__main__":
    # An early Ctrl-C or stop ends this without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if PROC.is_dir() and Path("/proc/self/comm").exists():
        clear_the_way(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  no shell is wanted
