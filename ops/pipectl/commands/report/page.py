"""`report --html`: one page that holds its data, its charts and the library that draws them."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from pipectl import __version__
from pipectl.commands.output_file import OutputFile
from pipectl.commands.report import figures
from pipectl.commands.report.text import reconciliation, sampling, scenario_name, seconds, share
from pipectl.errors import UsageError
from pipectl.names import counted

if TYPE_CHECKING:
    from datetime import datetime

    from pipectl.commands.report.figures import Figure
    from pipectl.pipeline.reporting import Report

# Tells a page of ours from a file that somebody would miss.
MARK = b'<meta name="generator" content="pipectl report">'
MARK_WITHIN = 1000
EMPTY = (
    "<section><h2>There are no transactions yet</h2><p>Make some: <code>pipectl trigger</code></p></section>"
)


@dataclass(frozen=True)
class Target(OutputFile):
    """The file that a page goes to. A report made before is replaced, another file only when asked for."""

    option: str = "--html"
    replace_foreign: bool = False

    def _check(self) -> None:
        super()._check()
        if self.replace_foreign or not self.path.exists():
            return
        with self.path.open("rb") as file:
            ours = MARK in file.read(MARK_WITHIN)
        if not ours:
            raise UsageError(
                f"{self.path} exists and is no report of pipectl.",
                hint="Name another file, or replace this one with --force.",
            )


def page(report: Report, project: str) -> str:
    """Return the whole page."""
    from plotly.offline import get_plotlyjs

    sections, charts = _sections(report)
    created = report.created.strftime("%Y-%m-%d %H:%M UTC")
    fields = {
        "title": "Transactions and fraud",
        "heading": "Transactions and fraud",
        "subheading": html.escape(f"{project} · {created}"),
        "body": "\n".join(sections),
        "footer": html.escape(f"Made by pipectl {__version__}. This page loads nothing from a network."),
        # In a script element only "</" and "<!--" have a meaning.
        "charts": json.dumps(charts, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"),
        "plotly": get_plotlyjs().replace("</script", "<\\/script") if charts else "",
    }
    template = resources.files("pipectl.commands.report").joinpath("report.html").read_text(encoding="utf-8")
    # The first parts are taken in order: what was filled in is not searched again.
    filled = []
    for name, value in fields.items():
        before, template = template.split(f"@{name}@", 1)
        filled += [before, value]
    return "".join([*filled, template])


def _sections(report: Report) -> tuple[list[str], list[Figure]]:
    if not report.transactions:
        return [EMPTY], []
    truth = report.has_ground_truth
    drawn = [
        figures.over_time(report.hours, frauds=truth),
        figures.amounts(report.amounts),
    ]
    sections = [
        _tiles(report),
        _section(
            "over-time",
            "Transactions and frauds over time" if truth else "Transactions over time",
            " ".join(["Times are UTC. Drag to zoom, double-click to see all again.", *_sampled(report)]),
            views=tuple(drawn[0].get("views", ())),
        ),
        _section(
            "amounts",
            "Amounts by scenario",
            "How the transactions of each spread over amounts, in their own currency; dotted: the median.",
            more=_scenario_table(report),
        ),
    ]
    if any(amounts.scenario for amounts in report.amounts) and report.labels.labels:
        drawn.append(figures.labelled(report))
        note = "Frauds of each scenario, and labels that name it."
        sections.append(_section("labelled", "Labels against ground truth", note))
    drawn.append(figures.time_of_day(report.hours, frauds=truth))
    pair = [_section("time-of-day", "Time of day", "All days together.")]
    lags = (("lag", "Label lag", "scheduled", report.lag), ("load-lag", "A load", "loaded", report.load_lag))
    for name, title, whose, lag in lags:
        if lag:
            drawn.append(figures.lag(name, lag))
            note = f"From insert to insert, the latest {counted(lag.sample, f'{whose} transaction')}."
            pair.append(_section(name, title, note))
    sections.append(f'<div class="pair">{"".join(pair)}</div>')
    return sections, drawn


def _section(name: str, title: str, note: str, *, views: tuple[str, ...] = (), more: str = "") -> str:
    buttons = "".join(f'<button type="button">{view}</button>' for view in views)
    switch = f'<div class="switch" data-chart="{name}">{buttons}</div>' if views else ""
    return (
        f'<section><div class="head"><div><h2>{title}</h2><p class="quiet">{note}</p></div>{switch}</div>'
        f'<div class="chart" id="{name}" role="img" aria-label="{title}"></div>{more}</section>'
    )


def _tiles(report: Report) -> str:
    labels = report.labels
    first, last = report.hours[0].start, report.hours[-1].start
    matched = labels.labels and not report.unlabelled and not report.orphans
    tiles = [("transactions", f"{report.transactions:,}", _span(first, last), "")]
    if report.has_ground_truth:
        tiles.append(
            ("frauds", f"{report.frauds:,}", f"{share(report.frauds, report.transactions)} of them", "")
        )
    tiles.append(
        ("labels", f"{labels.labels:,}", f"{labels.frauds:,} say fraud, {labels.revised:,} were revised", "")
    )
    tiles.append(
        (
            "reconciled",
            "yes" if matched else "not yet" if not report.orphans else "no",
            reconciliation(report),
            "good" if matched else "bad",
        )
    )
    for lag, title in ((report.lag, "label lag, median"), (report.load_lag, "label lag of a load, median")):
        if lag:
            late = seconds(lag.percentiles[95])
            tiles.append((title, seconds(lag.percentiles[50]), f"95 % within {late}", ""))
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile {style}"><span class="quiet">{title}</span><b>{value}</b>'
            f'<span class="quiet">{html.escape(note)}</span></div>'
            for title, value, note, style in tiles
        )
        + "</div>"
    )


def _sampled(report: Report) -> list[str]:
    return [] if report.sampled is None else [html.escape(f"Sampled: {sampling(report)}.")]


def _span(first: datetime, last: datetime) -> str:
    if first.date() == last.date():
        return f"{first.day} {first:%b %Y}"
    year = "" if first.year == last.year else f" {first.year}"
    return f"{first.day} {first:%b}{year} to {last.day} {last:%b %Y}"


def _scenario_table(report: Report) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(scenario_name(amounts.scenario))}</td><td>{amounts.transactions:,}</td>"
        f"<td>{share(amounts.transactions, report.transactions)}</td><td>{amounts.labelled:,}</td>"
        f"<td>{amounts.p05:,.2f}</td><td>{amounts.median:,.2f}</td><td>{amounts.p95:,.2f}</td></tr>"
        for amounts in report.amounts
    )
    return (
        '<details><summary>As a table</summary><div class="scroll"><table><thead><tr><th>scenario</th>'
        "<th>transactions</th><th>share</th><th>labelled so</th><th>5 %</th><th>median</th><th>95 %</th>"
        f"</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )
