"""Writing one batch to PostgreSQL: all of it in one transaction with its row in `sim.batches`, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fraud_pipeline.transactions import Transaction

if TYPE_CHECKING:
    from psycopg2.extensions import connection as PostgresConnection  # noqa: N812 -- a class named in lower case

    from fraud_pipeline.transactions import Batch, BatchRequest

# Waits for another transaction that writes the same batch, and returns no row once that has committed.
_CLAIM = """
    INSERT INTO sim.batches (batch_id, seed, transactions, since, until) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (batch_id) DO NOTHING RETURNING batch_id"""
# Ids are taken first, because the order of rows from INSERT … RETURNING is not promised.
_TAKE_IDS = """
    SELECT nextval(pg_get_serial_sequence('public.transactions', 'transaction_id'))
    FROM generate_series(1, %s)"""
_INSERT = f"INSERT INTO public.transactions (transaction_id, {', '.join(Transaction._fields)}) VALUES %s"  # noqa: S608
_INSERT_TRUTH = "INSERT INTO sim.ground_truth (transaction_id, scenario) VALUES %s"


@dataclass(frozen=True)
class WrittenBatch:
    """What writing a batch did; `already_written` means that an earlier try had committed it."""

    transactions: int
    frauds: int
    already_written: bool


def write_batch(connection: PostgresConnection, request: BatchRequest, batch: Batch) -> WrittenBatch:
    """Write a batch once, however many tries and processes ask for it, and commit. Raises psycopg2.Error."""
    from psycopg2.extras import execute_values

    with connection, connection.cursor() as cursor:
        claim = (request.batch, request.seed, len(batch.transactions), request.since, request.until)
        cursor.execute(_CLAIM, claim)
        if cursor.fetchone() is None:
            return WrittenBatch(transactions=0, frauds=0, already_written=True)
        cursor.execute(_TAKE_IDS, (len(batch.transactions),))
        ids = [identity for (identity,) in cursor.fetchall()]
        rows = [(identity, *row) for identity, row in zip(ids, batch.transactions, strict=True)]
        truth = [pair for pair in zip(ids, batch.scenarios, strict=True) if pair[1] is not None]
        execute_values(cursor, _INSERT, rows, page_size=1000)
        if truth:
            execute_values(cursor, _INSERT_TRUTH, truth, page_size=1000)
    return WrittenBatch(transactions=len(rows), frauds=len(truth), already_written=False)
