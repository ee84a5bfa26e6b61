"""What changes over months and years: prices, paydays, holidays, habits, and who is there."""

from __future__ import annotations

import datetime as dt
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipeline import rhythm, world
from fraud_pipeline.devices import DEVICE_DAYS, device_numbers
from fraud_pipeline.places import CENTS
from fraud_pipeline.transactions import Batch, BatchRequest, generate, microseconds
from fraud_pipeline.world import ATM, DAY, MOST_CUSTOMERS, MOST_TERMINALS, WEB

JANUARY = datetime(2026, 1, 10, tzinfo=UTC)
dates = st.dates(dt.date(1970, 1, 5), dt.date(2100, 2, 28))
days = st.integers(-40_000, 80_000)
lives = st.sampled_from([world.CUSTOMER_DAYS, world.TERMINAL_DAYS, world.CARD_DAYS])


def made(name: str, count: int, since: datetime, length: float) -> Batch:
    return generate(BatchRequest(1, name, count, since, since + timedelta(days=length), blocks=1))


@pytest.fixture(scope="module")
def months() -> Batch:
    return made("months", 300_000, JANUARY, 50)


def place(date: dt.date) -> int:
    return int(rhythm.days_of(np.array([(date - dt.date(1970, 1, 1)).days * DAY]))[0])


@given(dates)
def test_the_calendar_knows_holidays_and_paydays_of_every_year(date: dt.date) -> None:
    assert rhythm.holidays()[place(date)] == ((date.month, date.day) in {(1, 1), (12, 25)})
    for rise, payday in zip(rhythm.paydays(), rhythm.PAYDAYS, strict=True):
        # The highest of the month around it, and lower on each day until the next.
        if date.day == payday:
            assert rise[place(date)] == rise.max()
        else:
            assert rise[place(date)] < rise[place(date) - 1]


@given(days, st.integers(0, 3_649), lives)
def test_whoever_leaves_is_followed_at_once_and_stays_as_long(day: int, age: int, length: int) -> None:
    def at(moment: int) -> int:
        return int(world.lives_before(np.array([age], np.int32), np.array([moment]), length)[0])

    assert at(day) <= at(day + 1) <= at(day) + 1
    assert at(min(day, world.LIVES_BEGIN - age)) == 0
    if day >= world.LIVES_BEGIN:
        assert at(day + length) == at(day) + 1


def test_amounts_end_as_their_category_prices_and_frauds_no_other_way(months: Batch) -> None:
    cents = months.cents % 100
    for mcc, ending, share in ((5541, 0, 3 / 8), (5812, 50, 2 / 8), (5732, 99, 4 / 8), (5815, 99, 6 / 8)):
        mine = (months.mcc == mcc) & (months.cents > 200)
        assert np.mean(cents[mine] == ending) == pytest.approx(share + 0.01, abs=0.02), mcc
        fraud = mine & (months.scenario > 0)
        deviation = np.sqrt(share * (1 - share) / fraud.sum())
        assert abs(np.mean(cents[fraud] == ending) - share) < 4 * deviation + 0.01, mcc
    assert CENTS.max() < 100
    assert set(cents[months.mcc == 6011]) == {0}


def test_people_spend_more_and_take_more_cash_when_they_have_been_paid(months: Batch) -> None:
    there = world.world(1, 1)
    rise = rhythm.paydays()[
        there.payday[(months.customer_id - 1) % MOST_CUSTOMERS], rhythm.days_of(months.tx_time)
    ]
    log = np.log(months.cents)
    shop = (months.channel != ATM) & (months.scenario == 0)
    rich, poor = rise > 0.2, rise < 0

    assert log[shop & rich].mean() - log[shop & poor].mean() == pytest.approx(
        rise[shop & rich].mean() - rise[shop & poor].mean(), abs=0.03
    )
    assert np.mean(months.channel[rich] == ATM) > 1.6 * np.mean(months.channel[poor] == ATM)


def test_december_is_busy_and_christmas_calm_and_online() -> None:
    mondays = [datetime(2026, 11, 16, tzinfo=UTC), datetime(2026, 12, 7, tzinfo=UTC)]
    usual, busy = (
        np.diff(rhythm.elapsed(np.array([microseconds(day), microseconds(day + timedelta(7))])))[0]
        for day in mondays
    )
    assert busy / usual == pytest.approx(rhythm.DECEMBER_WEIGHT)

    history = made("winter", 60_000, datetime(2026, 12, 11, tzinfo=UTC), 21)
    day = (history.tx_time - microseconds(datetime(2026, 12, 11, tzinfo=UTC))) // DAY
    a_day = np.bincount(day, minlength=21)
    friday, christmas = 7, 14
    assert a_day[christmas] < 0.5 * a_day[friday]
    web = [np.mean(history.channel[day == number] == WEB) for number in range(21)]
    assert web.pop(christmas) > 0.5
    assert max(web) < 0.4
    # A scheduled batch has its 50 to 200 payments on that day too.
    assert len(made("scheduled", 120, datetime(2026, 12, 25, tzinfo=UTC), 1 / 48)) == 120


def shops(batch: Batch) -> dict[int, set[int]]:
    """The shops at which each customer pays more than once."""
    there = (batch.channel == 0) & (batch.scenario == 0)
    pairs, counts = np.unique(
        np.stack((batch.customer_id[there], batch.terminal_id[there])), axis=1, return_counts=True
    )
    result: dict[int, set[int]] = {}
    for customer, terminal in pairs[:, counts > 1].T.tolist():
        result.setdefault(customer, set()).add(terminal % MOST_TERMINALS)
    return result


def test_habits_drift_and_people_stay_the_same() -> None:
    """What two months have in common becomes less, and is no more than chance after a year."""
    first = shops(made("0", 150_000, JANUARY, 25))

    def kept(after: int) -> float:
        later = shops(made(str(after), 150_000, JANUARY + timedelta(days=after), 25))
        common = sum(len(mine & later[customer]) for customer, mine in first.items() if customer in later)
        return common / sum(len(mine) for customer, mine in first.items() if customer in later)

    soon, half_a_year, long_after = kept(25), kept(150), kept(400)
    assert soon > 0.4 > half_a_year > 0.05
    assert soon > 1.5 * half_a_year
    assert half_a_year > 2 * long_after


def test_customers_cards_and_merchants_come_and_go(months: Batch) -> None:
    """Of those at one place, none pays or is paid after another has come: checked over half a year."""
    parts = [months, made("later", 300_000, JANUARY + timedelta(days=130), 50)]
    when = np.concatenate([part.tx_time for part in parts])
    customer = np.concatenate([part.customer_id for part in parts])
    card = np.concatenate([part.card_id for part in parts])
    terminal = np.concatenate([part.terminal_id for part in parts])
    # 180 days of 10 or 4 years; a card too if its customer changes.
    for at, who, share in (
        ((customer - 1) % MOST_CUSTOMERS, customer, 180 / world.CUSTOMER_DAYS),
        ((terminal - 1) % MOST_TERMINALS, terminal, 180 / world.TERMINAL_DAYS),
        (customer * 2 + card % 2, card, 180 / world.CARD_DAYS),
    ):
        order = np.lexsort((when, at))
        same = np.diff(at[order]) == 0
        changes = same & (np.diff(who[order]) != 0)
        # Once at most in the time, so nobody who has left comes back.
        assert np.bincount(at[order][1:][changes]).max() == 1
        assert changes.sum() / len(np.unique(at)) == pytest.approx(share, rel=0.35)


@given(st.integers(0, 199_999), st.integers(0, 40_000), st.sampled_from([0, DEVICE_DAYS, 2_000]))
def test_people_have_one_to_three_devices_and_each_for_years(person: int, day: int, length: int) -> None:
    """Whoever asks, and however often: the own devices of a person follow from seed, person and day."""
    there = world.world(1, 40)
    times = np.repeat(np.array([day, day + length]), 200)
    people = np.full(400, person)
    random = np.random.default_rng(person)
    honest = np.zeros(400, np.bool_)
    numbers = device_numbers(there, random, people, people % 18, times, fraud=honest)

    assert numbers.min() > 0
    seen, counts = np.unique(numbers[:200], return_counts=True)
    own = set(seen[counts > 14].tolist())
    assert 1 <= len(own) <= there.devices[person] <= 3
    later, counts = np.unique(numbers[200:], return_counts=True)
    kept = own & set(later[counts > 8].tolist())
    assert bool(kept) == (length == 0)


def test_fraud_comes_from_devices_that_are_new_to_the_customer_and_honest_people_have_such_too(
    months: Batch,
) -> None:
    web = np.flatnonzero(months.channel == WEB)
    pair = months.customer_id[web] * 2**32 + months.device_id[web]
    first = np.zeros(len(web), np.bool_)
    first[np.unique(pair, return_index=True)[1]] = True
    fraud = months.scenario[web] > 0
    late = months.tx_time[web] > months.tx_time[0] + 30 * DAY

    assert np.mean(first[fraud & late]) > 0.2
    assert np.mean(first[~fraud & late]) < 0.1
    # In number more of the honest: a new device alone is no proof.
    assert np.sum(first[~fraud & late]) > 3 * np.sum(first[fraud & late])
    # Several customers on one device: thieves' and public ones.
    users = np.bincount(
        np.unique(months.device_id[web][np.unique(pair, return_index=True)[1]], return_inverse=True)[1]
    )
    device = np.unique(months.device_id[web], return_inverse=True)[1]
    shared = users[device] > 2
    assert np.mean(shared[fraud]) > 0.3
    assert np.sum(shared & ~fraud) > np.sum(shared & fraud)
    assert not months.device_id[months.channel != WEB].any()
