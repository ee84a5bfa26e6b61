"""projects."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import typer  # noqa: TC002  Typer reads annotations at run time

from pipectl.commands.shared import group, line, table
from pipectl.names import moment, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.projects import ListedProject, ProjectList

Document: TypeAlias = "ProjectList"
NO_FOLDER = "(its folder is not known)"


def projects(ctx: typer.Context) -> None:
    """List your projects on this machine: folder, engine, state, ports, sizes; and the cache that they share.

    It works anywhere. A project whose folder is gone is listed with what is left of it.

    Examples: `pipectl projects` · `pipectl projects --json | jq -r '.projects[].folder'`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import projects as found  # noqa: PLC0415  with what it imports 90 ms

    result = found.listing(invocation.engine_name)
    invocation.console.emit(result, lambda: result_text(result))


def result_text(result: ProjectList) -> RenderableType:
    """Return the projects, what is left of those that are gone, and the cache."""
    shared = "shared by all projects of the local engine"
    cache = f"Cache: {result.cache.folder}, {size(result.cache.bytes)}, {shared}."
    notes = (line(note, "yellow") for note in result.notes)
    if not result.projects:
        return group(line("None of your projects has data or runs on this machine."), line(cache), *notes)
    return group(*listed_text(result.projects), line(cache), *notes)


def listed_text(projects: tuple[ListedProject, ...]) -> tuple[RenderableType, ...]:
    """Return projects as a table, and below it what is said of some."""
    rows: list[tuple[object, ...]] = [
        (
            str(project.folder or NO_FOLDER),
            project.engine,
            project.state,
            f"{len(project.running)} of {project.services}" if project.services else "",
            ", ".join(f"{name} {port}" for name, port in project.ports.items()),
            "" if project.bytes is None else size(project.bytes),
            size(project.snapshot_bytes) if project.snapshot_bytes else "",
            moment(project.since),
        )
        for project in projects
    ]
    lines = [line(text, "yellow") for project in projects for text in _remarks(project)]
    names = ("project", "engine", "state", "services", "ports", "data", "snapshots", "up since")
    return table(*names, rows=rows), *lines


def _remarks(project: ListedProject) -> tuple[str, ...]:
    name = project.folder or NO_FOLDER
    left = f"Left of {name}: {', '.join(project.left)}." if project.left else ""
    return tuple(filter(None, (f"{name}: {project.problem}" if project.problem else "", left)))
