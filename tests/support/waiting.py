"""The only wait of the tests: for a condition, never for a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

# Long enough for a slow machine: a condition that holds ends the wait at once.
WAIT_SECONDS = 120
POLL_SECONDS = 0.02

Answer = TypeVar("Answer")


def until(question: Callable[[], Answer], what: str, seconds: float = WAIT_SECONDS) -> Answer:
    """Ask until the answer is true, and return it. AssertionError with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(POLL_SECONDS)
    return answer


def pass_time(seconds: float) -> None:
    """Let time pass: what a fault lasts, or a measurement."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end, "the time", seconds + 60)
