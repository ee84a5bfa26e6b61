"""A label depends on ground truth, seed and id alone."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline.labels import label

seeds = st.integers(min_value=-(2**63), max_value=2**63 - 1)
ids = st.integers(min_value=1, max_value=2**63 - 1)
scenarios = st.none() | st.text(min_size=1, max_size=32)


@given(seeds, ids, scenarios)
def test_label_is_the_same_whenever_it_is_made(seed: int, identity: int, scenario: str | None) -> None:
    assert label(seed, identity, scenario) == label(seed, identity, scenario)


@given(seeds, ids, scenarios)
def test_label_follows_the_ground_truth(seed: int, identity: int, scenario: str | None) -> None:
    made = label(seed, identity, scenario)

    assert made.transaction_id == identity
    assert made.is_fraud is (scenario is not None)
    assert made.fraud_type == scenario


@given(seeds, ids, scenarios)
def test_label_fits_its_columns(seed: int, identity: int, scenario: str | None) -> None:
    made = label(seed, identity, scenario)

    assert Decimal("0.9") <= made.confidence < 1
    assert made.confidence.as_tuple().exponent == -4
    assert 1 <= len(made.label_source) <= 32


def test_confidence_differs_between_seeds_and_ids() -> None:
    confidences = {label(seed, identity, None).confidence for seed in range(20) for identity in range(20)}

    assert len(confidences) > 100
