"""The seam of the data: what holds for every batch, whoever generates it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline import scenarios
from fraud_pipeline.dimensions import HIGHEST_LIFE
from fraud_pipeline.places import COUNTRIES
from fraud_pipeline.transactions import (
    NEVER,
    Batch,
    BatchRequest,
    batch_size,
    blocks_for,
    generate,
    microseconds,
    moment,
)
from fraud_pipeline.world import (
    BLOCK_CUSTOMERS,
    BLOCK_TERMINALS,
    CHANNELS,
    MOST_BLOCKS,
    MOST_CUSTOMERS,
    MOST_TERMINALS,
)

SCRIPTS = Path(__file__).parents[2] / "scripts"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
HALF_HOUR = timedelta(minutes=30)

seeds = st.integers(min_value=-(2**63), max_value=2**63 - 1)
batches = st.text(min_size=1, max_size=60)
requests = st.builds(
    BatchRequest,
    seed=st.sampled_from([-(2**63), -1, 0, 1, 7, 2**63 - 1]),  # each seed's world takes 5 ms to make
    batch=batches,
    count=st.integers(min_value=0, max_value=250),
    since=st.just(NOON),
    until=st.integers(min_value=0, max_value=100_000).map(lambda seconds: NOON + timedelta(seconds=seconds)),
    blocks=st.sampled_from([0, 1, 3]),
)


def same(one: Batch, other: Batch) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, astuple(one), astuple(other)))


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

    assert {len(column) for column in astuple(batch)} == {request.count}
    assert np.all(np.diff(batch.tx_time) >= 0)
    assert np.all(batch.tx_time >= microseconds(request.since))
    assert np.all(batch.tx_time <= microseconds(request.until))


@given(requests)
def test_every_row_fits_its_columns(request: BatchRequest) -> None:
    batch = generate(request)
    blocks = request.blocks or blocks_for(request.count, request.until - request.since)

    assert np.all((batch.cents >= 50) & (batch.cents <= 5_000_000))
    for ids, places, there in (
        (batch.customer_id, MOST_CUSTOMERS, blocks * BLOCK_CUSTOMERS),
        (batch.terminal_id, MOST_TERMINALS, blocks * BLOCK_TERMINALS),
    ):
        assert np.all((ids >= 1) & (ids <= HIGHEST_LIFE * places))
        assert np.all((ids - 1) % places < there)
    assert np.all(batch.card_id // 10 == batch.customer_id)
    assert np.all((batch.card_id % 10 >= 1) & (batch.card_id % 10 <= 8))
    assert np.all((batch.device_id > 0) == (batch.channel == CHANNELS.index("web")))
    assert np.all((batch.mcc > 0) & (batch.mcc < 2**15))
    assert np.all((batch.country >= 0) & (batch.country < len(COUNTRIES)))
    assert np.all((batch.channel >= 0) & (batch.channel < len(CHANNELS)))
    assert np.all(np.abs(batch.lat) <= 90)
    assert np.all(np.abs(batch.lon) <= 180)
    assert np.all(np.isin(batch.scenario, [0, *scenarios.NAMES]))


@given(requests)
def test_only_frauds_are_reported_and_never_before_they_happen(request: BatchRequest) -> None:
    batch = generate(request)
    fraud = batch.scenario > 0

    assert np.all(batch.reported_at[~fraud] == NEVER)
    assert np.all(batch.reported_at[fraud] >= batch.tx_time[fraud])


@given(requests)
def test_equal_requests_give_equal_rows(request: BatchRequest) -> None:
    assert same(generate(request), generate(request))


@given(batches, batches)
def test_other_batches_give_other_rows(one: str, other: str) -> None:
    first = generate(BatchRequest(1, one, 20, NOON, NOON + HALF_HOUR))
    second = generate(BatchRequest(1, other, 20, NOON, NOON + HALF_HOUR))

    assert same(first, second) is (one == other)


@given(st.integers(min_value=-(2**60), max_value=2**60))
def test_moments_keep_their_microseconds(value: int) -> None:
    assert microseconds(moment(value % 10**16)) == value % 10**16


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


def test_world_grows_with_the_number_of_transactions_a_day() -> None:
    day = timedelta(days=1)

    assert blocks_for(200, HALF_HOUR) == 1
    assert blocks_for(200, timedelta(0)) == 1
    assert blocks_for(10_000_000, 90 * day) == 19
    assert blocks_for(10**9, day) == MOST_BLOCKS


def test_other_seed_is_another_world() -> None:
    one, other = (generate(BatchRequest(seed, "run", 200, NOON, NOON + HALF_HOUR)) for seed in (1, 2))

    assert not set(zip(one.customer_id, one.terminal_id, strict=True)) & set(
        zip(other.customer_id, other.terminal_id, strict=True)
    )
