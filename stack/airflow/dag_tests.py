"""The scheduler leaves runs of `airflow dags test` to the process that makes them.

That process schedules and runs the tasks of its run itself, beside a scheduler that looks at every running
run of a DAG that is not paused: whichever of the two came first ran a task, and the other one's try failed.
"""

from __future__ import annotations

import importlib
from typing import Any


def leave_to_their_process() -> None:
    """Hide those runs, and with them their tasks, from what this process asks the metadata database."""
    orm: Any = importlib.import_module("sqlalchemy.orm")
    event: Any = importlib.import_module("sqlalchemy.event")
    run: Any = importlib.import_module("airflow.models.dagrun").DagRun
    kind: Any = importlib.import_module("airflow.utils.types").DagRunTriggeredByType.TEST
    others = orm.with_loader_criteria(run, run.triggered_by.is_distinct_from(kind))

    def hide(query: Any) -> None:  # noqa: ANN401  SQLAlchemy's own
        if query.is_select:
            query.statement = query.statement.options(others)

    event.listen(orm.Session, "do_orm_execute", hide)
