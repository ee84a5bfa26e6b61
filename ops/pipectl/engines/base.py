"""What every engine is: the methods that the pipeline calls, and what does not depend on how services run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pipectl.engines import ports
from pipectl.engines.changes import describe
from pipectl.engines.claims import Claims
from pipectl.engines.project import SECRETS, check, project_lock
from pipectl.env_file import EnvFile
from pipectl.models import AirflowAddress
from pipectl.services import business_databases, of_executor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from pipectl.models import DatabaseAddress, LogLine, Service, Volume
    from pipectl.observer import Observer
    from pipectl.services import Definition
    from pipectl.settings import Settings


class Engine(ABC):
    """Runs the services of one project. Every method may raise EngineError."""

    name: ClassVar[str]

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._claims = Claims(settings.cache_dir)
        self._moved_ports: dict[str, tuple[int, int]] = {}
        self._restarts: dict[str, tuple[str, ...]] = {}
        self._removed: tuple[str, ...] = ()

    @property
    @abstractmethod
    def executor(self) -> str:
        """Airflow's executor, by its class name."""

    def check(self, observer: Observer) -> None:
        """Raise what would end a start before it changes anything."""
        check(self._settings, observer)

    @abstractmethod
    def install(self, observer: Observer) -> None:
        """Bring what the services run on to this machine."""

    @abstractmethod
    def start(self, observer: Observer) -> tuple[str, ...]:
        """Start what is not running, and anew what would start with something else now; return the names."""

    @abstractmethod
    def resize(self, *, executor: str | None, workers: int | None) -> None:
        """Remember executor and workers for the next start; UsageError if the engine has no such."""

    @abstractmethod
    def stop(self) -> tuple[str, ...]:
        """Stop everything, and return the names of what was running."""

    @abstractmethod
    def services(self) -> tuple[Service, ...]:
        """Every service with its state, even if nothing runs.

        `health` is filled in for a service whose health only the engine knows (services.ENGINE).
        """

    @abstractmethod
    def volumes(self) -> tuple[Volume, ...]:
        """The data of this project and of no other."""

    @abstractmethod
    def delete_volumes(self) -> None:
        """Delete what `volumes` lists. The stack must be stopped."""

    @abstractmethod
    def logs(self, services: tuple[str, ...], *, tail: int, follow: bool) -> Iterator[LogLine]:
        """The last `tail` lines of each service, and what comes while `follow` is set."""

    @abstractmethod
    def tasks_api_problem(self) -> str:
        """Ask Airflow's API for tasks as a task does; return what went wrong, empty if nothing did."""

    def equivalent(self, action: str) -> tuple[str, ...]:
        """Return another program's commands for `up`, `down`, `down --volumes` or `reset`; () if none has."""
        del action
        return ()

    def lock(self) -> AbstractContextManager[None]:
        """Keep a second command that changes the stack out; EngineError if one is under way."""
        return project_lock(self._settings, self._claims)

    def ports(self) -> dict[str, int]:
        """Port on 127.0.0.1 per service that listens there."""
        return {
            definition.name: self._settings.port(definition.name)
            for definition in self._definitions
            if self._listens(definition)
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
        """Where Airflow answers."""
        return AirflowAddress(f"http://127.0.0.1:{self._settings.port('webserver')}", *self._settings.admin)

    def databases(self) -> tuple[DatabaseAddress, DatabaseAddress]:
        """The two business databases, PostgreSQL first."""
        postgres, mysql = (self._settings.database(definition.name) for definition in business_databases())
        return postgres, mysql

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
        return SECRETS

    def _fill_in_settings(self, changes: Mapping[str, str] | None = None) -> None:
        """Remember in stack/.env: `changes`, missing secrets, and free ports for what does not run."""
        running = {service.name for service in self.services() if service.state in {"running", "starting"}}
        moved = ports.choose(self._settings, tuple(self.ports()), running, self._claims)
        self._moved_ports |= moved
        secrets = {
            name: make() for name, make in self._secrets.items() if not self._settings.variables.get(name)
        }
        self._change_settings({**secrets, **(changes or {}), **ports.changes(moved)})

    def _change_settings(self, changes: Mapping[str, str]) -> None:
        """Write variables to stack/.env, and go on with them."""
        if changes:
            EnvFile(self._settings.env_path).update(changes)
            self._settings = replace(self._settings, variables={**self._settings.variables, **changes})
