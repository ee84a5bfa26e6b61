"""status."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl.commands.shared import group, import_failures_text, line, table
from pipectl.errors import UsageError
from pipectl.names import size

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.models import Service
    from pipectl.pipeline.consumers import BinaryLog, Slot
    from pipectl.pipeline.overview import AirflowStatus, DagStatus, Status
    from pipectl.pipeline.watching import Watched

Document: TypeAlias = "StatusDocument | Watched"  # with --watch one Watched per line
WATCH_SECONDS = 2.0
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 3600.0


@dataclass(frozen=True)
class Process:
    """A service of the local engine, or one that has no container. `health` is empty if it does not run."""

    name: str
    state: str
    health: str
    port: int | None
    pid: int | None


@dataclass(frozen=True)
class Container:
    """A service of the docker engine. `health` is empty if it does not run."""

    name: str
    state: str
    health: str
    port: int | None
    container: str


@dataclass(frozen=True)
class Database:
    """A business database; `rows` holds the number of rows per table: exact, unless `estimated` names it.

    `slots` are left out if there is none, `binary_log` of PostgreSQL, and if the account may not ask for it.
    """

    service: str
    host: str
    port: int
    database: str
    user: str
    reachable: bool
    rows: dict[str, int]
    error: str
    slots: tuple[Slot, ...] = field(default=(), metadata={"optional": True})
    binary_log: BinaryLog | None = field(default=None, metadata={"optional": True})
    estimated: tuple[str, ...] = ()


@dataclass(frozen=True)
class StatusDocument:
    """The state of everything. `databases` has the keys postgres and mysql; `notes` are sentences."""

    project: Path
    engine: str
    services: tuple[Process | Container, ...]
    airflow: AirflowStatus
    dag: DagStatus
    databases: dict[str, Database]
    notes: tuple[str, ...]


def status(
    ctx: typer.Context,
    seconds: Annotated[
        float | None,
        typer.Argument(
            metavar="[SECONDS]", help="With --watch: from one look to the next.", show_default="2"
        ),
    ] = None,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again and again, until q or Ctrl-C.")
    ] = False,
) -> None:
    """Show services, health, ports, Airflow, the DAG, its last run and the row counts.

    With --watch: CPU and memory of each service, the latest runs, rows a minute, how far labels and slots are
    behind, and alerts, on one screen. With --json a line for each look.

    Examples: `pipectl status` · `pipectl status --json | jq .dag` · `pipectl status --watch` ·
    `pipectl status --watch 10 --json | jq -c .alerts`
    """
    invocation: Invocation = ctx.obj
    if watch:
        chosen = WATCH_SECONDS if seconds is None else seconds
        if not SHORTEST_SECONDS <= chosen <= LONGEST_SECONDS:
            raise UsageError(
                f"{chosen:g} s is not from {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g} s.",
                hint="For example: pipectl status --watch 5",
            )
        from pipectl.commands.watching import watch_stack  # noqa: PLC0415  with what it imports 90 ms

        watch_stack(invocation, chosen)
        return
    if seconds is not None:
        raise UsageError("SECONDS goes with --watch.", hint=f"pipectl status --watch {seconds:g}")
    from pipectl.pipeline.overview import overview  # noqa: PLC0415  with what it imports 60 ms

    result = overview(invocation.engine, invocation.settings.project, invocation.settings.dag_id)
    invocation.console.emit(document_of(result), lambda: result_text(result))


def document_of(result: Status) -> StatusDocument:
    """Return what --json prints."""
    return StatusDocument(
        project=result.project,
        engine=result.engine,
        services=tuple(_service(service) for service in result.services),
        airflow=result.airflow,
        dag=result.dag,
        databases={
            database.address.service.removeprefix("airbyte-"): Database(
                service=database.address.service,
                host=database.address.host,
                port=database.address.port,
                database=database.address.database,
                user=database.address.user,
                reachable=database.reachable,
                rows=database.rows,
                error=database.error,
                slots=database.slots,
                binary_log=database.binary_log,
                estimated=database.estimated,
            )
            for database in result.databases
        },
        notes=result.notes,
    )


def _service(service: Service) -> Process | Container:
    common = (service.name, service.state, service.health, service.port)
    return Container(*common, service.container) if service.container else Process(*common, service.pid)


def result_text(result: Status) -> RenderableType:
    """Return the state of everything on one screen."""
    rows: list[tuple[object, ...]] = [
        (
            service.name,
            service.state,
            service.health,
            str(service.port or ""),
            service.container or str(service.pid or ""),
        )
        for service in result.services
    ]
    services = table(
        "service",
        "state",
        "health",
        "port",
        "container" if result.engine == "docker" else "pid",
        rows=rows,
        title=f"{result.project} ({result.engine})",
    )
    airflow, dag = result.airflow, result.dag
    lines = [
        f"Airflow   {airflow.url}  {airflow.version}, {airflow.executor}"
        if airflow.reachable
        else f"Airflow   {_unreachable(result.services)}"
    ]
    if dag.found:
        unplanned = "no run is planned" if dag.schedule else "no schedule"
        planned = f"next run {dag.next_run}" if dag.next_run else unplanned
        paused = "paused; start it: pipectl trigger" if dag.paused else f"on, {planned}"
        lines.append(f"DAG       {dag.dag_id}: {paused}")
        last = dag.last_run
        lines.append(f"Last run  {last.run_id}: {last.outcome}" if last else "Last run  none")
    elif airflow.error:
        lines.append(f"          {airflow.error}")
    elif airflow.reachable:
        lines.append(f"DAG       {dag.dag_id}: not parsed")
    for database in result.databases:
        address = database.address
        location = f"{address.host}:{address.port}/{address.database}"
        content = ", ".join(
            f"{name} {'about ' if name in database.estimated else ''}{count:,}"
            for name, count in database.rows.items()
        )
        content = content or "no tables"
        if database.error:
            content = "locked" if database.reachable else "not reachable"
        lines.append(f"{address.service:<17} {location}: {content}")
        lines += [f"{'':<17} {slot_text(slot)}" for slot in database.slots]
        if log := database.binary_log:
            bound = f" of {size(log.limit_bytes)}" if log.limit_bytes else ""
            lines.append(f"{'':<17} binary log: {size(log.bytes)}{bound}")
    notes = (line(note, "yellow") for note in result.notes)
    failures = import_failures_text(airflow.import_failures)
    return group(services, *(line(text) for text in lines), *failures, *notes)


def slot_text(slot: Slot) -> str:
    """Return how far a slot is behind, in one line."""
    if slot.lag_bytes is None:
        return f"slot {slot.name}: {slot.wal_status}"
    limit = f" of {size(slot.limit_bytes)}" if slot.limit_bytes else ""
    reader = "being read" if slot.active else "nobody reads it now"
    return f"slot {slot.name}: lags by {size(slot.lag_bytes)}{limit}, {reader}"


def _unreachable(services: tuple[Service, ...]) -> str:
    if any(service.name == "webserver" and service.health == "starting" for service in services):
        return "starting; wait for it: pipectl up"
    return "not running; start it: pipectl up"
