"""What a label says: a pure function of ground truth, seed and transaction id, so any run may write it."""

from __future__ import annotations

from decimal import Decimal
from hashlib import blake2b
from typing import NamedTuple

LABEL_SOURCE = "generator"
LOWEST_CONFIDENCE = 9_000
CONFIDENCE_STEPS = 1_000


class Label(NamedTuple):
    """The part of a row of `fraud_labels` that does not depend on when it is written."""

    transaction_id: int
    is_fraud: bool
    fraud_type: str | None
    confidence: Decimal
    label_source: str


def label(seed: int, transaction_id: int, scenario: str | None) -> Label:
    """Make the label of a transaction; `scenario` is its ground truth, None for an honest one.

    The confidence lies in [0.9, 1) with four decimals.
    """
    return Label(
        transaction_id=transaction_id,
        is_fraud=scenario is not None,
        fraud_type=scenario,
        confidence=Decimal(LOWEST_CONFIDENCE + _steps(seed, transaction_id)).scaleb(-4),
        label_source=LABEL_SOURCE,
    )


def _steps(seed: int, transaction_id: int) -> int:
    digest = blake2b(f"{seed}/{transaction_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % CONFIDENCE_STEPS
