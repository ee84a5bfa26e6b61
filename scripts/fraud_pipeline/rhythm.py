"""When people pay: intensity over the hours of the week and the days of the year, and moments drawn from it.

Customers live in groups: a country, whose clock is its standard time (there is no daylight saving here), and
a habit (early, day, late). A group's profile gives the share of a week's payments in each hour of UTC; the
calendar of UTC makes days of December busier, and the two public holidays that all countries have calm.
Times are microseconds since 1970 in UTC; a day is one of the calendar, which begins anew every 28 years.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fraud_pipeline.hashing import Floats, Integers

WEEK_HOURS = 168
HOUR = 3_600_000_000
DAY = 24 * HOUR
# 5 January 1970 was a Monday.
FIRST_MONDAY = 4 * DAY
# After 28 years the days of the week fall on the same dates. After February 2100 dates are one day off.
CYCLE_DAYS = 1_461 * 7
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
# Before Christmas, until the 23rd; and on New Year's Day and Christmas Day, when shops are closed.
DECEMBER_WEIGHT, HOLIDAY_WEIGHT = 1.25, 0.4
# Of the month: each customer is paid on one of them, and then spends more: by a logarithm that begins at
# PAYDAY_RISE above that of the days before the next payday, and fades.
PAYDAYS = (1, 15, 25)
PAYDAY_RISE, PAYDAY_FADES_DAYS = 0.35, 5.0
# How much stronger cash follows than amounts.
PAYDAY_CASH = 3.0


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
def _dates() -> tuple[Integers, Integers]:
    """Day of the month and month of each day of the calendar."""
    dates = np.datetime64(FIRST_MONDAY, "us").astype("datetime64[D]") + np.arange(CYCLE_DAYS)
    months = dates.astype("datetime64[M]")
    return 1 + (dates - months).astype(np.int64), 1 + months.astype(np.int64) % 12


@cache
def holidays() -> NDArray[np.bool_]:
    """Which days of the calendar are public holidays in every country."""
    day, month = _dates()
    return np.asarray(((month == 1) & (day == 1)) | ((month == 12) & (day == 25)))  # noqa: PLR2004 -- dates


@cache
def paydays() -> NDArray[np.float32]:
    """By payday and day of the calendar: by what logarithm people who are paid then spend more than usual."""
    day = _dates()[0]
    place = np.arange(CYCLE_DAYS)
    rows = []
    for payday in PAYDAYS:
        # The calendar is a circle: its first days are after the last payday of the one before.
        paid = np.flatnonzero(day == payday)
        since = place - paid[np.searchsorted(paid, place, side="right") - 1]
        rise = PAYDAY_RISE * np.exp(-(since % CYCLE_DAYS) / PAYDAY_FADES_DAYS)
        rows.append(rise - rise.mean())
    return np.stack(rows).astype(np.float32)


@cache
def _cumulative() -> tuple[Floats, Floats]:
    """The hours of the calendar, and the intensity summed up to each."""
    day, month = _dates()
    weights = np.where((month == 12) & (day < 24), DECEMBER_WEIGHT, 1.0)  # noqa: PLR2004 -- dates
    weights[holidays()] = HOLIDAY_WEIGHT
    hours = np.resize(_profiles().sum(axis=0), CYCLE_DAYS * 24) * np.repeat(weights / weights.mean(), 24)
    return np.arange(len(hours) + 1.0), np.concatenate(([0.0], np.cumsum(hours)))


def days_of(moments: Integers) -> Integers:
    """Where in the calendar the day of each moment is."""
    return (moments - FIRST_MONDAY) // DAY % CYCLE_DAYS


@cache
def _group_table() -> Integers:
    """The group for each hour of the week and each step of a random number."""
    bounds = np.cumsum(_profiles(), axis=0) / _profiles().sum(axis=0)
    steps = (np.arange(GROUP_STEPS) + 0.5) / GROUP_STEPS
    table: Integers = np.stack([np.searchsorted(bounds[:, hour], steps) for hour in range(WEEK_HOURS)])
    return np.asarray(np.minimum(table, GROUPS - 1).astype(np.int64).ravel())


def elapsed(moments: Floats | Integers) -> Floats:
    """The intensity summed up to each moment, in hours of the average day."""
    hours = (np.asarray(moments, np.float64) - FIRST_MONDAY) / HOUR
    cycles = np.floor(hours / (24 * CYCLE_DAYS))
    calendar, sums = _cumulative()
    total: Floats = cycles * sums[-1] + np.interp(hours - cycles * calendar[-1], calendar, sums)
    return total


def moments_at(totals: Floats) -> Integers:
    """The moments up to which the intensity sums to the given hours: the inverse of `elapsed`."""
    calendar, sums = _cumulative()
    cycles = np.floor(totals / sums[-1])
    hours = cycles * calendar[-1] + np.interp(totals - cycles * sums[-1], sums, calendar)
    return np.asarray(FIRST_MONDAY + (hours * HOUR).astype(np.int64))


def draw(chances: Floats, since: Integers, until: Integers) -> Integers:
    """A moment for each number from 0 to 1, each in its own span or all in one, as people's habits have them.

    If all are in one span, moments rise with the numbers; sorted ones are looked up faster.
    """
    start, end = elapsed(since), elapsed(until)
    moments = moments_at(start + (end - start) * chances)
    return np.clip(moments, since, until)


def groups_at(random: np.random.Generator, moments: Integers) -> Integers:
    """Draw who pays at each moment: the position of a group."""
    hours = (moments - FIRST_MONDAY) // HOUR % WEEK_HOURS
    steps = random.integers(0, GROUP_STEPS, len(moments))
    return np.asarray(_group_table()[hours * GROUP_STEPS + steps])
