"""Customers, cards and terminals: who they are is a pure function of the seed and their number.

A world is made of blocks, each with the same number of customers and of terminals, and customers shop in
their own block. A bigger world has more blocks; those that were there stay as they are. A block's terminals
are numbered city by city, so where one stands follows from its number.

From LIVES_BEGIN on they come and go: who leaves is followed by another, whose id is higher by the most that a
world can have. The one who follows a customer lives in the same city with as much money and has other habits;
the one who follows a terminal stands at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fraud_pipeline import rhythm
from fraud_pipeline.hashing import Floats, Integers, bell, key, mixed, unit
from fraud_pipeline.places import CATEGORIES, CITIES, CITY_COUNTRY, LATS, LONS, MERCHANTS, SHOPS
from fraud_pipeline.scenarios import TRIP_SHARE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fraud_pipeline.places import Category

BLOCK_CUSTOMERS = 5_000
BLOCK_TERMINALS = 2_500
MOST_BLOCKS = 40
MOST_CUSTOMERS, MOST_TERMINALS = MOST_BLOCKS * BLOCK_CUSTOMERS, MOST_BLOCKS * BLOCK_TERMINALS
# What a block's customers pay in a day: 50 to 200 every half hour, 125 on average.
BLOCK_DAILY = 6_000

POS, ATM, WEB = 0, 1, 2
# All of three letters: the encoder of the binary COPY gives each row the same length.
CHANNELS = ("pos", "atm", "web")
POS_TERMINALS, ATM_TERMINALS = 2_000, 150

MEDIAN_AMOUNT = 22.0
CUSTOMER_SPREAD = 0.45
# Shares of customers with one device, and with one or two; the others have three.
DEVICE_BOUNDS = (0.35, 0.8)
CITY_DEGREES = 0.06
HOUR, DAY = rhythm.HOUR, rhythm.DAY
FORTNIGHT = 14
# In days since 1970: before 1 January 2024 nobody comes or goes.
LIVES_BEGIN = 19_723
CUSTOMER_DAYS, TERMINAL_DAYS, CARD_DAYS = 3_650, 1_460, 1_460
# Each of a customer's favourite terminals is another one after so many days.
HABIT_DAYS = 240
FEWEST_TRIP_DAYS, MORE_TRIP_DAYS = 2.0, 5.0


def _section(first: int, size: int, shares: Floats) -> tuple[Integers, Integers]:
    bounds = np.rint(np.concatenate(([0.0], np.cumsum(shares))) * size).astype(np.int64)
    return first + bounds[:-1], np.diff(bounds)


_CITY_SHARES = np.array([rhythm.COUNTRY_SHARES[city.country] * city.weight for city in CITIES])
WEB_TERMINALS = BLOCK_TERMINALS - POS_TERMINALS - ATM_TERMINALS
_SECTIONS = (
    _section(0, POS_TERMINALS, _CITY_SHARES),
    _section(POS_TERMINALS, ATM_TERMINALS, _CITY_SHARES),
    (
        np.full(len(CITIES), POS_TERMINALS + ATM_TERMINALS, np.int64),
        np.full(len(CITIES), WEB_TERMINALS, np.int64),
    ),
)
# By channel * cities + city: the first of a block's terminals there, and how many there are.
FIRST_TERMINAL = np.concatenate([first for first, _ in _SECTIONS])
TERMINALS_THERE = np.concatenate([size for _, size in _SECTIONS])
TERMINAL_CITY = np.repeat(np.arange(len(CITIES)), _SECTIONS[POS][1])
ATM_CITY = np.repeat(np.arange(len(CITIES)), _SECTIONS[ATM][1])
# Where an online merchant has its seat never shows.
CITY_OF_TERMINAL = np.concatenate([TERMINAL_CITY, ATM_CITY, np.zeros(WEB_TERMINALS, np.int64)])


@dataclass(frozen=True, eq=False)
class World:
    """Tables by number, counted from 0; ids in the data count from 1."""

    seed: int
    blocks: int
    home: NDArray[np.int8]
    spend: NDArray[np.float32]
    web_share: NDArray[np.float32]
    second_card: NDArray[np.bool_]
    # How many to pay online with.
    devices: NDArray[np.int8]
    # Of rhythm.PAYDAYS.
    payday: NDArray[np.int8]
    # How many days of its life are over on the day LIVES_BEGIN.
    customer_age: NDArray[np.int32]
    card_age: NDArray[np.int32]
    terminal_age: NDArray[np.int32]
    terminal_lat: NDArray[np.float32]
    terminal_lon: NDArray[np.float32]
    # A position in CATEGORIES.
    category: NDArray[np.int8]
    mcc: NDArray[np.int16]
    terminal_spend: NDArray[np.float32]
    # A block's customers, as often as they are active, group by group.
    slots: Integers
    first_slot: Integers
    slots_there: Integers
    # All customers, block by block and in it city by city.
    residents: Integers
    first_resident: Integers

    @property
    def daily(self) -> int:
        """Transactions on the average day."""
        return self.blocks * BLOCK_DAILY

    def customers_of_groups(self, random: np.random.Generator, groups: Integers) -> Integers:
        """Draw a customer for each group, the more often the more active; any block."""
        n = len(groups)
        slot = self.first_slot[groups] + (random.random(n) * self.slots_there[groups]).astype(np.int64)
        customer = self.slots[slot]
        if self.blocks > 1:
            customer = customer + BLOCK_CUSTOMERS * random.integers(0, self.blocks, n)
        return np.asarray(customer)

    def customer_of(self, bits: Integers, block: Integers) -> Integers:
        """A customer of a block for each number, the more often the more active."""
        return np.asarray(self.slots[bits % len(self.slots)] + BLOCK_CUSTOMERS * block)

    def resident(self, bits: Integers, block: Integers, city: Integers) -> Integers:
        """A customer for each number who lives in the given block and city."""
        place = block * len(CITIES) + city
        first = self.first_resident[place]
        return np.asarray(self.residents[first + bits % (self.first_resident[place + 1] - first)])

    def whereabouts(self, customers: Integers, moments: Integers) -> Integers:
        """The city in which each customer is: at home, or on a trip of two to seven days."""
        days = moments / DAY + customers % FORTNIGHT
        fortnights = np.floor(days / FORTNIGHT)
        bits = mixed(key(self.seed, "trip"), customers * 4096 + fortnights.astype(np.int64)).view(np.int64)
        city = self.home[customers].astype(np.int64)
        going = np.flatnonzero((bits & 0xFFFF) < TRIP_SHARE * 0x10000)
        chosen = bits[going]
        # Sixteen bits each for the first day, the length and the destination.
        first = ((chosen >> 16) & 0xFFFF) / 0x10000 * (FORTNIGHT - FEWEST_TRIP_DAYS - MORE_TRIP_DAYS)
        length = FEWEST_TRIP_DAYS + ((chosen >> 32) & 0xFFFF) / 0x10000 * MORE_TRIP_DAYS
        day = days[going] - fortnights[going] * FORTNIGHT
        away = (day >= first) & (day < first + length)
        step = 1 + ((chosen[away] >> 48) & 0xFFFF) % (len(CITIES) - 1)
        city[going[away]] = (city[going[away]] + step) % len(CITIES)
        return city


def lives_before(age: NDArray[np.int32], days: Integers, length: int) -> Integers:
    """How many have come and gone before the one who is there on each day; days count from 1970."""
    return np.asarray(np.maximum((days - LIVES_BEGIN + age) // length, 0))


@lru_cache(maxsize=4)
def world(seed: int, blocks: int) -> World:
    """Make the world of a seed with so many blocks."""
    customers = np.arange(blocks * BLOCK_CUSTOMERS)
    terminals = np.arange(blocks * BLOCK_TERMINALS)
    # Which of a block's customers belong to which group, and how active they are, is the same in each block.
    member = np.arange(BLOCK_CUSTOMERS)
    group = np.searchsorted(np.cumsum(rhythm.group_shares()), unit(key(seed, "group"), member))
    group = np.minimum(group, rhythm.GROUPS - 1)
    times = 1 + (8 * unit(key(seed, "activity"), member) ** 3).astype(np.int64)
    order = np.argsort(group, kind="stable")
    slots = np.repeat(member[order], times[order])
    slots_there = np.bincount(group, weights=times, minlength=rhythm.GROUPS).astype(np.int64)
    home = _homes(seed, customers, np.tile(group // len(rhythm.HABITS), blocks))
    place = customers // BLOCK_CUSTOMERS * len(CITIES) + home
    city = np.tile(CITY_OF_TERMINAL, blocks)
    category = _categories(seed, terminals)
    factor = np.array([kind.factor for kind in CATEGORIES])[category]
    return World(
        seed=seed,
        blocks=blocks,
        home=home,
        spend=_usual_spend(seed, customers),
        web_share=(0.65 * unit(key(seed, "web"), customers) ** 1.5).astype(np.float32),
        second_card=unit(key(seed, "cards"), customers) < 0.4,  # noqa: PLR2004 -- a share, used once
        devices=(1 + np.searchsorted(DEVICE_BOUNDS, unit(key(seed, "devices"), customers))).astype(np.int8),
        payday=(len(rhythm.PAYDAYS) * unit(key(seed, "payday"), customers)).astype(np.int8),
        customer_age=(CUSTOMER_DAYS * unit(key(seed, "customer age"), customers)).astype(np.int32),
        card_age=(CARD_DAYS * unit(key(seed, "card age"), customers)).astype(np.int32),
        terminal_age=(TERMINAL_DAYS * unit(key(seed, "terminal age"), terminals)).astype(np.int32),
        terminal_lat=(LATS[city] + CITY_DEGREES * bell(key(seed, "lat"), terminals)).astype(np.float32),
        terminal_lon=(LONS[city] + CITY_DEGREES * bell(key(seed, "lon"), terminals)).astype(np.float32),
        category=category,
        mcc=np.array([kind.mcc for kind in CATEGORIES], np.int16)[category],
        terminal_spend=np.log(factor).astype(np.float32),
        slots=slots,
        first_slot=np.concatenate(([0], np.cumsum(slots_there)))[:-1],
        slots_there=slots_there,
        residents=np.argsort(place, kind="stable"),
        first_resident=np.searchsorted(np.sort(place), np.arange(blocks * len(CITIES) + 1)),
    )


def _usual_spend(seed: int, customers: Integers) -> NDArray[np.float32]:
    usual = np.log(MEDIAN_AMOUNT) + CUSTOMER_SPREAD * bell(key(seed, "spend"), customers)
    return np.asarray(usual, np.float32)


def _homes(seed: int, customers: Integers, country: Integers) -> NDArray[np.int8]:
    home = np.empty(len(customers), np.int8)
    chance = unit(key(seed, "home"), customers)
    for number in range(len(rhythm.COUNTRY_SHARES)):
        cities = np.flatnonzero(number == CITY_COUNTRY)
        bounds = np.cumsum([CITIES[city].weight for city in cities])
        mine = country == number
        home[mine] = cities[np.minimum(np.searchsorted(bounds, chance[mine]), len(cities) - 1)]
    return home


def _categories(seed: int, terminals: Integers) -> NDArray[np.int8]:
    # Cash is the last category.
    category = np.full(len(terminals), len(CATEGORIES) - 1, np.int8)
    number = terminals % BLOCK_TERMINALS
    chance = unit(key(seed, "category"), terminals)

    def assign(mine: NDArray[np.bool_], categories: tuple[Category, ...], first: int) -> None:
        bounds = np.cumsum([category.weight for category in categories])
        category[mine] = first + np.minimum(np.searchsorted(bounds, chance[mine]), len(categories) - 1)

    assign(number < POS_TERMINALS, SHOPS, 0)
    assign(number >= POS_TERMINALS + ATM_TERMINALS, MERCHANTS, len(SHOPS))
    return category
