"""The mark: how far labels have come, in a row of MySQL's `label_progress`; and whether that can be so.

Who writes labels holds the mark's lock. It is a locking read, which sees the newest committed mark whatever
snapshot MySQL's REPEATABLE READ holds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, cast

from fraud_pipeline.connections import mysql_value
from fraud_pipeline.errors import DatabaseError
from fraud_pipeline.schema import PROGRESS_NAME

if TYPE_CHECKING:
    from mysql.connector.abstracts import MySQLCursorAbstract as MySQLCursor
    from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812 -- a class named in lower case

_LOCK = """
    SELECT last_xid, last_transaction_id, reported_until, system_identifier
    FROM label_progress WHERE name = %s FOR UPDATE"""
_MOVE = """
    UPDATE label_progress
    SET last_xid = %s, last_transaction_id = %s, reported_until = %s, system_identifier = %s
    WHERE name = %s"""
_CLUSTER = "SELECT system_identifier::numeric FROM pg_control_system()"
_HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
# Rows whose transaction this cluster has not begun yet: another cluster's.
_HAS_FOREIGN_ROWS = """
    SELECT EXISTS (SELECT FROM public.transactions WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))"""
_HAS_TRANSACTION = """
    SELECT EXISTS (SELECT FROM public.transactions WHERE transaction_id = %s AND xid = %s::xid8)"""
_HAS_LABEL = "SELECT EXISTS (SELECT 1 FROM fraud_labels WHERE transaction_id = %s)"


class Mark(NamedTuple):
    """How far labels have come: all rows up to (xid, id), as of the reports up to a moment.

    `cluster` is that of the transaction numbers, None if no run has noted it yet.
    """

    xid: int
    identity: int
    reported_until: datetime
    cluster: int | None = None


def lock_mark(labels: MySQLCursor) -> Mark:
    """Read the mark, and lock it until the MySQL transaction ends. Raises DatabaseError if it is gone."""
    labels.execute(_LOCK, (PROGRESS_NAME,))
    rows = cast("list[tuple[int, int, datetime, int | None]]", labels.fetchall())
    if not rows:
        raise DatabaseError(
            f"label_progress has no row {PROGRESS_NAME}: it was deleted during this run; run again."
        )
    xid, identity, reported_until, cluster = rows[0]
    return Mark(
        int(xid),
        int(identity),
        reported_until.replace(tzinfo=UTC),
        None if cluster is None else int(cluster),
    )


def move_mark(labels: MySQLCursor, mark: Mark) -> None:
    """Write the mark, which this MySQL transaction has locked."""
    moment = mark.reported_until.astimezone(UTC).replace(tzinfo=None)
    labels.execute(_MOVE, (mark.xid, mark.identity, moment, mark.cluster, PROGRESS_NAME))


def contradiction(
    labels: MySQLCursor, reader: PostgresCursor, mark: Mark, cluster: int | None, horizon: int
) -> str | None:
    """Why the mark cannot be of these databases as they are now, None if it can be."""
    if None not in (cluster, mark.cluster) and cluster != mark.cluster:
        return "the mark is of another cluster"
    if mark.xid > horizon:
        return "the mark is ahead of the database"
    if mark.cluster is None:
        reader.execute(_HAS_FOREIGN_ROWS)
        if (reader.fetchone() or (False,))[0]:
            return "rows are of another cluster"
    if mark.identity:
        reader.execute(_HAS_TRANSACTION, (mark.identity, str(mark.xid)))
        if not (reader.fetchone() or (False,))[0]:
            return "the transaction at the mark is gone"
        labels.execute(_HAS_LABEL, (mark.identity,))
        if not mysql_value(labels):
            return "the label at the mark is gone"
    return None


def cluster_of(reader: PostgresCursor) -> int | None:
    """Return what tells clusters apart, None if this account may not know."""
    import psycopg2

    reader.execute("SAVEPOINT cluster")
    try:
        reader.execute(_CLUSTER)
    except psycopg2.errors.InsufficientPrivilege:
        reader.execute("ROLLBACK TO SAVEPOINT cluster")
        return None
    return int((reader.fetchone() or (0,))[0])


def horizon_of(reader: PostgresCursor) -> int:
    """Return the number of the oldest transaction that still runs: all below it have ended."""
    reader.execute(_HORIZON)
    return int((reader.fetchone() or ("0",))[0])
