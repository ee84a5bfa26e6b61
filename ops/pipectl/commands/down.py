"""down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options  # noqa: TC001  Typer reads annotations at run time
from pipectl.commands.shared import (
    commands_text,
    confirm,
    confirm_volumes,
    group,
    line,
    say_commands,
    volumes_text,
)
from pipectl.errors import EngineError, UsageError
from pipectl.names import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.models import Volume
    from pipectl.pipeline.projects import FailedProject, ListedProject, StoppedProject

Document: TypeAlias = "DownResult | DownDryRun | DownAllResult | DownAllDryRun"


@dataclass(frozen=True)
class DownResult:
    """What `down` did: services that ran, and volumes that are gone."""

    engine: str
    stopped: tuple[str, ...]
    deleted: tuple[Volume, ...]


@dataclass(frozen=True, kw_only=True)
class DownDryRun:
    """What `down --dry-run` prints: volumes only with --volumes, and docker commands that do the same."""

    would_delete: tuple[Volume, ...] | None = field(default=None, metadata={"optional": True})
    would_run: tuple[str, ...] = field(default=(), metadata={"optional": True})
    would_stop: tuple[str, ...]


@dataclass(frozen=True)
class DownAllResult:
    """What `down --all` did: projects that ran and were stopped, and those that could not be."""

    projects: tuple[StoppedProject, ...]
    failed: tuple[FailedProject, ...]


@dataclass(frozen=True)
class DownAllDryRun:
    """What `down --all --dry-run` prints: the projects that run."""

    would_stop_projects: tuple[ListedProject, ...]


def down(
    ctx: typer.Context,
    *,
    volumes: Annotated[bool, typer.Option("--volumes", help="Delete this project's data too.")] = False,
    all_projects: Annotated[
        bool, typer.Option("--all", help="Stop all of your projects on this machine; their data stays.")
    ] = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
) -> None:
    """Stop everything; the data stays unless --volumes is given.

    With --all it works anywhere, lists the projects that run, and asks. One that cannot be stopped does not
    keep the others.

    Examples: `pipectl down` · `pipectl down --volumes --yes` · `pipectl down --all`
    """
    invocation: Invocation = ctx.obj
    if all_projects:
        if volumes:
            raise UsageError(
                "--all keeps the data of all projects, and --volumes deletes it.",
                hint="Delete the data of one: pipectl --project DIR down --volumes",
            )
        _down_all(invocation, dry_run=dry_run, yes=yes)
        return
    from pipectl.pipeline import lifecycle  # noqa: PLC0415  with what it imports 60 ms

    engine, console = invocation.engine, invocation.console
    action = "down --volumes" if volumes else "down"
    if dry_run:
        plan = DownDryRun(
            would_delete=engine.volumes() if volumes else None,
            would_run=engine.equivalent(action),
            would_stop=tuple(service.name for service in engine.services() if service.state == "running"),
        )
        console.emit(plan, lambda: _dry_run_text(plan))
        return
    if volumes:
        confirm_volumes(invocation, engine.volumes(), action, yes=yes)
    say_commands(invocation, action)
    rest = "stops the rest, and deletes it" if volumes else "stops the rest"
    invocation.if_interrupted = f"What was stopped stays so: the same command {rest}."
    stopped, deleted = lifecycle.down(engine, delete_volumes=volumes)
    result = DownResult(engine.name, stopped, deleted)
    console.emit(result, lambda: _result_text(result))


def _down_all(invocation: Invocation, *, dry_run: bool, yes: bool) -> None:
    from pipectl.commands.projects import listed_text  # noqa: PLC0415  with the next 90 ms
    from pipectl.pipeline import projects  # noqa: PLC0415

    console = invocation.console
    found, notes = projects.find(invocation.engine_name)
    for note in notes:
        console.say(note)
    running = [project for project in found if project.stop]
    listed = tuple(project.listed for project in running)
    if dry_run:
        plan = DownAllDryRun(listed)
        title = line(f"Would be stopped:{'' if listed else ' nothing.'}")
        console.emit(plan, lambda: group(title, *(listed_text(listed) if listed else ())))
        return
    if listed:
        if not yes:
            console.show(group(*listed_text(listed)))
        question = f"Stop {'this project' if len(listed) == 1 else f'these {len(listed)} projects'}?"
        action = ("stops all of your projects", "stopped")
        confirm(invocation, question, "down --all", yes=yes, action=action)
    invocation.if_interrupted = "What was stopped stays so: the same command stops the rest."
    done = []
    for project in running:
        console.say(f"Stopping {project.listed.folder} ({project.listed.engine})")
        done.append(projects.stop(project))
    result = DownAllResult(
        tuple(each for each in done if isinstance(each, projects.StoppedProject)),
        tuple(each for each in done if isinstance(each, projects.FailedProject)),
    )
    console.emit(result, lambda: _all_text(result))
    if result.failed:
        raise EngineError(
            f"Not stopped: {counted(len(result.failed), 'project')} of {len(done)}.",
            hint="Look at each: pipectl --project DIR down",
        )


def _all_text(result: DownAllResult) -> RenderableType:
    lines = [
        line(f"Stopped {project.folder} ({project.engine}): {', '.join(project.stopped) or 'nothing ran'}.")
        for project in result.projects
    ]
    for failed in result.failed:
        lines += [
            line(f"Not stopped: {failed.folder} ({failed.engine}): {failed.message}", "bold red"),
            line(failed.hint),
        ]
    return group(*lines or [line("None of your projects was running.")])


def _result_text(result: DownResult) -> RenderableType:
    lines = [line(f"Stopped: {', '.join(result.stopped)}." if result.stopped else "Nothing was running.")]
    if result.deleted:
        lines.append(line(f"Deleted: {', '.join(volume.name for volume in result.deleted)}."))
    return group(*lines)


def _dry_run_text(plan: DownDryRun) -> RenderableType:
    parts = [] if plan.would_delete is None else [volumes_text(plan.would_delete, "Would be deleted")]
    parts.append(line(f"Would be stopped: {', '.join(plan.would_stop) or 'nothing'}."))
    return group(*parts, *commands_text(plan.would_run))
