"""clear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options
from pipectl.commands.shared import airflow_api, group, line, table
from pipectl.commands.trigger import END_STYLES, RunProgress, tasks_text
from pipectl.names import command

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.models import TaskState
    from pipectl.pipeline.steering import ClearResult

Document: TypeAlias = "ClearResult | ClearDryRun"


@dataclass(frozen=True)
class ClearDryRun:
    """The task instances that `clear --dry-run` would let start again, as they are."""

    dag_id: str
    run_id: str
    would_clear: tuple[TaskState, ...]


def clear(
    ctx: typer.Context,
    dag_id: options.NamedDag,
    run_id: options.NamedRun,
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK",
            help="Tasks; of a mapped one with its index: `'load[3]'`.",
            show_default="all tasks",
        ),
    ] = None,
    *,
    only_failed: Annotated[bool, typer.Option("--only-failed", help="Of these only what failed.")] = False,
    downstream: Annotated[
        bool, typer.Option("--downstream/--no-downstream", help="The tasks after them too.")
    ] = True,
    dry_run: options.DryRun = False,
    wait: options.Wait = True,
    timeout: options.RunTimeout = options.RUN_SECONDS,
) -> None:
    """Let the tasks of a run start again, and follow the run to its end. Earlier tries keep their logs.

    Exit 7 if the run fails, 8 if it takes too long.

    Examples: `pipectl clear my_dag latest --only-failed` · `pipectl clear my_dag RUN_ID load --dry-run`
    """
    invocation: Invocation = ctx.obj
    dag_id = invocation.dag_id(dag_id)
    from pipectl.pipeline import inspecting, steering, triggering  # noqa: PLC0415

    api = airflow_api(invocation)
    run = inspecting.find_run(api, dag_id, run_id)
    cleared = steering.tasks_to_clear(
        api, run, tuple(tasks or ()), only_failed=only_failed, downstream=downstream and bool(tasks)
    )
    if dry_run:
        plan = ClearDryRun(dag_id, run.run_id, cleared)
        invocation.console.emit(plan, lambda: _plan_text(plan))
        return
    observer = RunProgress(invocation.console)
    patience = triggering.Patience(invocation.engine, observer, timeout, follows=wait)
    invocation.if_interrupted = (
        f"If its tasks were cleared, the run goes on: {command('runs', dag_id, run.run_id)}"
    )
    result = steering.clear(
        api, run, cleared, patience=patience, observer=observer, timeout=timeout, wait=wait
    )
    invocation.console.emit(result, lambda: result_text(result))
    if result.state == "failed" and cleared:
        raise triggering.failed_run(api, dag_id, run.run_id, result.tasks, result.started)


def result_text(result: ClearResult) -> RenderableType:
    """Return what has started again, and how it ended."""
    if not result.cleared:
        return line(f"{result.run_id}: no task to start again, the run stays {result.state}.")
    took = f" in {result.seconds:.1f} s" if result.seconds is not None else ""
    names = ", ".join(task.name for task in result.cleared)
    parts = [
        tasks_text(result.tasks),
        line(f"{result.run_id}: {result.state}{took}", END_STYLES.get(result.state, "")),
        line(f"  Started again: {names}"),
    ]
    if result.paused:
        parts.append(
            line(
                f"  {result.dag_id} is paused, so nothing starts yet: pipectl unpause {result.dag_id}",
                "yellow",
            )
        )
    return group(*parts)


def _plan_text(plan: ClearDryRun) -> RenderableType:
    if not plan.would_clear:
        return line(f"{plan.run_id}: no task would start again.")
    rows: list[tuple[object, ...]] = [(task.name, task.state, task.tries) for task in plan.would_clear]
    return table("would start again", "state", "try", rows=rows, title=plan.run_id)
