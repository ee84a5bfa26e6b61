"""The seam of the data: seed, batch, count and span of time in, rows out. Pure: no clock, no database.

This is the plain generator: independent customers, and a fraud is an amount far above the usual. A simulator
takes its place by offering `generate` with the same request and the same columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime, timedelta

FEWEST_IN_BATCH = 50
MOST_IN_BATCH = 200
FRAUD_RATE = 0.01
UNUSUAL_AMOUNT = "unusual_amount"

CUSTOMERS = 5_000
TERMINALS = 10_000
CARDS_PER_CUSTOMER = 2
MEDIAN_AMOUNT_CENTS = 2_500
AMOUNT_SPREAD = 1.0
HIGHEST_AMOUNT_CENTS = 5_000_000
APPROVED_SHARE = 0.97

# Merchant category codes of ISO 18245: groceries, restaurants, fuel, clothes, electronics, travel, pharmacy.
MERCHANT_CATEGORIES = (5411, 5812, 5541, 5651, 5732, 4722, 5912)
CHANNELS = ("pos", "online", "atm")
CHANNEL_WEIGHTS = (0.65, 0.30, 0.05)
# Country (ISO 3166), currency (ISO 4217), and the box of latitude and longitude that its terminals stand in.
PLACES = (
    ("DE", "EUR", 48.0, 53.5, 7.0, 13.5),
    ("FR", "EUR", 43.5, 49.5, -1.0, 6.0),
    ("ES", "EUR", 37.5, 42.5, -6.0, 1.0),
    ("GB", "GBP", 51.0, 55.0, -3.0, 0.5),
    ("US", "USD", 33.0, 42.0, -118.0, -75.0),
)


class Transaction(NamedTuple):
    """A row of `public.transactions` without what the database adds (id, creation times, xid)."""

    tx_time: datetime
    customer_id: int
    card_id: int
    terminal_id: int
    mcc: int
    amount: Decimal
    currency: str
    channel: str
    country: str
    lat: float
    lon: float
    status: str


@dataclass(frozen=True)
class BatchRequest:
    """What a batch is made of; equal requests give equal batches. Times are aware and `since <= until`."""

    seed: int
    batch: str
    count: int
    since: datetime
    until: datetime


@dataclass(frozen=True)
class Batch:
    """Transactions in order of their time, and for each the scenario of its fraud, or None."""

    transactions: tuple[Transaction, ...]
    scenarios: tuple[str | None, ...]


def batch_size(seed: int, batch: str) -> int:
    """How many transactions a scheduled batch has: 50 to 200, each as likely as the other."""
    return _random(seed, batch, "size").randint(FEWEST_IN_BATCH, MOST_IN_BATCH)


def generate(request: BatchRequest) -> Batch:
    """Generate the batch of a request."""
    random = _random(request.seed, request.batch, "transactions")
    moments = sorted(random.random() for _ in range(request.count))
    span: timedelta = request.until - request.since
    scenarios = tuple(UNUSUAL_AMOUNT if random.random() < FRAUD_RATE else None for _ in moments)
    transactions = tuple(
        _transaction(random, request.since + span * moment, scenario)
        for moment, scenario in zip(moments, scenarios, strict=True)
    )
    return Batch(transactions, scenarios)


def _transaction(random: Random, moment: datetime, scenario: str | None) -> Transaction:
    customer = random.randint(1, CUSTOMERS)
    country, currency, south, north, west, east = random.choice(PLACES)
    cents = MEDIAN_AMOUNT_CENTS * math.exp(random.gauss(0.0, AMOUNT_SPREAD))
    if scenario == UNUSUAL_AMOUNT:
        cents *= random.uniform(5, 20)
    return Transaction(
        tx_time=moment,
        customer_id=customer,
        card_id=customer * 10 + random.randint(1, CARDS_PER_CUSTOMER),
        terminal_id=random.randint(1, TERMINALS),
        mcc=random.choice(MERCHANT_CATEGORIES),
        amount=Decimal(min(max(round(cents), 1), HIGHEST_AMOUNT_CENTS)).scaleb(-2),
        currency=currency,
        channel=random.choices(CHANNELS, CHANNEL_WEIGHTS)[0],
        country=country,
        lat=round(random.uniform(south, north), 4),
        lon=round(random.uniform(west, east), 4),
        status="approved" if random.random() < APPROVED_SHARE else "declined",
    )


def _random(seed: int, batch: str, purpose: str) -> Random:
    # A text seeds through SHA-512: neighbouring seeds and batches share nothing, whatever PYTHONHASHSEED is.
    return Random(f"{seed}/{purpose}/{batch}")  # noqa: S311 -- reproducible numbers, not secrets
