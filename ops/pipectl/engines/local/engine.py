"""The local engine: PostgreSQL, MariaDB or MySQL, and Airflow as supervised processes of one project."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipectl.database_connections import MYSQL, prove
from pipectl.engines import airflow_env
from pipectl.engines.base import Engine
from pipectl.engines.changes import (
    TASK_SECONDS,
    StartPlan,
    describe,
    digests,
    restart_sentences,
    with_dependents,
)
from pipectl.engines.local import logs
from pipectl.engines.local.airflow import needs_triggerer, require_usable_path
from pipectl.engines.local.data import LocalData
from pipectl.engines.local.folders import (
    DATA,
    VolumeFolder,
    airflow_volume,
    database_volume,
    server_mark,
)
from pipectl.engines.local.processes import MEMORY_KIND, listeners, listening, listens, usage
from pipectl.engines.local.supervisor.supervisor import LOG_BYTES, Supervisor, tail
from pipectl.engines.ports import is_free
from pipectl.engines.project import Leftover, forget_engine, new_password, remember_engine
from pipectl.engines.requirements import changed_note
from pipectl.errors import DatabaseError, EngineError, EngineSilentError, ForeignDatabaseError, UsageError
from pipectl.models import Service
from pipectl.names import counted
from pipectl.observer import Observer
from pipectl.services import WAITING, airflow_programs, databases, get

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from pipectl.engines.foreground import Command
    from pipectl.engines.local.start import Software
    from pipectl.engines.local.supervisor.supervisor import ProcessState
    from pipectl.models import DatabaseAddress, LogLine, Usage, Volume
    from pipectl.settings import Settings

# Nobody but pipectl's own single-user runs, which ask for none, needs it.
SUPERUSER_PASSWORD = "AIRBYTE_POSTGRES_SUPERUSER_PASSWORD"  # noqa: S105  the name of a variable
# supervisord's words for a process, in ours.
STATES = {
    "RUNNING": "running",
    # supervisord calls it so until it knows that the process has not crashed at its start.
    "STARTING": "running",
    "BACKOFF": "crashed",
    "EXITED": "crashed",
    "FATAL": "crashed",
}


class LocalEngine(Engine):
    """Runs the services as processes."""

    name = "local"
    executor = "LocalExecutor"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._supervisor = Supervisor(settings.state_dir)
        self._data = LocalData(self)
        self._software: Software | None = None

    @property
    def data(self) -> LocalData:
        """Folders."""
        return self._data

    def check(self, observer: Observer) -> None:
        """Look at the settings, those of Airflow too, at the project's path, and at the data of a copy."""
        super().check(observer)
        require_usable_path(self._settings.project)
        airflow_env.read(self._settings.project, self._settings.variables)
        if self._settings.origin is not None:
            from pipectl.engines.local.start import require_copied_at_rest  # noqa: PLC0415  10 ms

            require_copied_at_rest(self._settings, self._settings.origin)

    def install(self, observer: Observer) -> None:
        """Find or install Airflow, PostgreSQL and MariaDB, side by side."""
        from pipectl.engines.local.start import find_software  # noqa: PLC0415  10 ms

        # A mistake in the project's files shows before anything is installed.
        self.check(observer)
        self._software = find_software(self._settings, observer)

    def start(self, observer: Observer, only: Collection[str] = ()) -> tuple[str, ...]:
        """Start what is not running, and anew what would be started with something else now.

        Airflow's programs import while the databases are made and started.
        """
        from pipectl.engines.local.start import Start, find_software  # noqa: PLC0415  10 ms

        remember_engine(self._settings, self.name)
        # Before data are moved and ports chosen, both of which they may hold.
        self._end_leftovers(observer)
        self.data.finish_exchange()
        software = self._software or find_software(self._settings, observer)
        while True:
            running = self._running() - self._usurped()
            missing = tuple(name for name in self._names if name not in running)
            # Also those that the supervisor would start once more, with the settings of before.
            self._supervisor.stop(missing)
            self._fill_in_settings(observer)
            start = Start(self._settings, self._supervisor, self._claims, software, observer, self)
            outdated = start.outdated(tuple(name for name in self._names if name in running))
            if not outdated:
                break
            # Another look follows: a service that is stopped may get another port, which concerns others.
            self._restarts |= outdated
            self._stop_for_restart(outdated, observer)
        if only:
            missing = tuple(name for name in missing if name in only)
        if missing:
            start.start(missing, self._names)
        # Even if nothing was missing: an earlier start may have been interrupted before this step.
        start.migrate_metadata()
        return missing

    def _plan(self) -> StartPlan:
        """Compare as a start does; a port that would move concerns the services that ask there too."""
        from pipectl.engines.local.start import Start, look_for_software  # noqa: PLC0415  10 ms

        software, installs, removes, lacking = look_for_software(self._settings)
        self._would_stop = self._usurped() | set(self._names if self._supervisor.orphans() else ())
        running = self._running()
        starts = tuple(name for name in self._names if name not in running)
        while True:
            self._fill_in_settings(Observer())
            start = Start(
                self._settings,
                self._supervisor,
                self._claims,
                software,
                Observer(),
                self,
                only_compares=True,
            )
            compared = self._running() - lacking
            outdated = start.outdated(tuple(name for name in self._names if name in compared))
            if not outdated:
                break
            self._restarts |= outdated
            self._would_stop |= outdated.keys()
        return StartPlan(installs, starts, self.restarts(), removes, self._moved_ports)

    def resize(self, *, executor: str | None, workers: int | None) -> None:
        """Take the executor that there is; UsageError for any other, and for workers."""
        if executor not in {None, "local"} or workers is not None:
            raise UsageError(
                "The local engine runs tasks beside the scheduler, without Celery and its workers.",
                hint="With Docker: pipectl --engine docker up --executor celery --workers 2",
            )

    def stop(self) -> tuple[str, ...]:
        """Stop Airflow first, then the databases, then the supervisor and what anything left behind."""
        running: list[str] = []
        # One that does not answer is ended with all that it runs.
        with suppress(EngineSilentError):
            running = [process.name for process in self._supervisor.processes() if process.pid]
            self._stop_in_order(running)
        # A supervisor that cannot be asked, for example since .pipectl was deleted, ran the whole stack.
        found = self._supervisor.shutdown()
        return tuple(running) or (self._names if found else ())

    def restart(self, names: Collection[str], observer: Observer) -> dict[str, str]:
        """Let the supervisor do it; the descriptions of its programs stay as they are."""
        if origin := self._supervisor.moved_from():
            raise EngineError(
                f"What runs was started in {origin}, before the project was moved.",
                hint="Start it here: pipectl up",
            )
        restarts = with_dependents(dict.fromkeys(names, ()), self._running())
        self._stop_for_restart(restarts, observer)
        for name in sorted(restarts, key=lambda name: name not in databases()):
            self._supervisor.start(name)
        return {name: describe(reasons) if reasons else "" for name, reasons in restarts.items()}

    def _stop_for_restart(self, restarts: Mapping[str, tuple[str, ...]], observer: Observer) -> None:
        for sentence in restart_sentences(restarts):
            observer.report(sentence)
        if "scheduler" in restarts:
            observer.see_wait(f"Waiting until the scheduler's tasks end, {TASK_SECONDS} s at most")
            self._supervisor.end_work("scheduler", TASK_SECONDS)
        observer.see_wait(f"Stopping {', '.join(restarts)}")
        self._stop_in_order(restarts)

    def _stop_in_order(self, names: Collection[str]) -> None:
        self._supervisor.stop(name for name in names if name not in databases())
        self._supervisor.stop(name for name in names if name in databases())

    def _end_leftovers(self, observer: Observer) -> None:
        """End processes of an earlier start that can be controlled no more."""
        if self._supervisor.is_running():
            return
        if orphans := self._supervisor.orphans():
            observer.report(f"Ending {_of_earlier_start(len(orphans))}")
        self._supervisor.end_leftovers()

    def rest(self, names: Collection[str]) -> tuple[str, ...]:
        """Stop processes, which the supervisor keeps in mind."""
        # Whoever asks is about to touch what they write.
        self._end_leftovers(Observer())
        running = tuple(
            process.name for process in self._supervisor.processes() if process.pid and process.name in names
        )
        self._supervisor.stop(running)
        return running

    def wake(self, names: Collection[str]) -> None:
        """Start processes with what the supervisor has kept in mind."""
        for name in sorted(names, key=lambda name: name not in databases()):
            self._supervisor.start(name)

    def versions(self) -> dict[str, str]:
        """Return the versions of what is installed; nothing of what is not."""
        from pipectl.engines.local.start import look_for_software  # noqa: PLC0415  10 ms

        software, *_, lacking = look_for_software(self._settings)
        versions = {"airflow": software.airflow.version}
        if "postgres" not in lacking:
            versions["postgres"] = ".".join(map(str, software.postgres.version))
        if "airbyte-mysql" not in lacking:
            mariadb = software.mariadb
            name = "MariaDB " if mariadb.flavor == "mariadb" else ""
            versions["mysql"] = name + ".".join(map(str, mariadb.version))
        return versions

    def services(self) -> tuple[Service, ...]:
        """Every service with the state of its process."""
        processes = {process.name: process for process in self._supervisor.processes()}
        ports = self._ports(self._ports_of(processes.values()))
        services = (_service(name, processes.get(name), ports.get(name)) for name in self._names)
        waits = not needs_triggerer(airflow_volume(self._settings.state_dir).path)
        return tuple(
            replace(service, health=WAITING)
            if waits and service.state == "running" and get(service.name).on_demand
            else service
            for service in services
        )

    def metadata_answers(self) -> bool:
        """Log in."""
        try:
            prove(self._metadata())
        except DatabaseError:
            return False
        return True

    def usage(self) -> dict[str, Usage]:
        """Add up the processes of each service."""
        return usage({each.name: each.pid for each in self._supervisor.processes() if each.pid})

    @property
    def memory_kind(self) -> str:
        """What the system can tell."""
        return MEMORY_KIND

    def holds(self, service: str, port: int) -> bool:
        """Whether the service's process listens on the port, or one of an earlier start."""
        return self._holds(service, port, self._supervisor.processes())

    def _holds(self, service: str, port: int, processes: Collection[ProcessState]) -> bool:
        pids = [process.pid for process in processes if process.name == service]
        if any(pid and listens(pid, port) for pid in pids):
            return True
        listening = [] if processes else [each.pid for each in listeners(port) if each.pid]
        return bool(listening) and not {*listening}.isdisjoint(self._supervisor.orphans())

    def _ports_in_use(self) -> dict[str, int]:
        return self._ports_of(self._supervisor.processes())

    def _ports_of(self, processes: Iterable[ProcessState]) -> dict[str, int]:
        running = (process.name for process in processes if process.pid)
        return {name: port for name in running if (port := self._supervisor.port(name))}

    def notes(self) -> tuple[str, ...]:
        """Say too that requirements.txt has changed, or the project was moved, while the stack runs."""
        origin = self._supervisor.moved_from()
        moved = f"What runs was started in {origin}, before the project was moved. Start it here: pipectl up"
        started = [self._supervisor.started_files(name) for name in airflow_programs()]
        changed = changed_note(started, digests(self._settings.project, "webserver"))
        return (*super().notes(), *((moved,) if origin else ()), *changed)

    def logins(self) -> tuple[DatabaseAddress, ...]:
        """Those of PostgreSQL's superuser and of the metadata database too."""
        from pipectl.engines.local.postgres_roles import superuser  # noqa: PLC0415  no command but doctor asks

        variables, found = self._settings.variables, [*super().logins()]
        if (password := variables.get(SUPERUSER_PASSWORD)) and found[:1] and found[0].service != MYSQL:
            user = superuser(found[0].user)
            found.append(
                replace(found[0], user=user, password=password, password_variable=SUPERUSER_PASSWORD)
            )
        if variables.get(get("postgres").password_variable):
            found.append(self._metadata())
        return tuple(found)

    def _metadata(self) -> DatabaseAddress:
        from pipectl.engines.local.start import metadata_address  # noqa: PLC0415  10 ms

        return self._marked(metadata_address(self._settings), self._ports_in_use())

    def _marked(self, address: DatabaseAddress, in_use: Mapping[str, int]) -> DatabaseAddress:
        marked = super()._marked(address, in_use)
        # MariaDB's accounts stay as its data were made.
        return replace(marked, takes_password=bool(marked.mark) and address.service != MYSQL)

    def _mark(self, service: str) -> str:
        return server_mark(service, database_volume(self._settings.state_dir, service).path / DATA)

    def _usurped(self) -> set[str]:
        """Services whose port another program has taken: they start again on another one."""
        processes = self._supervisor.processes()
        pids = {process.name: process.pid for process in processes if process.pid}
        taken = {name: port for name, port in self._ports_of(processes).items() if not is_free(port)}
        held = listening({port: pids[name] for name, port in taken.items()})
        return {
            name
            for name, port in taken.items()
            if port not in held and not self._holds(name, port, processes) and self._is_anothers(port)
        }

    def volumes(self) -> tuple[Volume, ...]:
        """The data folders of this project."""
        return tuple(volume for folder in self._folders if (volume := folder.describe()))

    def delete_volumes(self) -> None:
        """Delete the data folders of this project, labels before the transactions that they are about."""
        for folder in reversed(self._folders):
            folder.delete()
        forget_engine(self._settings, self.name)

    def logs(self, services: tuple[str, ...], *, tail: int, follow: bool) -> Iterator[LogLine]:
        """Read the services' logs."""
        paths = {name: self._supervisor.log_path(name) for name in services}
        return logs.read(paths, tail=tail, follow=follow)

    def supervisor_log(self, lines: int) -> str:
        """Supervisord's own log."""
        return tail(self._supervisor.run_dir / "supervisord.log", lines, largest=LOG_BYTES)

    def about(self) -> str:
        """Python, on which Airflow runs too, and how servers drop privileges."""
        from pipectl.engines.local.airflow_install import require_supported_python  # noqa: PLC0415  10 ms
        from pipectl.engines.local.privileges import privileges  # noqa: PLC0415

        require_supported_python(sys.version_info[:2])
        privileges()
        pid = self._supervisor.pid()
        if pid:
            self._supervisor.processes()
        state = f"supervisord is process {pid}" if pid else "supervisord does not run"
        return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {state}"

    def software(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Airflow, PostgreSQL and MariaDB or MySQL."""
        from pipectl.engines.local.start import installed  # noqa: PLC0415  10 ms

        return installed(self._settings)

    def verify_installed(self) -> tuple[int, dict[Path, tuple[Path, ...]]]:
        """Hash what is installed for this project, in the cache and in its own layer."""
        from pipectl.engines.local.hashes import verify  # noqa: PLC0415  10 ms

        return verify(self._settings)

    def programs(self) -> tuple[Path, ...]:
        """The installed programs."""
        from pipectl.engines.local.start import program_files  # noqa: PLC0415  10 ms

        return program_files(self._settings)

    def check_mounts(self) -> None:
        """Raise what is wrong with the project's path, or EngineError for files that may not be read."""
        require_usable_path(self._settings.project)
        project = self._settings.project
        for folder in ("dags", "scripts", "stack"):
            for path in (project / folder, *(project / folder).rglob("*")):
                if not path.name.startswith(".") and not os.access(path, os.R_OK):
                    raise EngineError(
                        f"{path} cannot be read by this user.",
                        hint=f"Let it be read: {shlex.join(('chmod', '-R', 'u+rX', str(project / folder)))}",
                    )

    def leftovers(self) -> tuple[Leftover, ...]:
        """What interrupted commands have left, processes included."""
        orphans = self._supervisor.orphans()
        found = [Leftover(_of_earlier_start(len(orphans)), "pipectl up")]
        return (*super().leftovers(), *(found if orphans else ()))

    def started_with(self) -> dict[str, Mapping[str, str]]:
        """The variables that each of Airflow's processes was started with."""
        return {
            process.name: self._supervisor.started(process.name).settings
            for process in self._supervisor.processes()
            if process.pid and process.name in airflow_programs()
        }

    def tasks_api_problem(self) -> str:
        """Ask in Airflow's environment, with the variables of the services."""
        from pipectl.engines.local.start import ask_tasks_api, find_software  # noqa: PLC0415  10 ms

        software = self._software or find_software(self._settings, Observer())
        return ask_tasks_api(self._settings, software.airflow)

    def execute(self, service: str, words: tuple[str, ...], observer: Observer | None = None) -> int:
        """Become the program, with the variables that the service was started with."""
        from pipectl.engines.local import programs  # noqa: PLC0415  20 ms

        started = self._supervisor.started(service)
        if service in databases():
            address = self._proven(service)
            programs.become_beside_database(started, words, address, self._settings, observer or Observer())
        # Airflow's variables lead to all databases; business databases that do not run harm nobody.
        for name in databases():
            try:
                self._proven(name)
            except ForeignDatabaseError:
                raise
            except DatabaseError:
                continue
        programs.become_in_airflow(started, words, self._settings.project)

    def apart(
        self,
        program: str,
        words: tuple[str, ...],
        observer: Observer,
        pytest: Path | None = None,
        *,
        tolerant: bool = False,
    ) -> Command:
        """Return the program in the project's folder, with the variables that a task would get."""
        from pipectl.engines.local.start import program_apart  # noqa: PLC0415  10 ms

        command = program_apart(self._settings, program, words, observer, tolerant=tolerant)
        return replace(command, environment={**command.environment, airflow_env.PYTEST: str(pytest or "")})

    def tool(self, service: str, words: tuple[str, ...], observer: Observer) -> Command:
        """Return the tool beside the server, or that on PATH, or one that is installed."""
        from pipectl.engines.local.programs import beside_database  # noqa: PLC0415  20 ms

        started = self._supervisor.started(service)
        return beside_database(started, words, self._proven(service), self._settings, observer)

    def client(self, service: str, arguments: tuple[str, ...], observer: Observer) -> int:
        """Become the client."""
        from pipectl.engines import clients  # noqa: PLC0415  20 ms
        from pipectl.engines.local.programs import server_of  # noqa: PLC0415

        own = service in self._names
        server = server_of(self._supervisor.started(service)) if own else None
        clients.run(self._settings, self._proven(service), arguments, observer, server)

    def _proven(self, service: str) -> DatabaseAddress:
        """Return the address of a database, which has shown whose it is. Raises DatabaseError."""
        address = next((each for each in self.databases() if each.service == service), None)
        address = address or self._metadata()
        prove(address)
        return address

    @property
    def _secrets(self) -> Mapping[str, Callable[[], str]]:
        return {**super()._secrets, SUPERUSER_PASSWORD: new_password}

    @property
    def _folders(self) -> tuple[VolumeFolder, ...]:
        state_dir = self._settings.state_dir
        return (
            *(database_volume(state_dir, name) for name in databases()),
            airflow_volume(state_dir),
            self.data.folder_beside,
        )


def _of_earlier_start(count: int) -> str:
    return f"{counted(count, 'process', 'processes')} of an earlier start that no supervisord controls"


def _service(name: str, process: ProcessState | None, port: int | None) -> Service:
    if process is None:
        return Service(name, "stopped", port=port)
    started = datetime.fromtimestamp(process.started, UTC) if process.pid else None
    return Service(name, STATES.get(process.state, "stopped"), port=port, pid=process.pid, started=started)
