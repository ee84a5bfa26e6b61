"""load."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl.commands.shared import Progress, group, line
from pipectl.errors import UsageError
from pipectl.names import counted, duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

    from pipectl.console import Console
    from pipectl.invocation import Invocation
    from pipectl.models import LoadProgress
    from pipectl.observer import Observer
    from pipectl.pipeline.loading import LoadResult

MOST_SHARDS = 32
BAR_WIDTH = 30
# Without a terminal: a line of progress for each tenth.
STEPS = 10

Document: TypeAlias = "LoadResult"


def load(
    ctx: typer.Context,
    *,
    transactions: Annotated[
        int, typer.Option(min=1, max=1_000_000_000, help="How many, e.g. 10_000_000.")
    ] = 1_000_000,
    days: Annotated[int, typer.Option(min=1, max=3650, help="The days up to now that they fall in.")] = 90,
    shards: Annotated[
        int, typer.Option(min=1, max=MOST_SHARDS, help="Processes that write transactions side by side.")
    ] = 1,
    wait_for_slots: Annotated[
        bool,
        typer.Option("--wait-for-slots", help="Write no faster than replication slots' readers read."),
    ] = False,
    drop_slots: Annotated[
        bool,
        typer.Option("--drop-slots", help="Drop the replication slots that cannot hold the load."),
    ] = False,
) -> None:
    """Load a history of transactions with their labels, fast; interrupted, the same command goes on.

    If a replication slot cannot hold it, nothing is written: choose one of the last two options. On several
    machines the DAG `load_history` does the same.

    Examples: `pipectl load` · `pipectl load --transactions 10_000_000 --days 90 --shards 2` ·
    `pipectl load --json`
    """
    invocation: Invocation = ctx.obj
    from pipectl.databases import Databases  # noqa: PLC0415  60 ms
    from pipectl.pipeline import consumers  # noqa: PLC0415
    from pipectl.pipeline.access import business_databases  # noqa: PLC0415
    from pipectl.pipeline.loading import HistoryLoader, SlotsTooSmallError, seed_of  # noqa: PLC0415

    if wait_for_slots and drop_slots:
        raise UsageError("--wait-for-slots and --drop-slots exclude each other.", hint="Give one of them.")
    engine, settings, console = invocation.engine, invocation.settings, invocation.console
    addresses = engine.databases()
    databases = business_databases(engine)
    for address in addresses:
        databases.ping(address.service)
    log = consumers.binary_log(databases)
    if console.is_live and databases.estimated_transactions():
        console.say("To be able to go back: Ctrl-C, then pipectl snapshot save before-the-load")
    invocation.if_interrupted = (
        "Nothing is written any more, and what is committed stays: the same command goes on from there."
    )
    with _LoadProgress(console).shown() as observer:
        seed = seed_of(settings.variables)
        loader = HistoryLoader(settings.project, addresses, seed=seed, observer=observer)
        load_all = partial(
            loader.load,
            transactions=transactions,
            days=days,
            shards=shards,
            wait_for_slots=wait_for_slots,
            binlog_limit=log.limit_bytes if log else None,
        )
        try:
            result = load_all()
        except SlotsTooSmallError as error:
            if not drop_slots:
                raise
            login = settings.replication_login
            postgres = login.at(databases.postgres) if login.password else databases.postgres
            consumers.drop_slots(Databases(postgres, databases.mysql), error.slots)
            console.say(f"Dropped: {', '.join(error.slots)}. Their readers begin again with a snapshot.")
            result = load_all()
    console.emit(result, lambda: result_text(result))


def progress_text(progress: LoadProgress) -> str:
    """Return one line: how much, how fast, how long it will take."""
    share = progress.done / progress.total if progress.total else 1.0
    filled = round(share * BAR_WIDTH)
    text = (
        f"{progress.phase:<12} {'━' * filled}{'─' * (BAR_WIDTH - filled)} {share:4.0%}"
        f"  {progress.done:,} of {progress.total:,}"
    )
    if progress.rate:
        text += f"  {progress.rate:,.0f} rows/s"
    if progress.left is not None and progress.done < progress.total:
        text += f"  {duration(progress.left)} left"
    return text


def result_text(result: LoadResult) -> RenderableType:
    """Return what was loaded and how fast."""

    def speed(rows: int, seconds: float) -> str:
        return f"{rows:,} in {duration(seconds)}" + (f" ({rows / seconds:,.0f} rows/s)" if rows else "")

    lines = [
        line(f"Loaded {result.load} in {duration(result.seconds)}", "bold green"),
        line(f"  Transactions  {speed(result.transactions, result.transactions_seconds)}"),
        line(
            f"  Labels        {speed(result.labels, result.labels_seconds)}, {result.frauds:,} of them fraud"
        ),
    ]
    if result.resumed:
        lines.insert(
            1,
            line(
                f"  Taken up: {counted(result.resumed, 'transaction was', 'transactions were')} there already"
            ),
        )
    return group(*lines)


class _LoadProgress(Progress):
    """Shows how far a load is: live lines in a terminal, a line for each tenth elsewhere."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._latest: dict[str, LoadProgress] = {}
        self._steps: dict[str, int] = {}
        self._redraw: Callable[[], None] = lambda: None

    def see_load(self, progress: LoadProgress) -> None:
        """Show it."""
        self._latest[progress.phase] = progress
        self._redraw()
        step = STEPS * progress.done // progress.total if progress.total else STEPS
        if not self._console.is_live and step > self._steps.get(progress.phase, 0):
            self._steps[progress.phase] = step
            self._console.say(progress_text(progress))

    @contextmanager
    def shown(self) -> Iterator[Observer]:
        """Draw the live lines while the block runs."""
        with self._console.live(
            lambda: group(*(line(progress_text(phase)) for phase in tuple(self._latest.values())))
        ) as self._redraw:
            yield self
