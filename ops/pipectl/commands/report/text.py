"""`report` in a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from pipectl.commands.report.charts import NARROWEST_SPREAD, Columns, Scale, Spread
from pipectl.commands.shared import group, line, table
from pipectl.names import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from rich.console import Console, ConsoleOptions, RenderableType

    from pipectl.pipeline.reporting import Amounts, Hour, LabelLag, Report

BAR_WIDTH = 44
LAG_WIDTH = 26  # of a lag and its name
AMOUNTS = "Amounts by scenario, each in its currency, on a logarithmic scale"
NUMBERS = ("number", "labelled", "5 %", "median", "95 %")
WIDEST = 1000
SHOWN_PERCENTILES = (50, 90, 95, 99, 100)
# More hours than this are read as days: a single row with a wrong year would make a chart of its own.
MOST_HOURS = 24 * 366 * 20


def report_text(report: Report) -> RenderableType:
    """Return the report for people."""
    if not report.transactions:
        return group(line("There are no transactions yet. Make some: pipectl trigger", "bold"))
    parts = [*_summary(report), line(""), *_over_time(report), line(""), _Amounts(report)]
    for whose, lag in (("scheduled", report.lag), ("loaded", report.load_lag)):
        if lag:
            parts += [line(""), _Lag(lag, whose)]
    return group(*parts)


def scenario_name(name: str) -> str:
    """Return what people read for a scenario of the data."""
    return name.replace("_", " ") if name else "honest"


def share(part: int, whole: int) -> str:
    """Return a share in percent."""
    return f"{part / whole:.2%}" if whole else "0 %"


def seconds(value: float) -> str:
    """Return a duration in the unit that people would take."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(value) >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.2f} s"


def reconciliation(report: Report) -> str:
    """Return in a sentence whether labels and transactions match."""
    if not report.labels.labels:
        return "no transaction has a label yet; label them: pipectl trigger"
    if report.sampled is not None:
        more = report.unlabelled - report.orphans
        difference = f"{abs(more):,} {'fewer' if more > 0 else 'more'}" if more else "as many"
        than = "labels than transactions" if more else "labels as transactions"
        return f"{difference} {than}; compare each: pipectl verify-db --expect reconciled"
    wrong = []
    if report.unlabelled:
        wrong.append(
            counted(report.unlabelled, "transaction has no label", "transactions have no label")
            + "; why: pipectl verify-db --expect reconciled"
        )
    if report.orphans:
        wrong.append(
            counted(report.orphans, "label has no transaction", "labels have no transaction")
            + "; mend it: pipectl verify-db --repair"
        )
    return ". ".join(wrong) or "every transaction has exactly one label"


def sampling(report: Report) -> str:
    """Return in a sentence what is estimated."""
    honest = report.transactions - report.frauds
    return (
        f"{report.sampled or 0:,} of {counted(honest, 'honest transaction')} were read: their numbers per"
        " hour and amounts are estimates, all else is exact"
    )


def _summary(report: Report) -> list[RenderableType]:
    labels = report.labels
    truth = (
        f", {report.frauds:,} of them frauds ({share(report.frauds, report.transactions)})"
        if report.has_ground_truth
        else ", without a ground truth of frauds"
    )
    first, latest = report.hours[0].start, report.hours[-1].start
    last = latest + timedelta(hours=1)
    if latest <= report.created < last:  # the hour is not over
        last = report.created
    style = "yellow" if report.unlabelled or report.orphans else "green"
    lines = [
        line(f"Transactions  {report.transactions:,}{truth}"),
        line(f"              {_moment(first)} to {_moment(last)} UTC"),
        line(
            f"Labels        {labels.labels:,}, {labels.frauds:,} say fraud "
            f"({share(labels.frauds, labels.labels)}), {labels.revised:,} were revised"
        ),
        line(f"Reconciled    {reconciliation(report)}", style),
    ]
    if report.sampled is not None:
        lines.append(line(f"Sampled       {sampling(report)}"))
    for lag, whose in ((report.lag, ""), (report.load_lag, ", of a load")):
        if lag:
            median, late = lag.percentiles[50], lag.percentiles[95]
            text = f"{seconds(median)} in the median, 95 % within {seconds(late)}{whose}"
            lines.append(line(f"Label lag     {text}"))
    return lines


def _over_time(report: Report) -> list[RenderableType]:
    from pipectl.pipeline.reporting import SPAN_MINUTES  # noqa: PLC0415

    minutes = SPAN_MINUTES if report.spans else 60
    hours = filled(report.spans or report.hours, minutes)
    first, last = _moment(hours[0].start), _moment(hours[-1].start)
    transactions = Columns(
        [hour.transactions for hour in hours], "Transactions", first, last, "blue", minutes=minutes
    )
    if not report.has_ground_truth:
        return [transactions]
    frauds = Columns([hour.frauds for hour in hours], "Frauds", first, last, "red", height=3, minutes=minutes)
    return [transactions, line(""), frauds]


def filled(hours: tuple[Hour, ...], minutes: int = 60) -> list[Hour]:
    """Return hours, or shorter spans, without gaps: those without a transaction are there with 0."""
    from pipectl.pipeline.reporting import Hour  # noqa: PLC0415

    known = {hour.start: hour for hour in hours}
    first, last = hours[0].start, hours[-1].start
    count = int((last - first) / timedelta(minutes=minutes)) + 1
    if count > MOST_HOURS:
        return list(hours)
    starts = (first + timedelta(minutes=index * minutes) for index in range(count))
    return [known.get(start) or Hour(start, 0, 0) for start in starts]


@dataclass(frozen=True)
class _Amounts:
    """The table of amounts; its charts only if there is room for them beside the numbers.

    Without room for all numbers some stand below their row.
    """

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.measure import Measurement
        from rich.text import Text

        yield Text(AMOUNTS, style="bold")
        plain = _amounts_table(self.report, charts=False)
        needed = Measurement.get(console, options.update(width=WIDEST), plain).maximum
        if needed > options.max_width:
            rows: list[tuple[object, ...]] = [_numbers(amounts) for amounts in self.report.amounts]
            yield table("scenario", *NUMBERS, rows=rows)
            return
        charts = needed + NARROWEST_SPREAD < options.max_width
        yield _amounts_table(self.report, charts=True) if charts else plain


def _numbers(amounts: Amounts) -> tuple[str, ...]:
    counts = (amounts.transactions, amounts.labelled)
    quantiles = (amounts.p05, amounts.median, amounts.p95)
    texts = (*(f"{count:,}" for count in counts), *(f"{quantile:,.2f}" for quantile in quantiles))
    return (scenario_name(amounts.scenario), *texts)


def _amounts_table(report: Report, *, charts: bool) -> RenderableType:
    from rich import box
    from rich.table import Table

    low = min(amounts.p05 for amounts in report.amounts)
    high = max(amounts.p95 for amounts in report.amounts)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("scenario", overflow="fold")
    for header in NUMBERS:
        shown.add_column(header, justify="right", overflow="fold")
    if charts:
        shown.add_column(Scale(f"{low:,.2f}", f"{high:,.2f}"))
    for amounts in report.amounts:
        shown.add_row(*_numbers(amounts), *([_spread(amounts, low, high)] if charts else []))
    return shown


def _spread(amounts: Amounts, low: float, high: float) -> Spread:
    quantiles = (amounts.p05, amounts.p25, amounts.median, amounts.p75, amounts.p95)
    return Spread(quantiles, low, high, "red" if amounts.scenario else "blue")


@dataclass(frozen=True)
class _Lag:
    """The labels' lag as bars, of the width that there is."""

    lag: LabelLag
    whose: str

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        yield Text(
            f"Label lag of the latest {counted(self.lag.sample, f'{self.whose} transaction')}", style="bold"
        )
        longest = max(self.lag.percentiles[100], 1e-9)
        widest = max(min(BAR_WIDTH, options.max_width - LAG_WIDTH), 1)
        for percent in SHOWN_PERCENTILES:
            value = self.lag.percentiles[percent]
            bar = "█" * max(round(max(value, 0) / longest * widest), 1)
            name = "longest" if percent == 100 else f"{percent} % within"  # noqa: PLR2004
            yield Text.assemble(f"  {name:<12}", f"{seconds(value):>10}  ", (bar, "cyan"))


def _moment(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M")
