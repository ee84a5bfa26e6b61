"""Waiting: asked once at least, and no longer than allowed."""

from __future__ import annotations

import time

from pipectl.wait import attempts, until


def test_a_question_is_asked_even_if_there_is_no_time_left() -> None:
    assert until(lambda: True, seconds=-1)
    assert not until(lambda: False, seconds=-1)


def test_it_ends_as_soon_as_the_answer_is_true() -> None:
    answers = iter([0, "", None, "yes", 1])
    assert until(lambda: next(answers), seconds=60, poll_seconds=0)
    assert list(answers) == [1]


def test_the_last_attempt_is_the_first_after_the_deadline() -> None:
    deadline = time.monotonic() + 0.05
    times = [time.monotonic() for _ in attempts(deadline, poll_seconds=0.01)]
    assert times[-1] > deadline
    assert all(at <= deadline for at in times[:-2])
