"""cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options  # noqa: TC001  Typer reads annotations at run time
from pipectl.commands.shared import airflow_api, group, line
from pipectl.names import command

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.steering import CancelledRun, CancelResult

Document: TypeAlias = "CancelResult"


def cancel(
    ctx: typer.Context,
    dag_or_run: options.DagOrRun = None,
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="RUN_ID", help="The run's id, or `latest`.", show_default="the active one"),
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All active runs of the DAG.")] = False,
) -> None:
    """End a run before its time: running tasks are stopped and fail, the others are skipped.

    Examples: `pipectl cancel` · `pipectl cancel my_dag RUN_ID` · `pipectl cancel my_dag --all`
    """
    invocation: Invocation = ctx.obj
    default = invocation.dag_id(dag_or_run if run_id else None)
    from pipectl.pipeline import inspecting, steering  # noqa: PLC0415

    api = airflow_api(invocation)
    dag_id, chosen = inspecting.which(api, default, dag_or_run, run_id)
    runs = steering.runs_to_cancel(api, dag_id, chosen, everything=everything)
    invocation.if_interrupted = f"What was ended stays so: {command('runs', dag_id)}"
    result = steering.cancel(api, dag_id, runs)
    invocation.console.emit(result, lambda: result_text(result))


def result_text(result: CancelResult) -> RenderableType:
    """Return what has become of each run and its tasks."""
    if not result.runs:
        return line(f"{result.dag_id} has no active run.")
    return group(*(line(_run_text(run)) for run in result.runs))


def _run_text(run: CancelledRun) -> str:
    if run.before in {"success", "failed"}:
        return f"{run.run_id} had ended already: {run.state}."
    states = {
        state: [task.name for task in run.tasks if task.state == state] for state in ("failed", "skipped")
    }
    tasks = "".join(f" {state.capitalize()}: {', '.join(names)}." for state, names in states.items() if names)
    teardown = " Its teardown tasks run to their end." if run.state == "running" else ""
    now = "cancelled" if run.state == "failed" else run.state  # Airflow's word for both
    return f"{run.run_id}: {run.before} before, {now} now.{tasks}{teardown}"
