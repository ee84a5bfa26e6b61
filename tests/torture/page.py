"""Writes docs/reliability.md from results."""

from __future__ import annotations

import os
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
ENDURANCE = "What a stack of the local engine uses at rest, after steps that follow each other:"


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
    """Return a table of what a stack used after each step."""
    names = list(samples[0])
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for sample in samples:
        cells = (value if isinstance(value, str) else f"{value:,.0f}" for value in sample.values())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
