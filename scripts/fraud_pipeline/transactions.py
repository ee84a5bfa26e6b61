"""The seam of the data: seed, batch, count and span of time in, columns out. Pure: no clock, no database.

Equal requests give equal columns. Batches of one seed share their world and its episodes of fraud, so rows
of many small batches belong together as those of one big batch do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from fraud_pipeline import episodes, rhythm, scenarios
from fraud_pipeline.devices import device_numbers
from fraud_pipeline.hashing import key, mixed
from fraud_pipeline.places import CENTS, CITY_COUNTRY, LATS, LONS
from fraud_pipeline.world import (
    ATM,
    BLOCK_CUSTOMERS,
    BLOCK_DAILY,
    BLOCK_TERMINALS,
    CARD_DAYS,
    CUSTOMER_DAYS,
    DAY,
    FIRST_TERMINAL,
    HABIT_DAYS,
    MOST_BLOCKS,
    MOST_CUSTOMERS,
    MOST_TERMINALS,
    POS,
    TERMINAL_DAYS,
    TERMINALS_THERE,
    WEB,
    World,
    lives_before,
    world,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fraud_pipeline.episodes import Intentions
    from fraud_pipeline.hashing import Floats, Integers

FEWEST_IN_BATCH = 50
MOST_IN_BATCH = 200
# A batch of 200 is this much more than the average one and still of the smallest world.
BUSY = 2.0

FAVOURITES = 8
# A prime beside HABIT_DAYS, and more than a person has habits of one rank after each other.
HABIT_STEP, HABITS_IN_LIFE = 97, 4_096
ATM_SHARE = 0.06
# When shops are closed nobody pays less than this online.
HOLIDAY_WEB_SHARE = 0.6
# A card's last digit goes through the odd ones, or the even ones for a second card, and begins anew.
CARD_NUMBERS = 4
SECOND_CARD_SHARE = 0.25
AMOUNT_SPREAD = 0.55
WEB_DEGREES = 0.15
LOWEST_CENTS, HIGHEST_CENTS = 50, 5_000_000
NOTE_CENTS, HIGHEST_CASH_CENTS = 1_000, 100_000
HONEST_DECLINED, FRAUD_DECLINED = 0.025, 0.06
# All of one length, as CHANNELS are.
STATUSES = ("approved", "declined")
# Of `reported_at`: for an honest transaction, and for a fraud that nobody reports.
NEVER = np.iinfo(np.int64).max

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class BatchRequest:
    """What a batch is made of; equal requests give equal batches. Times are aware and `since <= until`.

    `blocks` is the size of the world; 0 takes the one that has about so many transactions in that time.
    """

    seed: int
    batch: str
    count: int
    since: datetime
    until: datetime
    blocks: int = 0

    @property
    def world(self) -> World:
        """The world whose people pay."""
        return world(self.seed, self.blocks or blocks_for(self.count, self.until - self.since))


@dataclass(frozen=True, eq=False)
class Batch:
    """Columns in order of time. Times are microseconds since 1970 in UTC.

    `country` is a position in COUNTRIES, `channel` in CHANNELS, `scenario` a scenario's number; `device_id`
    is 0 of payments that are not online.
    """

    tx_time: Integers
    customer_id: NDArray[np.int64]
    card_id: Integers
    terminal_id: Integers
    mcc: NDArray[np.int16]
    cents: Integers
    country: NDArray[np.int8]
    channel: NDArray[np.int8]
    lat: NDArray[np.float32]
    lon: NDArray[np.float32]
    declined: NDArray[np.bool_]
    device_id: NDArray[np.int32]
    scenario: NDArray[np.int8]
    reported_at: Integers

    def __len__(self) -> int:
        return len(self.tx_time)

    @property
    def frauds(self) -> int:
        """How many of the transactions are frauds."""
        return int(np.count_nonzero(self.scenario))


def microseconds(moment: datetime) -> int:
    """A moment as the columns hold it."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment(value: int) -> datetime:
    """The inverse of `microseconds`."""
    return _EPOCH + timedelta(microseconds=value)


def batch_size(seed: int, batch: str) -> int:
    """How many transactions a scheduled batch has: 50 to 200, each as likely as the other."""
    return FEWEST_IN_BATCH + key(seed, batch, "size") % (MOST_IN_BATCH - FEWEST_IN_BATCH + 1)


def blocks_for(count: int, span: timedelta) -> int:
    """How many blocks a world needs for so many transactions in that time."""
    expected = BLOCK_DAILY * (span / timedelta(days=1))
    if count <= max(expected * BUSY, MOST_IN_BATCH):
        return 1
    return min(math.ceil(count / expected), MOST_BLOCKS) if expected else MOST_BLOCKS


def generate(request: BatchRequest) -> Batch:
    """Generate the batch of a request."""
    random = np.random.Generator(np.random.PCG64(key(request.seed, request.batch, "rows")))
    since, until = microseconds(request.since), microseconds(request.until)
    simulated_world = request.world
    special = episodes.intentions(simulated_world, random, since, until, request.count)
    if len(special.when) > request.count:
        special = special.taken(random.permutation(len(special.when))[: request.count])
    habitual = _habitual(simulated_world, random, since, until, request.count - len(special.when))
    return _carried_out(simulated_world, random, episodes.Intentions.in_order(habitual, special))


def _habitual(
    simulated_world: World, random: np.random.Generator, since: int, until: int, count: int
) -> Intentions:
    # Sorted here, which is fast: looking moments up and putting the few others in between is then cheap.
    when = rhythm.draw(np.sort(random.random(count)), np.array([since]), np.array([until]))
    factor = np.ones(count)
    big = np.flatnonzero(random.random(count) < scenarios.BIG_PURCHASE_SHARE)
    factor[big] = np.exp(random.uniform(np.log(3), np.log(12), len(big)))
    customers = simulated_world.customers_of_groups(random, rhythm.groups_at(random, when))
    return episodes.Intentions.of(when, customers, factor=factor)


def _carried_out(simulated_world: World, random: np.random.Generator, wanted: Intentions) -> Batch:
    """Draw what the intentions leave open, and give every payment its columns."""
    n, customer = len(wanted.when), wanted.customer
    days, calendar = wanted.when // DAY, rhythm.days_of(wanted.when)
    rise = rhythm.paydays()[simulated_world.payday[customer], calendar]
    web_share = simulated_world.web_share[customer]
    closed = rhythm.holidays()[calendar]
    web_share[closed] = np.maximum(web_share[closed], HOLIDAY_WEB_SHARE)
    chance = random.random(n, np.float32)
    cash_share = np.float32(ATM_SHARE) * np.exp(np.float32(rhythm.PAYDAY_CASH) * rise)
    channel = np.where(chance < web_share, WEB, np.where(chance > 1 - cash_share, ATM, POS))
    channel = np.where(wanted.channel >= 0, wanted.channel, channel)
    city = np.where(wanted.city >= 0, wanted.city, simulated_world.whereabouts(customer, wanted.when))
    person = customer + MOST_CUSTOMERS * lives_before(
        simulated_world.customer_age[customer], days, CUSTOMER_DAYS
    )
    terminal = _terminals(simulated_world, random, wanted, person, channel, city)
    terminal = np.where(wanted.terminal >= 0, wanted.terminal, terminal)
    tenant = lives_before(simulated_world.terminal_age[terminal], days, TERMINAL_DAYS)
    web = channel == WEB
    fraud = wanted.scenario > 0
    second = simulated_world.second_card[customer] & (random.random(n, np.float32) < SECOND_CARD_SHARE)
    device = np.zeros(n, np.int32)
    online = np.flatnonzero(web)
    device[online] = device_numbers(
        simulated_world, random, person[online], city[online], days[online], fraud=fraud[online]
    )
    cards_before = lives_before(simulated_world.card_age[customer], days, CARD_DAYS)
    return Batch(
        tx_time=wanted.when,
        customer_id=person + 1,
        card_id=(person + 1) * 10 + 1 + second + 2 * (cards_before % CARD_NUMBERS),
        terminal_id=terminal + 1 + MOST_TERMINALS * tenant,
        mcc=simulated_world.mcc[terminal],
        cents=_cents(simulated_world, random, wanted, terminal, rise, channel == ATM),
        country=CITY_COUNTRY[city],
        channel=channel.astype(np.int8),
        # Online it is where the buyer's address is thought to be, which is inexact.
        lat=np.where(web, _near(random, LATS[city]), simulated_world.terminal_lat[terminal]),
        lon=np.where(web, _near(random, LONS[city]), simulated_world.terminal_lon[terminal]),
        declined=random.random(n, np.float32) < np.where(fraud, FRAUD_DECLINED, HONEST_DECLINED),
        device_id=device,
        scenario=wanted.scenario.astype(np.int8),
        reported_at=_reports(random, wanted.when, fraud),
    )


def _terminals(
    simulated_world: World,
    random: np.random.Generator,
    wanted: Intentions,
    person: Integers,
    channel: Integers,
    city: Integers,
) -> Integers:
    """One of the person's favourites in that city, or any there; all of the person's own block."""
    n = len(channel)
    place = channel * len(LATS) + city
    favourite = (FAVOURITES * random.random(n, np.float32) ** 2).astype(np.int64)
    habit = person * FAVOURITES + favourite
    # Favourites are given up one after the other, each person's on other days.
    phase = habit * HABIT_STEP % HABIT_DAYS
    habit = habit * HABITS_IN_LIFE + (wanted.when // DAY + phase) // HABIT_DAYS
    bits = mixed(key(simulated_world.seed, "favourite"), habit)
    anywhere = random.integers(0, 2**31, n)
    chosen = np.where(
        random.random(n, np.float32) < wanted.known, (bits >> np.uint64(1)).view(np.int64), anywhere
    )
    block = wanted.customer // BLOCK_CUSTOMERS
    return np.asarray(block * BLOCK_TERMINALS + FIRST_TERMINAL[place] + chosen % TERMINALS_THERE[place])


def _cents(
    simulated_world: World,
    random: np.random.Generator,
    wanted: Intentions,
    terminal: Integers,
    rise: NDArray[np.float32],
    cash: NDArray[np.bool_],
) -> Integers:
    usual = simulated_world.spend[wanted.customer] + simulated_world.terminal_spend[terminal] + rise
    noise = random.standard_normal(len(terminal), np.float32)
    amount = np.exp(usual + np.float32(AMOUNT_SPREAD) * noise) * wanted.factor
    cents = np.clip(np.rint(amount * 100), LOWEST_CENTS, HIGHEST_CENTS).astype(np.int64)
    ending = CENTS[simulated_world.category[terminal], random.integers(0, CENTS.shape[1], len(cents))]
    cents = np.where(ending < 0, cents, np.maximum(cents - cents % 100 + ending, LOWEST_CENTS))
    notes = np.clip(-(-cents[cash] // NOTE_CENTS) * NOTE_CENTS, NOTE_CENTS, HIGHEST_CASH_CENTS)
    cents[cash] = notes
    return cents


def _near(random: np.random.Generator, degrees: Floats) -> NDArray[np.float32]:
    noise = random.standard_normal(len(degrees), np.float32)
    return degrees.astype(np.float32) + np.float32(WEB_DEGREES) * noise


def _reports(random: np.random.Generator, when: Integers, fraud: NDArray[np.bool_]) -> Integers:
    """When each fraud is known: at once, after days, or never."""
    reported = np.full(len(when), NEVER)
    mine = np.flatnonzero(fraud)
    chance = random.random(len(mine))
    days = scenarios.EARLIEST_REPORT_DAYS + random.exponential(scenarios.MEAN_REPORT_DAYS, len(mine))
    later = when[mine] + (np.minimum(days, scenarios.LATEST_REPORT_DAYS) * DAY).astype(np.int64)
    known = np.where(chance < scenarios.NOTICED_AT_ONCE, when[mine], later)
    reported[mine] = np.where(chance > 1 - scenarios.NEVER_REPORTED, NEVER, known)
    return reported
