"""How far a load is, and how that reads."""

from __future__ import annotations

from pipectl.commands.load import progress_text
from pipectl.models import LoadProgress
from pipectl.names import duration
from pipectl.pipeline.loading import Rate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_and_time_left_follow_the_latest_seconds() -> None:
    clock = Clock()
    rate = Rate(1_000, clock=clock)
    assert rate.progress("labels") == LoadProgress("labels", 0, 1_000)
    for _ in range(20):
        clock.now += 1
        rate.add(10)
    for _ in range(20):
        clock.now += 1
        rate.add(20)

    progress = rate.progress("labels")

    assert progress == LoadProgress("labels", 600, 1_000, 20.0, 20.0)


def test_more_than_expected_is_all() -> None:
    clock = Clock()
    rate = Rate(10, clock=clock)
    clock.now += 1
    rate.add(30)

    assert rate.progress("labels") == LoadProgress("labels", 30, 30, 30.0, 0.0)


def test_line_of_progress_says_how_much_how_fast_and_how_long() -> None:
    line = progress_text(LoadProgress("transactions", 2_500_000, 10_000_000, 150_000.0, 50.0))

    assert line.startswith("transactions")
    assert line.endswith("25%  2,500,000 of 10,000,000  150,000 rows/s  50 s left")


def test_end_and_nothing_to_do_are_lines_too() -> None:
    assert progress_text(LoadProgress("labels", 5, 5, 10.0, 0.0)).endswith("100%  5 of 5  10 rows/s")
    assert progress_text(LoadProgress("labels", 0, 0)).endswith("100%  0 of 0")


def test_durations_read_well() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 125)] == ["0 s", "60 s", "2 min 05 s"]
