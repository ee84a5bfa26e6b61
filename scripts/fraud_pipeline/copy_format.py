"""Columns as the bytes of PostgreSQL's binary COPY, and back, without a Python object per row.

Every row has the same length: texts of one column are equally long, and a numeric is written with leading
zero digits, which the server strips. So a block of rows is one structured array. The format is described in
PostgreSQL's manual under COPY (File Formats, Binary Format).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fraud_pipeline.places import COUNTRIES
from fraud_pipeline.scenarios import CHARGEBACK, MONITORING, NAMES
from fraud_pipeline.transactions import NEVER, STATUSES
from fraud_pipeline.world import CHANNELS, HOUR

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812 -- a class named in lower case

    from fraud_pipeline.transactions import Batch

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
# Timestamps count from 1 January 2000.
POSTGRES_EPOCH = 10_957 * 24 * HOUR

TRANSACTION_COLUMNS = (
    "transaction_id", "tx_time", "customer_id", "card_id", "terminal_id", "mcc", "amount", "currency",
    "channel", "country", "lat", "lon", "status", "device_id",
)  # fmt: skip
TRUTH_COLUMNS = ("transaction_id", "scenario", "reported_at", "reported_by")

_NUMERIC = np.dtype(
    [("digits", ">i2"), ("weight", ">i2"), ("sign", ">i2"), ("scale", ">i2"), ("digit", ">i2", 3)]
)
_TYPES = (">i8", ">i8", ">i4", ">i8", ">i4", ">i2", _NUMERIC, "S3", "S3", "S2", ">f4", ">f4", "S8", ">i4")
_ROW = np.dtype(
    [("fields", ">i2")]
    + [
        part
        for name, kind in zip(TRANSACTION_COLUMNS, _TYPES, strict=True)
        for part in ((f"{name}_bytes", ">i4"), (name, kind))
    ]
)

# A length of -1.
_NULL = b"\xff\xff\xff\xff"

_CHANNELS = np.array([channel.encode() for channel in CHANNELS])
_COUNTRIES = np.array([country.encode() for country, _ in COUNTRIES])
_CURRENCIES = np.array([currency.encode() for _, currency in COUNTRIES])
_STATUSES = np.array([status.encode() for status in STATUSES])


def _template() -> NDArray[np.uint8]:
    """The bytes of a row in which everything that never changes is set."""
    row = np.zeros(1, _ROW)
    row["fields"] = len(TRANSACTION_COLUMNS)
    for name in TRANSACTION_COLUMNS:
        row[f"{name}_bytes"] = _ROW[name].itemsize
    # Two groups of four digits before the point and one after it.
    row["amount"]["digits"], row["amount"]["weight"], row["amount"]["scale"] = 3, 1, 2
    return row.view(np.uint8)


_BLANK = _template()


def encode(batch: Batch) -> NDArray[np.void]:
    """Rows of `public.transactions` in the order of TRANSACTION_COLUMNS; their ids are still 0."""
    rows = np.empty(len(batch), _ROW)
    # Byte by byte four times as fast as field by field.
    rows.view(np.uint8).reshape(len(batch), _ROW.itemsize)[:] = _BLANK
    rows["tx_time"] = batch.tx_time - POSTGRES_EPOCH
    rows["customer_id"] = batch.customer_id
    rows["card_id"] = batch.card_id
    rows["terminal_id"] = batch.terminal_id
    rows["mcc"] = batch.mcc
    whole, cents = np.divmod(batch.cents.astype(np.int32), np.int32(100))
    digits = rows["amount"]["digit"]
    digits[:, 0], digits[:, 1] = np.divmod(whole, np.int32(10_000))
    digits[:, 2] = cents * 100
    rows["currency"] = _CURRENCIES[batch.country]
    rows["channel"] = _CHANNELS[batch.channel]
    rows["country"] = _COUNTRIES[batch.country]
    rows["lat"] = batch.lat
    rows["lon"] = batch.lon
    rows["status"] = _STATUSES[batch.declined.astype(np.int8)]
    rows["device_id"] = batch.device_id
    return rows


def encode_truth(first_id: int, batch: Batch) -> bytes:
    """Rows of `sim.ground_truth` for the frauds of a batch: few, so one by one."""
    parts = []
    for position in np.flatnonzero(batch.scenario).tolist():
        reported = int(batch.reported_at[position])
        at_once = reported == batch.tx_time[position]
        parts += [
            len(TRUTH_COLUMNS).to_bytes(2, "big"),
            _integer(first_id + position),
            _text(NAMES[int(batch.scenario[position])]),
            _NULL if reported == NEVER else _integer(reported - POSTGRES_EPOCH),
            _NULL if reported == NEVER else _text(MONITORING if at_once else CHARGEBACK),
        ]
    return b"".join(parts)


def _integer(value: int) -> bytes:
    return (8).to_bytes(4, "big") + value.to_bytes(8, "big", signed=True)


def _text(value: str) -> bytes:
    return len(value).to_bytes(4, "big") + value.encode()


def _flat(block: bytes | NDArray[np.void]) -> Any:  # noqa: ANN401 -- numpy's stubs do not know buffers
    return block if isinstance(block, bytes) else block.view(np.uint8)


class Stream:
    """A file that COPY reads: header, blocks and trailer, each block sliced and never copied whole."""

    def __init__(self, *blocks: bytes | NDArray[np.void]) -> None:
        self._blocks = [memoryview(_flat(block)) for block in (HEADER, *blocks, TRAILER) if len(block)]

    def readline(self, size: int = -1) -> bytes:
        """Never called: psycopg2's types ask for it."""
        return self.read(size)

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, none at the end."""
        if not self._blocks:
            return b""
        block = self._blocks[0]
        size = len(block) if size < 0 else size
        self._blocks[0] = block[size:]
        if not len(self._blocks[0]):
            del self._blocks[0]
        return bytes(block[:size])


class _Sink:
    """A file that COPY writes to."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write = self.parts.append


def read_rows(cursor: PostgresCursor, statement: str, row: np.dtype[np.void]) -> NDArray[np.void]:
    """Rows of a COPY to STDOUT in binary, all fields of fixed length and none NULL. Raises psycopg2.Error."""
    sink = _Sink()
    cursor.copy_expert(statement, sink)
    return np.frombuffer(b"".join(sink.parts)[len(HEADER) : -len(TRAILER)], row)
