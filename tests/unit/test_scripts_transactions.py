"""The seam of the data: what holds for every batch, whoever generates it."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline.transactions import BatchRequest, batch_size, generate

SCRIPTS = Path(__file__).parents[2] / "scripts"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
HALF_HOUR = timedelta(minutes=30)

seeds = st.integers(min_value=-(2**63), max_value=2**63 - 1)
batches = st.text(min_size=1, max_size=60)
requests = st.builds(
    BatchRequest,
    seed=seeds,
    batch=batches,
    count=st.integers(min_value=0, max_value=250),
    since=st.just(NOON),
    until=st.integers(min_value=0, max_value=100_000).map(lambda seconds: NOON + timedelta(seconds=seconds)),
)


@given(seeds, batches)
def test_scheduled_batch_has_50_to_200_transactions(seed: int, batch: str) -> None:
    assert 50 <= batch_size(seed, batch) <= 200


def test_batch_sizes_are_spread_evenly() -> None:
    sizes = [batch_size(1, f"run {number}") for number in range(15_100)]

    counts = [sizes.count(size) for size in range(50, 201)]
    assert min(counts) > 50  # 100 on average; the chance of 50 or fewer is one in ten million
    assert max(counts) < 160


@given(requests)
def test_batch_holds_what_was_asked_for(request: BatchRequest) -> None:
    batch = generate(request)

    moments = [row.tx_time for row in batch.transactions]
    assert len(batch.transactions) == len(batch.scenarios) == request.count
    assert moments == sorted(moments)
    assert all(request.since <= moment <= request.until for moment in moments)


@given(requests)
def test_every_row_fits_its_columns(request: BatchRequest) -> None:
    for row in generate(request).transactions:
        assert 0 < row.amount < Decimal(10_000_000_000)
        assert row.amount.as_tuple().exponent == -2
        assert 0 < row.customer_id < 2**31
        assert 0 < row.terminal_id < 2**31
        assert 0 < row.card_id < 2**63
        assert 0 < row.mcc < 2**15
        assert (len(row.currency), len(row.country)) == (3, 2)
        assert 1 <= len(row.channel) <= 8
        assert 1 <= len(row.status) <= 10
        assert -90 <= row.lat <= 90
        assert -180 <= row.lon <= 180


@given(requests)
def test_equal_requests_give_equal_rows(request: BatchRequest) -> None:
    assert generate(request) == generate(request)


@given(seeds, batches, batches)
def test_other_batches_give_other_rows(seed: int, one: str, other: str) -> None:
    first = generate(BatchRequest(seed, one, 20, NOON, NOON + HALF_HOUR))
    second = generate(BatchRequest(seed, other, 20, NOON, NOON + HALF_HOUR))

    assert (first == second) is (one == other)


@pytest.mark.parametrize("hash_seed", ["0", "42"])
def test_rows_are_the_same_in_every_process(hash_seed: str) -> None:
    program = (
        "from fraud_pipeline.transactions import *; from datetime import *;"
        "noon = datetime(2026, 1, 2, 12, tzinfo=UTC);"
        "print(generate(BatchRequest(7, 'run', 5, noon, noon + timedelta(minutes=30))))"
    )
    told = subprocess.run(
        (sys.executable, "-c", program),
        env={"PYTHONPATH": str(SCRIPTS), "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.strip() == str(generate(BatchRequest(7, "run", 5, NOON, NOON + HALF_HOUR)))


def test_about_one_in_a_hundred_is_a_fraud() -> None:
    scenarios = generate(BatchRequest(1, "many", 50_000, NOON, NOON + HALF_HOUR)).scenarios

    assert 0.008 < sum(scenario is not None for scenario in scenarios) / len(scenarios) < 0.012
