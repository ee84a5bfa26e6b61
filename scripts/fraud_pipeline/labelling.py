"""Labels for new transactions, exactly once, over two databases and without a distributed transaction.

Each chunk of labels is a MySQL transaction of its own:

1. MySQL: lock the mark. Two labellers at once take turns.
2. PostgreSQL: the horizon is the oldest transaction still running, read before the rows. All below it has
   ended, so what commits late waits for a later run, and what was rolled back never shows.
3. The chunk: rows below the horizon that come after the mark, in order of transaction number (xid) and id.
   The mark holds both, so millions of rows of one transaction are labelled in chunks too.
4. Labels are a pure function of the row and the mark, and the insert leaves a label that is there as it is.
5. Labels and mark commit together. A labeller killed anywhere leaves neither.

The mark's lock comes before the horizon: the other way round, the horizon could be older than the mark that
a second labeller has set meanwhile. The lock is a locking read, which sees the newest committed mark whatever
snapshot MySQL's REPEATABLE READ holds, and inserts check the newest rows too.

Frauds that are reported after they were labelled are corrected first: the mark also holds up to when
reports have been taken in, and labels are written as of that moment. So each fraud is either labelled after
its report, or corrected by the run that takes the report in.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from fraud_pipeline.connections import mysql_value
from fraud_pipeline.errors import DatabaseError
from fraud_pipeline.labels import COLUMNS, Truth, label, positive
from fraud_pipeline.local_infile import MOST_LINES, REFUSALS, load_lines
from fraud_pipeline.logs import logfmt
from fraud_pipeline.schema import PROGRESS_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mysql.connector.abstracts import MySQLConnectionAbstract
    from mysql.connector.abstracts import MySQLCursorAbstract as MySQLCursor
    from numpy.typing import NDArray
    from psycopg2.extensions import connection as PostgresConnection  # noqa: N812 -- a class named in lower case
    from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812

    from fraud_pipeline.hashing import Integers
    from fraud_pipeline.labels import Labels

CHUNK = 50_000
# Below, one INSERT of many rows is as fast and needs no LOAD DATA.
FEWEST_TO_LOAD = 2_000
CORRECTIONS_AT_ONCE = 1_000

_LOCK_MARK = """
    SELECT last_xid, last_transaction_id, reported_until, system_identifier
    FROM label_progress WHERE name = %s FOR UPDATE"""
_MOVE_TO_CLUSTER = """
    UPDATE label_progress SET last_xid = %s, last_transaction_id = %s, system_identifier = %s
    WHERE name = %s"""
# The cluster, and whether it has rows whose transaction it has not begun yet: another cluster's.
_CLUSTER = "SELECT system_identifier::numeric FROM pg_control_system()"
_HAS_FOREIGN_ROWS = """
    SELECT EXISTS (SELECT FROM public.transactions WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()))"""
_NEXT_IDS = """
    COPY (SELECT xid, transaction_id FROM public.transactions WHERE transaction_id > {}
          ORDER BY transaction_id LIMIT {}) TO STDOUT (FORMAT binary)"""
_NEXT_LABELS = """
    SELECT transaction_id FROM fraud_labels WHERE transaction_id > %s ORDER BY transaction_id LIMIT %s"""
_REMOVE = "DELETE FROM fraud_labels WHERE transaction_id IN ({})"
_MOVE_MARK = "UPDATE label_progress SET last_xid = %s, last_transaction_id = %s WHERE name = %s"
_MOVE_REPORTED = "UPDATE label_progress SET reported_until = %s WHERE name = %s"
_HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
_NEW = """
    COPY (SELECT xid, transaction_id FROM public.transactions
          WHERE (xid, transaction_id) > ('{}'::xid8, {}) AND xid < '{}'::xid8 AND transaction_id >= 0
          ORDER BY xid, transaction_id LIMIT {}) TO STDOUT (FORMAT binary)"""
_DUE = """
    SELECT count(*) FROM public.transactions
    WHERE (xid, transaction_id) > (%s::xid8, %s) AND transaction_id >= 0"""
# MySQL's ids are unsigned; a new table refuses such a row.
_SET_ASIDE = "SELECT count(*), max(transaction_id) FROM public.transactions WHERE transaction_id < 0"
_LABELLED = "SELECT COUNT(*) FROM fraud_labels WHERE transaction_id IN ({})"
_FRAUDS = "SELECT transaction_id, scenario, reported_at, reported_by FROM sim.ground_truth WHERE "
_REPORTED = _FRAUDS + "reported_at > %s AND reported_at <= %s ORDER BY transaction_id"
_STILL_HONEST = "SELECT transaction_id FROM fraud_labels WHERE is_fraud = 0 AND transaction_id IN ({})"
_CORRECT = """
    UPDATE fraud_labels SET is_fraud = 1, fraud_type = %s, label_source = %s, detected_at = %s
    WHERE transaction_id = %s AND is_fraud = 0"""
_WAITING = """
    SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8
    FROM public.transactions WHERE xid >= %s::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot())"""
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
    INSERT INTO fraud_labels ({", ".join(COLUMNS)}) VALUES (%s, %s, %s, %s, %s, %s)
    ON DUPLICATE KEY UPDATE transaction_id = transaction_id"""  # noqa: S608
# A row as COPY sends it: number of fields, then length and value of each.
_COPIED = np.dtype([("fields", ">i2"), ("_1", ">i4"), ("xid", ">u8"), ("_2", ">i4"), ("id", ">i8")])

_LOG = logging.getLogger(__name__)


class Mark(NamedTuple):
    """How far labels have come: all rows up to (xid, id), as of the reports up to a moment.

    `cluster` is that of the transaction numbers, None if no run has noted it yet.
    """

    xid: int
    identity: int
    reported_until: datetime
    cluster: int | None = None


@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows that come after a mark, at most `size`, with their labels; `lines` is what LOAD DATA reads."""

    mark: Mark
    size: int
    rows: NDArray[np.void]
    labels: Labels
    lines: list[bytes]
    restarted: bool

    @property
    def end(self) -> Mark:
        """Where the mark is when the rows are labelled."""
        return self.mark._replace(xid=int(self.rows["xid"][-1]), identity=int(self.rows["id"][-1]))


@dataclass(frozen=True)
class Labelled:
    """What a run did, and committed rows that wait for the next run: how many, and for how many seconds."""

    labels: int
    frauds: int
    corrected: int
    waiting: int
    lag_seconds: float
    restarted: bool


@dataclass(frozen=True)
class Compared:
    """Transactions without a label, how many added labels say fraud, and labels without a transaction."""

    missing: int
    frauds: int
    orphans: int


class Labeller:
    """Labels what two open connections reach.

    `pipes` is the folder that `mysql` may load from (see local_infile); without it, many labels are inserted,
    which takes three times as long. Every method may raise DatabaseError, psycopg2.Error and
    mysql.connector.Error.
    """

    def __init__(
        self,
        postgres: PostgresConnection,
        mysql: MySQLConnectionAbstract,
        *,
        seed: int,
        chunk: int = CHUNK,
        pipes: Path | None = None,
    ) -> None:
        self.postgres = postgres
        self.mysql = mysql
        self.seed = seed
        self.chunk = min(chunk, MOST_LINES)
        self.pipes = pipes
        self.restarted = False
        self._ahead: Future[Chunk] | None = None

    def run(
        self,
        until: datetime | None = None,
        *,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Labelled:
        """Take in reports up to `until` or now, and label transactions that have ended, at most `limit`."""
        corrected = self.take_in_reports(until)
        labels, frauds = self.catch_up_in_another_cluster()
        with ThreadPoolExecutor(max_workers=1) as pool:
            while limit is None or labels < limit:
                chunk, new, new_frauds = self._label_chunk(
                    pool, self.chunk if limit is None else min(self.chunk, limit - labels)
                )
                if not len(chunk.rows):
                    break
                labels += new
                frauds += new_frauds
                if progress:
                    progress(len(chunk.rows))
        waiting, lag = self._waiting()
        return Labelled(labels, frauds, corrected, waiting, lag, self.restarted)

    def due(self) -> int:
        """How many transactions there are after the mark: reads an index over them, a second for millions."""
        with self.postgres, self.mysql.cursor() as labels, self.postgres.cursor() as reader:
            mark = self._lock_mark(labels)
            self.mysql.rollback()
            reader.execute(_DUE, (str(mark.xid), mark.identity))
            return int((reader.fetchone() or (0,))[0])

    def take_in_reports(self, until: datetime | None) -> int:
        """Correct the labels of frauds that were reported since the last time, and move the mark there.

        By PostgreSQL's clock: what is still to come has not been reported, whatever another clock says.
        """
        with self.postgres, self.mysql.cursor() as labels, self.postgres.cursor() as reader:
            mark = self._lock_mark(labels)
            reader.execute("SELECT clock_timestamp()")
            [clock] = reader.fetchone() or (datetime.now(UTC),)
            now = min(until or clock, clock)
            if until and until > clock:
                _LOG.warning(
                    logfmt("until_is_ahead_of_the_clock", until=until, clock=clock, action="took_the_clock")
                )
            is_ahead = mark.reported_until > clock
            if is_ahead:
                _LOG.warning(
                    logfmt("mark_ahead_of_clock", mark=mark.reported_until, clock=clock, action="set_back")
                )
            corrected = 0
            if now > mark.reported_until:
                labels.execute("SELECT EXISTS (SELECT 1 FROM fraud_labels)")
                if mysql_value(labels):
                    reader.execute(_REPORTED, (mark.reported_until, now))
                    corrected = self._correct(labels, _truths(reader), now)
            if is_ahead or now > mark.reported_until:
                labels.execute(_MOVE_REPORTED, (now.astimezone(UTC).replace(tzinfo=None), PROGRESS_NAME))
            self.mysql.commit()
        return corrected

    def catch_up_in_another_cluster(self) -> tuple[int, int]:
        """Label what has no label if the mark is of another cluster; how many labels, and frauds among them.

        The rows of a dump that was restored have the transaction numbers of the cluster that wrote them,
        which say nothing here.
        """
        with self.postgres, self.mysql.cursor() as labels, self.postgres.cursor() as reader:
            cluster = _cluster(reader)
            mark = self._lock_mark(labels)
            if cluster is None or mark.cluster == cluster:
                self.mysql.rollback()
                return 0, 0
            reader.execute(_HAS_FOREIGN_ROWS)
            has_foreign_rows = bool((reader.fetchone() or (False,))[0])
            if mark.cluster is None and not has_foreign_rows:
                labels.execute(_MOVE_TO_CLUSTER, (mark.xid, mark.identity, cluster, PROGRESS_NAME))
                self.mysql.commit()
                return 0, 0
            self.mysql.rollback()
            # What commits from here on is read by its number.
            horizon = _horizon(reader)
        found = self.compare_ids(add=True, remove=False)
        with self.mysql.cursor() as labels:
            self._lock_mark(labels)
            labels.execute(_MOVE_TO_CLUSTER, (horizon, 0, cluster, PROGRESS_NAME))
            self.mysql.commit()
        _LOG.warning(
            logfmt(
                "labels_of_another_cluster",
                mark=mark.xid,
                horizon=horizon,
                labels=found.missing,
                action="compared_ids",
            )
        )
        return found.missing, found.frauds

    def compare_ids(self, *, add: bool, remove: bool) -> Compared:
        """Compare all ids of transactions and labels; `add` what is missing, `remove` what is orphaned."""
        found, last = Compared(0, 0, 0), -1
        while True:
            with self.postgres, self.mysql.cursor() as labels, self.postgres.cursor() as reader:
                # No other labeller's label comes in between. Labels are read first: the transaction of each
                # was committed before it, so one that is not seen then is gone.
                mark = self._lock_mark(labels)
                labels.execute(_NEXT_LABELS, (last, self.chunk))
                there = np.array(
                    [int(str(row[0])) for row in cast("list[tuple[object]]", labels.fetchall())], np.int64
                )
                told = _Bytes()
                reader.copy_expert(_NEXT_IDS.format(last, self.chunk), told)
                rows = _copied(told)
                ends = [int(side[-1]) for side in (there, rows["id"]) if len(side) == self.chunk]
                if ends:
                    there, rows = there[there <= min(ends)], rows[rows["id"] <= min(ends)]
                missing, orphans = rows[~np.isin(rows["id"], there)], there[~np.isin(there, rows["id"])]
                frauds = self._add(labels, reader, mark, missing) if add and len(missing) else 0
                if remove and len(orphans):
                    labels.execute(_REMOVE.format(", ".join(map(str, orphans.tolist()))))
                self.mysql.commit()
            found = Compared(
                found.missing + len(missing), found.frauds + frauds, found.orphans + len(orphans)
            )
            if not ends:
                return found
            last = min(ends)

    def _add(self, labels: MySQLCursor, reader: PostgresCursor, mark: Mark, rows: NDArray[np.void]) -> int:
        """Write the labels of rows, and return how many say fraud."""
        ids = rows["id"].astype(np.int64)
        made = label(self.seed, ids, _frauds(reader, ids), mark.reported_until)
        lines = made.lines() if self.pipes and len(rows) >= FEWEST_TO_LOAD else []
        self._insert(labels, Chunk(mark, len(rows), rows, made, lines, restarted=False))
        return len(made.positives)

    def _correct(self, labels: MySQLCursor, reported: Mapping[int, Truth], now: datetime) -> int:
        ids, corrected = list(reported), 0
        for first in range(0, len(ids), CORRECTIONS_AT_ONCE):
            some = ids[first : first + CORRECTIONS_AT_ONCE]
            labels.execute(_STILL_HONEST.format(", ".join(map(str, some))))
            wrong = [int(str(row[0])) for row in cast("list[tuple[object]]", labels.fetchall())]
            for identity in wrong:
                known = positive(reported[identity], now)
                if known:
                    moment = known.detected_at.replace(tzinfo=None)
                    labels.execute(_CORRECT, (known.fraud_type, known.source, moment, identity))
                    corrected += labels.rowcount
        return corrected

    def _label_chunk(self, pool: ThreadPoolExecutor, size: int) -> tuple[Chunk, int, int]:
        """Label the next rows and commit; the rows, how many labels are new, and how many of these say fraud.

        While MySQL takes the chunk, a thread reads the next one. That is used if the mark is then where the
        thread took it to be: below the horizon nothing changes, so it would be read just the same.
        """
        ahead, self._ahead = self._ahead, None
        with self.mysql.cursor() as labels:
            mark = self._lock_mark(labels)
            chunk = ahead.result() if ahead else None
            if chunk is None or chunk.mark != mark or chunk.size != size:
                chunk = self._read(mark, size)
            new = frauds = 0
            if chunk.restarted:
                labels.execute(_MOVE_MARK, (0, 0, PROGRESS_NAME))
            if len(chunk.rows):
                if len(chunk.rows) == size:
                    self._ahead = pool.submit(self._read, chunk.end, size)
                frauds = len(chunk.labels.positives) - self._labelled_frauds(labels, chunk)
                new = self._insert(labels, chunk)
                labels.execute(_MOVE_MARK, (chunk.end.xid, chunk.end.identity, PROGRESS_NAME))
            self.mysql.commit()
        return chunk, new, frauds

    def _labelled_frauds(self, labels: MySQLCursor, chunk: Chunk) -> int:
        """Count the frauds of a chunk that have a label already, because they are read again."""
        ids = [str(int(chunk.labels.ids[position])) for position in chunk.labels.positives]
        if not ids:
            return 0
        labels.execute(_LABELLED.format(", ".join(ids)))
        return int(str(mysql_value(labels)))

    def _read(self, mark: Mark, size: int) -> Chunk:
        """Read the rows that come after the mark, and make their labels."""
        with self.postgres, self.postgres.cursor() as reader:
            horizon = _horizon(reader)
            after, restarted = mark, horizon < mark.xid
            if restarted:
                _LOG.warning(
                    logfmt("mark_ahead_of_database", mark=mark.xid, horizon=horizon, action="start_from_0")
                )
                self.restarted, after = True, mark._replace(xid=0, identity=0)
            rows = _new_rows(reader, after, horizon, size)
            ids = rows["id"].astype(np.int64)
            labels = label(self.seed, ids, _frauds(reader, ids), mark.reported_until)
        lines = labels.lines() if self.pipes and len(rows) >= FEWEST_TO_LOAD else []
        return Chunk(mark, size, rows, labels, lines, restarted)

    def _lock_mark(self, labels: MySQLCursor) -> Mark:
        labels.execute(_LOCK_MARK, (PROGRESS_NAME,))
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

    def _insert(self, labels: MySQLCursor, chunk: Chunk) -> int:
        count = len(chunk.rows)
        if self.pipes and chunk.lines:
            try:
                return load_lines(self.mysql, self.pipes, "fraud_labels", COLUMNS, chunk.lines, count)
            except Exception as error:
                number = getattr(error, "errno", None)
                if number not in REFUSALS:
                    raise
                _LOG.warning(
                    logfmt("load_data_refused", error=error, remedy="set local_infile on the server")
                )
                self.pipes = None
        labels.executemany(_INSERT, chunk.labels.rows())
        return labels.rowcount

    def _waiting(self) -> tuple[int, float]:
        """Count committed rows at or above the horizon; warn with the transaction that holds it back."""
        with self.postgres, self.postgres.cursor() as reader:
            reader.execute(_SET_ASIDE)
            set_aside, last = reader.fetchone() or (0, None)
            if set_aside:
                _LOG.warning(
                    logfmt(
                        "transactions_set_aside",
                        transactions=set_aside,
                        last_id=last,
                        because="an id below 0 fits into no label",
                        remedy="give them ids that PostgreSQL makes, or delete them",
                    )
                )
            reader.execute(_WAITING, (str(_horizon(reader)),))
            waiting, lag = reader.fetchone() or (0, 0.0)
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
        return int(waiting), float(lag)


def label_new(
    postgres: PostgresConnection, mysql: MySQLConnectionAbstract, *, seed: int, chunk: int = CHUNK
) -> Labelled:
    """Label all transactions that have ended and have no label yet, as of now."""
    return Labeller(postgres, mysql, seed=seed, chunk=chunk).run()


class _Bytes:
    """A file that COPY writes to."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.write = self.parts.append


def _new_rows(reader: PostgresCursor, mark: Mark, horizon: int, size: int) -> NDArray[np.void]:
    told = _Bytes()
    reader.copy_expert(_NEW.format(mark.xid, mark.identity, horizon, size), told)
    return _copied(told)


def _copied(told: _Bytes) -> NDArray[np.void]:
    # 19 bytes of header stand before the first row, and two bytes end the last.
    return np.frombuffer(b"".join(told.parts)[19:-2], _COPIED)


def _cluster(reader: PostgresCursor) -> int | None:
    """Return what tells clusters apart, None if this account may not know."""
    import psycopg2

    reader.execute("SAVEPOINT cluster")
    try:
        reader.execute(_CLUSTER)
    except psycopg2.errors.InsufficientPrivilege:
        reader.execute("ROLLBACK TO SAVEPOINT cluster")
        return None
    return int((reader.fetchone() or (0,))[0])


def _horizon(reader: PostgresCursor) -> int:
    reader.execute(_HORIZON)
    return int((reader.fetchone() or ("0",))[0])


def _frauds(reader: PostgresCursor, ids: Integers) -> dict[int, Truth]:
    """Ground truth of those that are frauds: by key for few, by range for many."""
    if not len(ids):
        return {}
    if len(ids) < FEWEST_TO_LOAD:
        reader.execute(_FRAUDS + "transaction_id = ANY(%s)", (ids.tolist(),))
    else:
        reader.execute(_FRAUDS + "transaction_id BETWEEN %s AND %s", (int(ids.min()), int(ids.max())))
    return _truths(reader)


def _truths(reader: PostgresCursor) -> dict[int, Truth]:
    return {identity: Truth(*truth) for identity, *truth in reader.fetchall()}
