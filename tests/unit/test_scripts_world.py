"""The world behind the rows: small batches belong together, and rates are as published."""

from __future__ import annotations

import sys
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline import rhythm, scenarios
from fraud_pipeline.episodes import active
from fraud_pipeline.transactions import NEVER, Batch, BatchRequest, batch_size, generate, microseconds
from fraud_pipeline.world import BLOCK_DAILY, BLOCK_TERMINALS, DAY, HOUR, world

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
HALF_HOUR = timedelta(minutes=30)
DAYS = 45


@pytest.fixture(scope="module")
def scheduled() -> list[Batch]:
    """What the schedule writes in 45 days: a batch of 50 to 200 every half hour."""
    requests = (
        BatchRequest(1, name, batch_size(1, name), since, since + HALF_HOUR)
        for number in range(DAYS * 48)
        for name, since in [(f"scheduled__{number}", MONDAY + number * HALF_HOUR)]
    )
    return [generate(request) for request in requests]


@pytest.fixture(scope="module")
def together(scheduled: list[Batch]) -> Batch:
    return Batch(*(np.concatenate(columns) for columns in zip(*map(astuple, scheduled), strict=True)))


def test_each_scenario_has_its_published_share(together: Batch) -> None:
    counts = np.bincount(together.scenario, minlength=1 + max(scenarios.NAMES))

    for scenario in scenarios.FRAUDS:
        # Events come in episodes: their number is overdispersed by about one more than an episode has.
        expected = scenario.share * len(together)
        deviation = np.sqrt(expected * (1 + scenario.events))
        assert abs(counts[scenario.number] - expected) < 5 * deviation, scenario.name
    assert 0.007 < counts[1:].sum() / len(together) < 0.013


def test_frauds_come_in_bursts(scheduled: list[Batch]) -> None:
    frauds = np.array([batch.frauds for batch in scheduled])

    assert frauds.var() / frauds.mean() > 1.4  # independent frauds would have 1
    assert np.mean(frauds == 0) > 0.2


def test_share_of_frauds_does_not_depend_on_how_many_transactions_are_asked_for() -> None:
    shares = []
    for count in (20, 500, 4_000):
        days = [MONDAY + timedelta(days=day) for day in range(max(60, 40_000 // count))]
        batches = [
            generate(BatchRequest(1, f"{count} {day}", count, day, day + timedelta(days=1))) for day in days
        ]
        shares.append(sum(batch.frauds for batch in batches) / sum(map(len, batches)))

    assert all(0.005 < share < 0.016 for share in shares), shares


def test_compromised_terminal_is_the_same_over_many_small_batches(together: Batch) -> None:
    mine = together.scenario == scenarios.COMPROMISED_TERMINAL.number
    terminals, counts = np.unique(together.terminal_id[mine], return_counts=True)
    spans = [np.ptp(together.tx_time[mine & (together.terminal_id == terminal)]) for terminal in terminals]

    assert counts.mean() > 8
    assert np.median(spans) > 5 * DAY
    assert np.percentile(spans, 80) <= 14 * DAY


def test_stolen_card_is_used_in_a_burst_over_neighbouring_batches(together: Batch) -> None:
    mine = together.scenario == scenarios.STOLEN_CARD.number
    customers = np.unique(together.customer_id[mine])
    spans, sizes = [], []
    for customer in customers:
        moments = together.tx_time[mine & (together.customer_id == customer)]
        spans.append(np.ptp(moments))
        sizes.append(len(moments))

    assert np.mean(sizes) > 4
    assert np.median(spans) <= HOUR


def test_two_countries_within_minutes(together: Batch) -> None:
    """Most have the owner's payment at home in the half hour before: some fall into the batch before."""
    order = np.lexsort((together.tx_time, together.customer_id))
    customer, when = together.customer_id[order], together.tx_time[order]
    abroad = np.flatnonzero(together.scenario[order] == scenarios.TWO_COUNTRIES.number)
    abroad = abroad[abroad > 0]
    just_before = (
        (customer[abroad] == customer[abroad - 1])
        & (when[abroad] - when[abroad - 1] <= 30 * 60_000_000)
        & (together.country[order][abroad] != together.country[order][abroad - 1])
    )

    assert len(abroad) > 100
    assert just_before.mean() > 0.6


def test_a_share_is_noticed_at_once_some_later_some_never(together: Batch) -> None:
    mine = together.scenario > 0
    reported, when = together.reported_at[mine], together.tx_time[mine]
    later = (reported > when) & (reported != NEVER)

    assert abs(np.mean(reported == when) - scenarios.NOTICED_AT_ONCE) < 0.04
    assert 0.015 < np.mean(reported == NEVER) < 0.045
    assert np.all(reported[later] - when[later] >= DAY)
    assert np.all(reported[later] - when[later] <= 60 * DAY)


def test_people_pay_by_day_and_most_on_saturday() -> None:
    week = generate(BatchRequest(1, "week", 100_000, MONDAY, MONDAY + timedelta(days=7)))
    hours = week.tx_time // HOUR % 24
    per_day = np.bincount((week.tx_time - microseconds(MONDAY)) // DAY, minlength=7)

    assert np.mean((hours >= 1) & (hours < 5)) < 0.06  # a sixth of the day
    assert per_day[:7].argmax() == 5
    assert per_day[6] == per_day[:7].min()


def test_customers_return_to_their_terminals_and_have_norms() -> None:
    month = generate(BatchRequest(1, "month", 150_000, MONDAY, MONDAY + timedelta(days=25)))
    honest = month.scenario == 0
    pairs = month.customer_id[honest] * BLOCK_TERMINALS + month.terminal_id[honest]
    shop = honest & (month.mcc == 5411)
    log = np.log(month.cents[shop])
    customer = month.customer_id[shop]
    mean = np.bincount(customer, log)[customer] / np.bincount(customer)[customer]

    assert len(np.unique(pairs)) < 0.6 * len(pairs)
    assert np.var(log - mean) < 0.7 * np.var(log)


def test_bigger_world_keeps_the_smaller_one() -> None:
    small, large = world(1, 1), world(1, 4)

    for name in ("home", "spend", "web_share", "second_card", "mcc", "terminal_lat", "terminal_lon"):
        smaller = getattr(small, name)
        np.testing.assert_array_equal(smaller, getattr(large, name)[: len(smaller)])


@given(st.integers(0, 10**9), st.integers(0, 20 * 86_400), st.sampled_from(scenarios.FRAUDS))
def test_episodes_of_a_span_are_those_of_its_parts(
    first: int, seconds: int, scenario: scenarios.Scenario
) -> None:
    there = world(1, 1)
    since, middle, until = (first * 1_000_000 + part * seconds * 500_000 for part in range(3))

    def found(start: int, end: int) -> set[tuple[int, int]]:
        episodes = active(there, scenario, start, end)
        return set(zip(episodes.start.tolist(), episodes.bits.tolist(), strict=True))

    assert found(since, until) == found(since, middle) | found(middle, until)


@given(st.integers(0, 4 * 10**15))
def test_intensity_and_its_inverse_agree(moment: int) -> None:
    back = rhythm.moments_at(rhythm.elapsed(np.array([moment])))

    assert abs(int(back[0]) - moment) < 10  # microseconds


def test_a_world_has_the_transactions_that_its_size_stands_for() -> None:
    assert world(1, 3).daily == 3 * BLOCK_DAILY
