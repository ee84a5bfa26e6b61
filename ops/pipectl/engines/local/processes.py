"""Processes of this machine: the only module that imports psutil, which takes 36 ms."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipectl import ordinary

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psutil

KILL_SECONDS = 5
END_SECONDS = 15
POSTGRES = frozenset({"postgres", "postmaster"})


def server_pid(pid_file: Path, names: frozenset[str]) -> int | None:
    """Read the process id of the live server that `pid_file` names; None if the file is stale.

    A pid is only believed if the process has one of `names` and works in the folder of the file: the number
    may belong to another process by now.
    """
    import psutil

    try:
        pid = int(ordinary.read_text(pid_file, errors="replace").split("\n", 1)[0])
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE and process.name() in names
        # The link itself, if there is one: the path that it shows is that of the process's mount namespace.
        link = Path(f"/proc/{pid}/cwd")
        folder = link if os.path.lexists(link) else Path(process.cwd())
        return pid if alive and folder.samefile(pid_file.parent) else None
    except (OSError, ValueError, psutil.Error):
        return None


class Listener(NamedTuple):
    """A process that accepts connections; without pid and name if it is another user's."""

    pid: int | None
    name: str


def listeners(port: int) -> list[Listener]:
    """Return who listens on a port of 127.0.0.1; nobody where the system does not tell (macOS)."""
    import psutil

    found = []
    try:
        connections: list[Any] = psutil.net_connections("tcp")
    except psutil.Error:
        return []
    for connection in connections:
        is_near = connection.laddr and connection.laddr.ip in {"127.0.0.1", "0.0.0.0", "::", "::1"}  # noqa: S104
        if connection.status != psutil.CONN_LISTEN or not is_near or connection.laddr.port != port:
            continue
        try:
            found.append(Listener(connection.pid, psutil.Process(connection.pid).name()))
        except (psutil.Error, TypeError):
            found.append(Listener(None, ""))
    return found


def listens(pid: int, port: int) -> bool:
    """Whether a process, or one that it has started, listens on a port."""
    import psutil

    try:
        process = psutil.Process(pid)
        related = [process, *process.children(recursive=True)]
    except psutil.Error:
        return False
    for process in related:
        try:
            connections: list[Any] = process.net_connections("tcp")
        except psutil.Error:
            continue
        if any(found.status == psutil.CONN_LISTEN and found.laddr.port == port for found in connections):
            return True
    return False


def is_session_of(session: int, daemons: Sequence[tuple[str, ...]], folder: Path, variable: str) -> bool:
    """Whether a session is that of a daemon, started with one of `daemons`, whose files lie in `folder`.

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
            return _is_daemon(leader, daemons)
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


def find_daemon(daemons: Sequence[tuple[str, ...]]) -> int | None:
    """Return the living process of this user that was started with one of `daemons`, if there is one."""
    import psutil

    for process in psutil.process_iter():
        try:
            if _is_daemon(process, daemons) and process.uids().real == os.getuid():
                return int(process.pid)
        except psutil.Error:
            continue
    return None


def _is_daemon(process: psutil.Process, daemons: Sequence[tuple[str, ...]]) -> bool:
    """Whether a process was started with one of `daemons`, as the last words of its command line.

    An editor or a pager that shows the daemon's configuration names its path too.
    """
    words = tuple(process.cmdline())
    return any(words[-len(daemon) :] == daemon for daemon in daemons)


def command_line(pid: int) -> list[str]:
    """Return the words with which a process was started; none if it has ended or may not be asked."""
    import psutil

    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.Error:
        return []


def started(pid: int) -> str:
    """Return when a process was started, in a form to compare; empty if there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return ""


def session_of(pid: int) -> int:
    """Return the process that leads the session of another one; that process itself if it has ended."""
    try:
        return os.getsid(pid)
    except OSError:
        return pid


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


def end(processes: list[psutil.Process]) -> None:
    """Stop processes in their own way, so that databases need no recovery, and kill what does not end."""
    import psutil

    for process in processes:
        try:
            is_postgres = process.name() in POSTGRES
            if is_postgres and process.parent() in processes:
                continue  # its server ends it
            # PostgreSQL waits for its sessions if it is told to terminate, and ends them if interrupted.
            process.send_signal(signal.SIGINT if is_postgres else signal.SIGTERM)
        except psutil.Error:
            continue
    _, alive = psutil.wait_procs(processes, timeout=END_SECONDS)
    kill(alive)


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
