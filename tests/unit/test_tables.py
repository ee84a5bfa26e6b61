"""Tables of commands on narrow terminals: nothing that fits into a line is broken."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipectl.commands.shared import INDENT, table
from pipectl.names import command, counted, moment, size

SERVICES: list[tuple[object, ...]] = [
    ("airbyte-postgres", "running", "healthy", "5432", "fraud-pipeline-2-airbyte-postgres-1"),
    ("scheduler", "crashed", "", "", "fraud-pipeline-2-scheduler-1"),
]
HEADERS = ("service", "state", "health", "port", "container")


def drawn(width: int, *headers: str, rows: list[tuple[object, ...]], title: str = "") -> list[str]:
    out = StringIO()
    Console(file=out, width=width, highlight=False).print(table(*headers, rows=rows, title=title))
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("zone", "shown"), [("UTC", "2026-07-01 12:00:00 UTC"), ("Europe/Berlin", "2026-07-01 14:00:00 CEST")]
)
def test_a_time_names_its_zone(zone: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert moment(datetime(2026, 7, 1, 12, tzinfo=UTC)) == shown
    finally:
        monkeypatch.undo()
        time.tzset()


def test_numbers_and_commands_are_as_one_writes_them() -> None:
    assert [counted(number, "try", "tries") for number in (0, 1, 2)] == ["0 tries", "1 try", "2 tries"]
    assert counted(1_200, "run") == "1,200 runs"
    run_id = "manual__2026-01-01T00:00:00+00:00"
    assert command("task-log", "mine", run_id, "a[3]") == f"pipectl task-log mine {run_id} 'a[3]'"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1_000, "1.0 kB"),
        (134_217_728, "134.2 MB"),
        (999_949_999, "999.9 MB"),
        (999_999_999, "1.0 GB"),
        (3_400_000_000_000, "3.4 TB"),
        (5_000_000_000_000_000, "5,000.0 TB"),
    ],
)
def test_a_size_is_in_the_unit_that_fits_it(count: int, shown: str) -> None:
    assert size(count) == shown


def test_with_room_for_all_columns_each_row_is_a_line() -> None:
    lines = drawn(100, *HEADERS, rows=SERVICES, title="a title")
    assert lines[0] == "a title"
    assert [line.split() for line in lines[-3:-1]] == [
        ["airbyte-postgres", "running", "healthy", "5432", "fraud-pipeline-2-airbyte-postgres-1"],
        ["scheduler", "crashed", "fraud-pipeline-2-scheduler-1"],
    ]


def test_the_widest_column_goes_below_its_row_first() -> None:
    lines = drawn(60, *HEADERS, rows=SERVICES, title="a title")
    assert lines == [
        "a title",
        "",
        " service            state     health    port",
        " ───────────────────────────────────────────",
        " airbyte-postgres   running   healthy   5432",
        "     container: fraud-pipeline-2-airbyte-postgres-1",
        " scheduler          crashed",
        "     container: fraud-pipeline-2-scheduler-1",
        "",
    ]


def test_the_first_column_stays_and_what_is_empty_is_left_out() -> None:
    lines = drawn(30, *HEADERS, rows=SERVICES)
    assert lines[1].split() == ["service", "port"]
    assert [line.strip() for line in lines if line.startswith(" " * INDENT)][:2] == [
        "state: running",
        "health: healthy",
    ]
    assert "     health:" not in lines


def test_rows_of_several_lines_keep_what_belongs_to_them() -> None:
    rows: list[tuple[object, ...]] = [("a", "one\ntwo", "long " * 15), ("b", "three", "more " * 15)]
    lines = drawn(58, "name", "found", "long", rows=rows)
    assert [line.strip() for line in lines[3:-1]] == [
        "a      one",
        "two",
        f"long: {'long ' * 9}".strip(),
        ("long " * 6).strip(),
        "b      three",
        f"long: {'more ' * 9}".strip(),
        ("more " * 6).strip(),
    ]


@given(
    st.lists(
        st.tuples(*(st.text("abcdefgh-/", min_size=1, max_size=25) for _ in range(4))), min_size=1, max_size=4
    ),
    st.integers(40, 120),
)
def test_no_value_is_broken_that_a_line_has_room_for(rows: list[tuple[object, ...]], width: int) -> None:
    lines = drawn(width, "first", "second", "third", "fourth", rows=rows)
    for row in rows:
        for value in row:
            assert any(str(value) in line for line in lines)
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [20, 60, 140])
def test_a_table_without_rows_has_its_headers(width: int) -> None:
    assert "service" in drawn(width, *HEADERS, rows=[])[1]
