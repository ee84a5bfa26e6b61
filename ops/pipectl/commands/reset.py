"""reset."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
    line,
    say_commands,
    table,
    volumes_text,
)
from pipectl.commands.snapshot import offer_snapshot
from pipectl.errors import PipectlError, UsageError
from pipectl.names import moment

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.console import Console
    from pipectl.databases import Databases
    from pipectl.invocation import Invocation
    from pipectl.models import DatabaseContent, Volume
    from pipectl.pipeline.consumers import Consumers
    from pipectl.pipeline.lifecycle import ResetResult

# How long `reset --data-only` waits for a run that is in the middle of its work.
ACTIVE_RUN_SECONDS = 120.0

Document: TypeAlias = "ResetResult | ResetDryRun | DataReset | DataResetDryRun"


@dataclass(frozen=True)
class ResetDryRun:
    """What `reset --dry-run` prints: volumes, the docker commands that do the same, `notes` in sentences."""

    would_delete: tuple[Volume, ...]
    would_run: tuple[str, ...] = field(default=(), metadata={"optional": True})
    notes: tuple[str, ...] = field(default=(), metadata={"optional": True})


@dataclass(frozen=True)
class DataReset:
    """What `reset --data-only` did: the tables with the rows that they had until then; notes in sentences."""

    emptied: tuple[DatabaseContent, ...]
    notes: tuple[str, ...] = field(default=(), metadata={"optional": True})


@dataclass(frozen=True)
class DataResetDryRun:
    """What `reset --data-only --dry-run` prints: the tables with their rows; `notes` are sentences."""

    would_empty: tuple[DatabaseContent, ...]
    notes: tuple[str, ...] = field(default=(), metadata={"optional": True})


def reset(
    ctx: typer.Context,
    *,
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Empty the two business databases, leave Airflow running.")
    ] = False,
    propagate: Annotated[
        bool,
        typer.Option("--propagate", help="With --data-only: delete row by row, so that consumers follow."),
    ] = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    timeout: options.UpTimeout = options.UP_SECONDS,
) -> None:
    """Stop, delete this project's data and no other, start again with empty databases.

    Whoever reads changes is named: without --propagate no consumer is told of what is deleted.

    Examples: `pipectl reset --dry-run` · `pipectl reset --yes` · `pipectl reset --data-only --propagate`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import lifecycle  # noqa: PLC0415  with what it imports 60 ms

    engine, console = invocation.engine, invocation.console
    if propagate and not data_only:
        raise UsageError(
            "--propagate goes with --data-only: a whole reset deletes the logs that consumers read.",
            hint="Delete row by row: pipectl reset --data-only --propagate",
        )
    if data_only:
        _reset_data(invocation, propagate=propagate, dry_run=dry_run, yes=yes)
        return
    volumes = engine.volumes()
    notes = _notes(
        _consumers_if_running(invocation),
        "they end with their servers. Clear what they have copied, and make the slot again: "
        "pipectl connections --create-slot",
    )
    if dry_run:
        plan = ResetDryRun(volumes, engine.equivalent("reset"), notes)
        console.emit(
            plan,
            lambda: group(
                volumes_text(volumes, "Would be deleted"), *commands_text(plan.would_run), *_lines(notes)
            ),
        )
        return
    _say_before(console, notes, yes=yes)
    if volumes:
        offer_snapshot(invocation, "before-reset", yes=yes)
    confirm_volumes(invocation, volumes, "reset", yes=yes)
    say_commands(invocation, "reset")
    invocation.if_interrupted = (
        "What was stopped and deleted stays so: the same command goes on, "
        "pipectl up starts with the data that is left."
    )
    with StartProgress(console).shown() as observer:
        result = lifecycle.reset(engine, invocation.settings.dag_id, timeout=timeout, observer=observer)
    result = replace(result, notes=notes)
    console.emit(result, lambda: _result_text(result))


def _reset_data(invocation: Invocation, *, propagate: bool, dry_run: bool, yes: bool) -> None:
    from pipectl.pipeline import lifecycle  # noqa: PLC0415  with what it imports 60 ms
    from pipectl.pipeline.access import own_databases  # noqa: PLC0415
    from pipectl.pipeline.consumers import binlog_loss, require_following  # noqa: PLC0415

    console = invocation.console
    databases = own_databases(invocation.engine)
    consumers = _consumers(invocation, databases)
    if propagate:
        require_following(consumers, databases)
    notes = _notes(
        consumers,
        "they get every deletion."
        if propagate
        else "they are told of no deletion. Clear what they have copied, or delete row by row: "
        "pipectl reset --data-only --propagate",
    )
    if propagate and (loss := binlog_loss(databases)):
        notes += (f"{loss}.",)
    if dry_run:
        plan = DataResetDryRun(databases.content(), notes)
        console.emit(plan, lambda: group(content_text(plan.would_empty, "Would be emptied"), *_lines(notes)))
        return
    _say_before(console, notes, yes=yes)
    question = "Delete every row of airbyte-postgres and airbyte-mysql?"
    command = "reset --data-only --propagate" if propagate else "reset --data-only"
    offer_snapshot(invocation, "before-reset", yes=yes)
    confirm(invocation, question, command, yes=yes)
    invocation.if_interrupted = (
        "Labels go before transactions, so some rows may be gone: the same command deletes the rest, "
        "pipectl verify-db counts what is left."
    )
    result = DataReset(
        lifecycle.empty_databases(
            invocation.engine,
            invocation.settings.dag_id,
            propagate=propagate,
            timeout=ACTIVE_RUN_SECONDS,
            observer=Progress(console),
        ),
        notes,
    )
    console.emit(
        result, lambda: group(content_text(result.emptied, "Emptied; rows until now"), *_lines(notes))
    )


def _consumers_if_running(invocation: Invocation) -> Consumers:
    """Return who reads changes; nobody if the databases do not run."""
    from pipectl.pipeline.access import business_databases  # noqa: PLC0415
    from pipectl.pipeline.consumers import Consumers  # noqa: PLC0415

    try:
        return _consumers(invocation, business_databases(invocation.engine))
    except PipectlError:
        return Consumers()


def _consumers(invocation: Invocation, databases: Databases) -> Consumers:
    from pipectl.databases import Databases  # noqa: PLC0415
    from pipectl.pipeline.consumers import consumers  # noqa: PLC0415

    login = invocation.settings.replication_login
    readers = [Databases(login.at(databases.postgres), login.at(databases.mysql))] if login.password else []
    return consumers(databases, *readers)


def _notes(found: Consumers, consequence: str) -> tuple[str, ...]:
    """Name who reads changes, and say what becomes of them."""
    return (f"Changes are read by {found.names}: {consequence}",) if found.names else ()


def _say_before(console: Console, notes: tuple[str, ...], *, yes: bool) -> None:
    """Say the notes before the question; without one they come with the result."""
    for note in () if yes else notes:
        console.say(note)


def _lines(notes: tuple[str, ...]) -> tuple[RenderableType, ...]:
    return tuple(line(note, "yellow") for note in notes)


def _result_text(result: ResetResult) -> RenderableType:
    """Return the proof of a reset: the deleted volumes, the new ones, and since when each existed."""
    before = {volume.name: volume.created for volume in result.deleted}
    rows: list[tuple[object, ...]] = [
        (volume.name, moment(before.get(volume.name)), moment(volume.created)) for volume in result.created
    ]
    proof = table("volume", "deleted, was from", "new, created", rows=rows, title="Reset")
    return group(proof, *([up.result_text(result.up)] if result.up else []), *_lines(result.notes))
