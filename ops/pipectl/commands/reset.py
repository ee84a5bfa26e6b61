"""reset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options
from pipectl.commands import up
from pipectl.commands.shared import (
    Progress,
    StartProgress,
    commands_text,
    confirm,
    confirm_volumes,
    content_text,
    group,
    moment,
    say_commands,
    table,
    volumes_text,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.models import DatabaseContent, Volume
    from pipectl.pipeline.lifecycle import ResetResult

# How long `reset --data-only` waits for a run that is in the middle of its work.
ACTIVE_RUN_SECONDS = 120.0

Document: TypeAlias = "ResetResult | ResetDryRun | DataReset | DataResetDryRun"


@dataclass(frozen=True)
class ResetDryRun:
    """What `reset --dry-run` prints: volumes, and the docker commands that do the same."""

    would_delete: tuple[Volume, ...]
    would_run: tuple[str, ...] = field(default=(), metadata={"optional": True})


@dataclass(frozen=True)
class DataReset:
    """What `reset --data-only` did: the tables with the rows that they had until then."""

    emptied: tuple[DatabaseContent, ...]


@dataclass(frozen=True)
class DataResetDryRun:
    """What `reset --data-only --dry-run` prints: the tables with their rows."""

    would_empty: tuple[DatabaseContent, ...]


def reset(
    ctx: typer.Context,
    *,
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Empty the two business databases, leave Airflow running.")
    ] = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    timeout: options.UpTimeout = options.UP_SECONDS,
) -> None:
    """Stop, delete this project's data and no other, start again with empty databases.

    Examples: `pipectl reset --dry-run` · `pipectl reset --yes` · `pipectl reset --data-only --yes`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import lifecycle  # noqa: PLC0415  with what it imports 60 ms

    engine, console = invocation.engine, invocation.console
    if data_only:
        _reset_data(invocation, dry_run=dry_run, yes=yes)
        return
    volumes = engine.volumes()
    if dry_run:
        plan = ResetDryRun(volumes, engine.equivalent("reset"))
        console.emit(
            plan,
            lambda: group(volumes_text(volumes, "Would be deleted"), *commands_text(plan.would_run)),
        )
        return
    confirm_volumes(invocation, volumes, "reset", yes=yes)
    say_commands(invocation, "reset")
    with StartProgress(console).shown() as observer:
        result = lifecycle.reset(engine, invocation.settings.dag_id, timeout=timeout, observer=observer)
    console.emit(result, lambda: _result_text(result))


def _reset_data(invocation: Invocation, *, dry_run: bool, yes: bool) -> None:
    from pipectl.pipeline import lifecycle  # noqa: PLC0415  with what it imports 60 ms
    from pipectl.pipeline.access import own_databases  # noqa: PLC0415

    console = invocation.console
    databases = own_databases(invocation.engine)
    if dry_run:
        plan = DataResetDryRun(databases.content())
        console.emit(plan, lambda: content_text(plan.would_empty, "Would be emptied"))
        return
    question = "Delete every row of airbyte-postgres and airbyte-mysql?"
    confirm(invocation, question, "reset --data-only", yes=yes)
    result = DataReset(
        lifecycle.empty_databases(
            invocation.engine,
            invocation.settings.dag_id,
            timeout=ACTIVE_RUN_SECONDS,
            observer=Progress(console),
        )
    )
    console.emit(result, lambda: content_text(result.emptied, "Emptied; rows until now"))


def _result_text(result: ResetResult) -> RenderableType:
    """Return the proof of a reset: the deleted volumes, the new ones, and since when each existed."""
    before = {volume.name: volume.created for volume in result.deleted}
    rows: list[tuple[object, ...]] = [
        (volume.name, moment(before.get(volume.name)), moment(volume.created)) for volume in result.created
    ]
    proof = table("volume", "deleted, was from", "new, created", rows=rows, title="Reset")
    return group(proof, up.result_text(result.up)) if result.up else proof
