"""Waiting: asked once at least, and no longer than allowed."""

from __future__ import annotations

import signal
import threading

import pytest

from pipectl.wait import Aside, attempts, until


def test_a_question_is_asked_even_if_there_is_no_time_left() -> None:
    assert until(lambda: True, seconds=-1)
    assert not until(lambda: False, seconds=-1)


def test_it_ends_as_soon_as_the_answer_is_true() -> None:
    answers = iter([0, "", None, "yes", 1])
    assert until(lambda: next(answers), seconds=60, poll_seconds=0)
    assert list(answers) == [1]


def test_the_last_attempt_is_the_first_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("pipectl.wait.time.monotonic", lambda: now)
    monkeypatch.setattr("pipectl.wait.time.sleep", pass_time)
    assert [now for _ in attempts(2.5, poll_seconds=1)] == [0, 1, 2, 3]


def test_an_answer_asked_aside_is_what_the_question_gave_or_raised() -> None:
    assert Aside(lambda: 7).result() == 7
    with pytest.raises(ZeroDivisionError):
        Aside(lambda: 1 // 0).result()


def test_an_interrupt_that_no_wait_noticed_ends_a_wait_all_the_same() -> None:
    """As if it came between the last look at signals and the wait: the wait itself sees nothing of it."""
    waiting, ended = threading.Event(), threading.Event()

    def ask() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.raise_signal(signal.SIGINT)
        waiting.wait(60)
        ended.set()

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # In a background job of a shell it is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Aside(ask).result()
        assert not ended.is_set()
    finally:
        waiting.set()
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
