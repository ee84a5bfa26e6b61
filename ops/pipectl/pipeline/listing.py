"""The DAGs and DAG files that Airflow knows, for `dags`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipectl.airflow_health import AirflowHealth
from pipectl.pipeline.access import airflow_address
from pipectl.pipeline.readiness import processor_start

if TYPE_CHECKING:
    from pipectl.engines.base import Engine
    from pipectl.models import DagRun, ImportFailure


@dataclass(frozen=True)
class ListedDag:
    """A DAG as `dags` shows it.

    `schedule` is empty if only triggers start runs, and `next_run` if none is planned. With
    `has_import_errors` its `file` cannot be imported any more.
    """

    dag_id: str
    paused: bool
    has_import_errors: bool
    schedule: str
    next_run: str
    file: str
    last_run: DagRun | None


@dataclass(frozen=True)
class DagList:
    """The DAGs that Airflow has parsed, by id, and the DAG files that it cannot import."""

    dags: tuple[ListedDag, ...]
    import_failures: tuple[ImportFailure, ...]


def dags(engine: Engine) -> DagList:
    """Return the DAGs with their last runs. AirflowError if Airflow does not answer."""
    health = AirflowHealth(airflow_address(engine))
    parsed = health.dags()
    runs = health.last_runs(dag.dag_id for dag in parsed)
    return DagList(
        tuple(
            ListedDag(
                dag_id=dag.dag_id,
                paused=dag.paused,
                has_import_errors=dag.has_import_errors,
                schedule=dag.schedule,
                next_run=dag.next_run,
                file=dag.file,
                last_run=runs.get(dag.dag_id),
            )
            for dag in parsed
        ),
        health.import_failures(processor_start(engine.services())),
    )
