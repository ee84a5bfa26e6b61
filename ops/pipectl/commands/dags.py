"""dags."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import typer  # noqa: TC002  Typer reads annotations at run time

from pipectl.commands.shared import group, line, table
from pipectl.names import moment

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.listing import DagList, ListedDag

Document: TypeAlias = "DagList"


def dags(ctx: typer.Context) -> None:
    """List the DAGs with state, schedule and last run, and the DAG files that Airflow cannot import.

    Examples: `pipectl dags` · `pipectl dags --json | jq '.import_failures[].filename'`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import listing  # noqa: PLC0415  with what it imports 60 ms

    result = listing.dags(invocation.engine)
    invocation.console.emit(result, lambda: result_text(result))


def result_text(result: DagList) -> RenderableType:
    """Return the DAGs as a table, and below it the import errors with their traces."""
    from pipectl.airflow_answers import import_reason  # noqa: PLC0415  after an answer it is there

    parts: list[RenderableType] = []
    if result.dags:
        rows: list[tuple[object, ...]] = [
            (dag.dag_id, _state(dag), dag.schedule or "none", *_last_run(dag)) for dag in result.dags
        ]
        parts.append(table("DAG", "state", "schedule", "last run", "started", rows=rows))
    else:
        parts.append(line("Airflow has parsed no DAG."))
    for failure in result.import_failures:
        reason = import_reason(failure.stack_trace)
        # One that had to be cut is told below, and longer.
        why = "" if reason.endswith("…") else f" {reason}"
        parts.append(line(f"Airflow cannot import {failure.filename}:{why}", "bold red"))
        parts += [line(f"  {text}") for text in failure.stack_trace.strip().splitlines()]
    return group(*parts)


def _state(dag: ListedDag) -> str:
    if dag.has_import_errors:
        return "broken"
    return "paused" if dag.paused else "on"


def _last_run(dag: ListedDag) -> tuple[str, str]:
    run = dag.last_run
    return (run.outcome, moment(run.start)) if run else ("", "")
