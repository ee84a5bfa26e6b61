"""Waiting for a condition, up to a deadline of time.monotonic."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLL_SECONDS = 0.1


def attempts(deadline: float, poll_seconds: float = POLL_SECONDS) -> Iterator[None]:
    """Yield once at least, then every `poll_seconds` until `deadline` has passed."""
    yield
    while time.monotonic() <= deadline:
        time.sleep(poll_seconds)
        yield


def until(question: Callable[[], object], seconds: float, poll_seconds: float = POLL_SECONDS) -> bool:
    """Ask until the answer is true, at most `seconds` long; return whether it was."""
    return any(question() for _ in attempts(time.monotonic() + seconds, poll_seconds))
