"""snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options
from pipectl.commands import up
from pipectl.commands.shared import Progress, StartProgress, confirm, group, line, table
from pipectl.errors import UsageError
from pipectl.names import command, counted, moment, size
from pipectl.wait import interrupts_held

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.snapshot_store import Snapshot, Store
    from pipectl.pipeline.snapshots import SnapshotRestored, SnapshotSaved

# How long a run that is in the middle of its work is waited for.
ACTIVE_RUN_SECONDS = 120.0
LARGEST_TABLES = 2

Document: TypeAlias = "SnapshotSaved | SnapshotList | SnapshotRestored | SnapshotRemoved"


@dataclass(frozen=True)
class SnapshotList:
    """What `snapshot list` prints: the snapshots, oldest first, and why others cannot be used."""

    snapshots: tuple[Snapshot, ...]
    unusable: dict[str, str]


@dataclass(frozen=True)
class SnapshotRemoved:
    """What `snapshot rm` did."""

    removed: str


class Action(StrEnum):
    """What to do with a snapshot."""

    SAVE = "save"
    LIST = "list"
    RESTORE = "restore"
    RM = "rm"


def snapshot(
    ctx: typer.Context,
    action: Annotated[Action, typer.Argument(help="What to do.", show_default=False)],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The snapshot's name.", show_default=False)
    ] = None,
    *,
    portable: Annotated[
        bool, typer.Option("--portable", help="save: as dumps, for any engine and machine.")
    ] = False,
    keep_slots: Annotated[
        bool | None,
        typer.Option(
            "--keep-slots/--drop-slots",
            help="restore: what becomes of the replication slots in the snapshot.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait",
            min=0,
            help="save: seconds to wait for the end of active runs.",
            show_default=f"{ACTIVE_RUN_SECONDS}",
        ),
    ] = None,
    yes: options.Yes = False,
    timeout: options.UpTimeout = options.UP_SECONDS,
) -> None:
    """Save the data of both databases and of Airflow at one moment, and go back to it.

    The databases rest while they are copied, and no run is started; a restore ends the runs that are active,
    and keeps the data of before until all is healthy with the new. Snapshots lie in .pipectl/snapshots, hold
    passwords and keys, and stay when `reset` and `down --volumes` delete data.

    Examples: `pipectl snapshot save before-the-load` · `pipectl snapshot list` ·
    `pipectl snapshot restore before-the-load` · `pipectl snapshot rm before-the-load`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline.snapshot_store import Store  # noqa: PLC0415  20 ms

    store = Store(invocation.settings)
    if keep_slots is not None and action is not Action.RESTORE:
        raise UsageError("--keep-slots and --drop-slots go with restore.", hint="Leave them out.")
    if portable and action is not Action.SAVE:
        raise UsageError("--portable goes with save.", hint="Leave it out: a snapshot says what it is.")
    if wait is not None and action is not Action.SAVE:
        raise UsageError(
            "--wait goes with save.",
            hint="Leave it out: a restore ends runs, and nothing else waits for any.",
        )
    if action is Action.LIST:
        if name:
            raise UsageError("`pipectl snapshot list` takes no name.", hint="It lists all.")
        snapshots, unusable = store.all()
        found = SnapshotList(
            snapshots, {name: f"{error.message} {error.hint}" for name, error in unusable.items()}
        )
        invocation.console.emit(found, lambda: _list_text(found))
        return
    if not name:
        raise UsageError(
            f"`pipectl snapshot {action}` needs a snapshot's name.",
            hint="What there is: pipectl snapshot list",
        )
    if action is Action.SAVE:
        hold = ACTIVE_RUN_SECONDS if wait is None else wait
        save(invocation, store, name, portable=portable, wait=hold, timeout=timeout)
    elif action is Action.RESTORE:
        _restore(invocation, store, name, keep_slots=keep_slots, timeout=timeout, yes=yes)
    else:
        _remove(invocation, store, name, yes=yes)


def save(
    invocation: Invocation, store: Store, name: str, *, portable: bool = False, wait: float, timeout: float
) -> None:
    """Make a snapshot, and show it."""
    from pipectl.pipeline import snapshots  # noqa: PLC0415  with what it imports 60 ms

    invocation.if_interrupted = "Nothing was saved."
    with StartProgress(invocation.console).shown() as observer:
        saved = snapshots.save(
            invocation.engine,
            invocation.settings,
            store,
            name,
            portable=portable,
            hold_timeout=wait,
            up_timeout=timeout,
            observer=observer,
        )
    invocation.if_interrupted = f"The snapshot {name} is saved."
    invocation.console.emit(saved, lambda: _saved_text(saved))


def offer_snapshot(invocation: Invocation, name: str, *, yes: bool) -> None:
    """Ask whether data that is about to be deleted is to be saved first; not if nobody is there to answer."""
    if yes or invocation.console.json or not invocation.console.confirm("Save a snapshot of all data first?"):
        return
    from pipectl.pipeline.snapshot_store import Store  # noqa: PLC0415  20 ms

    name = f"{name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    save(invocation, Store(invocation.settings), name, wait=ACTIVE_RUN_SECONDS, timeout=options.UP_SECONDS)


def _restore(
    invocation: Invocation,
    store: Store,
    name: str,
    *,
    keep_slots: bool | None,
    timeout: float,
    yes: bool,
) -> None:
    from pipectl.pipeline import snapshots  # noqa: PLC0415  with what it imports 60 ms

    engine, settings = invocation.engine, invocation.settings
    chosen = snapshots.require_restorable(
        engine, settings, store, name, keep_slots=keep_slots, observer=Progress(invocation.console)
    )
    if not yes:
        invocation.console.show(table(*HEADERS, rows=[_row(chosen)], title="To be restored"))
    if active := snapshots.active_runs(engine):
        invocation.console.say(
            f"Active now, and ended with the services: {snapshots.named_runs(active)}."
            " What their tasks have written elsewhere stays."
        )
    confirm(
        invocation,
        "Replace the data of airbyte-postgres, airbyte-mysql and Airflow by it?",
        f"snapshot restore {name}",
        yes=yes,
    )
    invocation.if_interrupted = "All data is that of before."
    with StartProgress(invocation.console).shown() as observer:
        restored = snapshots.restore(
            engine,
            settings,
            store,
            chosen,
            settings.dag_id,
            keep_slots=keep_slots,
            up_timeout=timeout,
            observer=observer,
        )
    invocation.if_interrupted = f"All data is that of the snapshot {name}."
    invocation.console.emit(restored, lambda: _restored_text(restored))


def _remove(invocation: Invocation, store: Store, name: str, *, yes: bool) -> None:
    store.require_folder(name)
    confirm(invocation, f"Delete the snapshot {name}?", f"snapshot rm {name}", yes=yes)
    invocation.if_interrupted = "Nothing was deleted."
    with invocation.engine.lock(), interrupts_held():
        store.remove(name)
        invocation.if_interrupted = f"Deleted: {name}."
    removed = SnapshotRemoved(name)
    invocation.console.emit(removed, lambda: line(f"Deleted: {name}."))


HEADERS = ("snapshot", "made", "engine", "size", "rows", "made with")


def _row(found: Snapshot) -> tuple[object, ...]:
    largest = sorted((found.rows or {}).items(), key=lambda item: -item[1])[:LARGEST_TABLES]
    without = "unknown" if found.rows is None else "no tables"
    rows = ", ".join(f"{name} {count:,}" for name, count in largest) or without
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return found.name, moment(found.created), found.engine, size(found.bytes), rows, versions


def _list_text(found: SnapshotList) -> RenderableType:
    if not found.snapshots and not found.unusable:
        return line("There is no snapshot. Make one: pipectl snapshot save NAME")
    parts = [table(*HEADERS, rows=[_row(each) for each in found.snapshots])] if found.snapshots else []
    return group(*parts, *(line(reason, "yellow") for reason in found.unusable.values()))


def _saved_text(saved: SnapshotSaved) -> RenderableType:
    found = saved.snapshot
    rest = f", of which the databases rested {saved.away_seconds:.1f} s" if saved.away_seconds else ""
    return group(
        line(f"Saved {found.name} in {saved.seconds:.1f} s{rest}", "bold green"),
        line(f"  {size(found.bytes)} in {counted(found.files, 'file')}: {saved.folder}"),
        line("  It holds passwords and keys, readable for you alone."),
        line(f"  To go back: {command('snapshot', 'restore', found.name)}"),
    )


def _restored_text(restored: SnapshotRestored) -> RenderableType:
    found = restored.snapshot
    return group(
        line(f"Restored {found.name}, made {moment(found.created)}", "bold green"),
        *(line(f"  {note}", "yellow") for note in restored.notes),
        up.result_text(restored.up),
    )
