"""runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options  # noqa: TC001  Typer reads annotations at run time
from pipectl.commands.shared import NAMED_FAILURES, airflow_api, group, line, table
from pipectl.names import command, moment

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.models import DagRun
    from pipectl.pipeline.inspecting import RunDetails

MOST_RUNS = 100  # that Airflow gives in one answer

Document: TypeAlias = "Runs | RunDetails"  # the latter for one run


@dataclass(frozen=True)
class Runs:
    """The latest runs of a DAG, the one that was made last first, of `total` that there are."""

    dag_id: str
    runs: tuple[DagRun, ...]
    total: int


def runs(
    ctx: typer.Context,
    dag_or_run: options.DagOrRun = None,
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_ID",
            help="The run's id, or `latest` for the one made last.",
            show_default="a list of them",
        ),
    ] = None,
    *,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=MOST_RUNS, help="How many, made last first.")
    ] = 10,
) -> None:
    """List the latest runs of a DAG, or show the tasks of one run with every try and its times.

    The run that was made last comes first, a backfill's too; Airflow's pages sort by the date to run at.

    Examples: `pipectl runs` · `pipectl runs my_dag --limit 50 --json` · `pipectl runs my_dag latest`
    """
    invocation: Invocation = ctx.obj
    default = invocation.dag_id(dag_or_run if run_id else None)
    from pipectl.pipeline import inspecting  # noqa: PLC0415

    api = airflow_api(invocation)
    dag_id, chosen = inspecting.which(api, default, dag_or_run, run_id)
    if chosen:
        details = inspecting.details(api, inspecting.find_run(api, dag_id, chosen))
        invocation.console.emit(details, lambda: details_text(details))
        return
    result = Runs(dag_id, *api.runs_and_total(dag_id, limit))
    invocation.console.emit(result, lambda: result_text(result))


def result_text(result: Runs) -> RenderableType:
    """Return the runs as a table."""
    if not result.runs:
        return line(f"{result.dag_id} has never run. Start it: pipectl trigger {result.dag_id}")
    rows: list[tuple[object, ...]] = [
        (
            run.run_id,
            run.run_type,
            run.outcome,
            moment(run.logical_date),
            moment(run.start),
            _seconds(run.seconds),
        )
        for run in result.runs
    ]
    title = f"{result.dag_id}, made last first"
    parts = [table("run", "type", "state", "logical date", "started", "took", rows=rows, title=title)]
    if (more := result.total - len(rows)) > 0:
        how = (
            command("runs", result.dag_id, "--limit", str(min(result.total, MOST_RUNS)))
            if len(rows) < MOST_RUNS
            else "pipectl open"
        )
        parts.append(line(f"… {more:,} more: {how}"))
    return group(*parts)


def details_text(details: RunDetails) -> RenderableType:
    """Return a run, and each try of its tasks as a row."""
    run = details.run
    facts = {
        "Type": run.run_type,
        "Logical": moment(run.logical_date) or "no logical date",
        "Queued": moment(run.queued_at),
        "Started": moment(run.start),
        "Ended": moment(run.end),
        "Took": _seconds(run.seconds),
    }
    rows: list[tuple[object, ...]] = []
    for task in details.tasks:
        rows += [
            (task.name, found.number, found.state, moment(found.start), _seconds(found.seconds))
            for found in task.tries
        ] or [(task.name, "", task.state, "", "")]
    failed = [task.name for task in details.tasks if task.state == "failed"]
    return group(
        line(f"{run.dag_id} {run.run_id}: {run.outcome}"),
        *(line(f"  {name:<9} {fact}") for name, fact in facts.items() if fact),
        table("task", "try", "state", "started", "took", rows=rows),
        *(
            line(f"Why {name} failed: {command('task-log', run.dag_id, run.run_id, name)}")
            for name in failed[:NAMED_FAILURES]
        ),
        *([] if run.finished else [line(f"What it waits for: {command('explain', run.dag_id, run.run_id)}")]),
    )


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"
