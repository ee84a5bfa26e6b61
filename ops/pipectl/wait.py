"""Waiting for a condition, up to a deadline of time.monotonic; what Ctrl-C leaves behind or waits for."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

POLL_SECONDS = 0.1
HEED_SIGNALS_SECONDS = 0.5
# What ends a command in good order; SIGALRM repeats Ctrl-C.
ENDING = (signal.SIGINT, signal.SIGALRM, signal.SIGTERM, signal.SIGHUP)

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


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let Ctrl-C, and a signal that ends this command, wait for the end of the block."""
    came: list[int] = []
    with _handling(lambda number, _: came.append(number)):
        yield
    for number in came:
        signal.raise_signal(number)


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Go on whatever the user types, in programs that the block starts too: for what puts things back."""
    with _handling(signal.SIG_IGN):
        yield


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """Replace what this process does at such signals; what the system does at them stays."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in ENDING if is_main}
    ours = {number: action for number, action in before.items() if callable(action)}
    try:
        for number in ours:
            signal.signal(number, handler)
        yield
    finally:
        for number, action in ours.items():
            signal.signal(number, action)


class Aside(Generic[Answer]):
    """The answer to a question that a thread of its own asks; nothing waits for that thread in the end."""

    def __init__(self, question: Callable[[], Answer]) -> None:
        self._outcome: Callable[[], Answer]
        self._thread = threading.Thread(target=self._ask, args=(question,), daemon=True)
        self._thread.start()

    def _ask(self, question: Callable[[], Answer]) -> None:
        try:
            answer = question()
        except BaseException as error:  # noqa: BLE001  whoever wants the answer gets it
            self._outcome = partial(_raise, error)
        else:
            self._outcome = lambda: answer

    def is_known(self, seconds: float) -> bool:
        """Wait for the answer for so long at most; return whether there is one, or an error."""
        deadline = time.monotonic() + seconds
        while self._thread.is_alive() and (left := deadline - time.monotonic()) > 0:
            self._thread.join(min(left, HEED_SIGNALS_SECONDS))
        return not self._thread.is_alive()

    def result(self) -> Answer:
        """Wait for the answer, or raise what the question raised."""
        # A signal that comes just before the wait begins would not end one without a limit.
        while self._thread.is_alive():
            self._thread.join(HEED_SIGNALS_SECONDS)
        return self._outcome()


def _raise(error: BaseException) -> NoReturn:
    raise error
