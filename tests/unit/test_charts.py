"""Charts in a terminal, character by character."""

from __future__ import annotations

import io

import pytest

from pipectl.commands.report.charts import Columns, Spread, merge


def drawn(chart: Columns | Spread, width: int) -> list[str]:
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=width).print(chart)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_columns_are_as_high_as_their_values() -> None:
    chart = Columns([0, 1, 4, 8], "Transactions", "08:00", "11:00", "blue", height=2)
    assert drawn(chart, 40) == [
        "Transactions per hour (UTC)",
        "8                   ██████",
        "0       ▂▂▂▂▂▂████████████",
        "  08:00              11:00",
    ]


def test_columns_that_do_not_fit_are_added_up_to_spans_people_know() -> None:
    chart = Columns([1] * 60, "Frauds", "1 May", "3 May", "red", height=1)
    assert drawn(chart, 25) == [
        "Frauds per 3 hours (UTC)",
        "3 ████████████████████",
        "  1 May          3 May",
    ]


@pytest.mark.parametrize(("days", "span"), [(20, "day"), (50, "2 days"), (150, "week"), (300, "2 weeks")])
def test_whole_days_and_weeks_are_named_so(days: int, span: str) -> None:
    chart = Columns([1] * 24 * days, "Frauds", "first", "last", "red")
    assert drawn(chart, 33)[0] == f"Frauds per {span} (UTC)"


def test_sums_with_more_digits_than_their_parts_stay_within_the_terminal() -> None:
    chart = Columns([999] * 4000, "Transactions", "first", "last", "blue")
    assert max(map(len, drawn(chart, 60))) <= 60


def test_a_single_run_is_a_chart_as_wide_as_the_names_of_its_ends() -> None:
    chart = Columns([4, 0, 8, 2], "Frauds", "2026-05-04 22:05", "2026-05-04 22:20", "red", 1, minutes=5)
    assert drawn(chart, 80) == [
        "Frauds per 5 minutes (UTC)",
        "8 ▄▄▄▄▄▄▄▄▄         █████████▂▂▂▂▂▂▂▂▂",
        "  2026-05-04 22:05    2026-05-04 22:20",
    ]
    assert drawn(chart, 38)[0] == "Frauds per 5 minutes (UTC)"


def test_minutes_are_added_up_to_spans_people_know() -> None:
    assert merge([1] * 72, 30, 5) == ([3] * 24, 3)
    assert merge([1] * 72, 10, 5) == ([12] * 6, 12)


def test_a_single_hour_has_one_name_and_nothing_has_no_axis() -> None:
    assert drawn(Columns([2], "Frauds", "first", "last", "red", height=2), 40)[2:] == [
        "0 ███████████",
        "  first",
    ]
    assert drawn(Columns([0, 0], "Frauds", "first", "last", "red", height=1), 40) == [
        "Frauds: none from first to last (UTC)"
    ]


@pytest.mark.parametrize(
    ("count", "most", "size"), [(10, 10, 1), (11, 10, 2), (40, 10, 6), (200, 10, 24), (5000, 10, 504)]
)
def test_neighbours_are_merged_without_losing_one(count: int, most: int, size: int) -> None:
    values, merged = merge(range(count), most)
    assert merged == size
    assert len(values) <= most
    assert sum(values) == sum(range(count))


def test_spread_stands_on_a_logarithmic_scale() -> None:
    assert drawn(Spread((1, 10, 100, 1000, 10_000), 1, 10_000, "blue"), 21) == ["─────━━━━━┃━━━━━─────"]


def test_spread_of_one_amount_is_a_point() -> None:
    assert drawn(Spread((5, 5, 5, 5, 5), 5, 5, "blue"), 5) == ["┃"]
