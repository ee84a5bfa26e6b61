"""The state of everything, for `status`: read side by side, no part fails the others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pipectl.airflow_health import AirflowHealth
from pipectl.databases import Databases
from pipectl.errors import AirflowError, DatabaseError
from pipectl.models import AirflowStatus, DagRun, DagStatus, DatabaseStatus, Status
from pipectl.pipeline.access import down_services
from pipectl.pipeline.readiness import judge

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from pipectl.engines.base import Engine
    from pipectl.models import DatabaseAddress


def overview(engine: Engine, project: Path, dag_id: str) -> Status:
    """Return services, Airflow, the DAG and the row counts; what cannot be reached says so."""
    postgres, mysql = engine.databases()
    databases = Databases(postgres, mysql)
    services = engine.services()
    down = down_services(services)
    with ThreadPoolExecutor(max_workers=3) as pool:
        airflow = pool.submit(_airflow, engine, dag_id, is_down="webserver" in down)
        contents = [
            pool.submit(_database, databases, address, is_down=address.service in down)
            for address in (postgres, mysql)
        ]
        airflow_status, dag_status = airflow.result()
        found = (contents[0].result(), contents[1].result())
    components = airflow_status.health if airflow_status.reachable else None
    answered = {each.address.service for each in found if each.reachable}
    return Status(
        project=project,
        engine=engine.name,
        services=judge(services, components, answered),
        airflow=airflow_status,
        dag=dag_status,
        databases=found,
    )


def _airflow(engine: Engine, dag_id: str, *, is_down: bool) -> tuple[AirflowStatus, DagStatus]:
    address = engine.airflow()
    health = AirflowHealth(address)
    unreachable = AirflowStatus(address.url, "", engine.executor, reachable=False)
    try:
        # What answers there while ours is down is another project's.
        if is_down:
            return unreachable, DagStatus(dag_id, found=False)
        components = health.components()
        status = AirflowStatus(
            address.url, health.version(), engine.executor, reachable=True, health=components
        )
        dag = health.dag(dag_id)
        if dag is None:
            trace = "\n".join(health.import_errors().values())
            return status, DagStatus(dag_id, found=False, import_error=trace)
        return status, DagStatus(
            dag_id,
            found=True,
            paused=bool(dag.get("is_paused")),
            import_error="\n".join(health.import_errors().values()) if dag.get("has_import_errors") else "",
            last_run=_run(health.last_run(dag_id)),
            next_run=str(dag.get("next_dagrun_run_after") or ""),
        )
    except AirflowError:
        return unreachable, DagStatus(dag_id, found=False)


def _run(run: dict[str, Any] | None) -> DagRun | None:
    from datetime import datetime  # noqa: PLC0415  only for a DAG that has run

    if run is None:
        return None

    def time_of(name: str) -> datetime | None:
        text = run.get(name)
        return datetime.fromisoformat(str(text)) if text else None

    return DagRun(
        dag_id=str(run["dag_id"]),
        run_id=str(run["dag_run_id"]),
        run_type=str(run["run_type"]),
        state=str(run["state"]),
        logical_date=time_of("logical_date"),
        queued_at=time_of("queued_at"),
        start=time_of("start_date"),
        end=time_of("end_date"),
    )


def _database(databases: Databases, address: DatabaseAddress, *, is_down: bool) -> DatabaseStatus:
    if is_down:
        return DatabaseStatus(address, reachable=False, rows={}, error=f"{address.service} is not running.")
    read = databases.postgres_content if address is databases.postgres else databases.mysql_content
    try:
        content = read()
    except DatabaseError as error:
        return DatabaseStatus(address, reachable=False, rows={}, error=error.message)
    return DatabaseStatus(address, reachable=True, rows={table.name: table.rows for table in content.tables})
