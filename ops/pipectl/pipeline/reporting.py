"""What is in both databases, reduced to a few thousand numbers by the databases themselves."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING

from pipectl import published
from pipectl.wait import Aside

if TYPE_CHECKING:
    from pipectl.databases import Databases

# Bins of equal width on a logarithmic scale. The databases count in the narrow ones, 6 % wide, so that
# quantiles are good to 3 %; charts show the wide ones.
NARROW_PER_DECADE = 40
WIDE_PER_DECADE = 8
# The latest transactions tell how fast labels come now, at a cost that does not grow with the table.
LAG_SAMPLE = 10_000


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


@dataclass(frozen=True)
class _Transactions:
    """What PostgreSQL says: `bins` counts by scenario and narrow bin, `latest` are times of insert."""

    has_ground_truth: bool = False
    hours: tuple[Hour, ...] = ()
    bins: dict[str, dict[int, int]] = field(default_factory=dict)
    latest: dict[int, float] = field(default_factory=dict)


def build(databases: Databases) -> Report:
    """Read both databases, side by side. Raises DatabaseError if one does not answer."""
    reading = Aside(lambda: _transactions(databases))
    counting = Aside(lambda: _labels(databases))
    comparing = Aside(databases.reconcile)
    transactions, labelled, reconciliation = reading.result(), counting.result(), comparing.result()
    return Report(
        created=datetime.now(UTC),
        transactions=sum(hour.transactions for hour in transactions.hours),
        frauds=sum(hour.frauds for hour in transactions.hours),
        has_ground_truth=transactions.has_ground_truth,
        labels=Labels(
            labels=sum(count for count, _ in labelled.values()),
            frauds=sum(count for (_, is_fraud), (count, _) in labelled.items() if is_fraud),
            revised=sum(revised for _, revised in labelled.values()),
        ),
        unlabelled=reconciliation.unlabelled,
        orphans=reconciliation.orphans,
        hours=transactions.hours,
        amounts=_amounts(transactions.bins, labelled),
        lag=_lag(databases, transactions.latest) if labelled and transactions.latest else None,
    )


def _transactions(databases: Databases) -> _Transactions:
    with databases.ask_postgres() as ask:
        ask("SET LOCAL TIME ZONE 'UTC'")
        [(has_transactions,)] = ask(published.HAS_TRANSACTIONS)
        if not has_transactions:
            return _Transactions()
        [(has_truth,)] = ask(published.HAS_GROUND_TRUTH)
        truth = published.GROUND_TRUTH if has_truth else published.NO_GROUND_TRUTH
        bins: dict[str, dict[int, int]] = {}
        for scenario, number, count in ask(published.AMOUNTS.format(truth=truth, bins=NARROW_PER_DECADE)):
            bins.setdefault(scenario, {})[number] = count
        hours = tuple(Hour(*row) for row in ask(published.HOURS.format(truth=truth)))
        return _Transactions(has_truth, hours, bins, dict(ask(published.LATEST_TRANSACTIONS, LAG_SAMPLE)))


def _labels(databases: Databases) -> dict[tuple[str, bool], tuple[int, int]]:
    """Return labels and revised ones among them, by type and verdict."""
    with databases.ask_mysql() as ask:
        rows = ask(published.LABELS_BY_TYPE) if ask(published.HAS_LABELS) else []
    return {
        (str(kind), bool(is_fraud)): (int(count), int(revised)) for kind, is_fraud, count, revised in rows
    }


def _amounts(
    bins: dict[str, dict[int, int]], labelled: dict[tuple[str, bool], tuple[int, int]]
) -> tuple[Amounts, ...]:
    named: Counter[str] = Counter()
    for (kind, is_fraud), (count, _) in labelled.items():
        named[kind if is_fraud else ""] += count
    return tuple(_describe(scenario, narrow, named[scenario]) for scenario, narrow in sorted(bins.items()))


def _describe(scenario: str, narrow: dict[int, int], labelled: int) -> Amounts:
    per_wide = NARROW_PER_DECADE // WIDE_PER_DECADE
    wide: dict[int, int] = {}
    for number, count in narrow.items():
        wide[number // per_wide] = wide.get(number // per_wide, 0) + count
    numbers = sorted(narrow)
    running = list(accumulate(narrow[number] for number in numbers))

    def quantile(share: float) -> float:
        number = numbers[min(bisect_left(running, share * running[-1]), len(numbers) - 1)]
        return float(round(10 ** ((number + 0.5) / NARROW_PER_DECADE), 2))

    return Amounts(
        scenario=scenario,
        transactions=running[-1],
        labelled=labelled,
        p05=quantile(0.05),
        p25=quantile(0.25),
        median=quantile(0.5),
        p75=quantile(0.75),
        p95=quantile(0.95),
        bins=tuple(
            AmountBin(_edge(number), _edge(number + 1), wide.get(number, 0))
            for number in range(min(wide), max(wide) + 1)
        ),
    )


def _edge(number: int) -> float:
    return float(f"{10 ** (number / WIDE_PER_DECADE):.4g}")


def _lag(databases: Databases, latest: dict[int, float]) -> LabelLag | None:
    with databases.ask_mysql() as ask:
        rows = ask(published.LATEST_LABELS, min(latest), max(latest))
    lags = sorted(float(when) - latest[number] for number, when in rows if number in latest)
    if not lags:
        return None
    return LabelLag(
        sample=len(lags),
        percentiles=tuple(round(lags[(len(lags) - 1) * percent // 100], 3) for percent in range(101)),
    )
