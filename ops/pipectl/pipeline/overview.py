"""The state of everything, for `status`: read side by side, no part fails the others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from pipectl.airflow_health import AirflowHealth
from pipectl.databases import Databases
from pipectl.errors import (
    AirflowError,
    AirflowLoginError,
    DatabaseError,
    DatabaseLockedError,
    DatabaseSilentError,
    ForeignAirflowError,
    ForeignDatabaseError,
)
from pipectl.names import size
from pipectl.pipeline import consumers
from pipectl.pipeline.access import down_services
from pipectl.pipeline.readiness import component_starts, failures_of, processor_start, with_health
from pipectl.services import METADATA
from pipectl.wait import Aside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipectl.engines.base import Engine
    from pipectl.models import DagRun, DatabaseAddress, ImportFailure, Service
    from pipectl.pipeline.consumers import BinaryLog, Slot

# How long a lock keeps `status` waiting.
LOCK_SECONDS = 2


@dataclass(frozen=True)
class AirflowStatus:
    """Airflow as `status` shows it; `health` maps its components to healthy, unhealthy or unknown.

    `import_failures` are the DAG files, of whatever DAGs, that it cannot import. `error` says why nothing is
    known of the DAG although Airflow answers.
    """

    url: str
    version: str
    executor: str
    reachable: bool
    health: dict[str, str] = field(default_factory=dict)
    import_failures: tuple[ImportFailure, ...] = ()
    error: str = field(default="", metadata={"optional": True})


@dataclass(frozen=True)
class DagStatus:
    """A DAG as `status` shows it. `schedule` is empty if only triggers start runs."""

    dag_id: str
    found: bool
    paused: bool | None = None
    import_error: str = ""
    last_run: DagRun | None = None
    next_run: str = ""
    schedule: str = ""


@dataclass(frozen=True)
class DatabaseStatus:
    """A business database as `status` shows it; one that is locked is reachable, and has an error.

    `estimated` names the tables whose rows are the server's estimate: large ones are not counted. PostgreSQL
    has `slots`, MySQL a `binary_log`. A `notable` error is one that starting the database does not mend.
    """

    address: DatabaseAddress
    reachable: bool
    rows: dict[str, int]
    error: str = ""
    foreign: bool = False
    notable: bool = False
    slots: tuple[Slot, ...] = ()
    binary_log: BinaryLog | None = None
    estimated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """Everything that `status` shows."""

    project: Path
    engine: str
    services: tuple[Service, ...]
    airflow: AirflowStatus
    dag: DagStatus
    databases: tuple[DatabaseStatus, ...]
    notes: tuple[str, ...] = ()


def overview(engine: Engine, project: Path, dag_id: str) -> Status:
    """Return services, Airflow, the DAG and the row counts; what cannot be reached says so."""
    postgres, mysql = engine.databases()
    databases = Databases(postgres, mysql, lock_seconds=LOCK_SECONDS)
    services = engine.services()
    down = down_services(services)
    airflow = Aside(lambda: _airflow(engine, project, dag_id, services, is_down="webserver" in down))
    reading = [
        Aside(partial(_database, databases, address, is_down=address.service in down))
        for address in (postgres, mysql)
    ]
    airflow_status, dag_status = airflow.result()
    database_statuses = (reading[0].result(), reading[1].result())
    components = airflow_status.health if airflow_status.reachable else None
    answered = {database.address.service for database in database_statuses if database.reachable}
    if components is None and METADATA not in down and engine.metadata_answers():
        answered.add(METADATA)
    usurped = {database.address.service for database in database_statuses if database.foreign}
    if airflow_status.error:
        usurped.add("webserver")
    errors = [airflow_status.error, *(database.error for database in database_statuses if database.notable)]
    errors += [
        f"{service.name} cannot listen on port {service.port}, which {who} has."
        for service in services
        if service.state == "crashed" and service.port and (who := engine.stranger(service.port))
    ]
    errors += [alert for database in database_statuses for alert in _alerts(database)]
    return Status(
        project=project,
        engine=engine.name,
        services=with_health(services, components, answered, usurped),
        airflow=airflow_status,
        dag=dag_status,
        databases=database_statuses,
        notes=(*filter(None, errors), *engine.notes()),
    )


def _airflow(
    engine: Engine, project: Path, dag_id: str, services: tuple[Service, ...], *, is_down: bool
) -> tuple[AirflowStatus, DagStatus]:
    address = engine.airflow()
    health = AirflowHealth(address)
    status = unreachable = AirflowStatus(address.url, "", engine.executor, reachable=False)
    try:
        # What answers there while ours is down is another project's.
        if is_down:
            return unreachable, DagStatus(dag_id, found=False)
        components = health.components(component_starts(services))
        status = AirflowStatus(
            address.url, health.version(), engine.executor, reachable=True, health=components
        )
        dag = health.dag(dag_id)
        failures = health.import_failures(processor_start(services))
        status = replace(status, import_failures=failures)
        own = failures_of(dag_id, dag, failures, project / "dags")
        if dag is None:
            return status, DagStatus(dag_id, found=False, import_error=_traces(own))
        return status, DagStatus(
            dag_id,
            found=True,
            paused=dag.paused,
            import_error=_traces(own) if dag.has_import_errors else "",
            last_run=health.last_run(dag_id),
            next_run=dag.next_run,
            schedule=dag.schedule,
        )
    except ForeignAirflowError as error:
        return replace(unreachable, error=error.message), DagStatus(dag_id, found=False)
    except AirflowLoginError as error:
        return replace(status, error=f"{error.message} {error.hint}"), DagStatus(dag_id, found=False)
    except AirflowError:
        return unreachable, DagStatus(dag_id, found=False)


def _traces(failures: tuple[ImportFailure, ...]) -> str:
    return "\n".join(failure.stack_trace for failure in failures)


def _database(databases: Databases, address: DatabaseAddress, *, is_down: bool) -> DatabaseStatus:
    if is_down:
        return DatabaseStatus(address, reachable=False, rows={}, error=f"{address.service} is not running.")
    is_postgres = address is databases.postgres
    try:
        counts = databases.row_counts(address.service)
        slots = consumers.slots(databases) if is_postgres else ()
    except DatabaseError as error:
        return DatabaseStatus(
            address,
            reachable=isinstance(error, DatabaseLockedError),
            rows={},
            error=error.message,
            foreign=isinstance(error, ForeignDatabaseError),
            notable=not isinstance(error, DatabaseSilentError),
        )
    return DatabaseStatus(
        address,
        reachable=True,
        rows={name: rows for name, (rows, _) in counts.items()},
        estimated=tuple(name for name, (_, is_estimate) in counts.items() if is_estimate),
        slots=slots,
        binary_log=None if is_postgres else consumers.binary_log(databases),
    )


def _alerts(database: DatabaseStatus) -> Iterator[str]:
    """Say who has lost changes, or is about to, and what fills the disk."""
    for slot in database.slots:
        if slot.danger:
            yield f"The replication slot {slot.danger}. {slot.rescue}"
    log = database.binary_log
    if log and not log.limit_bytes and log.bytes > consumers.BINLOG_LIMIT_BYTES:
        yield (
            f"MySQL's binary log has {size(log.bytes)}, and this server knows no bound in bytes. "
            "Keep it for fewer days: binlog_expire_logs_seconds in stack/mysql/server.cnf, then pipectl up"
        )
