"""Processes of this machine: the only module that imports psutil, which takes 36 ms."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipectl import ordinary
from pipectl.models import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    import psutil

KILL_SECONDS = 5
END_SECONDS = 15
MEMORY_KIND = "PSS" if sys.platform == "linux" else "RSS"
LISTENING = "0A"  # Linux's number for the state of a socket
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


def available_memory() -> int:
    """Return the bytes that new processes can have, also within a limit of this control group's."""
    import psutil

    left = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return left  # without a limit memory.max has a word
    return min(left, limit - used + int(stat.get("inactive_file", 0)))


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
    if listening({port: pid}):
        return True
    import psutil

    try:
        process = psutil.Process(pid)
        if _listens(process, port):
            return True
        # Whose look at every process of the machine takes longer.
        return any(_listens(child, port) for child in process.children(recursive=True))
    except psutil.Error:
        return False


def listening(pids: Mapping[int, int]) -> set[int]:
    """Return those of the ports at which the process itself is seen to listen, without psutil.

    Linux tells it of 127.0.0.1 in one table, which takes 5 ms to read.
    """
    found = set()
    with suppress(OSError, IndexError):
        table = Path("/proc/self/net/tcp").read_text(encoding="ascii")
        entries = [line.split() for line in table.splitlines() if f" {LISTENING} " in line]
        sockets: dict[str, int] = {}
        for entry in entries:
            sockets[f"socket:[{entry[9]}]"] = int(entry[1].rpartition(":")[2], 16)
        for port, pid in pids.items():
            if port in sockets.values() and port in map(sockets.get, _open_files(pid)):
                found.add(port)
    return found


def _open_files(pid: int) -> Iterator[str]:
    """Yield what the descriptors of a process lead to; OSError if it has ended, or is another user's."""
    with os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            yield os.readlink(entry.path)  # noqa: PTH115  what it leads to is no path


def _listens(process: psutil.Process, port: int) -> bool:
    import psutil

    try:
        connections: list[Any] = process.net_connections("tcp")
    except psutil.Error:
        return False
    return any(found.status == psutil.CONN_LISTEN and found.laddr.port == port for found in connections)


class Daemon(NamedTuple):
    """A daemon of this user: its configuration file, as it was started with, and the folder it works in now.

    `folder` is None if that was deleted. A folder that was moved is followed.
    """

    pid: int
    config: Path
    folder: Path | None


def find_daemons(modules: Collection[str]) -> list[Daemon]:
    """Return the daemons that were started as `python -m MODULE -c CONFIGURATION`.

    An editor or a pager that shows the configuration names its path too.
    """
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()[-4:]
            is_daemon = words[::2] == ["-m", "-c"] and words[3:] and words[1] in modules
            if is_daemon and process.uids().real == os.getuid():
                found.append(Daemon(process.pid, Path(words[3]), _folder(process)))
        except (psutil.Error, OSError):
            continue
    return found


def _folder(process: psutil.Process) -> Path | None:
    # The link itself, if there is one: the path that it shows is that of the process's mount namespace.
    link = Path(f"/proc/{process.pid}/cwd")
    if not os.path.lexists(link):
        return Path(process.cwd())
    return None if str(link.readlink()).endswith(" (deleted)") else link


def is_session_of(session: int, folder: Path, is_own: Callable[[Mapping[str, str]], bool]) -> bool:
    """Whether a session is that of a daemon which has ended, and whose processes work in `folder`.

    A number in a file proves nothing. A member that works in `folder`, or whose environment is the project's
    own, does.
    """
    import psutil

    # 0 is the session of all processes whose leader is outside this container, and of the kernel's own.
    if session <= 0:
        return False
    try:
        if psutil.Process(session).status() != psutil.STATUS_ZOMBIE:
            return False
    except psutil.NoSuchProcess:
        pass
    except psutil.Error:
        return False
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) != session:
                continue
            if is_own(process.environ()) or folder in Path(process.cwd()).parents:
                return True
        except (psutil.Error, OSError):
            continue
    return False


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


def find_related(session: int | None, is_own: Callable[[Mapping[str, str]], bool]) -> list[psutil.Process]:
    """Return the processes of a session, those whose environment is the project's own, and all descendants.

    This process is left out, and `session` may be None.
    """
    import psutil

    related: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            in_session = session is not None and os.getsid(process.pid) == session
            if in_session or is_own(process.environ()):
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
    kill(wait(processes, END_SECONDS))


def wait(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until processes have ended, `seconds` at most; return those that have not."""
    deadline = time.monotonic() + seconds
    return [process for process in processes if not _ends(process, max(0.0, deadline - time.monotonic()))]


def _ends(process: psutil.Process, seconds: float) -> bool:
    """Wait for an end, also one that its parent has not asked for: psutil would use a core until it does."""
    import psutil

    if sys.platform == "linux":
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return True
        except OSError:  # an old kernel
            pass
        else:
            try:
                return bool(select.select([descriptor], [], [], seconds)[0]) or not process.is_running()
            finally:
                os.close(descriptor)
    try:
        process.wait(seconds)
    except psutil.TimeoutExpired:
        return False
    return True


def with_descendants(pid: int) -> list[psutil.Process]:
    """Return a process and all that it has started, in whatever session; none if it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def usage(pids: Mapping[str, int]) -> dict[str, Usage]:
    """Return what processes, by names, have used with all that they have started, in whatever session.

    The time of a process that has ended is its parent's. Where the system does not tell which pages are
    shared, each process counts all of its own.
    """
    import psutil

    processes, parents = {}, {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            parents[process.pid] = process.ppid()
            processes[process.pid] = process
    names = {pid: name for name, pid in pids.items()}
    seconds, memory = dict.fromkeys(pids, 0.0), dict.fromkeys(pids, 0)
    for pid, process in processes.items():
        ancestor = pid
        while ancestor not in names and parents.get(ancestor):
            ancestor = parents[ancestor]
        if name := names.get(ancestor):
            with suppress(psutil.Error):
                seconds[name] += sum(process.cpu_times()[:4])
                memory[name] += _memory(process)
    return {name: Usage(seconds[name], memory[name]) for name in pids}


def _memory(process: psutil.Process) -> int:
    import psutil

    try:
        known: Any = process.memory_full_info()
    except psutil.AccessDenied:
        known = process.memory_info()
    return int(getattr(known, "pss", known.rss))


def kill(processes: list[psutil.Process]) -> None:
    """Kill processes, and wait until they have ended."""
    import psutil

    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue
    wait(processes, KILL_SECONDS)
