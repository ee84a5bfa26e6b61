"""What a label says: a pure function of ground truth, seed, transaction id and of what is reported so far.

An honest transaction is labelled so, but for rare false alarms. A fraud is labelled as fraud if it has
been reported by then, else as honest: it is corrected when its chargeback comes. Some never come.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fraud_pipeline.hashing import Integers, key, mixed, unit
from fraud_pipeline.scenarios import FALSE_ALARM_RATE, MONITORING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

LOWEST_CONFIDENCE = 9_000
CONFIDENCE_STEPS = 1_000
# The source of a label that nobody has reported; scenarios.py names those who report.
ASSUMED = "assumed"
FALSE_ALARM = "unconfirmed"
COLUMNS = ("transaction_id", "is_fraud", "fraud_type", "confidence", "label_source", "detected_at")

# What LOAD DATA takes for an end of a field or a line, in ground truth that somebody wrote by hand.
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n"})

Row = tuple[int, int, str | None, str, str, datetime]


class Truth(NamedTuple):
    """Ground truth of a fraud: its scenario, when it is reported (None for never), and by whom."""

    scenario: str
    reported_at: datetime | None
    reported_by: str | None


class Positive(NamedTuple):
    """What a label that says fraud says besides."""

    fraud_type: str
    source: str
    detected_at: datetime


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of some transactions: `positives` by position, all others say honest."""

    ids: Integers
    confidence: NDArray[np.int64]
    positives: Mapping[int, Positive]
    as_of: datetime

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self) -> list[Row]:
        """One tuple in the order of COLUMNS for each label: for hundreds."""
        honest = _naive(self.as_of)
        rows: list[Row] = []
        confidences = self.confidence.tolist()
        for position, identity in enumerate(self.ids.tolist()):
            positive = self.positives.get(position)
            confidence = f"0.{confidences[position]:04d}"
            if positive is None:
                rows.append((identity, 0, None, confidence, ASSUMED, honest))
            else:
                moment = _naive(positive.detected_at)
                rows.append((identity, 1, positive.fraud_type, confidence, positive.source, moment))
        return rows

    def lines(self) -> list[bytes]:
        """The same as the text that LOAD DATA reads, fields between tabs, in blocks: for millions."""
        middle = b"\t0\t\\N\t0."
        tail = f"\t{ASSUMED}\t{_naive(self.as_of)}\n".encode()
        digits = max(1, len(str(int(self.ids.max(initial=0)))))
        kind = np.dtype(
            [
                ("id", "S1", digits),
                ("middle", f"S{len(middle)}"),
                ("digit", "S1", 4),
                ("tail", f"S{len(tail)}"),
            ]
        )
        table = np.full(len(self.ids), np.array([(b"0", middle, b"0", tail)], kind)[0])
        _write_digits(table["id"].view(np.uint8), self.ids)
        _write_digits(table["digit"].view(np.uint8), self.confidence)
        blocks, done = [], 0
        for position in sorted(self.positives):
            positive = self.positives[position]
            blocks.append(table[done:position].tobytes())
            kind_of_fraud, source = (text.translate(_ESCAPES) for text in positive[:2])
            blocks.append(
                f"{self.ids[position]}\t1\t{kind_of_fraud}\t0.{self.confidence[position]:04d}"
                f"\t{source}\t{_naive(positive.detected_at)}\n".encode()
            )
            done = position + 1
        blocks.append(table[done:].tobytes())
        return blocks


def label(seed: int, ids: Integers, frauds: Mapping[int, Truth], as_of: datetime) -> Labels:
    """Label transactions with what is reported up to `as_of`; `frauds` is the ground truth by id.

    Confidences are ten-thousandths in [0.9, 1).
    """
    confidence = LOWEST_CONFIDENCE + (mixed(key(seed, "confidence"), ids) % np.uint64(CONFIDENCE_STEPS))
    alarms = np.flatnonzero(unit(key(seed, "alarm"), ids) < FALSE_ALARM_RATE)
    positives = {position: Positive(FALSE_ALARM, MONITORING, as_of) for position in alarms.tolist()}
    if frauds:
        mine = np.flatnonzero(np.isin(ids, np.fromiter(frauds, np.int64, len(frauds))))
        for position in mine.tolist():
            known = positive(frauds[int(ids[position])], as_of)
            positives.pop(position, None)
            if known:
                positives[position] = known
    return Labels(ids, confidence.astype(np.int64), positives, as_of)


def positive(truth: Truth, as_of: datetime) -> Positive | None:
    """What the label of a fraud says by `as_of`; None while nobody has reported it."""
    if truth.reported_at is None or truth.reported_at > as_of:
        return None
    return Positive(truth.scenario, truth.reported_by or MONITORING, truth.reported_at)


def _naive(moment: datetime) -> datetime:
    # Always with six decimals, as MySQL's DATETIME(6) has no time zone.
    return moment.astimezone(UTC).replace(tzinfo=None)


def _write_digits(places: NDArray[np.uint8], numbers: Integers) -> None:
    rest = numbers
    for place in range(places.shape[1] - 1, -1, -1):
        rest, digit = np.divmod(rest, 10)
        places[:, place] = digit + ord("0")
