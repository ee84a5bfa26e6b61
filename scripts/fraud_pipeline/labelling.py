"""Labels for new transactions, exactly once, over two databases and without a distributed transaction.

1. MySQL: lock the mark. Two labellers at once take turns.
2. PostgreSQL: the horizon is the oldest transaction still running, read before the rows. All below it has
   ended, so what commits late waits for a later run, and what was rolled back never shows.
3. Labels are a pure function of the row, and the insert leaves a label that is there as it is.
4. Labels and mark commit together. A labeller killed anywhere leaves neither.

The mark's lock comes before the horizon: the other way round, the horizon could be older than the mark that
a second labeller has set meanwhile. The lock is a locking read, which sees the newest committed mark whatever
snapshot MySQL's REPEATABLE READ holds, and inserts check the newest rows too.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fraud_pipeline.connections import mysql_value
from fraud_pipeline.errors import DatabaseError
from fraud_pipeline.labels import Label, label
from fraud_pipeline.logs import logfmt
from fraud_pipeline.schema import PROGRESS_NAME

if TYPE_CHECKING:
    from mysql.connector.abstracts import MySQLConnectionAbstract
    from mysql.connector.abstracts import MySQLCursorAbstract as MySQLCursor
    from psycopg2.extensions import connection as PostgresConnection  # noqa: N812 -- a class named in lower case
    from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812

CHUNK = 1_000

_LOCK_MARK = "SELECT last_xid FROM label_progress WHERE name = %s FOR UPDATE"
_MOVE_MARK = "UPDATE label_progress SET last_xid = %s WHERE name = %s"
_HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
_NEW = """
    SELECT t.transaction_id, g.scenario, t.xid::text
    FROM public.transactions t LEFT JOIN sim.ground_truth g USING (transaction_id)
    WHERE t.xid >= %s::xid8 AND t.xid < %s::xid8
    ORDER BY t.xid, t.transaction_id"""
_WAITING = "SELECT count(*) FROM public.transactions WHERE xid >= %s::xid8"
_HOLDER = """
    SELECT holder, seconds FROM (
        SELECT format('process %s of user %s', pid, usename) AS holder, backend_xid AS xid,
               extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds
        FROM pg_stat_activity WHERE backend_xid IS NOT NULL
        UNION ALL
        SELECT format('prepared transaction %s', gid), transaction,
               extract(epoch FROM clock_timestamp() - prepared)::float8
        FROM pg_prepared_xacts) AS open
    ORDER BY age(xid) DESC LIMIT 1"""
# ON DUPLICATE KEY UPDATE instead of INSERT IGNORE, which would hide errors in the data.
_INSERT = f"""
    INSERT INTO fraud_labels ({", ".join(Label._fields)}, detected_at) VALUES (%s, %s, %s, %s, %s, %s)
    ON DUPLICATE KEY UPDATE transaction_id = transaction_id"""  # noqa: S608

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelled:
    """What a run did: labels written, frauds among them, and committed rows that wait for the next run."""

    labels: int
    frauds: int
    waiting: int
    restarted: bool


def label_new(
    postgres: PostgresConnection, mysql: MySQLConnectionAbstract, *, seed: int, chunk: int = CHUNK
) -> Labelled:
    """Label all transactions between the mark and the horizon, and commit.

    Rows stream through in chunks, so memory does not grow with their number. Raises DatabaseError where the
    mark's row is missing, psycopg2.Error and mysql.connector.Error.
    """
    with postgres, mysql.cursor() as labels, postgres.cursor() as reader:
        mark = _lock_mark(labels)
        reader.execute(_HORIZON)
        horizon = int(_only(reader))
        restarted = horizon < mark
        if restarted:
            _LOG.warning(logfmt("mark_ahead_of_database", mark=mark, horizon=horizon, action="start_from_0"))
            mark = 0
        written, frauds = 0, 0
        # A cursor with a name stays on the server; its snapshot is newer than the horizon.
        with postgres.cursor(name="new_transactions") as rows:
            rows.execute(_NEW, (str(mark), str(horizon)))
            while new := rows.fetchmany(chunk):
                made = [label(seed, identity, scenario) for identity, scenario, _ in new]
                written += _insert(labels, made)
                frauds += sum(one.is_fraud for one in made)
                # Not the horizon: after a crash the server may give out ids again that rolled-back
                # transactions had, those of committed rows never.
                mark = int(new[-1][2]) + 1
        labels.execute(_MOVE_MARK, (mark, PROGRESS_NAME))
        mysql.commit()
        waiting = _waiting(reader, horizon)
    return Labelled(labels=written, frauds=frauds, waiting=waiting, restarted=restarted)


def _lock_mark(labels: MySQLCursor) -> int:
    labels.execute(_LOCK_MARK, (PROGRESS_NAME,))
    mark = mysql_value(labels)
    if mark is None:
        raise DatabaseError(
            f"label_progress has no row {PROGRESS_NAME}: it was deleted during this run; run again."
        )
    return int(str(mark))


def _insert(labels: MySQLCursor, made: list[Label]) -> int:
    detected_at = datetime.now(UTC).replace(tzinfo=None)
    labels.executemany(_INSERT, [(*one, detected_at) for one in made])
    return labels.rowcount


def _waiting(reader: PostgresCursor, horizon: int) -> int:
    """Count committed rows at or above the horizon; warn with the transaction that holds it back."""
    reader.execute(_WAITING, (str(horizon),))
    waiting = int(_only(reader))
    if waiting:
        reader.execute(_HOLDER)
        holder, seconds = reader.fetchone() or ("a transaction that has just ended", None)
        _LOG.warning(
            logfmt(
                "labels_wait",
                transactions=waiting,
                held_back_by=holder,
                open_seconds=seconds,
                remedy="labelled by the next run after that transaction ends",
            )
        )
    return waiting


def _only(cursor: PostgresCursor) -> str:
    row = cursor.fetchone()
    if row is None:
        raise DatabaseError("PostgreSQL gave no row where one is certain.")
    return str(row[0])
