"""Keeps the local engine's processes running, through supervisord (https://supervisord.org).

Chosen over a loop of our own: it has restarted other people's daemons for twenty years, rotates their
logs, is pure Python and needs no root. One supervisord per project leads the session of all its services.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipectl import json_text, ordinary, surroundings
from pipectl.engines.changes import StartState
from pipectl.engines.local.processes import (
    end,
    find_daemons,
    find_related,
    is_session_of,
    kill,
    session_of,
    with_descendants,
)
from pipectl.engines.project import folder_mark, write_private
from pipectl.errors import EngineError, EngineSilentError
from pipectl.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from pipectl.engines.local.supervisor.program import Program

LOG_BYTES = 5_000_000
LOG_BACKUPS = 2
# A UNIX socket's path has 104 bytes on macOS, 108 on Linux; supervisord appends ".<pid>" while it binds.
LONGEST_SOCKET_PATH = 92
# A program that ends earlier has crashed at its start, which takes Airflow that long on a busy machine. The
# pause before the next start grows by 1 s each time. It is never given up: a full disk may be emptied.
START_CRASH_SECONDS = 30
START_RETRIES = 1_000_000
# supervisord, with a fault of its own mended.
DAEMON = "pipectl.engines.local.supervisor.daemon"
# pipectl 0.1.0 started the second one.
DAEMONS = (DAEMON, "supervisor.supervisord")
RPC_FACTORY = "supervisor.rpcinterface:make_main_rpcinterface"
CONFIG_NAME = "supervisord.conf"
STATE_FOLDER, RUN_FOLDER = ".pipectl", "run"
MARKER = "PIPECTL_STATE_DIR"
PROJECT_MARKER = "PIPECTL_PROJECT_INODE"
# Longer than any program's stop_seconds, after which supervisord kills it: a MariaDB that is told to end in
# the first half second of its start may hang.
SHUTDOWN_SECONDS = 45
ANSWER_SECONDS = 10
START_SECONDS = 15
# A command looks at the processes from many places, a tenth of its CPU each time.
FRESH_SECONDS = 0.1
# supervisord's words for what it runs, or is about to run again.
STARTED = {"RUNNING", "STARTING", "BACKOFF"}


@dataclass(frozen=True)
class ProcessState:
    """A supervised process. `state` is supervisord's own word: RUNNING, STARTING, BACKOFF and so on.

    `started` is its latest start, in seconds since 1970.
    """

    name: str
    state: str
    pid: int | None
    description: str
    started: int = 0


class Started(NamedTuple):
    """The command of a program that runs, and the variables that it got besides those of the machine."""

    command: tuple[str, ...]
    settings: Mapping[str, str]


class Supervisor:
    """The supervisord of one project, whose files lie in `state_dir`."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.run_dir = state_dir / RUN_FOLDER
        self.log_dir = state_dir / "logs"
        self.pid_path = self.run_dir / "supervisord.pid"
        self.config_path = self.run_dir / CONFIG_NAME
        self._known: tuple[ProcessState, ...] = ()
        self._known_until = 0.0
        self._read: dict[Path, tuple[tuple[int, ...], dict[str, Any]]] = {}

    @property
    def socket_path(self) -> Path:
        """Where supervisord listens."""
        return self.run_dir / "supervisor.sock"

    @contextmanager
    def _short_socket_path(self) -> Iterator[str]:
        """Give a path to the socket that a socket's address has room for, for the time of the block."""
        path = str(self.socket_path)
        if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
            yield path
            return
        # TMPDIR may be long too.
        parent = "/tmp" if os.access("/tmp", os.W_OK) else None  # noqa: S108  a private folder is made in it
        with tempfile.TemporaryDirectory(prefix="pipectl-", dir=parent) as folder:
            link = Path(folder, "run")
            link.symlink_to(self.run_dir)
            yield str(link / self.socket_path.name)

    def log_path(self, name: str) -> Path:
        """The current log of a program; rotated ones have .1, .2 appended."""
        return self.log_dir / f"{name}.log"

    def is_running(self) -> bool:
        """Whether supervisord answers. Raises EngineSilentError."""
        try:
            self._call("getState")
        except EngineSilentError:
            raise
        except EngineError:
            return False
        return True

    def launch(self, programs: Iterable[Program]) -> None:
        """Start supervisord, which starts none of `programs` before it is told to; `end_leftovers` first."""
        programs = tuple(programs)
        for folder in (self.run_dir, self.log_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.run_dir.chmod(0o700)
        starter = Path(__file__).with_name("start_program.py").read_text(encoding="utf-8")
        write_private(self._starter_path, starter)
        for program in programs:
            self.describe(program)
        with self._short_socket_path() as socket_path:
            write_private(self.config_path, self._configuration(programs, socket_path))
            started = subprocess.run(
                [sys.executable, "-P", "-m", DAEMON, "-c", str(self.config_path)],
                cwd=self.run_dir,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                env=surroundings.environment(),
            )
            runs = until(self.is_running, 0 if started.returncode else START_SECONDS, poll_seconds=0.02)
        if not runs:
            raise EngineError(
                f"The supervisor of {self.state_dir} did not start.",
                hint="The lines above are the supervisor's. Mend what they name, then run the command again.",
                detail=started.stderr.strip() or tail(self.run_dir / "supervisord.log", 10),
            )

    def add(self, programs: Collection[Program]) -> None:
        """Tell a supervisord of an earlier pipectl, which knows fewer programs, of `programs`."""
        known = {process.name for process in self.processes()}
        missing = [program.name for program in programs if program.name not in known]
        if missing:
            with self._short_socket_path() as socket_path:
                write_private(self.config_path, self._configuration(programs, socket_path))
            self._call("reloadConfig")
            for name in missing:
                self._call("addProcessGroup", name)

    def describe(self, program: Program) -> None:
        """Write down what `program` is; in force from its next start."""
        marks = {MARKER: str(self.state_dir), PROJECT_MARKER: folder_mark(self.state_dir.parent)}
        environment = surroundings.with_network(**program.environment) | marks
        description = {
            "state_dir": str(self.state_dir),
            "command": program.command,
            "directory": str(program.directory),
            "environment": environment,
            "settings": _settings(program.environment),
            "files": dict(program.files),
            "port": program.port,
            "ports": dict(program.ports),
            "forks": program.forks,
            "forked_from": program.forked_from,
        }
        write_private(self._description_path(program.name), json.dumps(description))

    def _read_object(self, path: Path) -> dict[str, Any]:
        """Return the object in a description, which is replaced as a whole and read by many questions."""
        try:
            status = path.stat()
        except OSError:
            return {}
        state = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._read.get(path)
        if known is None or known[0] != state:
            known = self._read[path] = state, json_text.read_object(path)
        return known[1]

    def port(self, name: str) -> int | None:
        """Return the port that a program was started with, None if it has none."""
        port = self._read_object(self._description_path(name)).get("port")
        return port if isinstance(port, int) else None

    def started_files(self, name: str) -> Mapping[str, str]:
        """Return the digests of the files that a program was started with; none if it does not run."""
        pid = self._pid(name)
        files = self._started_as(name, pid).get("files") if pid else None
        return files if isinstance(files, dict) else {}

    def started(self, name: str) -> Started:
        """Return what a running program was started with; EngineError if nothing is known of that."""
        path = self._description_path(name)
        for source in (path.with_suffix(".started"), path):
            known = self._read_object(source)
            command, environment = known.get("command"), known.get("environment")
            if isinstance(command, list) and isinstance(environment, dict):
                return Started(tuple(command), known.get("settings") or _settings(environment))
        raise EngineError(
            f"{self.run_dir} does not say what {name} was started with.",
            hint="Start the stack anew: pipectl down, then pipectl up",
        )

    def changes(self, program: Program, pid: int, user_settings: Collection[str]) -> tuple[str, ...]:
        """Return what the running process `pid` would be started with otherwise now; () if nothing is known.

        What it inherits from who starts it does not count: that differs from one terminal to another.
        """
        started = self._started(program.name, pid)
        if started is None:
            return ()
        words = (list(program.command), str(program.directory))
        rest = {"its command": words}
        now = StartState(_settings(program.environment), program.files, rest, program.ports)
        return started.changes(now, user_settings)

    def _started(self, name: str, pid: int) -> StartState | None:
        known = self._started_as(name, pid)
        settings, files = known.get("settings"), known.get("files")
        if not (isinstance(settings, dict) and isinstance(files, dict)):
            return None
        words = (known.get("command"), known.get("directory"))
        # An earlier version of pipectl wrote no ports down.
        return StartState(settings, files, {"its command": words}, known.get("ports") or {})

    def _started_as(self, name: str, pid: int) -> dict[str, Any]:
        """Return the description that the running process `pid` was started with; empty if it is unknown."""
        # Processes that an earlier version of pipectl started have a description alone.
        path = self._description_path(name)
        for source in (path.with_suffix(".started"), path):
            known = self._read_object(source)
            if known and known.get("pid", pid) == pid:
                return known
        return {}

    def start(self, name: str) -> None:
        """Start a program, once it has stopped if an interrupted command has left it stopping.

        One that has crashed is started now, and not after supervisord's pause. One that supervisord has
        started again meanwhile is left to that.
        """
        if self._state(name) == "BACKOFF":
            self._call("stopProcess", name, False)
        self._wait(lambda: self._state(name) != "STOPPING", {name})
        try:
            self._call("startProcess", name, False)
        except EngineError:
            if self._state(name) not in STARTED:
                raise

    def _state(self, name: str) -> str:
        return next((process.state for process in self.processes() if process.name == name), "")

    def end_work(self, name: str, seconds: float) -> None:
        """Ask a running program, but not its children, to end; kill all of them after `seconds`.

        The supervisor then starts it again, so stop it afterwards.
        """
        before = self._pid(name)
        if before is None:
            return
        self._call("signalProcess", name, "TERM")
        if not until(lambda: self._pid(name) != before, seconds, poll_seconds=0.05):
            kill(with_descendants(before))

    def _pid(self, name: str) -> int | None:
        return next((process.pid for process in self.processes() if process.name == name), None)

    def stop(self, names: Iterable[str]) -> None:
        """Stop programs side by side and wait until they have ended."""
        wanted = set(names)

        def have_stopped() -> bool:
            self._known_until = 0.0
            # One that has ended by itself is started again at once, and is then to be stopped.
            left = [
                process
                for process in self.processes()
                if process.name in wanted and process.state in STARTED | {"STOPPING", "EXITED"}
            ]
            for process in left:
                if process.state in STARTED:
                    self._tell_to_stop(process.name)
            return not left

        self._wait(have_stopped, wanted)

    def _tell_to_stop(self, name: str) -> None:
        try:
            self._call("stopProcess", name, False)
        except EngineSilentError:
            raise
        except EngineError:
            return  # it has ended meanwhile, which the next look shows

    def _wait(self, have_stopped: Callable[[], bool], names: set[str]) -> None:
        if names and not until(have_stopped, SHUTDOWN_SECONDS, poll_seconds=0.05):
            raise EngineError(
                f"Not all of {', '.join(sorted(names))} stopped within {SHUTDOWN_SECONDS} s.",
                hint="Run `pipectl down` again: it ends what is left.",
            )

    def processes(self) -> tuple[ProcessState, ...]:
        """State of every program; empty if supervisord does not run. Raises EngineSilentError.

        As it is, or as it was FRESH_SECONDS ago, if supervisord has been told nothing since.
        """
        if time.monotonic() < self._known_until:
            return self._known
        try:
            answer = self._call("getAllProcessInfo")
        except EngineSilentError:
            raise
        except EngineError:
            return ()
        self._known = tuple(
            ProcessState(
                name=info["name"],
                state=info["statename"],
                pid=info["pid"] or None,
                description=info["spawnerr"] or info["description"],
                started=info["start"],
            )
            for info in answer
        )
        self._known_until = time.monotonic() + FRESH_SECONDS
        return self._known

    def shutdown(self) -> bool:
        """End every process that this project's supervisord, or an earlier one, started, and itself.

        Return whether any ran.
        """
        with suppress(EngineSilentError):
            self.stop(process.name for process in self.processes())
        # Once nothing is left to supervise, supervisord has nothing to save; told to shut down it takes 2 s.
        return self.end_leftovers()

    def end_leftovers(self) -> bool:
        """End what is left of this project's processes, and remove supervisord's files.

        Return whether there were any. A supervisord need not answer, nor have its files. Found by three
        signs, since each alone misses some: the session that supervisord leads (Airflow wipes its
        environment, but stays in the session), descendants of its members, and the marker in the
        environment (a task's bash leads a session of its own).
        """
        leader, is_own = self._signs()
        related = find_related(leader, is_own)
        # First, since it starts again what ends.
        kill([process for process in related if process.pid == leader])
        end([process for process in related if process.pid != leader])
        self.pid_path.unlink(missing_ok=True)
        self.socket_path.unlink(missing_ok=True)
        return bool(related)

    def orphans(self) -> tuple[int, ...]:
        """Return the processes of an earlier start that no supervisord can be told of: none while one can."""
        try:
            if self.is_running():
                return ()
        except EngineSilentError:
            return ()
        leader, is_own = self._signs()
        return tuple(process.pid for process in find_related(leader, is_own))

    def _signs(self) -> tuple[int | None, Callable[[Mapping[str, str]], bool]]:
        """Return the leader of the session, which may have ended, and what knows the marker."""
        daemon, has_moved_away = self._daemon()
        is_own = partial(self._is_own, has_moved_away=has_moved_away)
        return daemon or self._session(is_own), is_own

    def pid(self) -> int:
        """Return the process id of supervisord, 0 if it is not running."""
        return self._daemon()[0] or 0

    def _daemon(self) -> tuple[int | None, bool]:
        """Return the supervisord that works in this project's folder, wherever that was when it started.

        Return too whether one that was started under this path works elsewhere: its project was moved away.
        """
        own, has_moved_away = None, False
        for daemon in find_daemons(DAEMONS):
            is_named = daemon.config == self.config_path
            try:
                is_here = daemon.folder is not None and daemon.folder.samefile(self.run_dir)
            except OSError:
                # There is no such folder, or the daemon has ended by now.
                is_here = False
            if is_here or (is_named and daemon.folder is None):
                own = daemon.pid
            elif is_named:
                has_moved_away = True
        return own, has_moved_away

    def _is_own(self, environment: Mapping[str, str], *, has_moved_away: bool) -> bool:
        """Whether a process with this environment was started by this project's supervisord, or its tasks."""
        if PROJECT_MARKER in environment:
            return environment[PROJECT_MARKER] == folder_mark(self.state_dir.parent)
        # pipectl 0.1.0 left the path alone.
        return environment.get(MARKER) == str(self.state_dir) and not has_moved_away

    def _session(self, is_own: Callable[[Mapping[str, str]], bool]) -> int | None:
        """Return the session of a supervisord that has ended; None if nothing is left of it."""
        try:
            session = int(ordinary.read_text(self.pid_path, "ascii"))
        except (OSError, ValueError):
            return None
        return session if is_session_of(session, self.state_dir, is_own) else None

    def moved_from(self) -> Path | None:
        """Return where the project was when what runs was started, None if it was here."""
        for process in self.processes():
            started = self._started_as(process.name, process.pid) if process.pid else {}
            state_dir = started.get("state_dir")
            if isinstance(state_dir, str) and state_dir != str(self.state_dir):
                return Path(state_dir).parent
        return None

    @property
    def _starter_path(self) -> Path:
        return self.run_dir / "start_program.py"

    def _description_path(self, name: str) -> Path:
        return self.run_dir / f"{name}.json"

    def _configuration(self, programs: Iterable[Program], socket_path: str) -> str:
        # Every other path is relative to the folder that supervisord is started in: a project's own path may
        # hold characters that its configuration cuts at (" ;") or expands twice (%).
        sections = [
            f"[unix_http_server]\nfile={self._socket_setting(socket_path)}\nchmod=0600",
            f"[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory={RPC_FACTORY}",
            "[supervisord]\n"
            "pidfile=supervisord.pid\nlogfile=supervisord.log\n"
            "logfile_maxbytes=1000000\nlogfile_backups=1\nminfds=256\nchildlogdir=.\n"
            + ("user=0\n" if os.getuid() == 0 else ""),
        ]
        for program in programs:
            # The base interpreter: the one of a virtual environment may lie in the project's folder.
            interpreter = getattr(sys, "_base_executable", sys.executable)
            words = (
                interpreter,
                "-I",
                "-S",
                self._starter_path.name,
                self._description_path(program.name).name,
            )
            sections.append(
                f"[program:{program.name}]\n"
                f"command={_escape(shlex.join(words))}\n"
                "autostart=false\nautorestart=true\n"
                f"startsecs={START_CRASH_SECONDS}\nstartretries={START_RETRIES}\n"
                f"stopsignal={program.stop_signal}\nstopwaitsecs={program.stop_seconds}\n"
                "stopasgroup=true\nkillasgroup=true\nredirect_stderr=true\n"
                f"stdout_logfile=../logs/{program.name}.log\n"
                f"stdout_logfile_maxbytes={LOG_BYTES}\nstdout_logfile_backups={LOG_BACKUPS}"
            )
        return "\n\n".join(sections) + "\n"

    def _socket_setting(self, socket_path: str) -> str:
        return self.socket_path.name if socket_path == str(self.socket_path) else _escape(socket_path)

    def _call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401  XML-RPC answers are untyped
        self._known_until = 0.0
        with self._short_socket_path() as path:
            return self._call_at(path, method, *arguments)

    def _call_at(self, path: str, method: str, *arguments: object) -> Any:  # noqa: ANN401  as above
        import xmlrpc.client  # noqa: PLC0415  50 ms

        class UnixConnection(http.client.HTTPConnection):
            def connect(self) -> None:
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.sock.settimeout(ANSWER_SECONDS)
                self.sock.connect(path)

        class UnixTransport(xmlrpc.client.Transport):
            def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ANN401  as its base has it
                return UnixConnection(host if isinstance(host, str) else host[0])

        proxy = xmlrpc.client.ServerProxy("http://supervisor", transport=UnixTransport())
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            raise EngineError(
                f"The supervisor refused {method} {' '.join(map(str, arguments))}: {fault.faultString}."
            ) from fault
        except TimeoutError as error:
            raise EngineSilentError(
                f"The stack's supervisor has not answered for {ANSWER_SECONDS} s.",
                hint="Run the command again later. If that fails too, `pipectl down` ends all of it.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(
                "The stack is not running: its supervisor does not answer.", hint="Start it: pipectl up"
            ) from error


def project_of_session(pid: int) -> Path | None:
    """Return the project whose supervisord leads the session of a process; None if none does."""
    session = session_of(pid)
    return next((project for leader, project in running_projects() if leader == session), None)


def running_projects() -> list[tuple[int, Path]]:
    """Return the supervisords of this user, each with the folder of its project, also of one that is gone."""
    found = []
    for daemon in find_daemons(DAEMONS):
        folder = daemon.folder.resolve() if daemon.folder else daemon.config.parent
        if daemon.config.name == CONFIG_NAME and folder.parts[-2:] == (STATE_FOLDER, RUN_FOLDER):
            found.append((daemon.pid, folder.parents[1]))
    return found


def end_session(leader: int) -> None:
    """End a supervisord of `running_projects` whose project is gone, and all that it has started."""
    related = find_related(leader, lambda _: False)
    # First, since it starts again what ends.
    kill([process for process in related if process.pid == leader])
    end([process for process in related if process.pid != leader])


def tail(path: Path, lines: int, largest: int = 65536) -> str:
    """The last `lines` lines of a file, from at most `largest` bytes; empty if there is no file."""
    try:
        with ordinary.opened(path) as file:
            file.seek(max(0, path.stat().st_size - largest))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a program's environment sets; PATH is built from that of the caller."""
    return {name: value for name, value in environment.items() if name != "PATH"}


def _escape(value: object) -> str:
    """Escape what supervisord expands in its configuration."""
    return str(value).replace("%", "%%")
