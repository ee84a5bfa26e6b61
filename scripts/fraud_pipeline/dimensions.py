"""Rows of `public.customers` and `public.terminals`: who a number in a transaction is.

A row is a pure function of seed and number, and says nothing of fraud. It is written once, by the database
transaction that writes the first payment to name the number: no committed payment names a number without a
row. All writers insert in one order (customers, then terminals, each by number), so none waits in a circle.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from fraud_pipeline.hashing import bell, key, unit
from fraud_pipeline.logs import logfmt
from fraud_pipeline.places import CITY_COUNTRY, COUNTRIES, LATS, LONS
from fraud_pipeline.world import (
    ATM,
    BLOCK_CUSTOMERS,
    BLOCK_TERMINALS,
    CHANNELS,
    CITY_DEGREES,
    CITY_OF_TERMINAL,
    CUSTOMER_DAYS,
    CUSTOMER_SPREAD,
    LIVES_BEGIN,
    MEDIAN_AMOUNT,
    MOST_CUSTOMERS,
    MOST_TERMINALS,
    POS,
    POS_TERMINALS,
    WEB,
    WEB_TERMINALS,
    world,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as PostgresConnection  # noqa: N812 -- a class named in lower case
    from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812

    from fraud_pipeline.hashing import Integers
    from fraud_pipeline.world import World

    Rows = dict[str, list[object]]

# A customer's segment goes by the usual amount, in deviations from the median: below each bound.
SEGMENTS = ("basic", "standard", "premium")
SEGMENT_BOUNDS = (-0.5, 1.0)
# Of those who were there before anybody came: before any payment of a history of ten years.
FIRST_OPENED, OPENED_DAYS = np.datetime64("2000-01-01"), 5_479
# Numbers that the scripts write; a higher one was made up. No place has seen as many people.
HIGHEST_LIFE = 100

CUSTOMER_TYPES = {
    "customer_id": "integer",
    "country": "text",
    "lat": "real",
    "lon": "real",
    "segment": "text",
    "cards": "smallint",
    "opened_on": "date",
}
TERMINAL_TYPES = {
    "terminal_id": "integer",
    "mcc": "smallint",
    "channel": "text",
    "country": "text",
    "lat": "real",
    "lon": "real",
}

# Of a batch's numbers those without a row; and whether a table has no row at all: one that has just been
# made, while payments of an earlier release, or of before it was emptied by hand, name numbers already.
_MISSING = """
    SELECT ARRAY(SELECT id FROM unnest(%s::integer[]) AS id
                 WHERE NOT EXISTS (SELECT FROM public.customers WHERE customer_id = id)),
           ARRAY(SELECT id FROM unnest(%s::integer[]) AS id
                 WHERE NOT EXISTS (SELECT FROM public.terminals WHERE terminal_id = id)),
           NOT EXISTS (SELECT FROM public.customers) OR NOT EXISTS (SELECT FROM public.terminals)"""
_ALL_MISSING = """
    SELECT ARRAY(SELECT DISTINCT customer_id FROM public.transactions
                 WHERE NOT EXISTS (SELECT FROM public.customers AS c
                                   WHERE c.customer_id = transactions.customer_id)
                   AND customer_id BETWEEN 1 AND %s),
           ARRAY(SELECT DISTINCT terminal_id FROM public.transactions
                 WHERE NOT EXISTS (SELECT FROM public.terminals AS t
                                   WHERE t.terminal_id = transactions.terminal_id)
                   AND terminal_id BETWEEN 1 AND %s)"""
_FIRST_SEED = "SELECT seed FROM sim.batches ORDER BY created_at LIMIT 1"
_OTHER_SEED = "SELECT seed FROM sim.batches WHERE seed <> %s LIMIT 1"

_LOG = logging.getLogger(__name__)


def customer_rows(simulated_world: World, numbers: Integers) -> Rows:
    """Columns of the customers with these numbers, counted from 1."""
    customer = numbers - 1
    before, place = np.divmod(customer, MOST_CUSTOMERS)
    city = simulated_world.home[place].astype(np.int64)
    spread = (simulated_world.spend[place] - np.log(MEDIAN_AMOUNT)) / CUSTOMER_SPREAD
    days = (unit(key(simulated_world.seed, "opened"), customer) * OPENED_DAYS).astype(np.int64)
    came = np.datetime64(LIVES_BEGIN, "D") + before * CUSTOMER_DAYS - simulated_world.customer_age[place]
    lat = LATS[city] + CITY_DEGREES * bell(key(simulated_world.seed, "home lat"), customer)
    lon = LONS[city] + CITY_DEGREES * bell(key(simulated_world.seed, "home lon"), customer)
    return {
        "customer_id": numbers.tolist(),
        "country": [COUNTRIES[country][0] for country in CITY_COUNTRY[city]],
        "lat": list(lat.astype(np.float32)),
        "lon": list(lon.astype(np.float32)),
        "segment": [SEGMENTS[place] for place in np.searchsorted(SEGMENT_BOUNDS, spread)],
        "cards": (1 + simulated_world.second_card[place]).tolist(),
        "opened_on": list(np.where(before > 0, came, FIRST_OPENED + days)),
    }


def terminal_rows(simulated_world: World, numbers: Integers) -> Rows:
    """Columns of the terminals with these numbers, counted from 1; None for an online merchant's place."""
    # Who follows at a place has all of it but the number.
    terminal = (numbers - 1) % MOST_TERMINALS
    in_block = terminal % BLOCK_TERMINALS
    web = in_block >= BLOCK_TERMINALS - WEB_TERMINALS
    channel = np.where(web, WEB, np.where(in_block >= POS_TERMINALS, ATM, POS))
    country = CITY_COUNTRY[CITY_OF_TERMINAL[in_block]]
    lat, lon = simulated_world.terminal_lat[terminal], simulated_world.terminal_lon[terminal]
    return {
        "terminal_id": numbers.tolist(),
        "mcc": simulated_world.mcc[terminal].tolist(),
        "channel": [CHANNELS[place] for place in channel],
        "country": [
            None if online else COUNTRIES[place][0] for online, place in zip(web, country, strict=True)
        ],
        "lat": [None if online else degrees for online, degrees in zip(web, lat, strict=True)],
        "lon": [None if online else degrees for online, degrees in zip(web, lon, strict=True)],
    }


def write_used(
    cursor: PostgresCursor, simulated_world: World, customers: Integers, terminals: Integers
) -> None:
    """Write the rows that are missing of the numbers that a batch uses; the batch's rows are written already.

    If a table is empty, also the rows that payments before it name. Raises psycopg2.Error.
    """
    cursor.execute(_MISSING, (_array(customers.tolist()), _array(terminals.tolist())))
    missing_customers, missing_terminals, is_empty = cursor.fetchone() or ([], [], False)
    if is_empty:
        write_missing(cursor, simulated_world.seed)
    else:
        _write(cursor, simulated_world, missing_customers, missing_terminals)


def write_missing(cursor: PostgresCursor, seed: int) -> int:
    """Write the rows that are missing of all numbers that payments name and a world has; how many.

    They are made of the seed of the first batch, or of `seed` if there is no batch. Raises psycopg2.Error.
    """
    cursor.execute(_FIRST_SEED)
    [seed] = cursor.fetchone() or (seed,)
    cursor.execute(_ALL_MISSING, (HIGHEST_LIFE * MOST_CUSTOMERS, HIGHEST_LIFE * MOST_TERMINALS))
    customers, terminals = cursor.fetchone() or ([], [])
    blocks = 1 + max(
        max(((number - 1) % MOST_CUSTOMERS for number in customers), default=0) // BLOCK_CUSTOMERS,
        max(((number - 1) % MOST_TERMINALS for number in terminals), default=0) // BLOCK_TERMINALS,
    )
    _write(cursor, world(seed, blocks), customers, terminals)
    return len(customers) + len(terminals)


def warn_of_other_seed(connection: PostgresConnection, seed: int) -> int | None:
    """Log a warning if the database has batches of another seed, whose numbers mean other people.

    Returns that seed. Raises psycopg2.Error.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_OTHER_SEED, (seed,))
        row = cursor.fetchone()
    other = int(row[0]) if row else None
    if other is not None:
        _LOG.warning(
            logfmt(
                "seeds_mixed",
                seed=seed,
                other=other,
                meaning="customers and terminals are those of the seed that used their number first",
            )
        )
    return other


def _write(
    cursor: PostgresCursor, simulated_world: World, customers: list[int], terminals: list[int]
) -> None:
    for table, types, make, numbers in (
        ("public.customers", CUSTOMER_TYPES, customer_rows, customers),
        ("public.terminals", TERMINAL_TYPES, terminal_rows, terminals),
    ):
        if numbers:
            rows = make(simulated_world, np.sort(np.array(numbers, np.int64)))
            arrays = ", ".join(f"%s::{kind}[]" for kind in types.values())
            cursor.execute(
                f"INSERT INTO {table} ({', '.join(types)}) SELECT * FROM unnest({arrays})"  # noqa: S608 -- constants
                " ON CONFLICT DO NOTHING",
                [_array(rows[name]) for name in types],
            )


def _array(values: list[object] | list[int]) -> str:
    """PostgreSQL's text of an array, of values that need no quotes; parsed faster than an expression."""
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"
