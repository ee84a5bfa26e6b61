"""Numbers that belong to a thing: the same for the same seed, purpose and identity, on every machine.

A generator of random numbers would have to be asked in one order. A hash can be asked for any customer, day
or transaction alone, so small batches and big ones see the same world. The mixing function is SplitMix64's
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Unsigned = NDArray[np.uint64]
Floats = NDArray[np.float64]

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_TO_UNIT = 2.0**-53


def key(seed: int, *parts: object) -> int:
    """A 64-bit number for a purpose: neighbouring seeds and names have nothing in common."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def mixed(purpose: int, identities: Integers) -> Unsigned:
    """64 random bits for each identity; `purpose` comes from `key`."""
    bits = identities.astype(np.uint64)
    bits *= np.uint64(_GOLDEN)
    bits += np.uint64(purpose)
    bits ^= bits >> np.uint64(30)
    bits *= _FIRST
    bits ^= bits >> np.uint64(27)
    bits *= _SECOND
    bits ^= bits >> np.uint64(31)
    return bits


def unit(purpose: int, identities: Integers) -> Floats:
    """A number in [0, 1) for each identity."""
    return (mixed(purpose, identities) >> np.uint64(11)).astype(np.float64) * _TO_UNIT


def bell(purpose: int, identities: Integers) -> Floats:
    """A number for each identity, nearly normal with mean 0 and deviation 1, never beyond 3.5."""
    bits = mixed(purpose, identities)
    mask = np.uint64(0xFFFF)
    total = sum(((bits >> np.uint64(shift)) & mask).astype(np.float64) for shift in (0, 16, 32, 48))
    # The sum of four uniform numbers has mean 2 and variance 4/12.
    spread: Floats = (np.asarray(total) / 65536.0 - 2.0) * np.sqrt(3.0)
    return spread
