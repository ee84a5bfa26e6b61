"""The device that an online payment comes from: a number that says nothing but which device it is.

A customer has one to three, each for DEVICE_DAYS, and sometimes uses another: one that many people use (at
work, in a hotel), or one that is never seen again (a friend's, a private window). Who has stolen card details
mostly uses a device of his own for several cards, and sometimes, by remote control, the customer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fraud_pipeline.hashing import key, mixed
from fraud_pipeline.places import CITIES
from fraud_pipeline.world import BLOCK_CUSTOMERS, MOST_CUSTOMERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fraud_pipeline.hashing import Integers
    from fraud_pipeline.world import World

MOST_DEVICES = 3
DEVICE_DAYS = 900
# A prime beside DEVICE_DAYS, and more than a device has successors.
_STEP, _LIVES = 389, 4_096
# Of an online payment: not with an own device, and of these with one that is never seen again. Chosen.
HONEST_FOREIGN, HONEST_ONCE = 0.03, 0.5
FRAUD_FOREIGN, FRAUD_ONCE = 0.85, 0.2
# Devices that many use, in each block and city; and of thieves, in each block, who replace them each week.
PUBLIC, THIEVES, THIEVES_DAYS = 4, 4, 7


def device_numbers(
    simulated_world: World,
    random: np.random.Generator,
    person: Integers,
    city: Integers,
    days: Integers,
    *,
    fraud: NDArray[np.bool_],
) -> NDArray[np.int32]:
    """The device of each online payment, from 1, by the person (from 0), city and day since 1970."""
    n, customer = len(person), person % MOST_CUSTOMERS
    own = person * MOST_DEVICES + (simulated_world.devices[customer] * random.random(n) ** 2).astype(np.int64)
    # Devices are replaced one after the other, each person's on other days.
    identity = own * _LIVES + (days + own * _STEP % DEVICE_DAYS) // DEVICE_DAYS
    bits = mixed(key(simulated_world.seed, "device"), identity)
    foreign = np.flatnonzero(random.random(n) < np.where(fraud, FRAUD_FOREIGN, HONEST_FOREIGN))
    bits[foreign] = _foreign(
        simulated_world, random, customer[foreign], city[foreign], days[foreign], fraud[foreign]
    )
    return np.maximum((bits >> np.uint64(33)).astype(np.int32), 1)


def _foreign(
    simulated_world: World,
    random: np.random.Generator,
    customer: Integers,
    city: Integers,
    days: Integers,
    fraud: NDArray[np.bool_],
) -> NDArray[np.uint64]:
    n, block = len(customer), customer // BLOCK_CUSTOMERS
    public = (block * len(CITIES) + city) * PUBLIC + random.integers(0, PUBLIC, n)
    # The payments of one theft come from one device.
    thief = (days // THIEVES_DAYS * 1024 + block) * THIEVES + customer % THIEVES
    bits = np.where(
        fraud,
        mixed(key(simulated_world.seed, "thief"), thief),
        mixed(key(simulated_world.seed, "public device"), public),
    )
    once = random.random(n) < np.where(fraud, FRAUD_ONCE, HONEST_ONCE)
    chosen: NDArray[np.uint64] = np.where(once, random.integers(0, 2**64, n, np.uint64), bits)
    return chosen
