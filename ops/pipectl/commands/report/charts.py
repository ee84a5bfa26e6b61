"""Charts in a terminal: columns over time, and the spread of a distribution, as wide as there is room.

Rich draws the lines; a chart library would bring more code than these two shapes need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipectl.names import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.text import Text

# From an eighth of a cell to a full one.
BLOCKS = " ▁▂▃▄▅▆▇█"
WIDEST_COLUMN = 6
NARROWEST_SPREAD, WIDEST_SPREAD = 16, 44
# Units of time and their minutes.
UNITS = (("week", 10080), ("day", 1440), ("hour", 60), ("minute", 1))


@dataclass(frozen=True)
class Columns:
    """`values` per so many minutes as columns, `height` lines high; `subject` says what they count."""

    values: Sequence[int]
    subject: str
    first: str
    last: str
    style: str
    height: int = 5
    minutes: int = 60

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Draw for the width that there is."""
        from rich.text import Text

        del console
        values, merged, margin = list(self.values), 1, 0
        for _ in range(2):  # sums have more digits than their parts, which leaves less room
            margin = len(f"{max(values, default=0):,}") + 1
            values, merged = merge(self.values, max(options.max_width - margin - 1, 10), self.minutes)
        peak = max(values, default=0)
        if not peak:
            yield Text(f"{self.subject}: none from {self.first} to {self.last} (UTC)", style="bold")
            return
        margin = len(f"{peak:,}") + 1
        # A few columns are as wide as the names of their ends.
        widest = max(WIDEST_COLUMN, math.ceil(len(f"{self.first}  {self.last}") / max(len(values), 1)))
        cell = max(1, min(widest, (options.max_width - margin) // max(len(values), 1)))
        yield Text(f"{self.subject} per {_span(merged * self.minutes)} (UTC)", style="bold")
        for line in range(self.height - 1, -1, -1):
            label = f"{peak:,}" if line == self.height - 1 else "0" if line == 0 else ""
            drawn = "".join(_cell(value, peak, line, self.height) * cell for value in values)
            yield Text.assemble((f"{label:>{margin - 1}} ", "dim"), (drawn.rstrip(), self.style))
        length = cell * len(values)
        gap = max(length - len(self.first) - len(self.last), 1)
        yield Text(f"{'':{margin}}{self.first}{'':{gap}}{self.last if len(values) > 1 else ''}", style="dim")


@dataclass(frozen=True)
class Spread:
    """Percentiles 5, 25, 50, 75, 95 on a logarithmic scale from `low` to `high`: ──━━┃━━──, ┃ the median."""

    quantiles: tuple[float, float, float, float, float]
    low: float
    high: float
    style: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Draw for the width that there is."""
        from rich.text import Text

        del console
        width = options.max_width
        at = [self._place(value, width) for value in self.quantiles]
        line = [" "] * width
        for index in range(at[0], at[4] + 1):
            line[index] = "━" if at[1] <= index <= at[3] else "─"
        line[at[2]] = "┃"
        yield Text("".join(line), style=self.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Take what there is, within reason."""
        return _spread_measurement(console, options)

    def _place(self, value: float, width: int) -> int:
        share = math.log(max(value, self.low) / self.low) / max(math.log(self.high / self.low), 1e-9)
        return min(max(round(share * (width - 1)), 0), width - 1)


@dataclass(frozen=True)
class Scale:
    """The ends of a scale above what is drawn on it."""

    low: str
    high: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Draw for the width that there is."""
        from rich.text import Text

        del console
        yield Text(f"{self.low}{self.high:>{max(options.max_width - len(self.low), 0)}}")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Take as much as the spreads below."""
        return _spread_measurement(console, options)


def merge(values: Sequence[int], most: int, minutes: int = 60) -> tuple[list[int], int]:
    """Add neighbours up until at most `most` values are left; how many became one is the second part.

    Each value stands for so many minutes.
    """
    # Spans of time that people think in: parts of hours, hours, quarters of days, days and weeks.
    nice = (5, 10, 15, 30, *(60 * hours for hours in (1, 2, 3, 6, 12, 24, 48, 168)))
    needed = max(math.ceil(len(values) / most), 1) * minutes
    size = next((span for span in nice if span >= needed), math.ceil(needed / nice[-1]) * nice[-1]) // minutes
    return [sum(values[start : start + size]) for start in range(0, len(values), size)], size


def _span(minutes: int) -> str:
    unit, size = next((unit, size) for unit, size in UNITS if minutes % size == 0)
    return unit if minutes == size else counted(minutes // size, unit)


def _cell(value: int, peak: int, line: int, height: int) -> str:
    eighths = math.ceil(value / peak * height * 8) if peak else 0
    return BLOCKS[min(max(eighths - line * 8, 0), 8)]


def _spread_measurement(_: Console, options: ConsoleOptions) -> Measurement:
    from rich.measure import Measurement

    return Measurement(min(NARROWEST_SPREAD, options.max_width), min(WIDEST_SPREAD, options.max_width))
