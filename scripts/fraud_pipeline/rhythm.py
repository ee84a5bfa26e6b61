"""When people pay: intensity over the hours of the week, and moments drawn from it.

Customers live in groups: a country, whose clock is its standard time (there is no daylight saving here), and
a habit (early, day, late). A group's profile gives the share of a week's payments in each hour of UTC.
Times are microseconds since 1970 in UTC.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fraud_pipeline.hashing import Floats, Integers

WEEK_HOURS = 168
HOUR = 3_600_000_000
# 5 January 1970 was a Monday.
FIRST_MONDAY = 4 * 24 * HOUR
# A customer group is drawn by 10 random bits, so shares are rounded to a thousandth.
GROUP_STEPS = 1024

COUNTRY_SHARES = (0.34, 0.22, 0.16, 0.14, 0.14)
UTC_OFFSETS = (1, 1, 1, 0, -6)
# Share of customers, and peaks of the day: (hour, width in hours, weight).
HABITS = (
    (0.30, ((8.0, 1.5, 1.0), (12.5, 2.0, 0.9), (17.0, 2.0, 0.8))),
    (0.50, ((12.5, 2.5, 1.0), (18.0, 2.0, 1.2))),
    (0.20, ((14.0, 2.5, 0.6), (20.5, 2.0, 1.2), (23.5, 1.5, 0.5))),
)
NIGHT_FLOOR = 0.03
# Monday to Sunday.
DAY_WEIGHTS = (0.92, 0.93, 0.97, 1.02, 1.18, 1.20, 0.78)


@cache
def _profiles() -> Floats:
    """Payments by group and hour of the UTC week; the mean over the week of all groups together is 1."""
    hours = np.arange(WEEK_HOURS) + 0.5
    rows = []
    for country_share, offset in zip(COUNTRY_SHARES, UTC_OFFSETS, strict=True):
        for habit_share, peaks in HABITS:
            local = (hours + offset) % WEEK_HOURS
            day = np.full(WEEK_HOURS, NIGHT_FLOOR)
            for hour, width, weight in peaks:
                distance = np.abs(local % 24 - hour)
                day += weight * np.exp(-0.5 * (np.minimum(distance, 24 - distance) / width) ** 2)
            day *= np.asarray(DAY_WEIGHTS)[(local // 24).astype(int)]
            rows.append(country_share * habit_share * day / day.mean())
    return np.asarray(np.stack(rows))


GROUPS = len(COUNTRY_SHARES) * len(HABITS)


def group_shares() -> Floats:
    """Share of the customers in each group."""
    shares = [country * habit for country in COUNTRY_SHARES for habit, _ in HABITS]
    return np.asarray(shares) / sum(shares)


@cache
def _cumulative() -> Floats:
    return np.concatenate(([0.0], np.cumsum(_profiles().sum(axis=0))))


@cache
def _group_table() -> Integers:
    """The group for each hour of the week and each step of a random number."""
    bounds = np.cumsum(_profiles(), axis=0) / _profiles().sum(axis=0)
    steps = (np.arange(GROUP_STEPS) + 0.5) / GROUP_STEPS
    table: Integers = np.stack([np.searchsorted(bounds[:, hour], steps) for hour in range(WEEK_HOURS)])
    return np.asarray(np.minimum(table, GROUPS - 1).astype(np.int64).ravel())


def elapsed(moments: Floats | Integers) -> Floats:
    """The intensity summed up to each moment, in hours of the average week."""
    hours = (np.asarray(moments, np.float64) - FIRST_MONDAY) / HOUR
    weeks = np.floor(hours / WEEK_HOURS)
    total: Floats = weeks * WEEK_HOURS + np.interp(
        hours - weeks * WEEK_HOURS, np.arange(WEEK_HOURS + 1), _cumulative()
    )
    return total


def moments_at(sums: Floats) -> Integers:
    """The moments up to which the intensity sums to the given hours: the inverse of `elapsed`."""
    weeks = np.floor(sums / WEEK_HOURS)
    hours = np.interp(sums - weeks * WEEK_HOURS, _cumulative(), np.arange(WEEK_HOURS + 1))
    return np.asarray(FIRST_MONDAY + ((weeks * WEEK_HOURS + hours) * HOUR).astype(np.int64))


def draw(random: np.random.Generator, since: Integers, until: Integers, n: int) -> Integers:
    """Draw n moments, each in its own span or all in one, as people's habits have them."""
    start, end = elapsed(since), elapsed(until)
    moments = moments_at(start + (end - start) * random.random(n))
    return np.clip(moments, since, until)


def groups_at(random: np.random.Generator, moments: Integers) -> Integers:
    """Draw who pays at each moment: the position of a group."""
    hours = (moments - FIRST_MONDAY) // HOUR % WEEK_HOURS
    steps = random.integers(0, GROUP_STEPS, len(moments))
    return np.asarray(_group_table()[hours * GROUP_STEPS + steps])
