"""All ids of both databases, compared: labels that are missing, without a transaction, or older than theirs.

Ids come in chunks, in order, each under the mark's lock. Both databases send them without a Python object
for each: PostgreSQL by COPY, MySQL packed into one row, as its driver in pure Python is slow at many.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from fraud_pipeline.connections import mysql_value
from fraud_pipeline.copy_format import read_rows
from fraud_pipeline.errors import DatabaseError
from fraud_pipeline.label_mark import lock_mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from mysql.connector.abstracts import MySQLConnectionAbstract
    from mysql.connector.abstracts import MySQLCursorAbstract as MySQLCursor
    from numpy.typing import NDArray
    from psycopg2.extensions import connection as PostgresConnection  # noqa: N812 -- a class named in lower case
    from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812

    from fraud_pipeline.hashing import Integers
    from fraud_pipeline.label_mark import Mark

    # Writes the labels of transactions as of the mark, and returns how many say fraud.
    Write = Callable[[MySQLCursor, PostgresCursor, Mark, Integers], int]

# Ids, and when rows were made.
_NEXT_TRANSACTIONS = """
    COPY (SELECT transaction_id, created_at FROM public.transactions WHERE transaction_id > {}
          ORDER BY transaction_id LIMIT {}) TO STDOUT (FORMAT binary)"""
_NEXT_LABELS = """
    SELECT COUNT(*), GROUP_CONCAT(transaction_id, ' ', moment, ' ' SEPARATOR '') FROM (
        SELECT transaction_id, CAST(UNIX_TIMESTAMP(created_at) * 1000000 AS SIGNED) AS moment
        FROM fraud_labels WHERE transaction_id > %s AND transaction_id <= 9223372036854775807
        ORDER BY transaction_id LIMIT %s) AS following"""
_LONG_ANSWERS = "SET SESSION group_concat_max_len = 16000000"
_REMOVE = "DELETE FROM fraud_labels WHERE transaction_id IN ({})"
# MySQL's ids go beyond PostgreSQL's.
_REMOVE_BEYOND = "DELETE FROM fraud_labels WHERE transaction_id > 9223372036854775807"
# As COPY has times: microseconds since 2000.
_POSTGRES_CLOCK = "SELECT (extract(epoch FROM clock_timestamp() - '2000-01-01 UTC') * 1000000)::bigint"
_MYSQL_CLOCK = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
TIMED = np.dtype([("fields", ">i2"), ("_1", ">i4"), ("id", ">i8"), ("_2", ">i4"), ("time", ">i8")])


@dataclass(frozen=True)
class Compared:
    """Labels that were missing, how many written ones say fraud, and labels without a transaction.

    `older` are labels from before their transaction: of an earlier one with the same id.
    """

    missing: int = 0
    frauds: int = 0
    orphans: int = 0
    older: int = 0


class Clocks(NamedTuple):
    """PostgreSQL's clock, and what turns MySQL's into it: microseconds.

    PostgreSQL's count from 2000, MySQL's from 1970; `offset` is at most too large, by an answer's time.
    """

    now: int
    offset: int


def compare_ids(
    postgres: PostgresConnection, mysql: MySQLConnectionAbstract, write: Write, *, chunk: int, repair: bool
) -> Compared:
    """Compare all ids, and write missing labels; to `repair`, remove and replace wrong ones too.

    Raises DatabaseError, psycopg2.Error and mysql.connector.Error.
    """
    found, last, clocks = Compared(), -1, _clocks(postgres, mysql)
    with mysql.cursor() as labels:
        labels.execute(_LONG_ANSWERS)
    while True:
        with postgres, mysql.cursor() as labels, postgres.cursor() as reader:
            # No other labeller's label comes in between. Labels are read first: the transaction of each
            # was committed before it, so one that is not seen then is gone.
            mark = lock_mark(labels)
            label_times = _next_labels(labels, last, chunk)
            rows = read_rows(reader, _NEXT_TRANSACTIONS.format(last, chunk), TIMED)
            ends = [int(ids.max()) for ids in (label_times[:, 0], rows["id"]) if len(ids) == chunk]
            if ends:
                label_times = label_times[label_times[:, 0] <= min(ends)]
                rows = rows[rows["id"] <= min(ends)]
            missing, orphans, older = _differences(label_times, rows, clocks)
            if repair and (len(orphans) or len(older)):
                wrong = np.concatenate((orphans, older)).tolist()
                labels.execute(_REMOVE.format(", ".join(map(str, wrong))))
            frauds = write(labels, reader, mark, np.concatenate((missing, older)) if repair else missing)
            mysql.commit()
        found = Compared(
            found.missing + len(missing),
            found.frauds + frauds,
            found.orphans + len(orphans),
            found.older + len(older),
        )
        if not ends:
            break
        last = min(ends)
    if repair:
        with mysql.cursor() as labels:
            labels.execute(_REMOVE_BEYOND)
            beyond = labels.rowcount
            mysql.commit()
        found = replace(found, orphans=found.orphans + beyond)
    return found


def postgres_clock(reader: PostgresCursor) -> int:
    """Return PostgreSQL's time in microseconds since 2000, as COPY has times."""
    reader.execute(_POSTGRES_CLOCK)
    return int((reader.fetchone() or (0,))[0])


def _clocks(postgres: PostgresConnection, mysql: MySQLConnectionAbstract) -> Clocks:
    with postgres, mysql.cursor() as labels, postgres.cursor() as reader:
        labels.execute(_MYSQL_CLOCK)
        before = int(str(mysql_value(labels)))
        mysql.rollback()
        now = postgres_clock(reader)
        return Clocks(now, now - before)


def _next_labels(cursor: MySQLCursor, last: int, limit: int) -> NDArray[np.int64]:
    """Return the labels that follow an id, at most `limit`: each one's id, and when it was made."""
    cursor.execute(_NEXT_LABELS, (last, limit))
    [(count, text)] = cast("list[tuple[int, str | None]]", cursor.fetchall())
    found = np.fromstring(text or "", np.int64, sep=" ")
    # Cut off in the middle of its last number, the text would not end so.
    if len(found) != 2 * count or (text and not text.endswith(" ")):
        raise DatabaseError(
            f"MySQL cut an answer of {count} labels off: its max_allowed_packet must be 4 MB or more."
        )
    return found.reshape(-1, 2)


def _differences(
    label_times: Integers, rows: NDArray[np.void], clocks: Clocks
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Ids without a label, without a transaction, and of labels made before their transaction was.

    Of a transaction that is dated ahead of the clock nobody knows that.
    """
    ids, labelled = rows["id"].astype(np.int64), label_times[:, 0]
    both, of_row, of_label = np.intersect1d(ids, labelled, assume_unique=True, return_indices=True)
    made = rows["time"][of_row].astype(np.int64)
    is_older = label_times[of_label, 1] + clocks.offset < made
    return (
        np.setdiff1d(ids, both, assume_unique=True),
        np.setdiff1d(labelled, both, assume_unique=True),
        both[is_older & (made <= clocks.now)],
    )
