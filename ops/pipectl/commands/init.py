"""init."""

from __future__ import annotations

import shlex
from pathlib import Path  # noqa: TC003  Typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl.commands.shared import group, line
from pipectl.names import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.initialising import NewProject

Document: TypeAlias = "NewProject"


def init(
    ctx: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A new folder, or one without files of these names."),
    ],
) -> None:
    """Make a project of your own: DAGs, scripts, the stack's files, a GitHub workflow and a README.

    Nothing that is there is overwritten, and no network is needed. A project that has lost files gets them
    back.

    Examples: `pipectl init my-pipeline` · `pipectl init .`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline.initialising import initialise  # noqa: PLC0415  20 ms

    invocation.if_interrupted = "The same command makes the project, or completes it."
    project = initialise(folder)
    invocation.if_interrupted = ""
    invocation.console.emit(project, lambda: result_text(project))


def result_text(project: NewProject) -> RenderableType:
    """Return where the project is, and what to type next."""
    made = f"Made a project in {project.folder} ({counted(project.files, 'file')})."
    if project.added == 0:
        made = f"The project in {project.folder} has all of its files."
    elif project.added < project.files:
        made = f"Completed the project in {project.folder}: {counted(project.added, 'file')} added."
    return group(
        line(made),
        line("Start it:"),
        line(f"  cd {shlex.quote(str(project.folder))}"),
        line("  pipectl up"),
    )
