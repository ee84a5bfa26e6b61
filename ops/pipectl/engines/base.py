"""The Engine protocol: what the pipeline asks of whatever runs its services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from pipectl.models import AirflowAddress, DatabaseAddress, LogLine, Service, Volume

SERVICES = ("postgres", "airbyte-postgres", "airbyte-mysql", "webserver", "scheduler", "dag-processor")
# Those of SERVICES that keep data, and that the others wait for.
DATABASES = ("postgres", "airbyte-postgres", "airbyte-mysql")


class Engine(Protocol):
    """Runs the services of one project. Every method may raise EngineError."""

    name: str

    @property
    def executor(self) -> str:
        """Airflow's executor."""

    def lock(self) -> AbstractContextManager[None]:
        """Held by a command that changes the stack, so that two never do at once."""

    def install(self, report: Callable[[str], None]) -> None:
        """Bring what the services run on to this machine; `report` takes one sentence per step."""

    def start(self, report: Callable[[str], None]) -> tuple[str, ...]:
        """Start what is not running, and return its names; what runs is left alone."""

    def resize(self, *, executor: str | None, workers: int | None) -> None:
        """Remember executor and workers for the next start; UsageError where the engine has no such."""

    def equivalent(self, action: str) -> tuple[str, ...]:
        """Return the commands of another program that `up`, `down`, `down --volumes` or `reset` stand for."""

    def moved_ports(self) -> dict[str, tuple[int, int]]:
        """Services whose wanted port was taken at the last start: (wanted, now used)."""

    def stop(self) -> tuple[str, ...]:
        """Stop everything, and return the names of what was running."""

    def services(self) -> tuple[Service, ...]:
        """Every service with its state, also where nothing runs."""

    def ports(self) -> dict[str, int]:
        """Port on this machine per service that has one."""

    def airflow(self) -> AirflowAddress:
        """Where Airflow answers."""

    def databases(self) -> tuple[DatabaseAddress, DatabaseAddress]:
        """The two business databases, PostgreSQL first."""

    def volumes(self) -> tuple[Volume, ...]:
        """The data of this project and of no other."""

    def delete_volumes(self) -> None:
        """Delete what `volumes` lists. The stack must be stopped."""

    def logs(self, services: tuple[str, ...], *, tail: int, follow: bool) -> Iterator[LogLine]:
        """The last `tail` lines of each service, and what comes while `follow` is set."""
