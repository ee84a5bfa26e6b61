"""What every engine is: the methods that the pipeline calls, and what does not depend on how services run."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pipectl.database_connections import prove
from pipectl.engines import airflow_env, ports
from pipectl.engines.changes import describe
from pipectl.engines.claims import Claims
from pipectl.engines.project import (
    SECRETS,
    Leftover,
    check,
    drafts,
    folder_mark,
    keep_settings,
    new_password,
    project_lock,
)
from pipectl.env_file import EnvFile
from pipectl.errors import EngineError, PipectlError
from pipectl.models import AirflowAddress
from pipectl.services import business_databases, of_executor
from pipectl.settings import FOLDER, IDENTITY, folder_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pipectl.engines.changes import StartPlan
    from pipectl.engines.data import Data
    from pipectl.engines.foreground import Command
    from pipectl.engines.redaction import Redactor
    from pipectl.models import DatabaseAddress, LogLine, Service, Usage, Volume
    from pipectl.observer import Observer
    from pipectl.services import Definition
    from pipectl.settings import Settings


# Settings of Airflow that its tokens carry, and the fields of AirflowAddress for them.
CLAIMS = {
    "AIRFLOW__API_AUTH__JWT_AUDIENCE": "audience",
    "AIRFLOW__EXECUTION_API__JWT_AUDIENCE": "task_audience",
    "AIRFLOW__API_AUTH__JWT_ISSUER": "issuer",
}

DEFAULT_LOGINS = (
    "Any user of this machine can log in to Airflow as admin / admin and to the databases as docker / docker."
    " Random passwords instead: PIPECTL_RANDOM_LOGINS=1 in stack/.env, then pipectl reset."
)


class Engine(ABC):
    """Runs the services of one project. Every method may raise EngineError."""

    name: ClassVar[str]

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._claims = Claims(settings.cache_dir, folder_mark(settings.project))
        self._notes: list[str] = []
        self._redactor: Redactor | None = None
        self._moved_ports: dict[str, tuple[int, int]] = {}
        self._restarts: dict[str, tuple[str, ...]] = {}
        self._removed: tuple[str, ...] = ()
        self._writes = True
        # Services that run, and that a start would stop first: a plan goes on without them.
        self._would_stop: set[str] = set()

    @property
    def settings(self) -> Settings:
        """The project's settings, with what the engine has changed of them."""
        return self._settings

    @property
    @abstractmethod
    def executor(self) -> str:
        """Airflow's executor, by its class name."""

    @property
    def state_dir(self) -> Path:
        """The folder of what pipectl keeps for the project."""
        return self._settings.state_dir

    @property
    def dags_dir(self) -> Path:
        """The project's folder of DAGs."""
        return self._settings.project / "dags"

    def check(self, observer: Observer) -> None:
        """Raise what would end a start before it changes anything."""
        check(self._settings, observer)

    def plan(self, observer: Observer, *, executor: str | None, workers: int | None) -> StartPlan:
        """Return what a start would do, and change nothing: no file, and nothing that runs.

        The engine is of no other use afterwards. Raises what would end the start before it changes anything.
        """
        self._writes = False
        self.resize(executor=executor, workers=workers)
        self.check(observer)
        with self._claims:
            return replace(self._plan(), notes=tuple(self._notes))

    @abstractmethod
    def _plan(self) -> StartPlan:
        """Return what a start would do; change_settings writes nothing."""

    @abstractmethod
    def install(self, observer: Observer) -> None:
        """Bring what the services run on to this machine."""

    @abstractmethod
    def start(self, observer: Observer, only: Collection[str] = ()) -> tuple[str, ...]:
        """Start what is not running, and anew what would start with something else now; return the names.

        `only` names the services to start, if not all.
        """

    @abstractmethod
    def resize(self, *, executor: str | None, workers: int | None) -> None:
        """Remember executor and workers for the next start; UsageError if the engine has no such."""

    @abstractmethod
    def restart(self, names: Collection[str], observer: Observer) -> dict[str, str]:
        """Stop services, databases last, and start them as they were started before.

        Return all that restart, with the reason of those that do so because another one does. Tasks end as
        before a restart by `start`.
        """

    @abstractmethod
    def stop(self) -> tuple[str, ...]:
        """Stop everything, and return the names of what was running."""

    @abstractmethod
    def rest(self, names: Collection[str]) -> tuple[str, ...]:
        """Stop those of the services that run, side by side, and return their names: `wake` takes them."""

    @abstractmethod
    def wake(self, names: Collection[str]) -> None:
        """Start services that rest as they ran before."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Version of `airflow`, `postgres` and `mysql` that a start would run; MariaDB's with its name."""

    @property
    @abstractmethod
    def data(self) -> Data:
        """The databases' data, which snapshots copy and exchange."""

    @abstractmethod
    def services(self) -> tuple[Service, ...]:
        """Every service with its state, even if nothing runs.

        `health` is filled in for a service whose health only the engine knows (services.ENGINE).
        """

    def metadata_answers(self) -> bool:
        """Whether Airflow's own database is seen to answer, also while Airflow does not."""
        return False

    @property
    def awaited(self) -> str:
        """What Airflow's services waited for at the last look at them, in words, if the engine knows."""
        return ""

    @abstractmethod
    def usage(self) -> dict[str, Usage]:
        """What each service that runs has used, with all that it has started; `memory_kind` says how."""

    @property
    @abstractmethod
    def memory_kind(self) -> str:
        """What `usage` counts as memory: PSS has shared pages once, RSS in each process that shares them."""

    @abstractmethod
    def volumes(self) -> tuple[Volume, ...]:
        """The data of this project and of no other."""

    @abstractmethod
    def delete_volumes(self) -> None:
        """Delete what `volumes` lists. The stack must be stopped."""

    @abstractmethod
    def logs(self, services: tuple[str, ...], *, tail: int, follow: bool) -> Iterator[LogLine]:
        """The last `tail` lines of each service, and what comes while `follow` is set."""

    def supervisor_log(self, lines: int) -> str:
        """The last lines of what starts the services and sees them end; empty if the engine has none."""
        del lines
        return ""

    # What the stack takes at rest, measured.
    memory_bytes: ClassVar[int] = 700 << 20

    def about(self) -> str:
        """What the engine is, with its version; EngineError if it is missing, too old or silent."""
        return self.name

    def compose_version(self) -> str:
        """Compose in its own words, empty for an engine without; EngineError if it is missing or too old."""
        return ""

    def software(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What the services run on: what this machine has with versions, and what it lacks.

        Raises EngineError for data of another version.
        """
        return (), ()

    def verify_installed(self) -> tuple[int, Mapping[Path, tuple[Path, ...]]] | None:
        """Compare what is installed with the hashes of then: how many files, and folders with damaged ones.

        None for an engine that installs nothing.
        """
        return None

    def programs(self) -> tuple[Path, ...]:
        """Files that the engine starts as programs."""
        return ()

    def folders(self) -> tuple[Path, ...]:
        """Folders outside the project that services write to."""
        return ()

    def clock_ahead(self) -> float | None:
        """How many seconds the engine's clock is ahead of this machine's; None if it is the same clock."""
        return None

    def check_mounts(self) -> None:  # noqa: B027  not every engine gives files to others
        """Raise EngineError if services may not read files that they are given, with what lets them."""

    def keep_for_later(self) -> None:  # noqa: B027  not every engine has such
        """Keep what makes later first starts faster, once all is healthy."""

    def lost_secrets(self) -> tuple[str, ...]:
        """Names of the secrets that stack/.env has not, and that no copy of it has."""
        return tuple(name for name in self._secrets if not self._settings.variables.get(name))

    def leftovers(self) -> tuple[Leftover, ...]:
        """What interrupted commands have left, while no other one is at work."""
        interrupted = self.data.interrupted()
        restore = [Leftover(interrupted.before_up, "pipectl up")] if interrupted else []
        halves = (
            Leftover(f"{path} is half of a file or folder", shlex.join(("rm", "-r", str(path))), is_safe=True)
            for path in drafts(self._settings)
        )
        return (*restore, *halves)

    @abstractmethod
    def started_with(self) -> Mapping[str, Mapping[str, str]]:
        """The variables, secrets too, that each of Airflow's services which runs was started with."""

    @abstractmethod
    def tasks_api_problem(self) -> str:
        """Ask Airflow's API for tasks as a task does; return what went wrong, empty if nothing did."""

    @abstractmethod
    def execute(self, service: str, words: tuple[str, ...], observer: Observer | None = None) -> int:
        """Run a program of the user's beside a running service, on this terminal; return its exit code.

        It gets the service's environment: in a business database's or the metadata database's its login, in
        Airflow's what tasks get. This process may become the program. A database's own tool that is missing
        is installed. Raises ForeignDatabaseError before anything happens if another project's server answers
        where this one's would.
        """

    @abstractmethod
    def apart(
        self,
        program: str,
        words: tuple[str, ...],
        observer: Observer,
        pytest: Path | None = None,
        *,
        tolerant: bool = False,
    ) -> Command:
        """Return what runs a program of stack/airflow/ as a task would run, without the stack.

        It gets none of Airflow's secrets, and the folder `pytest`, which airflow_env.PYTEST names. What it
        runs on is installed, or pulled, if it is missing. A `tolerant` one runs with the packages that are
        there if requirements.txt cannot be installed: airflow_env.PROBLEM then has what was said of it.
        """

    @abstractmethod
    def tool(self, service: str, words: tuple[str, ...], observer: Observer) -> Command:
        """Return what runs one of a database's own tools, logged in. Raises as `execute`."""

    @abstractmethod
    def client(self, service: str, arguments: tuple[str, ...], observer: Observer) -> int:
        """Run psql or mysql on a database, logged in; otherwise as `execute`."""

    def equivalent(self, action: str) -> tuple[str, ...]:
        """Return another program's commands for `up`, `down`, `down --volumes` or `reset`; () if none has."""
        del action
        return ()

    @abstractmethod
    def holds(self, service: str, port: int) -> bool:
        """Whether this project's own service, perhaps one of an earlier start, listens on the port."""

    def stranger(self, port: int) -> str:
        """Name the program that listens on a port of 127.0.0.1, and its project; empty if none is seen."""
        from pipectl.engines.strangers import describe  # noqa: PLC0415  for a message alone

        return describe(port)

    def _is_anothers(self, port: int) -> bool | None:
        """Whether who listens on a port is none of this project's; None if nobody is seen."""
        from pipectl.engines.strangers import find  # noqa: PLC0415  for a port that is taken alone

        holder = find(port)
        return None if holder is None else holder.project != self._settings.project.resolve()

    def masked(self, value: Any) -> Any:  # noqa: ANN401  a text, or JSON that has texts
        """Return what a DAG or a task said without the project's secrets: users send it to others."""
        from pipectl.engines.redaction import Redactor, secrets_of  # noqa: PLC0415  for errors alone

        if self._redactor is None:
            self._redactor = Redactor(secrets_of(self))
        return self._redactor.within(value)

    def lock(self) -> AbstractContextManager[None]:
        """Keep a second command that changes the stack out; EngineError if one is under way."""
        return project_lock(self._settings, self._claims)

    def ports(self) -> dict[str, int]:
        """Port on 127.0.0.1 per service that listens there."""
        return self._ports(self._ports_in_use())

    def _ports(self, in_use: Mapping[str, int]) -> dict[str, int]:
        return {
            definition.name: in_use.get(definition.name) or self._settings.port(definition.name)
            for definition in self._definitions
            if self._listens(definition)
        }

    @abstractmethod
    def _ports_in_use(self) -> Mapping[str, int]:
        """Ports that services which run were started with, whatever the settings say now."""

    def differing_ports(self) -> dict[str, tuple[int, int]]:
        """Services that run on another port than the settings name: (named, in use)."""
        in_use, settings = self._ports_in_use(), self._settings
        return {
            name: (settings.port(name), port) for name, port in in_use.items() if settings.port(name) != port
        }

    def moved_ports(self) -> dict[str, tuple[int, int]]:
        """Services whose wanted port was taken at the last start: (wanted, now used)."""
        return self._moved_ports

    def restarts(self) -> dict[str, str]:
        """Services that the last start found running and started anew, and what had changed for each."""
        return {name: describe(changes) for name, changes in self._restarts.items()}

    def removed(self) -> tuple[str, ...]:
        """Services that ran and that the last start removed: surplus workers, those of another executor."""
        return self._removed

    def airflow(self) -> AirflowAddress:
        """Where Airflow answers, and how it proves that it is this project's."""
        port = self._ports_in_use().get("webserver") or self._settings.port("webserver")
        try:
            chosen = airflow_env.read(self._settings.project, self._settings.variables)
        except PipectlError:
            chosen = {}  # a mistake in user.env counts from the next start
        manager = chosen.get("AIRFLOW__CORE__AUTH_MANAGER", "SimpleAuthManager")
        claims = {
            field: chosen[name].split(",")[0].strip() for name, field in CLAIMS.items() if chosen.get(name)
        }
        return AirflowAddress(
            f"http://127.0.0.1:{port}",
            *self._settings.admin,
            secret=self._settings.variables.get("AIRFLOW_JWT_SECRET") or "",
            takes_signed=manager.endswith("SimpleAuthManager"),
            witness=self,
            mask=self.masked,
            **claims,
        )

    def databases(self) -> tuple[DatabaseAddress, DatabaseAddress]:
        """The two business databases, PostgreSQL first."""
        in_use = self._ports_in_use()
        postgres, mysql = (
            self._marked(self._settings.database(definition.name), in_use)
            for definition in business_databases()
        )
        return postgres, mysql

    def logins(self) -> tuple[DatabaseAddress, ...]:
        """Every account of a database that the engine runs, whose password stack/.env has."""
        reader = self._settings.replication_login
        own = [address for address in self.databases() if address.mark]
        return (*own, *(reader.at(address) for address in own if reader.password))

    def log_in(self, address: DatabaseAddress) -> None:
        """Log in with one of `logins`, and out again. Raises DatabaseError."""
        prove(address)

    def _marked(self, address: DatabaseAddress, in_use: Mapping[str, int]) -> DatabaseAddress:
        """Add what the project's own server says of itself; a server elsewhere is the user's choice."""
        if self._settings.is_external(address.service):
            return address
        port = in_use.get(address.service) or address.port
        return replace(address, port=port, mark=self._mark(address.service), witness=self)

    @abstractmethod
    def _mark(self, service: str) -> str:
        """What the server of a database says of itself (see database_connections.py)."""

    @property
    def _definitions(self) -> tuple[Definition, ...]:
        """The services that this engine runs: not a database that stack/.env places elsewhere."""
        return tuple(
            definition
            for definition in of_executor(self.executor)
            if not self._settings.is_external(definition.name)
        )

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(definition.name for definition in self._definitions)

    def _listens(self, definition: Definition) -> bool:
        """Whether the engine makes the service listen on this machine."""
        return bool(definition.default_port)

    @property
    def _secrets(self) -> Mapping[str, Callable[[], str]]:
        """Variables that the engine fills in once per project, and what makes their values."""
        return {name: secret.make for name, secret in SECRETS.items()}

    def _running(self) -> set[str]:
        running = {service.name for service in self.services() if service.state in {"running", "starting"}}
        return running - self._would_stop

    def _fill_in_settings(self, observer: Observer, changes: Mapping[str, str] | None = None) -> None:
        """Remember in stack/.env: `changes`, missing secrets, and free ports for what does not run."""
        running = self._running()
        moved = ports.choose(
            self._settings,
            tuple(self.ports()),
            running,
            self._claims,
            _ports_of_containers(self._settings) if set(self.ports()) - running else (),
            freed=[
                port
                for name, port in self.ports().items()
                if name in self._would_stop and self.holds(name, port)
            ],
            is_anothers=self._is_anothers,
            restarting=self._restarts if self._writes else (),
        )
        self._moved_ports |= moved
        restored = self._settings.restored
        if restored:
            self._notes.append(f"stack/.env had lost {', '.join(sorted(restored))}: restored.")
        makers = {**self._secrets, **self._random_logins()}
        secrets = {name: make() for name, make in makers.items() if not self._settings.variables.get(name)}
        is_first = "AIRFLOW_JWT_SECRET" in secrets and not self.volumes()
        self._require_replaceable(self._lost(secrets), running)
        if (
            is_first
            and self._settings.admin == ("admin", "admin")
            and "AIRFLOW_ADMIN_PASSWORD" not in secrets
        ):
            self._notes.append(DEFAULT_LOGINS)
        folder = folder_text(self._settings.project)
        place = {FOLDER: folder} if self._settings.variables.get(FOLDER) != folder else {}
        self.change_settings({**restored, **secrets, **(changes or {}), **ports.changes(moved), **place})
        self._settings = replace(self._settings, restored={}, origin=None)
        if self._writes:
            keep_settings(self._settings)
        # At once: stack/.env has them even if the start fails.
        for name, (wanted, used) in moved.items():
            observer.report(f"Port {wanted} of {name} is taken: {used} instead (remembered in stack/.env)")

    def _lost(self, secrets: Mapping[str, str]) -> tuple[str, ...]:
        """Names of the new secrets that stack/.env has lost. A copy of a project leaves some on purpose."""
        if self._settings.origin is None:
            return tuple(name for name in secrets if name in SECRETS)
        self._notes.append(
            f"This project is a copy of {self._settings.origin}, so it has an identity of its own."
        )
        return tuple(name for name in secrets if name in SECRETS and name not in IDENTITY)

    def _random_logins(self) -> Mapping[str, Callable[[], str]]:
        """Passwords to make instead of the documented ones; databases keep those that they were made with."""
        if self._settings.variables.get("PIPECTL_RANDOM_LOGINS") != "1":
            return {}
        own = [each for each in business_databases() if not self._settings.is_external(each.name)]
        databases = [] if self.volumes() else [f"{each.prefix}_PASSWORD" for each in own]
        return dict.fromkeys(("AIRFLOW_ADMIN_PASSWORD", *databases), new_password)

    def _require_replaceable(self, lost: tuple[str, ...], running: Collection[str]) -> None:
        """Say what is lost with secrets that neither stack/.env nor its copy has, if data needs them.

        Raises EngineError if what runs has been started with other secrets.
        """
        if not lost or not self.volumes():
            return
        lost_names = ", ".join(lost)
        if running:
            raise EngineError(
                f"stack/.env has lost {lost_names}, and what runs was started with them.",
                hint="Put the file back.\nWithout it: pipectl down, then pipectl up, which makes new ones."
                f" {self._losses(lost)}",
            )
        self._notes.append(f"stack/.env had lost {lost_names}, so they are new. {self._losses(lost)}")

    def _losses(self, lost: tuple[str, ...]) -> str:
        """Say what is lost without secrets, and what is not."""
        losses = " ".join(SECRETS[name].loss for name in lost if SECRETS[name].loss)
        return f"{losses} The business databases are as they were.".strip()

    def notes(self) -> tuple[str, ...]:
        """What the user should know of the stack besides: sentences."""
        differing = [
            f"{name} runs on port {used}; the settings name {named}: pipectl up moves it there"
            for name, (named, used) in self.differing_ports().items()
            if name not in self._moved_ports
        ]
        return (*self._notes, *differing)

    def change_settings(self, changes: Mapping[str, str]) -> None:
        """Write variables to stack/.env, and go on with them."""
        if changes:
            if self._writes:
                EnvFile(self._settings.env_path).update(changes)
            self._settings = replace(self._settings, variables={**self._settings.variables, **changes})


def _ports_of_containers(settings: Settings) -> Collection[int]:
    """Ports on which containers of other projects are published, now or after their restart."""
    from pipectl.engines.docker.api import DockerApi  # noqa: PLC0415  25 ms, for a start alone

    try:
        api = DockerApi()
        return api.reserved_ports(str(settings.project / "stack")) if api.answers() else ()
    except EngineError:
        return ()
