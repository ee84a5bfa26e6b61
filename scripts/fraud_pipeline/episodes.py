"""Episodes of fraud: which card was stolen when, which terminal is compromised until when.

An episode is a pure function of seed and time, so a batch of 50 rows and one of 100,000 meet the same
ones. What a batch sees of an episode is drawn anew: on average as many payments as belong to the time that
both share, in proportion to the batch's size. A batch's share of fraud therefore depends on what goes on
in its time and not on how many transactions it was asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fraud_pipeline import rhythm
from fraud_pipeline import scenarios as kinds
from fraud_pipeline.hashing import Floats, Integers, key, mixed, unit
from fraud_pipeline.places import CITIES, CITY_COUNTRY
from fraud_pipeline.world import (
    ATM,
    BLOCK_DAILY,
    BLOCK_TERMINALS,
    DAY,
    HOUR,
    POS,
    POS_TERMINALS,
    TERMINAL_CITY,
    WEB,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fraud_pipeline.scenarios import Scenario
    from fraud_pipeline.world import World

OWN_CHOICE = -1
USUALLY_KNOWN = 0.88
MINUTE = HOUR // 60


@dataclass(frozen=True, eq=False)
class Intentions:
    """Payments before their details are drawn; OWN_CHOICE leaves one to the customer's habits.

    `known` is the chance of a terminal that the customer often uses, `factor` multiplies the usual amount,
    `scenario` is a scenario's number.
    """

    when: Integers
    customer: Integers
    channel: Integers
    city: Integers
    terminal: Integers
    known: Floats
    factor: Floats
    scenario: Integers

    @classmethod
    def of(cls, when: Integers, customer: Integers, **details: object) -> Intentions:
        """Give each payment the details named, the same for all or one each, and habit for the rest."""
        n = len(when)
        usual = {"channel": OWN_CHOICE, "city": OWN_CHOICE, "terminal": OWN_CHOICE, "scenario": 0}
        given: dict[str, Any] = {"known": USUALLY_KNOWN, "factor": 1.0, **usual, **details}
        columns: dict[str, Any] = {
            name: np.broadcast_to(np.asarray(value, np.int64 if name in usual else np.float64), n)
            for name, value in given.items()
        }
        return cls(when=when, customer=customer, **columns)

    @classmethod
    def in_order(cls, habitual: Intentions, others: Intentions) -> Intentions:
        """Put others, in any order, among habitual payments, which are in order of time."""
        others = others.taken(np.argsort(others.when, kind="stable"))
        n = len(habitual.when) + len(others.when)
        place = np.searchsorted(habitual.when, others.when, side="right") + np.arange(len(others.when))
        rest = np.ones(n, np.bool_)
        rest[place] = False
        columns = {}
        for field in fields(cls):
            usual, unusual = getattr(habitual, field.name), getattr(others, field.name)
            columns[field.name] = column = np.empty(n, usual.dtype)
            # What is the same for all is not moved one by one.
            alike = len(usual) and usual.strides == (0,)
            column[... if alike else rest] = usual[0] if alike else usual
            column[place] = unusual
        return cls(**columns)

    @classmethod
    def joined(cls, parts: list[Intentions]) -> Intentions:
        """All of them, in no order."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def taken(self, positions: Integers) -> Intentions:
        """Those at the given positions."""
        return Intentions(**{f.name: getattr(self, f.name)[positions] for f in fields(self)})


@dataclass(frozen=True, eq=False)
class Episodes:
    """Episodes of one kind that touch a span; `bits` are 63 random bits, each episode's own."""

    start: Integers
    end: Integers
    block: Integers
    bits: Integers


def active(world: World, scenario: Scenario, since: int, until: int) -> Episodes:
    """Find the episodes of a kind that touch a span."""
    rate = scenario.episodes_per_day(BLOCK_DAILY)
    slots = math.ceil(2 * rate)
    length = int(scenario.hours * HOUR)
    days = np.arange((since - length) // DAY, until // DAY + 1)
    day, block, slot = (
        part.ravel() for part in np.meshgrid(days, np.arange(world.blocks), np.arange(slots), indexing="ij")
    )
    identity = (day * 1024 + block) * 1024 + slot
    happens = unit(key(world.seed, scenario.name, "happens"), identity) < rate / slots
    day, block, identity = day[happens], block[happens], identity[happens]
    start = ((day + unit(key(world.seed, scenario.name, "start"), identity)) * DAY).astype(np.int64)
    bits = (mixed(key(world.seed, scenario.name, "bits"), identity) >> np.uint64(1)).view(np.int64)
    touches = (start < until) & (start + length > since)
    return Episodes(start[touches], start[touches] + length, block[touches], bits[touches])


def intentions(world: World, random: np.random.Generator, since: int, until: int, count: int) -> Intentions:
    """Draw what a batch of `count` transactions in a span sees of all episodes."""
    # An empty span has no episodes to divide by its length.
    scale = count * DAY / (world.daily * max(until - since, 1))
    parts = []
    for scenario, draw in _DRAW.items():
        touching = active(world, scenario, since, until)
        start, end = np.maximum(touching.start, since), np.minimum(touching.end, until)
        expected = scenario.events * scale * (end - start) / (touching.end - touching.start)
        episode = np.repeat(np.arange(len(start)), random.poisson(expected))
        if len(episode):
            seen = Episodes(start[episode], end[episode], touching.block[episode], touching.bits[episode])
            parts.append(draw(world, random, seen))
    return Intentions.joined(parts) if parts else Intentions.of(np.empty(0, np.int64), np.empty(0, np.int64))


def _any_time(random: np.random.Generator, seen: Episodes) -> Integers:
    return seen.start + (random.random(len(seen.start)) * (seen.end - seen.start)).astype(np.int64)


def _usual_time(random: np.random.Generator, seen: Episodes) -> Integers:
    return rhythm.draw(random.random(len(seen.start)), seen.start, seen.end)


def _elsewhere(city: Integers, bits: Integers) -> Integers:
    """A city in another country for each."""
    other = (city + 1 + (bits >> 40) % (len(CITIES) - 1)) % len(CITIES)
    same = CITY_COUNTRY[other] == CITY_COUNTRY[city]
    # Countries stand together in the list, the largest has five cities: five further is another one.
    return np.where(same, (other + 5) % len(CITIES), other)


def _unusual_amount(world: World, random: np.random.Generator, seen: Episodes) -> Intentions:
    victim = world.customer_of(seen.bits, seen.block)
    factor = np.exp(random.uniform(np.log(5), np.log(25), len(victim)))
    return Intentions.of(
        _usual_time(random, seen), victim, factor=factor, scenario=kinds.UNUSUAL_AMOUNT.number
    )


def _compromised_terminal(world: World, random: np.random.Generator, seen: Episodes) -> Intentions:
    shop = seen.bits % POS_TERMINALS
    city = TERMINAL_CITY[shop]
    # Copies of many customers' cards, most of whom have never been there.
    victim = world.resident(random.integers(0, 2**62, len(shop)), seen.block, city)
    return Intentions.of(
        _usual_time(random, seen),
        victim,
        channel=POS,
        city=city,
        terminal=seen.block * BLOCK_TERMINALS + shop,
        factor=random.uniform(0.8, 1.8, len(shop)),
        scenario=kinds.COMPROMISED_TERMINAL.number,
    )


def _stolen_card(world: World, random: np.random.Generator, seen: Episodes) -> Intentions:
    victim = world.customer_of(seen.bits, seen.block)
    n = len(victim)
    return Intentions.of(
        _any_time(random, seen),
        victim,
        channel=np.where(random.random(n) < 0.2, ATM, POS),  # noqa: PLR2004 -- a share, used once
        city=world.home[victim],
        known=0.1,
        factor=random.uniform(0.8, 3.0, n),
        scenario=kinds.STOLEN_CARD.number,
    )


def _card_not_present(world: World, random: np.random.Generator, seen: Episodes) -> Intentions:
    victim = world.customer_of(seen.bits, seen.block)
    home = world.home[victim].astype(np.int64)
    return Intentions.of(
        _any_time(random, seen),
        victim,
        channel=WEB,
        city=(home + 1 + (seen.bits >> 40) % (len(CITIES) - 1)) % len(CITIES),
        known=0.05,
        factor=random.uniform(0.6, 3.0, len(victim)),
        scenario=kinds.CARD_NOT_PRESENT.number,
    )


def _two_countries(world: World, random: np.random.Generator, seen: Episodes) -> Intentions:
    """Each fraud abroad comes with the owner's own payment at home some minutes before."""
    victim = world.customer_of(seen.bits, seen.block)
    n = len(victim)
    when = _any_time(random, seen)
    before = when - (random.uniform(3, 25, n) * MINUTE).astype(np.int64)
    home = world.home[victim].astype(np.int64)
    abroad = Intentions.of(
        when,
        victim,
        channel=POS,
        city=_elsewhere(home, seen.bits),
        factor=random.uniform(0.7, 2.2, n),
        scenario=kinds.TWO_COUNTRIES.number,
    )
    owner = Intentions.of(np.maximum(before, seen.start), victim, channel=POS, city=home)
    return Intentions.joined([abroad, owner])


def _shopping_spree(world: World, random: np.random.Generator, seen: Episodes) -> Intentions:
    shopper = world.customer_of(seen.bits, seen.block)
    return Intentions.of(_usual_time(random, seen), shopper, channel=POS, city=world.home[shopper], known=0.5)


_DRAW: dict[Scenario, Callable[[World, np.random.Generator, Episodes], Intentions]] = {
    kinds.UNUSUAL_AMOUNT: _unusual_amount,
    kinds.COMPROMISED_TERMINAL: _compromised_terminal,
    kinds.STOLEN_CARD: _stolen_card,
    kinds.CARD_NOT_PRESENT: _card_not_present,
    kinds.TWO_COUNTRIES: _two_countries,
    kinds.SHOPPING_SPREE: _shopping_spree,
}
