"""The local engine: PostgreSQL, MariaDB or MySQL, and Airflow as supervised processes of one project."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from pipectl.engines import ports
from pipectl.engines.base import DATABASES, SERVICES
from pipectl.engines.claims import Claims
from pipectl.engines.local import airflow, airflow_metadata, binaries, logs, mariadb, postgres
from pipectl.engines.local.airflow import AirflowSite
from pipectl.engines.local.airflow_install import ensure_airflow
from pipectl.engines.local.folders import VolumeFolder
from pipectl.engines.local.supervisor.supervisor import Supervisor
from pipectl.engines.project import SECRETS, forget_engine, project_lock, remember_engine
from pipectl.env_file import EnvFile
from pipectl.errors import DatabaseError, EngineError, UsageError
from pipectl.models import AirflowAddress, DatabaseAddress, Service
from pipectl.settings import PORT_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pipectl.engines.local.airflow_install import AirflowRuntime
    from pipectl.engines.local.binaries import MariadbBinaries, PostgresBinaries
    from pipectl.engines.local.supervisor.program import Program
    from pipectl.models import LogLine, Volume
    from pipectl.settings import Settings

DATABASE_START_SECONDS = 30
POLL_SECONDS = 0.05
# supervisord's words for a process, in ours.
STATES = {
    "RUNNING": "running",
    "STARTING": "starting",
    "BACKOFF": "crashed",
    "EXITED": "crashed",
    "FATAL": "crashed",
}


class LocalEngine:
    """Implements the Engine protocol for one project."""

    name = "local"
    executor = "LocalExecutor"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._supervisor = Supervisor(settings.state_dir)
        self._claims = Claims(settings.cache_dir)
        self._moved: dict[str, tuple[int, int]] = {}
        self._report: Callable[[str], None] = lambda _: None

    def lock(self) -> AbstractContextManager[None]:
        """Keep a second command that changes the stack out; EngineError where one is under way."""
        return project_lock(self._settings, self._claims)

    def install(self, report: Callable[[str], None]) -> None:
        """Find or install Airflow, PostgreSQL and MariaDB, side by side."""
        self._report = report
        finders = (lambda: self._runtime, lambda: self._postgres, lambda: self._mariadb)
        with ThreadPoolExecutor(max_workers=len(finders)) as pool:
            parts = [pool.submit(find) for find in finders]
        for part in parts:
            part.result()

    def start(self, report: Callable[[str], None]) -> tuple[str, ...]:
        """Start what is not running. Airflow's programs import while the databases are made and started."""
        remember_engine(self._settings, self.name)
        running = {
            process.name
            for process in self._supervisor.processes()
            if process.state in {"RUNNING", "STARTING"}
        }
        missing = tuple(name for name in self._names if name not in running)
        if missing:
            self._start_missing(missing, running, report)
        # Also where nothing was missing: an earlier start may have been interrupted before this step.
        self._migrate_metadata()
        return missing

    def _start_missing(
        self, missing: tuple[str, ...], running: set[str], report: Callable[[str], None]
    ) -> None:
        self._fill_in_settings(running)
        airflow.prepare_home(self._site)
        self._airflow_home.ensure()
        programs = {program.name: program for program in self._programs()}
        if self._supervisor.is_running():
            for name in missing:
                self._supervisor.describe(programs[name])
        else:
            self._supervisor.launch(programs.values())
        for name in missing:
            if name not in DATABASES:
                self._supervisor.start(name)
        report(f"Starting {', '.join(missing)}")
        with ThreadPoolExecutor(max_workers=len(DATABASES)) as pool:
            parts = [pool.submit(self._start_database, name) for name in missing if name in DATABASES]
        for part in parts:
            part.result()

    def resize(self, *, executor: str | None, workers: int | None) -> None:
        """Take the executor that there is; UsageError for any other, and for workers."""
        if executor not in {None, "local"} or workers is not None:
            raise UsageError(
                "The local engine runs tasks beside the scheduler, without Celery and its workers.",
                hint="With Docker: pipectl --engine docker up --executor celery --workers 2",
            )

    def equivalent(self, action: str) -> tuple[str, ...]:
        """Return nothing: no other program does the same."""
        del action
        return ()

    def moved_ports(self) -> dict[str, tuple[int, int]]:
        """Services whose wanted port was taken at the last start: (wanted, now used)."""
        return self._moved

    def stop(self) -> tuple[str, ...]:
        """Stop Airflow first, then the databases, then the supervisor and what anything left behind."""
        running = [process.name for process in self._supervisor.processes() if process.pid]
        if running:
            self._supervisor.stop(name for name in running if name not in DATABASES)
            self._supervisor.stop(name for name in running if name in DATABASES)
        self._supervisor.shutdown()
        return tuple(running)

    def services(self) -> tuple[Service, ...]:
        """Every service with the state of its process."""
        found = {process.name: process for process in self._supervisor.processes()}
        return tuple(
            Service(
                name=name,
                state=STATES.get(found[name].state, "stopped") if name in found else "stopped",
                port=self._settings.port(name) if name in PORT_VARIABLES else None,
                pid=found[name].pid if name in found else None,
            )
            for name in self._names
        )

    def ports(self) -> dict[str, int]:
        """Port on 127.0.0.1 per service that listens."""
        return {name: self._settings.port(name) for name in self._names if name in PORT_VARIABLES}

    def airflow(self) -> AirflowAddress:
        """Where Airflow answers."""
        return AirflowAddress(f"http://127.0.0.1:{self._settings.port('webserver')}", *self._settings.admin)

    def databases(self) -> tuple[DatabaseAddress, DatabaseAddress]:
        """The two business databases, PostgreSQL first."""
        return self._settings.database("airbyte-postgres"), self._settings.database("airbyte-mysql")

    def volumes(self) -> tuple[Volume, ...]:
        """The data folders of this project."""
        return tuple(volume for folder in self._folders if (volume := folder.describe()))

    def delete_volumes(self) -> None:
        """Delete the data folders of this project."""
        for folder in self._folders:
            folder.delete()
        forget_engine(self._settings)

    def logs(self, services: tuple[str, ...], *, tail: int, follow: bool) -> Iterator[LogLine]:
        """Read the services' logs."""
        paths = {name: self._supervisor.log_path(name) for name in services}
        return logs.read(paths, tail=tail, follow=follow)

    @property
    def _names(self) -> tuple[str, ...]:
        """The services that this engine runs: not a database that stack/.env places elsewhere."""
        return tuple(name for name in SERVICES if not self._settings.is_external(name))

    @property
    def _folders(self) -> tuple[VolumeFolder, ...]:
        return (*(self._folder(name) for name in DATABASES), self._airflow_home)

    @property
    def _airflow_home(self) -> VolumeFolder:
        return VolumeFolder("airflow", self._settings.state_dir / "airflow")

    def _folder(self, name: str) -> VolumeFolder:
        return VolumeFolder(name, self._settings.state_dir / "volumes" / name)

    def _data_dir(self, name: str) -> Path:
        return self._folder(name).path / "data"

    def _fill_in_settings(self, running: set[str]) -> None:
        """Choose ports that are free and secrets that are missing, and remember both in stack/.env."""
        variables = self._settings.variables
        changes = {name: make() for name, make in SECRETS.items() if not variables.get(name)}
        moved = ports.choose(self._settings, tuple(self.ports()), running, self._claims)
        self._moved |= moved
        changes |= ports.changes(moved)
        if changes:
            EnvFile(self._settings.env_path).update(changes)
            self._settings = replace(self._settings, variables={**variables, **changes})

    @property
    def _site(self) -> AirflowSite:
        variables = self._settings.variables
        user, password = self._settings.admin
        return AirflowSite(
            project=self._settings.project,
            port=self._settings.port("webserver"),
            metadata=DatabaseAddress(
                service="postgres",
                host="127.0.0.1",
                port=self._settings.port("postgres"),
                database=airflow.METADATA_DATABASE,
                user=airflow.METADATA_USER,
                password=variables["AIRFLOW_POSTGRES_PASSWORD"],
            ),
            postgres=self._settings.database("airbyte-postgres"),
            mysql=self._settings.database("airbyte-mysql"),
            secrets=airflow.AirflowSecrets(
                jwt_secret=variables["AIRFLOW_JWT_SECRET"],
                api_secret_key=variables["AIRFLOW_API_SECRET_KEY"],
                fernet_key=variables["AIRFLOW_FERNET_KEY"],
                admin_user=user,
                admin_password=password,
            ),
        )

    def _programs(self) -> Iterator[Program]:
        for program in airflow.programs(self._site, self._runtime):
            yield replace(program, environment={**self._settings.passed_on, **program.environment})
        for name in self._names:
            if name in DATABASES:
                yield self._database_program(name)

    def _database_program(self, name: str) -> Program:
        port = self._settings.port(name)
        if name == "airbyte-mysql":
            config = self._stack / "mysql" / "server.cnf"
            return mariadb.program(self._mariadb, name, self._data_dir(name), port, config)
        config = self._stack / "postgres" / ("metadata.conf" if name == "postgres" else "business.conf")
        return postgres.program(self._postgres, name, self._data_dir(name), port, config)

    def _start_database(self, name: str) -> None:
        self._folder(name).ensure()
        data_dir = self._data_dir(name)
        if name == "postgres":
            airflow_metadata.prepare_metadata(
                self._site, self._runtime, self._postgres, data_dir, self._settings.cache_dir, self._report
            )
        else:
            address = self._settings.database(name)
            login = {"user": address.user, "password": address.password, "database": address.database}
            reader = self._settings.replication_login
            if name == "airbyte-mysql":
                mariadb.prepare(self._mariadb, data_dir, self._stack / "mysql", reader, **login)
            else:
                account = (reader, self._stack / "postgres" / "replication-account.sql") if reader else None
                postgres.prepare(self._postgres, data_dir, account, **login)
        self._supervisor.start(name)

    def _migrate_metadata(self) -> None:
        """Migrate the metadata database where it needs it, as soon as its server answers."""
        deadline = time.monotonic() + DATABASE_START_SECONDS
        while True:
            try:
                airflow_metadata.migrate_metadata(self._site, self._runtime)
            except DatabaseError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
            else:
                return

    @cached_property
    def _runtime(self) -> AirflowRuntime:
        return ensure_airflow(self._settings.cache_dir, self._lock_file("airflow"), self._report)

    @cached_property
    def _postgres(self) -> PostgresBinaries:
        return binaries.find_postgres(
            self._settings.cache_dir,
            self._report,
            self._lock_file("postgres"),
            choice=self._settings.variables.get("PIPECTL_POSTGRES_BIN", ""),
            major=postgres.data_version(self._data_dir("airbyte-postgres")),
        )

    @cached_property
    def _mariadb(self) -> MariadbBinaries:
        return binaries.find_mariadb(self._settings.cache_dir, self._report)

    @property
    def _stack(self) -> Path:
        return self._settings.project / "stack"

    def _lock_file(self, name: str) -> Path:
        path = self._stack / f"{name}-requirements.txt"
        if not path.is_file():
            raise EngineError(
                f"{path} is missing: it pins what the local engine installs.",
                hint="Get it back: git checkout stack",
            )
        return path
