"""Waiting: asked once at least, and no longer than allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipectl.wait import attempts, until

if TYPE_CHECKING:
    import pytest


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
