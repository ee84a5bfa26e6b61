"""runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options  # noqa: TC001  Typer reads annotations at run time
from pipectl.commands.shared import airflow_api, line, moment, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.models import DagRun

Document: TypeAlias = "Runs"


@dataclass(frozen=True)
class Runs:
    """The latest runs of a DAG, newest first."""

    dag_id: str
    runs: tuple[DagRun, ...]


def runs(
    ctx: typer.Context,
    dag_id: options.DagId = None,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="How many, newest first.")] = 10,
) -> None:
    """List the latest runs of a DAG.

    Examples: `pipectl runs` · `pipectl runs my_dag --limit 50 --json`
    """
    invocation: Invocation = ctx.obj
    dag_id = invocation.dag_id(dag_id)
    result = Runs(dag_id, airflow_api(invocation).runs(dag_id, limit))
    invocation.console.emit(result, lambda: result_text(result))


def result_text(result: Runs) -> RenderableType:
    """Return the runs as a table."""
    if not result.runs:
        return line(f"{result.dag_id} has never run. Start it: pipectl trigger {result.dag_id}")
    rows: list[tuple[object, ...]] = [
        (
            run.run_id,
            run.run_type,
            run.state,
            moment(run.start),
            "" if run.seconds is None else f"{run.seconds:.1f} s",
        )
        for run in result.runs
    ]
    return table("run", "type", "state", "started", "took", rows=rows, title=result.dag_id)
