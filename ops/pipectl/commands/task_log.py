"""task-log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options  # noqa: TC001  Typer reads annotations at run time
from pipectl.commands.shared import airflow_api

if TYPE_CHECKING:
    from pipectl.invocation import Invocation
    from pipectl.models import TaskLogLine

Document: TypeAlias = "TaskLogLine"  # one per line


def task_log(
    ctx: typer.Context,
    dag_id: options.NamedDag,
    run_id: options.NamedRun,
    task: Annotated[
        str,
        typer.Argument(metavar="TASK", help="The task's id; of a mapped one with its index: `'load[3]'`."),
    ],
    *,
    number: Annotated[
        int | None, typer.Option("--try", min=1, help="Which try.", show_default="the latest one")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task has ended.")] = False,
) -> None:
    """Show what a task of a run has logged; of a traceback, Airflow's own frames only with --verbose.

    Examples: `pipectl task-log my_dag latest load` · `pipectl task-log my_dag RUN_ID load --try 1` ·
    `pipectl task-log my_dag latest 'load[3]' --follow`
    """
    invocation: Invocation = ctx.obj
    dag_id = invocation.dag_id(dag_id)
    from pipectl.pipeline import inspecting  # noqa: PLC0415
    from pipectl.task_logs import fold_frames  # noqa: PLC0415

    api = airflow_api(invocation)
    run = inspecting.find_run(api, dag_id, run_id)
    is_empty = True
    for entry in inspecting.task_log(api, run, task, number=number, follow=follow):
        is_empty = False
        text = entry.text if invocation.console.verbose else fold_frames(entry.text)
        invocation.console.line(entry, text)
    if is_empty:
        invocation.console.say(
            f"Airflow has no log of the task {task} of {run.run_id}{f', try {number}' if number else ''}."
        )
