"""Waiting for a condition, up to a deadline of time.monotonic, and for answers that Ctrl-C leaves behind."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

POLL_SECONDS = 0.1

Answer = TypeVar("Answer")


def attempts(deadline: float, poll_seconds: float = POLL_SECONDS) -> Iterator[None]:
    """Yield once at least, then every `poll_seconds` until `deadline` has passed."""
    yield
    while time.monotonic() <= deadline:
        time.sleep(poll_seconds)
        yield


def until(question: Callable[[], object], seconds: float, poll_seconds: float = POLL_SECONDS) -> bool:
    """Ask until the answer is true, at most `seconds` long; return whether it was."""
    return any(question() for _ in attempts(time.monotonic() + seconds, poll_seconds))


def aside(question: Callable[[], Answer]) -> Future[Answer]:
    """Ask in a thread of its own, for which the process does not wait in the end."""
    from concurrent.futures import Future  # noqa: PLC0415  10 ms

    future: Future[Answer] = Future()

    def ask() -> None:
        try:
            future.set_result(question())
        except BaseException as error:  # noqa: BLE001  whoever wants the result gets it
            future.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return future
