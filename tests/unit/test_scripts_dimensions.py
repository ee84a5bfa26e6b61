"""Rows of customers and terminals: a function of seed and number, as payments say, and silent on fraud."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from fraud_pipeline import dimensions
from fraud_pipeline.places import COUNTRIES
from fraud_pipeline.transactions import BatchRequest, generate
from fraud_pipeline.world import (
    BLOCK_CUSTOMERS,
    BLOCK_TERMINALS,
    CHANNELS,
    MOST_TERMINALS,
    POS_TERMINALS,
    TERMINAL_CITY,
    WEB,
    world,
)

CUSTOMERS, TERMINALS = np.arange(1, BLOCK_CUSTOMERS + 1), np.arange(1, BLOCK_TERMINALS + 1)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
MONTHS = BatchRequest(1, "months", 100_000, NOON, NOON + timedelta(days=17))


def test_a_row_follows_from_seed_and_number_whatever_else_is_asked_and_however_big_the_world() -> None:
    customers, terminals = (
        dimensions.customer_rows(world(1, 1), CUSTOMERS),
        dimensions.terminal_rows(world(1, 1), TERMINALS),
    )
    some = np.array([7, 4711])
    few = dimensions.customer_rows(world(1, 3), some)
    assert {name: [column[i - 1] for i in some] for name, column in customers.items()} == few
    some = np.array([3, 2100, 2300])
    few = dimensions.terminal_rows(world(1, 3), some)
    assert {name: [column[i - 1] for i in some] for name, column in terminals.items()} == few
    other = dimensions.customer_rows(world(2, 1), CUSTOMERS)
    assert all(other[name] != customers[name] for name in customers if name != "customer_id")
    assert dimensions.terminal_rows(world(2, 1), TERMINALS)["mcc"] != terminals["mcc"]


def test_columns_are_those_that_are_written() -> None:
    assert list(dimensions.customer_rows(world(1, 1), CUSTOMERS)) == list(dimensions.CUSTOMER_TYPES)
    assert list(dimensions.terminal_rows(world(1, 1), TERMINALS)) == list(dimensions.TERMINAL_TYPES)


def test_payments_are_where_and_what_their_terminal_says_and_by_cards_that_their_customer_has() -> None:
    batch = generate(MONTHS)
    numbers, place = np.unique(batch.terminal_id, return_inverse=True)
    terminals = dimensions.terminal_rows(MONTHS.world, numbers)
    numbers, customer = np.unique(batch.customer_id, return_inverse=True)
    customers = dimensions.customer_rows(MONTHS.world, numbers)
    assert (np.array(terminals["mcc"])[place] == batch.mcc).all()
    assert (np.array(terminals["channel"])[place] == np.array(CHANNELS)[batch.channel]).all()
    shop = batch.channel != WEB
    for name, column in (("lat", batch.lat), ("lon", batch.lon)):
        assert [terminals[name][i] for i in place[shop]] == list(column[shop])
        assert {terminals[name][i] for i in place[~shop]} == {None}
    countries = np.array([country for country, _ in COUNTRIES])[batch.country]
    assert [terminals["country"][i] for i in place[shop]] == list(countries[shop])
    second = (batch.card_id - 10 * batch.customer_id) % 2 == 0
    assert set(np.array(customers["cards"])[customer][second]) == {2}
    assert set(customers["cards"]) == {1, 2}
    # Some have come since the beginning: their accounts were opened on a day before the payment.
    opened = np.array(customers["opened_on"], "datetime64[D]")
    assert np.mean(opened > np.datetime64("2020-01-01")) > 0.1
    assert (opened[customer] <= batch.tx_time.astype("datetime64[us]")).all()


def test_customers_live_in_their_country_and_had_accounts_before_any_payment() -> None:
    rows = dimensions.customer_rows(world(1, 1), CUSTOMERS)
    shares = {country: rows["country"].count(country) / BLOCK_CUSTOMERS for country, _ in COUNTRIES}
    assert shares == pytest.approx({"DE": 0.34, "FR": 0.22, "ES": 0.16, "GB": 0.14, "US": 0.14}, abs=0.03)
    american = np.array(rows["country"]) == "US"
    assert (np.array(rows["lon"])[american] < -70).all()
    assert (np.array(rows["lon"])[~american] > -10).all()
    segments = [rows["segment"].count(segment) / BLOCK_CUSTOMERS for segment in dimensions.SEGMENTS]
    assert segments == pytest.approx([0.31, 0.52, 0.17], abs=0.03)
    opened = np.array(rows["opened_on"], "datetime64[D]")
    assert np.datetime64("2000-01-01") <= opened.min() < opened.max() < np.datetime64("2015-01-01")
    # A home is no city's centre, and no two are one.
    assert len(set(zip(rows["lat"], rows["lon"], strict=True))) == BLOCK_CUSTOMERS


@pytest.mark.parametrize("column", ["country", "segment", "cards", "opened"])
def test_no_attribute_of_a_customer_tells_of_fraud(column: str) -> None:
    """Shares of fraud differ no more than chance and the few episodes make them differ."""
    shares: dict[str, list[float]] = {}
    for number in range(6):
        since = NOON + timedelta(days=15 * number)
        request = BatchRequest(1, f"share {number}", 90_000, since, since + timedelta(days=15))
        batch = generate(request)
        numbers, customer = np.unique(batch.customer_id, return_inverse=True)
        customers = dimensions.customer_rows(world(1, 1), numbers)
        opened = np.array(customers["opened_on"], "datetime64[Y]").astype(int) // 5
        value = np.array(opened if column == "opened" else customers[column])[customer]
        for one in np.unique(value):
            shares.setdefault(str(one), []).append(float((batch.scenario[value == one] > 0).mean()))
    means = [float(np.mean(parts)) for parts in shares.values()]
    errors = [float(np.std(parts)) / np.sqrt(len(parts)) for parts in shares.values()]
    for mean, error in zip(means, errors, strict=True):
        assert abs(mean - 0.01) < 4 * error + 0.0015, (means, errors)


def test_a_compromised_terminal_has_a_row_like_any_other() -> None:
    """A terminal's row follows from its number; no scenario is among what it follows from."""
    batch = generate(MONTHS)
    compromised = np.unique(batch.terminal_id[batch.scenario == 2])
    assert len(compromised) > 10
    rows = dimensions.terminal_rows(MONTHS.world, compromised)
    assert set(rows["channel"]) == {"pos"}
    compromised = (compromised - 1) % MOST_TERMINALS
    assert (compromised < POS_TERMINALS).all()
    assert len(set(rows["mcc"])) > 3
    assert len(set(TERMINAL_CITY[compromised])) > 3
