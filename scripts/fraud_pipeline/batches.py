"""Writing one batch to PostgreSQL: all of it in one transaction with its row in `sim.batches`, or nothing.

The customers and terminals that it is the first to name are written with it. Small and big batches go the
same way, by binary COPY.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fraud_pipeline import dimensions
from fraud_pipeline.copy_format import TRANSACTION_COLUMNS, TRUTH_COLUMNS, Stream, encode, encode_truth
from fraud_pipeline.errors import DatabaseError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from psycopg2.extensions import connection as PostgresConnection  # noqa: N812 -- a class named in lower case
    from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812

    from fraud_pipeline.hashing import Integers
    from fraud_pipeline.transactions import Batch, BatchRequest

# Waits for another transaction that writes the same batch, and returns no row once that has committed.
_CLAIM = """
    INSERT INTO sim.batches (batch_id, seed, transactions, since, until) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (batch_id) DO NOTHING RETURNING batch_id"""
# One writer at a time takes ids, so that a batch's follow one another.
_LOCK_IDS = "SELECT pg_advisory_lock(7244110359)"
_UNLOCK_IDS = "SELECT pg_advisory_unlock(7244110359)"
# The sequence is looked up once, not once for each id.
_TAKE_IDS = """
    WITH sequence AS MATERIALIZED (
        SELECT pg_get_serial_sequence('public.transactions', 'transaction_id')::regclass AS name)
    SELECT min(id), max(id) FROM (
        SELECT nextval(name) AS id FROM sequence, generate_series(1, %s)) AS taken"""
ID_TRIES = 20
COPY_BYTES = 1 << 20
_COPY = "COPY public.transactions ({}) FROM STDIN (FORMAT binary)".format(", ".join(TRANSACTION_COLUMNS))
_COPY_TRUTH = "COPY sim.ground_truth ({}) FROM STDIN (FORMAT binary)".format(", ".join(TRUTH_COLUMNS))


@dataclass(frozen=True)
class WrittenBatch:
    """What writing a batch did; `already_written` means that an earlier try had committed it."""

    transactions: int
    frauds: int
    already_written: bool


@dataclass(frozen=True, eq=False)
class Encoded:
    """A batch with its ids, as the bytes that COPY sends; `truth` is its ground truth.

    `customers` and `terminals` are the numbers that it uses, each once.
    """

    request: BatchRequest
    rows: NDArray[np.void]
    truth: bytes
    frauds: int
    customers: Integers
    terminals: Integers


def prepare_batch(connection: PostgresConnection, request: BatchRequest, batch: Batch) -> Encoded:
    """Take ids for a batch and encode it, apart from writing it, so that both can go on at once.

    Raises psycopg2.Error, and DatabaseError if other writers do not leave ids in a row.
    """
    rows = encode(batch)
    first = 1
    if len(batch):
        with connection, connection.cursor() as cursor:
            first = _take_ids(cursor, len(batch))
        rows["transaction_id"] = np.arange(first, first + len(batch))
    return Encoded(
        request,
        rows,
        encode_truth(first, batch),
        batch.frauds,
        customers=np.unique(batch.customer_id),
        terminals=np.unique(batch.terminal_id),
    )


def copy_batch(connection: PostgresConnection, encoded: Encoded) -> WrittenBatch:
    """Write a batch once, however many tries and processes ask for it, and commit. Raises psycopg2.Error."""
    request, count = encoded.request, len(encoded.rows)
    with connection, connection.cursor() as cursor:
        cursor.execute(_CLAIM, (request.batch, request.seed, count, request.since, request.until))
        if cursor.fetchone() is None:
            return WrittenBatch(transactions=0, frauds=0, already_written=True)
        cursor.copy_expert(_COPY, Stream(encoded.rows), COPY_BYTES)
        cursor.copy_expert(_COPY_TRUTH, Stream(encoded.truth), COPY_BYTES)
        # Last: another batch that brings the same customer waits from here until the commit.
        dimensions.write_used(cursor, request.world, encoded.customers, encoded.terminals)
    return WrittenBatch(transactions=count, frauds=encoded.frauds, already_written=False)


def write_batch(connection: PostgresConnection, request: BatchRequest, batch: Batch) -> WrittenBatch:
    """Prepare and copy a batch over one connection. Raises psycopg2.Error and DatabaseError."""
    return copy_batch(connection, prepare_batch(connection, request, batch))


def _take_ids(cursor: PostgresCursor, count: int) -> int:
    """Take `count` ids that follow one another and give the first.

    A sequence never waits, so who inserts without the lock can take one in between. Then all are left unused
    (sequences have gaps anyway) and others taken.
    """
    # An error leaves the lock to the connection's end, which follows.
    cursor.execute(_LOCK_IDS)
    for _ in range(ID_TRIES):
        cursor.execute(_TAKE_IDS, (count,))
        first, last = cursor.fetchone() or (0, 0)
        if last - first + 1 == count:
            cursor.execute(_UNLOCK_IDS)
            return int(first)
    raise DatabaseError(f"Other writers took ids from between {count} in a row, {ID_TRIES} times: run again.")
