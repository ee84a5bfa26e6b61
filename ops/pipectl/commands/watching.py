"""What `status --watch` does and shows: one screen, plain text, or a JSON document for each look."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipectl.commands.shared import STATE_STYLES
from pipectl.commands.status import slot_text
from pipectl.engines.project import ENGINE_FILE
from pipectl.names import counted, size
from pipectl.pipeline.watching import MOST_WAITING, MOST_WRITTEN, Watch
from pipectl.settings import kept_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import rich.console
    from rich.console import ConsoleOptions
    from rich.text import Text

    from pipectl.engines.base import Engine
    from pipectl.invocation import Invocation
    from pipectl.models import DagRun
    from pipectl.pipeline.watching import Watched, WatchedService
    from pipectl.settings import Settings

# How long an answer is waited for before a look goes on without it.
PATIENCE_SECONDS = 3.0
# Of the lines that there are, those that alerts have in any case: one in so many.
ALERTS_SHARE = 4
INDENT = "  "
# Of the columns of services, the first whose cells stand right.
FIRST_FIGURE = 2
# From here on there is room for figures one below the other.
WIDE = 70


def watch_stack(invocation: Invocation, seconds: float) -> None:
    """Look every so many seconds, and show each look; return once the user has typed q."""
    watch, console = Watch(_Current(invocation).stack), invocation.console
    look, rhythm = watch.look(PATIENCE_SECONDS), Rhythm(seconds)
    if console.has_screen:
        with console.screen() as screen:
            screen.draw(Picture(look))
            while screen.wait(rhythm.pause()):
                look = watch.look(PATIENCE_SECONDS)
                screen.draw(Picture(look))
        return
    while True:
        console.line(look, "\n".join(text.plain for text in (*lines_of(look), _line(""))))
        time.sleep(rhythm.pause())
        look = watch.look(PATIENCE_SECONDS)


class Rhythm:
    """When the next look is due, every so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due = time.monotonic()

    def pause(self) -> float:
        """Return the seconds until the next look: none after one that took longer than it may."""
        now = time.monotonic()
        self._due = max(self._due + self._seconds, now)
        return self._due - now


class _Current:
    """The settings and the engine of an invocation, read anew once one of their files has changed."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._marks = self._read_marks()

    def stack(self) -> tuple[Settings, Engine]:
        """Return both. Raises UsageError for a file that cannot be used."""
        marks = self._read_marks()
        if marks != self._marks:
            old = self._invocation
            fresh = type(old)(old.console, old.project, old.engine_name)
            found = fresh.settings, fresh.engine
            self._invocation, self._marks = fresh, marks
            return found
        return self._invocation.settings, self._invocation.engine

    def _read_marks(self) -> list[tuple[int, int]]:
        settings = self._invocation.settings
        marks = []
        for path in (settings.env_path, kept_path(settings.project), settings.state_dir / ENGINE_FILE):
            try:
                status = path.stat()
            except OSError:
                marks.append((0, 0))
            else:
                marks.append((status.st_mtime_ns, status.st_ino))
        return marks


def lines_of(look: Watched) -> list[Text]:
    """Return all that a look saw, line by line."""
    parts = (_head(look), *_services(look), *_data(look), *_runs(look, len(look.runs)), *_alerts(look))
    return list(parts)


@dataclass(frozen=True)
class Picture:
    """A look, as much of it as a terminal has room for: services first, of runs what is left."""

    look: Watched

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> Iterator[Text]:
        width, height = options.max_width, options.height or console.height
        for text in self._fitting(console, width, height):
            text.truncate(width, overflow="ellipsis")
            yield text

    def _fitting(self, console: rich.console.Console, width: int, height: int) -> list[Text]:
        look = self.look
        alerts = [part for alert in _alerts(look) for part in alert.wrap(console, max(width, 1))]
        services, data = list(_services(look, width)), list(_data(look, width))
        left = max(height - 1, 0)
        reserved = min(len(alerts), max(left // ALERTS_SHARE, 1), left)
        sections = [services[: left - reserved]]
        left -= len(sections[-1]) + reserved
        sections.append(data[:left])
        left -= len(sections[-1])
        runs = list(_runs(look, min(len(look.runs), left - 1)))
        sections.append(runs)
        left -= len(runs)
        shown = alerts[: reserved + left]
        left -= len(shown) - reserved
        if shown and len(shown) < len(alerts):
            more = counted(len(alerts) - len(shown) + 1, "more line")
            shown[-1:] = [_line(f"{more}: pipectl status --watch --json", style="yellow")]
        sections.append(shown)
        lines = [_head(look, width)]
        for section in filter(None, sections):
            # Empty lines only if nothing else is left out.
            if left > 0:
                lines.append(_line(""))
                left -= 1
            lines += section
        return lines[:height]


def _line(text: str, style: str = "") -> Text:
    from rich.text import Text  # 25 ms

    return Text(text, style=style)


def _head(look: Watched, width: int = 0) -> Text:
    name, clock = f"{look.project} ({look.engine})", look.time.astimezone().strftime("%H:%M:%S")
    room = width - len(clock) - 2
    if 0 < room < len(name):  # the end of a path says most
        name = f"…{name[len(name) - room + 1 :]}"
    return _line(f"{name}  {clock:>{max(width - len(name) - 2, 0)}}", style="bold")


def _services(look: Watched, width: int = 0) -> Iterator[Text]:
    """Yield a line per service, in columns that fit a width, if it is given: no figure is cut."""
    rows = [("service", "state", "CPU %", "memory", "port")]
    for service in look.services:
        share = "" if service.cpu_percent is None else f"{service.cpu_percent:.1f}"
        memory = "" if service.memory_bytes is None else size(service.memory_bytes)
        rows.append((service.name, _state(service), share, memory, str(service.port or "")))
    used = [service for service in look.services if service.memory_bytes is not None]
    if used:
        share = f"{sum(service.cpu_percent or 0 for service in used):.1f}"
        memory = size(sum(service.memory_bytes or 0 for service in used))
        rows.append(("together", "", share, memory, ""))
    columns, gap, widths = _columns(rows, width)
    for number, row in enumerate(rows):
        is_service = 0 < number <= len(look.services)
        text = _line("", style="" if is_service else "dim")
        for column in columns:
            cell = f"{row[column]:{'<' if column < FIRST_FIGURE else '>'}{widths[column]}}"
            style = STATE_STYLES.get(row[column], "") if is_service and column == 1 else ""
            text.append(f"{gap if column else ''}{cell}", style=style)
        kind = f"{gap}memory: {look.memory_kind}"
        if used and number == len(rows) - 1 and (not width or len(text) + len(kind) <= width):
            text.append(kind)
        yield text


def _columns(rows: Sequence[tuple[str, ...]], width: int) -> tuple[tuple[int, ...], str, list[int]]:
    """Return the columns to show, what stands between them and their widths: what matters most if not all."""
    needed = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    # The same from one look to the next.
    steady = [max(have, least) for have, least in zip(needed, (7, 8, 6, 9, 5), strict=True)]
    forms = (
        ((0, 1, 2, 3, 4), "  ", steady),
        ((0, 1, 2, 3), "  ", steady),
        ((0, 1, 2, 3), " ", needed),
        ((0, 1, 3), " ", needed),
        ((0, 1), " ", needed),
    )
    for columns, gap, widths in forms:
        if not width or sum(widths[column] for column in columns) + len(gap) * (len(columns) - 1) <= width:
            return columns, gap, widths
    return forms[-1]


def _state(service: WatchedService) -> str:
    return service.health or service.state


def _data(look: Watched, width: int = 0) -> Iterator[Text]:
    names = max((len(table.name) for table in look.tables), default=0)
    numbers = 0 if 0 < width < WIDE else 21
    for table in look.tables:
        rows = f"{'about ' if table.estimated else ''}{counted(table.rows, 'row')}"
        written = _at_most(table.written_last_minute, MOST_WRITTEN)
        yield _line(f"{table.name:<{names}}  {rows:>{numbers}}, {written} in the last minute")
    if labels := look.labels:
        over = "over " if labels.waiting >= MOST_WAITING else ""
        waiting = f"{over}{counted(labels.waiting, 'transaction')}, {labels.lag_seconds:,.0f} s"
        rate = "" if labels.fraud_rate is None else f"; {labels.fraud_rate:.2%} of the latest are fraud"
        yield _line(f"labels behind: {waiting if labels.waiting else 'nothing'}{rate}")
    for slot in look.slots:
        yield _line(slot_text(slot), style="bold red" if slot.danger else "")
    if dag := look.dag:
        planned = f"on, next run {dag.next_run}" if dag.next_run else "on, no run is planned"
        yield _line(f"{dag.dag_id}: {'paused' if dag.paused else planned}")


def _at_most(count: int, most: int) -> str:
    return f"{count:,}" if count < most else f"over {most:,}"


def _runs(look: Watched, count: int) -> Iterator[Text]:
    if count <= 0:
        return
    runs = look.runs[:count]
    # The pipeline's is named above.
    others = {run.dag_id for run in runs} - {look.dag.dag_id if look.dag else ""}
    width = max(len(run.dag_id) for run in runs) if others else 0
    yield _line(f"{'run':<9}  {'begun':<8}  {'s':>6}  {'DAG' if others else 'id':<{width}}", style="dim")
    for run in runs:
        text = _line("")
        text.append(f"{run.outcome:<9}", style=STATE_STYLES.get(run.outcome, ""))
        dag = f"{run.dag_id:<{width}}  " if others else ""
        yield text.append(f"  {_clock(run):<8}  {_seconds(run):>6}  {dag}{run.run_id}")


def _clock(run: DagRun) -> str:
    return run.start.astimezone().strftime("%H:%M:%S") if run.start else ""


def _seconds(run: DagRun) -> str:
    return "" if run.seconds is None else f"{run.seconds:.1f}"


def _alerts(look: Watched) -> Iterator[Text]:
    for alert in look.alerts:
        yield _line(f"! {alert}", style="yellow")
