"""Frozen values of a report: apart, since making a class takes most of a millisecond at every start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True)
class Hour:
    """Transactions of one hour, which begins at `start`, and the frauds among them."""

    start: datetime
    transactions: int
    frauds: int


@dataclass(frozen=True)
class AmountBin:
    """How many amounts are at least `low` and below `high`."""

    low: float
    high: float
    transactions: int


@dataclass(frozen=True)
class Amounts:
    """Amounts of one scenario's transactions, each in its own currency; quantiles are good to 3 %.

    `scenario` is empty for honest transactions, `labelled` counts labels that name it.
    """

    scenario: str
    transactions: int
    labelled: int
    p05: float
    p25: float
    median: float
    p75: float
    p95: float
    bins: tuple[AmountBin, ...]


@dataclass(frozen=True)
class Labels:
    """All labels. `revised` are those that were changed after they were written."""

    labels: int
    frauds: int
    revised: int


@dataclass(frozen=True)
class LabelLag:
    """Seconds from a transaction's insert to its label's, of the `sample` latest labelled transactions.

    `percentiles` holds the 0th to the 100th.
    """

    sample: int
    percentiles: tuple[float, ...]


@dataclass(frozen=True)
class Report:
    """What `report` shows. Times are UTC; frauds are the simulator's ground truth.

    `has_ground_truth` is false if PostgreSQL has none: then nothing is known of frauds but the labels.
    """

    created: datetime
    transactions: int
    frauds: int
    has_ground_truth: bool
    labels: Labels
    unlabelled: int
    orphans: int
    hours: tuple[Hour, ...]
    amounts: tuple[Amounts, ...]
    lag: LabelLag | None
