"""Processes of this machine: the only module that imports psutil, which takes 36 ms."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

KILL_SECONDS = 5


def server_pid(pid_file: Path, names: frozenset[str]) -> int | None:
    """Read the process id of the live server that `pid_file` names; None if the file is stale.

    A pid is only believed if the process has one of `names` and works in the folder of the file: the number
    may belong to another process by now.
    """
    import psutil

    try:
        pid = int(pid_file.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0])
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE and process.name() in names
        return pid if alive and Path(process.cwd()).samefile(pid_file.parent) else None
    except (OSError, ValueError, psutil.Error):
        return None


def is_session_of(session: int, *, folder: Path, argument: str, variable: str) -> bool:
    """Whether a session is that of the daemon started with `argument`, which keeps its files in `folder`.

    A number in a file proves nothing. The daemon that leads the session does; once it has ended, a member
    that works in `folder`, or whose environment names it in `variable`, does.
    """
    import psutil

    # 0 is the session of all processes whose leader is outside this container, and of the kernel's own.
    if session <= 0:
        return False
    try:
        leader = psutil.Process(session)
        if leader.status() != psutil.STATUS_ZOMBIE:
            return argument in leader.cmdline()
    except psutil.NoSuchProcess:
        pass
    except psutil.Error:
        return False
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) != session:
                continue
            if process.environ().get(variable) == str(folder) or folder in Path(process.cwd()).parents:
                return True
        except (psutil.Error, OSError):
            continue
    return False


def find_related(session: int | None, variable: str, value: str) -> list[psutil.Process]:
    """Return the processes of a session, those with `variable` set to `value`, and the descendants of both.

    This process is left out, and `session` may be None.
    """
    import psutil

    related: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            in_session = session is not None and os.getsid(process.pid) == session
            if in_session or process.environ().get(variable) == value:
                related[process.pid] = process
                related.update({child.pid: child for child in process.children(recursive=True)})
        except (psutil.Error, OSError):
            continue
    return list(related.values())


def with_descendants(pid: int) -> list[psutil.Process]:
    """Return a process and all that it has started, in whatever session; none if it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def kill(processes: list[psutil.Process]) -> None:
    """Kill processes, and wait until they have ended."""
    import psutil

    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(processes, timeout=KILL_SECONDS)
