"""down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options  # noqa: TC001  Typer reads annotations at run time
from pipectl.commands.shared import commands_text, confirm_volumes, group, line, say_commands, volumes_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.models import Volume

Document: TypeAlias = "DownResult | DownDryRun"


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


def down(
    ctx: typer.Context,
    *,
    volumes: Annotated[bool, typer.Option("--volumes", help="Delete this project's data too.")] = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
) -> None:
    """Stop everything; the data stays unless --volumes is given.

    Examples: `pipectl down` · `pipectl down --volumes --yes`
    """
    invocation: Invocation = ctx.obj
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


def _result_text(result: DownResult) -> RenderableType:
    lines = [line(f"Stopped: {', '.join(result.stopped)}." if result.stopped else "Nothing was running.")]
    if result.deleted:
        lines.append(line(f"Deleted: {', '.join(volume.name for volume in result.deleted)}."))
    return group(*lines)


def _dry_run_text(plan: DownDryRun) -> RenderableType:
    parts = [] if plan.would_delete is None else [volumes_text(plan.would_delete, "Would be deleted")]
    parts.append(line(f"Would be stopped: {', '.join(plan.would_stop) or 'nothing'}."))
    return group(*parts, *commands_text(plan.would_run))
