"""A label depends on ground truth, seed, id and what is reported so far, and on nothing else."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline.labels import ASSUMED, FALSE_ALARM, Truth, label

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)

seeds = st.integers(min_value=-(2**63), max_value=2**63 - 1)
ids = st.lists(st.integers(min_value=1, max_value=2**63 - 1), min_size=1, max_size=50, unique=True).map(
    lambda some: np.array(some, np.int64)
)
reports = st.none() | st.integers(-30, 30).map(lambda days: NOON + days * DAY)


def truths(numbers: np.ndarray, reported: list[datetime | None]) -> dict[int, Truth]:
    return {
        int(identity): Truth("stolen_card", moment, "monitoring")
        for identity, moment in zip(numbers, reported, strict=False)
    }


@given(seeds, ids, st.lists(reports, max_size=20))
def test_label_is_the_same_whenever_and_beside_whatever_it_is_made(
    seed: int, numbers: np.ndarray, reported: list[datetime | None]
) -> None:
    frauds = truths(numbers, reported)

    together = label(seed, numbers, frauds, NOON).rows()

    assert together == label(seed, numbers, frauds, NOON).rows()
    assert together == [label(seed, numbers[i : i + 1], frauds, NOON).rows()[0] for i in range(len(numbers))]


@given(seeds, ids, st.lists(reports, max_size=20))
def test_fraud_is_one_in_the_label_from_its_report_on(
    seed: int, numbers: np.ndarray, reported: list[datetime | None]
) -> None:
    frauds = truths(numbers, reported)

    for identity, is_fraud, kind, _, source, detected in label(seed, numbers, frauds, NOON).rows():
        truth = frauds.get(identity)
        if truth is None:
            assert kind == (FALSE_ALARM if is_fraud else None)
        elif truth.reported_at is None or truth.reported_at > NOON:
            assert (is_fraud, kind, source) == (0, None, ASSUMED)
        else:
            assert (is_fraud, kind, source) == (1, "stolen_card", "monitoring")
            assert detected == truth.reported_at.replace(tzinfo=None)


@given(seeds, ids, st.lists(reports, max_size=20))
def test_lines_of_load_data_say_what_rows_say(
    seed: int, numbers: np.ndarray, reported: list[datetime | None]
) -> None:
    made = label(seed, numbers, truths(numbers, reported), NOON)

    lines = b"".join(made.lines()).decode().splitlines()

    fields = [line.split("\t") for line in lines]
    assert [
        (int(a), int(b), None if c == "\\N" else c, d, e, datetime.fromisoformat(f))
        for a, b, c, d, e, f in fields
    ] == made.rows()


@given(seeds, ids)
def test_label_fits_its_columns(seed: int, numbers: np.ndarray) -> None:
    for row in label(seed, numbers, {}, NOON).rows():
        assert 0.9 <= float(row[3]) < 1
        assert len(row[3]) == 6
        assert 1 <= len(row[4]) <= 32


def test_about_two_in_ten_thousand_honest_ones_are_false_alarms() -> None:
    made = label(1, np.arange(1, 1_000_001), {}, NOON)

    assert 140 < len(made.positives) < 260  # 200 on average, with a deviation of 14
    assert {positive.fraud_type for positive in made.positives.values()} == {FALSE_ALARM}


def test_confidence_differs_between_seeds_and_ids() -> None:
    confidences = {row[3] for seed in range(20) for row in label(seed, np.arange(1, 21), {}, NOON).rows()}

    assert len(confidences) > 300
