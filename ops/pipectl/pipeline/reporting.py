"""What is in both databases, reduced to a few thousand numbers by the databases themselves."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

from pipectl import published
from pipectl.wait import Aside

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipectl.databases import Databases

# Bins of a chart, of equal width on a logarithmic scale.
BINS_PER_DECADE = 8
# The latest transactions tell how fast labels come now, at a cost that does not grow with the table.
LAG_SAMPLE = 10_000
# Of more transactions than this the honest ones are sampled: at most one in two.
MOST_ROWS = 1_000_000
# Data of at most so many hours is counted by SPAN_MINUTES too.
FEW_HOURS = 6
SPAN_MINUTES = 5


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
    """Amounts of one scenario's transactions, each in its own currency.

    Quantiles are exact, between two amounts interpolated; of a sample they are the sample's. `scenario` is
    empty for honest transactions, `labelled` counts labels that name it.
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
    `sampled` is null if all rows were read. Else it says how many honest transactions were: totals, frauds
    and labels are exact still, honest transactions per hour and their amounts are estimates, and
    `unlabelled` and `orphans` are the difference of the totals. `spans` counts by five minutes if there are
    a few hours only.
    `lag` is that of scheduled runs, `load_lag` that of a load among the latest transactions.
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
    load_lag: LabelLag | None = None
    sampled: int | None = None
    spans: tuple[Hour, ...] = ()


@dataclass(frozen=True)
class _Transactions:
    """What PostgreSQL says: `cents` counts amounts by scenario, the last two are times of insert by id."""

    total: int = 0
    has_ground_truth: bool = False
    sampled: int | None = None
    hours: tuple[Hour, ...] = ()
    spans: tuple[Hour, ...] = ()
    cents: dict[str, dict[int, int]] = field(default_factory=dict)
    scheduled: dict[int, float] = field(default_factory=dict)
    loaded: dict[int, float] = field(default_factory=dict)


def build(databases: Databases) -> Report:
    """Read both databases, side by side. Raises DatabaseError if one does not answer."""
    is_large = databases.estimated_transactions() > MOST_ROWS
    reading = Aside(lambda: _transactions(databases, is_large=is_large))
    counting = Aside(lambda: _labels(databases, published.FRAUD_LABELS_BY_TYPE if is_large else None))
    total = Aside(lambda: _total_labels(databases)) if is_large else None
    comparing = None if is_large else Aside(databases.compare)
    transactions, labelled = reading.result(), counting.result()
    if total:
        frauds = sum(count for count, _ in labelled.values())
        labelled["", False] = (total.result() - frauds, 0)
    labels = sum(count for count, _ in labelled.values())
    if comparing:
        _, reconciliation = comparing.result()
        unlabelled, orphans = reconciliation.unlabelled, reconciliation.orphans
    else:
        unlabelled, orphans = max(transactions.total - labels, 0), max(labels - transactions.total, 0)
    return Report(
        created=datetime.now(UTC),
        transactions=transactions.total,
        frauds=sum(hour.frauds for hour in transactions.hours),
        has_ground_truth=transactions.has_ground_truth,
        labels=Labels(
            labels=labels,
            frauds=sum(count for (_, is_fraud), (count, _) in labelled.items() if is_fraud),
            revised=sum(revised for _, revised in labelled.values()),
        ),
        unlabelled=unlabelled,
        orphans=orphans,
        hours=transactions.hours,
        amounts=_amounts(transactions, labelled),
        lag=_lag(databases, transactions.scheduled) if labels else None,
        load_lag=_lag(databases, transactions.loaded) if labels else None,
        sampled=transactions.sampled,
        spans=transactions.spans,
    )


def _transactions(databases: Databases, *, is_large: bool) -> _Transactions:
    with databases.ask_postgres() as ask:
        ask("SET LOCAL TIME ZONE 'UTC'")
        [(has_transactions,)] = ask(published.HAS_TRANSACTIONS)
        if not has_transactions:
            return _Transactions()
        [(has_truth,)] = ask(published.HAS_GROUND_TRUTH)
        truth = published.GROUND_TRUTH if has_truth else published.NO_GROUND_TRUTH
        [(total,)] = ask(published.COUNT_TRANSACTIONS)
        hours: dict[datetime, Counter[bool]] = {}
        cents: dict[str, dict[int, int]] = {}
        sampled = None
        if is_large:
            _count(ask, published.FRAUD_ROWS.format(truth=truth), hours, cents)
            honest = total - sum(sum(counts.values()) for counts in hours.values())
            step = published.SAMPLE_RUN * -(-2 * total // MOST_ROWS)
            rows = published.HONEST_SAMPLE.format(truth=truth, step=step)
            sampled = _count(ask, rows, hours, cents, honest)
        else:
            _count(ask, published.ROWS.format(truth=truth), hours, cents)
        spans: dict[datetime, Counter[bool]] = {}
        if hours and (max(hours) - min(hours)).total_seconds() < FEW_HOURS * 3600:
            for scenario, minute, _, count in ask(_counts(published.ROWS.format(truth=truth), "minute")):
                if minute:
                    start = minute.replace(minute=minute.minute // SPAN_MINUTES * SPAN_MINUTES)
                    spans.setdefault(start, Counter())[bool(scenario)] += count
        latest = dict(ask(published.LATEST_TRANSACTIONS, LAG_SAMPLE))
        loads = set()
        scheduled = latest
        if latest and ask(published.HAS_LOADS) == [(True,)]:
            loads = {when for (when,) in ask(published.LOAD_TIMES)}
            scheduled = {number: when for number, when in latest.items() if when not in loads} or dict(
                ask(published.LATEST_SCHEDULED, LAG_SAMPLE)
            )
        return _Transactions(
            total=total,
            has_ground_truth=has_truth,
            sampled=sampled,
            hours=_in_order(hours),
            spans=_in_order(spans),
            cents=cents,
            scheduled=scheduled,
            loaded={number: when for number, when in latest.items() if when in loads},
        )


def _count(
    ask: Callable[..., list[tuple[Any, ...]]],
    rows: str,
    hours: dict[datetime, Counter[bool]],
    cents: dict[str, dict[int, int]],
    total: int | None = None,
) -> int:
    """Count rows by hour and amount, and return how many there are; those of `total` are scaled."""
    answer = ask(_counts(rows, "hour"))
    read = sum(int(count) for _, hour, _, count in answer if hour)
    scale = 1 if total is None else total / max(read, 1)
    for scenario, hour, amount, count in answer:
        if hour:
            hours.setdefault(hour, Counter())[bool(scenario)] += round(count * scale)
        elif amount:
            cents.setdefault(scenario, {})[amount] = count
    return read


def _counts(rows: str, unit: str) -> str:
    return published.COUNTS.format(rows=rows, unit=unit)


def _in_order(counted: dict[datetime, Counter[bool]]) -> tuple[Hour, ...]:
    return tuple(Hour(start, counts.total(), counts[True]) for start, counts in sorted(counted.items()))


def _labels(databases: Databases, statement: str | None) -> dict[tuple[str, bool], tuple[int, int]]:
    """Return labels and revised ones among them, by type and verdict."""
    with databases.ask_mysql() as ask:
        rows = ask(statement or published.LABELS_BY_TYPE) if ask(published.HAS_LABELS) else []
    return {
        (str(kind), bool(is_fraud)): (int(count), int(revised)) for kind, is_fraud, count, revised in rows
    }


def _total_labels(databases: Databases) -> int:
    with databases.ask_mysql() as ask:
        return int(ask(published.COUNT_LABELS)[0][0]) if ask(published.HAS_LABELS) else 0


def _amounts(
    transactions: _Transactions, labelled: dict[tuple[str, bool], tuple[int, int]]
) -> tuple[Amounts, ...]:
    named: Counter[str] = Counter()
    for (kind, is_fraud), (count, _) in labelled.items():
        named[kind if is_fraud else ""] += count
    frauds = sum(hour.frauds for hour in transactions.hours)
    return tuple(
        _describe(
            scenario,
            cents,
            named[scenario],
            transactions.total - frauds if transactions.sampled is not None and not scenario else None,
        )
        for scenario, cents in sorted(transactions.cents.items())
    )


def _describe(scenario: str, cents: dict[int, int], labelled: int, total: int | None) -> Amounts:
    """Describe amounts, counted by size; a sample's counts are scaled to `total`."""
    amounts = sorted(cents)
    running = list(accumulate(cents[amount] for amount in amounts))
    scale = 1 if total is None else total / running[-1]
    bins: Counter[int] = Counter()
    for amount in amounts:
        bins[floor(log10(amount / 100) * BINS_PER_DECADE + 1e-9)] += cents[amount]

    def at(place: int) -> int:
        return amounts[bisect_right(running, place)]

    def quantile(share: float) -> float:
        place = share * (running[-1] - 1)
        low, high = at(floor(place)), at(ceil(place))
        return round((low + (high - low) * (place - floor(place))) / 100, 2)

    return Amounts(
        scenario=scenario,
        transactions=round(running[-1] * scale),
        labelled=labelled,
        p05=quantile(0.05),
        p25=quantile(0.25),
        median=quantile(0.5),
        p75=quantile(0.75),
        p95=quantile(0.95),
        bins=tuple(
            AmountBin(_edge(number), _edge(number + 1), round(bins[number] * scale))
            for number in range(min(bins), max(bins) + 1)
        ),
    )


def _edge(number: int) -> float:
    return float(f"{10 ** (number / BINS_PER_DECADE):.4g}")


def _lag(databases: Databases, latest: dict[int, float]) -> LabelLag | None:
    if not latest:
        return None
    with databases.ask_mysql() as ask:
        rows = ask(published.LATEST_LABELS, min(latest), max(latest))
    lags = sorted(float(when) - latest[number] for number, when in rows if number in latest)
    if not lags:
        return None
    return LabelLag(
        sample=len(lags),
        percentiles=tuple(round(_between(lags, percent / 100), 3) for percent in range(101)),
    )


def _between(values: list[float], share: float) -> float:
    """Return a quantile of sorted values, interpolated."""
    place = share * (len(values) - 1)
    low, high = values[floor(place)], values[ceil(place)]
    return low + (high - low) * (place - floor(place))
