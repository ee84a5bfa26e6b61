"""Writes docs/reliability.md from results."""

from __future__ import annotations

import os
from statistics import linear_regression
from typing import TYPE_CHECKING

from support import ROOT

if TYPE_CHECKING:
    from torture.judging import Result

PAGE = ROOT / "docs" / "reliability.md"
MARK = "<!-- `make torture` writes what follows. -->"
FAULTS = (
    "| engine | fault | during | recovered | starts | command | again | lost, doubled, mislabelled |\n"
    "|---|---|---|---|---|---|---|---|"
)
ENDURANCE = (
    "What a stack of the local engine uses at rest, after steps that follow each other. A stack a table:"
)


def write(results: list[Result], endurance: list[list[dict[str, str | float]]]) -> None:
    """Write the tables of results into the page, below its mark."""
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    ordered = sorted(results, key=lambda each: (each.engine, each.fault, each.situation))
    blocks = [
        head + MARK,
        f"{len(results)} rows, on {os.cpu_count()} processor cores:",
        "\n".join([FAULTS, *map(row, ordered)]),
    ]
    if endurance:
        blocks += ["## Endurance", ENDURANCE, *map(growth, endurance)]
    PAGE.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def row(result: Result) -> str:
    """Return a result as a row of the table."""
    cells = (
        result.engine,
        result.fault,
        result.situation,
        result.recovered,
        f"{result.ratio:.1f}",
        result.command,
        str(result.retried),
        f"{result.lost}, {result.doubled}, {result.mislabelled}",
    )
    return f"| {' | '.join(cells)} |"


def growth(samples: list[dict[str, str | float]]) -> str:
    """Return a table of what a stack used after each step, with slopes if a step was repeated."""
    names = list(samples[0])
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for sample in samples:
        cells = (value if isinstance(value, str) else f"{value:,.0f}" for value in sample.values())
        lines.append(f"| {' | '.join(cells)} |")
    # The first sample is that of a stack which has just started.
    repeated = samples[1:]
    if len(repeated) > 2:
        columns = ([float(sample[name]) for sample in repeated] for name in names[1:])
        slopes = (f"{linear_regression(range(len(column)), column).slope:+,.1f}" for column in columns)
        lines.append(f"| slope: each step adds | {' | '.join(slopes)} |")
    return "\n".join(lines)
