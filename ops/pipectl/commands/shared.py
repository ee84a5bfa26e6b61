"""What two or more commands share: tables, the confirmation, the live progress, the way to Airflow."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from textwrap import indent
from typing import TYPE_CHECKING

from pipectl.console import Group, Line
from pipectl.errors import UsageError
from pipectl.names import counted, listed, moment, size
from pipectl.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import rich.console
    from rich.console import ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.table import Table

    from pipectl.airflow_api import AirflowApi
    from pipectl.console import Console
    from pipectl.invocation import Invocation
    from pipectl.models import DatabaseContent, ImportFailure, ParsedDag, Service, Volume

NAMED = NAMED_FAILURES = 3
WIDEST = 10_000
INDENT = 5
# How long a start may say nothing.
SILENT_SECONDS = 10
STATE_STYLES = {
    "healthy": "green",
    "on": "green",
    "running": "green",
    "success": "green",
    "starting": "yellow",
    "queued": "yellow",
    "waiting": "dim",
    "up_for_retry": "yellow",
    "stopped": "dim",
    "paused": "dim",
    "broken": "bold red",
    "cancelled": "bold red",
    "crashed": "bold red",
    "failed": "bold red",
    "unhealthy": "bold red",
    "gone": "yellow",
}


def table(*headers: str, rows: list[tuple[object, ...]], title: str = "") -> RenderableType:
    """Return rows under headers; numbers stand right.

    Columns that there is no room for, the widest first, stand below each row instead. No value is cut or
    broken, so that a command in it can be copied.
    """
    return _Fitting(headers, tuple(rows), title)


@dataclass(frozen=True)
class _Fitting:
    """A table of the width that there is."""

    headers: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    title: str

    def __rich_console__(
        self, console: rich.console.Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        from rich.measure import Measurement
        from rich.text import Text

        if self.title:
            yield Text(self.title, style="table.title")
        columns = list(range(len(self.headers)))
        unlimited = options.update(width=WIDEST)

        def needed() -> int:
            return Measurement.get(console, unlimited, self._table(columns)).maximum

        while len(columns) > 1 and needed() > options.max_width:
            columns.remove(max(columns[1:], key=self._width))
        if console.soft_wrap:  # no terminal
            options = options.update(width=max(needed(), options.max_width))
        below = [index for index in range(len(self.headers)) if index not in columns]
        if needed() > options.max_width:
            parts: list[RenderableType] = [Text(f"{self.headers[0]}: {_cell(row[0])}") for row in self.rows]
        else:
            lines = console.render_lines(self._table(columns), options, pad=False)
            heights = [max(self._lines(row, index) for index in columns) for row in self.rows]
            # Headers come first, an empty line last.
            position = len(lines) - 1 - sum(heights)
            yield _segments(lines[:position])
            ends = list(accumulate(heights, initial=position))
            parts = [_segments(lines[start:end]) for start, end in pairwise(ends)]
        for row, part in zip(self.rows, parts, strict=True):
            yield part
            for index in below:
                if cell := _cell(row[index]):
                    yield Text(indent(f"{self.headers[index]}: {cell}", " " * INDENT))
        yield ""

    def _table(self, columns: list[int]) -> Table:
        from rich import box  # 25 ms
        from rich.table import Table
        from rich.text import Text

        lines = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for index in columns:
            numeric = bool(self.rows) and all(isinstance(row[index], int | float) for row in self.rows)
            lines.add_column(self.headers[index], justify="right" if numeric else "left", overflow="fold")
        for row in self.rows:
            cells = (row[index] for index in columns)
            lines.add_row(*(Text(_cell(value), style=STATE_STYLES.get(str(value), "")) for value in cells))
        return lines

    def _width(self, index: int) -> int:
        return max((len(line) for row in self.rows for line in _cell(row[index]).split("\n")), default=0)

    def _lines(self, row: tuple[object, ...], index: int) -> int:
        return _cell(row[index]).count("\n") + 1


def _segments(lines: list[list[Segment]]) -> RenderableType:
    from rich.segment import Segment, Segments

    return Segments([segment for line in lines for segment in (*line, Segment.line())])


def group(*parts: RenderableType) -> RenderableType:
    """Return several renderables one below the other."""
    return Group(parts)


def line(text: str, style: str = "") -> RenderableType:
    """Return text in which brackets are brackets."""
    return Line(text, style)


def volumes_text(volumes: tuple[Volume, ...], title: str) -> RenderableType:
    """Return the volumes that a command is about."""
    if not volumes:
        return line(f"{title}: nothing, there is no data of this project.")
    rows: list[tuple[object, ...]] = [
        (volume.name, volume.location, moment(volume.created), size(volume.bytes)) for volume in volumes
    ]
    return table("volume", "location", "created", "size", rows=rows, title=title)


def content_text(content: tuple[DatabaseContent, ...], title: str) -> RenderableType:
    """Return tables and rows of databases."""
    rows: list[tuple[object, ...]] = [
        (database.name, counted.name, counted.rows) for database in content for counted in database.tables
    ]
    if not rows:
        return line(f"{title}: no tables in {' and '.join(database.name for database in content)}.")
    return table("database", "table", "rows", rows=rows, title=title)


def import_failures_text(failures: tuple[ImportFailure, ...]) -> tuple[RenderableType, ...]:
    """Return which DAG files Airflow cannot import, why it cannot import the first, and how many they are."""
    from pipectl.airflow_answers import import_reason  # noqa: PLC0415  2 ms, for broken files alone

    lines = [
        f"Warning   Airflow cannot import {failure.filename}: {import_reason(failure.stack_trace)}"
        for failure in failures[:NAMED_FAILURES]
    ]
    if failures:
        files = f"{counted(len(failures), 'DAG file')} {'is' if len(failures) == 1 else 'are'}"
        others = ", ".join(failure.filename for failure in failures[NAMED_FAILURES:])
        also = f", {others} too" if others else ""
        lines += [
            f"          {files} broken{also}.",
            "          What to mend: pipectl check",
            "          The whole errors: pipectl dags",
        ]
    return tuple(line(text, "yellow") for text in lines)


def commands_text(commands: tuple[str, ...]) -> tuple[RenderableType, ...]:
    """Return the commands of another program, as one would type them."""
    return tuple(line(f"$ {command}") for command in commands)


def say_commands(invocation: Invocation, action: str) -> None:
    """With --verbose, say which commands of another program `action` stands for."""
    if invocation.console.verbose:
        for command in invocation.engine.equivalent(action):
            invocation.console.say(f"$ {command}")


def confirm_volumes(invocation: Invocation, volumes: tuple[Volume, ...], command: str, *, yes: bool) -> None:
    """Return if there are none, or the user agrees that `command` deletes the volumes; UsageError if not."""
    if not volumes:
        return
    if not yes:
        invocation.console.show(volumes_text(volumes, "To be deleted"))
        from pipectl.pipeline.snapshot_store import Store  # noqa: PLC0415  20 ms, for a question alone

        if names := Store(invocation.settings).names():
            invocation.console.say(f"Snapshots stay: {listed(list(names[:NAMED]), len(names))}.")
    confirm(
        invocation,
        f"Delete {'this' if len(volumes) == 1 else 'these'} {counted(len(volumes), 'volume')}?",
        command,
        yes=yes,
    )


def confirm(
    invocation: Invocation,
    question: str,
    command: str,
    *,
    yes: bool,
    action: tuple[str, str] = ("deletes data", "deleted"),
) -> None:
    """Return if the user agrees to an action; UsageError for a no, and if nobody can be asked."""
    if yes:
        return
    does, done = action
    answer = invocation.console.confirm(question)
    if answer is None:
        raise UsageError(
            f"`pipectl {command}` {does} and there is no terminal to ask on; nothing was {done}.",
            hint=f"To agree beforehand: pipectl {command} --yes",
        )
    if not answer:
        raise UsageError(f"Nothing was {done}.", hint=f"To agree beforehand: pipectl {command} --yes")


class Progress(Observer):
    """Says what a command does, line by line."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def report(self, sentence: str) -> None:
        """Say it."""
        self._console.say(sentence)


class StartProgress(Progress):
    """Shows how software arrives and services start: live in a terminal, a line per milestone elsewhere.

    No step stays silent for long: what is waited for is told again and again, with the seconds.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._since = time.monotonic()
        self._services: tuple[Service, ...] = ()
        self._healthy: set[str] = set()
        self._steps: dict[str, str] = {}
        self._redraw: Callable[[], None] = lambda: None
        self._wait = "Looking at what there is"
        self._told = self._since

    def report(self, sentence: str) -> None:
        """Say it; it is what is waited for until something else is."""
        self._wait = sentence
        self._tell(sentence)

    def see_wait(self, sentence: str) -> None:
        """Say it once it has lasted; the live display has it at once."""
        self._wait = sentence

    def see_progress(self, subject: str, progress: str, *, milestone: bool) -> None:
        """Show it in the live display, in a line for each subject."""
        self._steps = {**self._steps, subject: progress}
        if milestone and not self._console.is_live:
            self._tell(f"  {subject}: {progress} ({self._elapsed()})")

    def see_services(self, services: tuple[Service, ...]) -> None:
        """Show them."""
        self._services = services
        self._redraw()
        for service in services:
            if service.health == "healthy" and service.name not in self._healthy:
                self._healthy.add(service.name)
                if not self._console.is_live:
                    self._tell(f"  {service.name} is healthy ({self._elapsed()})")

    @contextmanager
    def shown(self) -> Iterator[Observer]:
        """Draw the live table while the block runs."""
        ended = threading.Event()
        teller = threading.Thread(target=self._tell_waits, args=(ended,), daemon=True)
        with self._console.live(self._live_text) as self._redraw:
            if not self._console.is_live:
                teller.start()
            try:
                yield self
            finally:
                ended.set()

    def _tell(self, sentence: str) -> None:
        self._told = time.monotonic()
        self._console.say(sentence)

    def _tell_waits(self, ended: threading.Event) -> None:
        """Say what is waited for whenever nothing has been said for a while."""
        while not ended.wait(max(0.01, self._told + SILENT_SECONDS - time.monotonic())):
            if time.monotonic() - self._told >= SILENT_SECONDS:
                self._tell(f"  {self._wait} ({self._elapsed()})")

    def _live_text(self) -> RenderableType:
        waits = f"  {self._wait}"
        if not self._services:
            steps = [f"  {subject}: {progress}" for subject, progress in self._steps.items()]
            return group(*(line(text) for text in [f"Starting, {self._elapsed()}", *steps, waits]))
        rows: list[tuple[object, ...]] = [
            (service.name, service.state, service.health) for service in self._services
        ]
        services = table("service", "state", "health", rows=rows, title=f"Starting, {self._elapsed()}")
        return group(services, line(waits))

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._since:.0f} s"


def airflow_api(invocation: Invocation) -> AirflowApi:
    """Return the REST API of this project's Airflow; AirflowError if it is not running."""
    from pipectl.airflow_api import AirflowApi  # noqa: PLC0415
    from pipectl.pipeline.access import airflow_address  # noqa: PLC0415
    from pipectl.pipeline.readiness import Suspicion  # noqa: PLC0415

    def blame(
        dag_id: str, dags: tuple[ParsedDag, ...], failures: tuple[ImportFailure, ...]
    ) -> tuple[ImportFailure, ...]:
        return Suspicion(dag_id, invocation.engine.dags_dir, lambda: dags).confirmed(None, failures)

    return AirflowApi(airflow_address(invocation.engine), invocation.console.say, blame)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
