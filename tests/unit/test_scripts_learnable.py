"""Fraud can be learnt from behaviour, and from nothing else: a classifier on a split in time.

Features are what a team would compute from the two tables: the past of card, customer and terminal. None sees
its own transaction's label or anything later.
"""

from __future__ import annotations

import sys
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline.labels import Truth, label
from fraud_pipeline.scenarios import NAMES
from fraud_pipeline.transactions import NEVER, Batch, BatchRequest, generate, moment
from fraud_pipeline.world import BLOCK_DAILY, CHANNELS, HOUR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]
    Whole = NDArray[np.int64]

START = datetime(2026, 1, 5, tzinfo=UTC)
MINUTE = HOUR // 60
DAY = 24 * HOUR
KILOMETRES_PER_DEGREE = 111.0
DAYS = 60


@dataclass(frozen=True, eq=False)
class Rows:
    """Transactions in order of time with their labels of 90 days after the end."""

    batch: Batch
    label: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.batch)


def history(seed: int, days: int) -> Rows:
    """The smallest world's transactions of some days, a batch a day as the schedule has them on average."""
    ends = [START + timedelta(days=day) for day in range(days + 1)]
    batches = [
        generate(BatchRequest(seed, f"from {since}", BLOCK_DAILY, since, until))
        for since, until in pairwise(ends)
    ]
    batch = Batch(*(np.concatenate(columns) for columns in zip(*map(astuple, batches), strict=True)))
    ids = np.arange(1, len(batch) + 1)
    frauds = {
        int(ids[i]): Truth(
            NAMES.get(int(batch.scenario[i]), ""),
            None if batch.reported_at[i] == NEVER else moment(int(batch.reported_at[i])),
            "chargeback",
        )
        for i in np.flatnonzero(batch.scenario)
    }
    made = label(seed, ids, frauds, START + timedelta(days=days + 90))
    is_fraud = np.zeros(len(batch), np.bool_)
    is_fraud[list(made.positives)] = True
    return Rows(batch, is_fraud)


def split(rows: Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Train on the second and third quarter of the time, test on the fourth; the first only gives pasts."""
    day = (rows.batch.tx_time - rows.batch.tx_time[0]) / (rows.batch.tx_time[-1] - rows.batch.tx_time[0])
    return (day >= 0.25) & (day < 0.75), day >= 0.75


class Past:
    """Sums over the past of each row's own entity."""

    def __init__(self, entity: Whole, when: Whole) -> None:
        self.order = np.lexsort((when, entity))
        self.entity, self.when = entity[self.order], when[self.order]
        ranks = np.cumsum(np.concatenate(([0], np.diff(self.entity) != 0)))
        self.first = np.searchsorted(ranks, ranks)
        # Grows over all rows; what a window takes in of the entity before is cut off by `first`.
        self.key = ranks * (np.ptp(when) + 1) + (self.when - when.min())
        self.position = np.arange(len(entity))

    def since(self, window: int) -> Whole:
        """Where the window before each row begins, in this order."""
        return np.asarray(np.maximum(np.searchsorted(self.key, self.key - window), self.first))

    def count(self, window: int) -> Numbers:
        """How many rows of the entity are in the window before each."""
        return self._back((self.position - self.since(window)).astype(np.float64))

    def sum(self, values: NDArray[np.generic], window: int, ends: int = 0) -> Numbers:
        """The sum over the rows in the window before each, without the last `ends` microseconds of it."""
        total = np.concatenate(([0.0], np.cumsum(values[self.order].astype(np.float64))))
        end = np.maximum(np.searchsorted(self.key, self.key - ends), self.first) if ends else self.position
        return self._back(total[end] - total[np.minimum(self.since(window), end)])

    def previous(self, values: NDArray[np.generic]) -> Numbers:
        """The value of the row before, NaN where there is none."""
        ordered = values[self.order].astype(np.float64)
        before = np.concatenate(([np.nan], ordered[:-1]))
        return self._back(np.where(self.first == self.position, np.nan, before))

    def _back(self, values: Numbers) -> Numbers:
        result = np.empty_like(values)
        result[self.order] = values
        return result


def behaviour(rows: Rows) -> Numbers:
    """Features that compare a payment with its customer's, card's and terminal's past."""
    batch = rows.batch
    when = batch.tx_time
    amount = batch.cents / 100.0
    log = np.log(amount)
    forever = 400 * DAY
    customer = Past(batch.customer_id, when)
    card = Past(batch.card_id, when)
    terminal = Past(batch.terminal_id, when)
    pair = Past(batch.customer_id * 1_000_000 + batch.terminal_id, when)
    city = Past(batch.customer_id * 1_000 + np.rint(batch.lat).astype(np.int64), when)
    by_channel = Past(batch.customer_id * 10 + batch.channel, when)
    by_mcc = Past(batch.mcc.astype(np.int64), when)
    seen = customer.count(forever)
    mean = customer.sum(log, forever) / np.maximum(seen, 1)
    usual = by_mcc.sum(log, 7 * DAY) / np.maximum(by_mcc.count(7 * DAY), 1)
    new = pair.count(forever) == 0
    minutes = (when - customer.previous(when)) / MINUTE
    kilometres = KILOMETRES_PER_DEGREE * np.hypot(
        batch.lat - customer.previous(batch.lat),
        (batch.lon - customer.previous(batch.lon)) * np.cos(np.radians(batch.lat)),
    )
    hour = when // HOUR % 24
    return np.column_stack(
        [
            log,
            log - mean,
            log - usual,
            batch.channel == CHANNELS.index("web"),
            batch.channel == CHANNELS.index("atm"),
            hour,
            seen,
            new,
            card.count(HOUR),
            card.count(DAY),
            customer.count(7 * DAY),
            card.sum(amount, HOUR),
            card.sum(new, HOUR),
            card.sum(new, DAY),
            minutes,
            kilometres,
            kilometres / np.maximum(minutes / 60, 0.05),
            city.count(forever) / np.maximum(seen, 1),
            by_channel.count(forever) / np.maximum(seen, 1),
            terminal.count(7 * DAY),
            terminal.sum(new, DAY),
            terminal.sum(new, 7 * DAY) / np.maximum(terminal.count(7 * DAY), 1),
            # Labels of the terminal, a week late as the handbook has them.
            terminal.sum(rows.label, 14 * DAY, ends=7 * DAY),
            terminal.sum(rows.label, 28 * DAY, ends=7 * DAY),
        ]
    )


def raw(rows: Rows) -> dict[str, NDArray[np.generic]]:
    """The columns of the table as they are."""
    batch = rows.batch
    hidden = {"scenario", "reported_at"}
    return {field.name: getattr(batch, field.name) for field in fields(batch) if field.name not in hidden}


def raw_auc(
    column: NDArray[np.generic], truth: NDArray[np.bool_], train: NDArray[np.bool_], test: NDArray[np.bool_]
) -> float:
    """ROC AUC of the best that a tree makes of one column: also of one whose ends and middle differ."""
    from sklearn.metrics import roc_auc_score
    from sklearn.tree import DecisionTreeClassifier

    table = column.astype(np.float64).reshape(-1, 1)
    tree = DecisionTreeClassifier(max_leaf_nodes=32, min_samples_leaf=200).fit(table[train], truth[train])
    return float(roc_auc_score(truth[test], tree.predict_proba(table[test])[:, 1]))


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)])
def rows(request: pytest.FixtureRequest) -> Rows:
    return history(request.param, DAYS)


def auc(features: NDArray[np.float64], labels: NDArray[np.bool_], rows: Rows) -> float:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    train, test = split(rows)
    model = HistGradientBoostingClassifier(
        max_iter=80, learning_rate=0.05, max_leaf_nodes=8, min_samples_leaf=200, random_state=0
    )
    model.fit(features[train], labels[train])
    return float(roc_auc_score(labels[test], model.predict_proba(features[test])[:, 1]))


def test_behaviour_tells_fraud_from_honest_payments(rows: Rows) -> None:
    assert auc(behaviour(rows), rows.label, rows) > 0.93


def test_behaviour_tells_nothing_about_shuffled_labels(rows: Rows) -> None:
    shuffled = np.random.default_rng(0).permutation(rows.label)

    # 900 positives in the test's part: a deviation of 0.01.
    assert 0.46 < auc(behaviour(rows), shuffled, rows) < 0.54


def test_no_column_gives_fraud_away_alone(rows: Rows) -> None:
    train, test = split(rows)

    found = {name: raw_auc(column, rows.label, train, test) for name, column in raw(rows).items()}

    assert max(found.values()) < 0.75, found


def test_honest_people_do_what_frauds_do_too(rows: Rows) -> None:
    batch, fraud = rows.batch, rows.batch.scenario > 0
    usual = np.median(batch.cents[~fraud])

    # Amounts, other countries and online payments: none is rarer among the honest in number.
    assert np.sum(batch.cents[~fraud] > 8 * usual) > np.sum(batch.cents[fraud] > 8 * usual)
    assert np.mean(batch.channel[~fraud] == 2) > 0.15
    # Where a customer was last stands for home: trips are the exception.
    last = dict(zip(batch.customer_id, batch.country, strict=True))
    abroad = np.array([last[customer] for customer in batch.customer_id]) != batch.country
    assert np.sum(abroad & ~fraud) > np.sum(abroad & fraud)
