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
a second labeller has set meanwhile. Inserts check the newest rows too, whatever MySQL's snapshot holds.

Numbers say nothing if a database was restored, or rows were deleted. So the mark is checked first: the row
that it names, its label and the cluster must be there. If one is not, all ids are compared once.

Frauds that are reported after they were labelled are corrected first: the mark also holds up to when
reports have been taken in, and labels are written as of that moment. So each fraud is either labelled after
its report, or corrected by the run that takes the report in.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import numpy as np

from fraud_pipeline.connections import mysql_value
from fraud_pipeline.copy_format import read_rows
from fraud_pipeline.id_comparison import TIMED, Compared, compare_ids, postgres_clock
from fraud_pipeline.label_mark import Mark, cluster_of, contradiction, horizon_of, lock_mark, move_mark
from fraud_pipeline.labels import COLUMNS, Truth, label, positive
from fraud_pipeline.local_infile import MOST_LINES, REFUSALS, load_lines
from fraud_pipeline.logs import logfmt

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

_LAST_BELOW = """
    SELECT xid::text, transaction_id FROM public.transactions WHERE xid < %s::xid8 AND transaction_id >= 0
    ORDER BY xid DESC, transaction_id DESC LIMIT 1"""
_NEW = """
    COPY (SELECT xid, transaction_id FROM public.transactions
          WHERE (xid, transaction_id) > ('{}'::xid8, {}) AND xid < '{}'::xid8 AND transaction_id >= 0
          ORDER BY xid, transaction_id LIMIT {}) TO STDOUT (FORMAT binary)"""
_DUE = """
    SELECT count(*) FROM public.transactions
    WHERE (xid, transaction_id) > (%s::xid8, %s) AND transaction_id >= 0"""
# MySQL's ids are unsigned; a new table refuses such a row.
_SET_ASIDE = "SELECT count(*), max(transaction_id) FROM public.transactions WHERE transaction_id < 0"
_LABELLED = "SELECT transaction_id FROM fraud_labels WHERE transaction_id IN ({})"
# A report at a time that MySQL cannot hold, which a new table refuses, never comes.
_FRAUDS = """
    SELECT transaction_id, scenario, CASE WHEN reported_at BETWEEN '1000-01-01 UTC' AND '9999-12-30 UTC'
                                          THEN reported_at END, reported_by
    FROM sim.ground_truth WHERE """
_REPORTED = _FRAUDS + "reported_at > %s AND reported_at <= %s ORDER BY transaction_id"
_STILL_HONEST = "SELECT transaction_id FROM fraud_labels WHERE is_fraud = 0 AND transaction_id IN ({})"
_CORRECT = """
    UPDATE fraud_labels SET is_fraud = 1, fraud_type = %s, label_source = %s, detected_at = %s
    WHERE transaction_id = %s AND is_fraud = 0"""
_WAITING = """
    COPY (SELECT transaction_id, created_at FROM public.transactions
          WHERE xid >= '{}'::xid8 AND xid < pg_snapshot_xmax(pg_current_snapshot()) AND transaction_id >= 0)
    TO STDOUT (FORMAT binary)"""
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
_NUMBERED = np.dtype([("fields", ">i2"), ("_1", ">i4"), ("xid", ">u8"), ("_2", ">i4"), ("id", ">i8")])

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows that come after a mark, at most `size`, with their labels; `lines` is what LOAD DATA reads."""

    mark: Mark
    size: int
    rows: NDArray[np.void]
    labels: Labels
    lines: list[bytes]

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
        labels, frauds = self.catch_up()
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
        return Labelled(labels, frauds, corrected, waiting, lag)

    def due(self) -> int:
        """How many transactions there are after the mark: reads an index over them, a second for millions."""
        with self.postgres, self.mysql.cursor() as labels, self.postgres.cursor() as reader:
            mark = lock_mark(labels)
            self.mysql.rollback()
            reader.execute(_DUE, (str(mark.xid), mark.identity))
            return int((reader.fetchone() or (0,))[0])

    def take_in_reports(self, until: datetime | None) -> int:
        """Correct the labels of frauds that were reported since the last time, and move the mark there.

        By PostgreSQL's clock: what is still to come has not been reported, whatever another clock says.
        """
        with self.postgres, self.mysql.cursor() as labels, self.postgres.cursor() as reader:
            mark = lock_mark(labels)
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
                move_mark(labels, mark._replace(reported_until=now))
            self.mysql.commit()
        return corrected

    def catch_up(self) -> tuple[int, int]:
        """Compare all ids if the mark contradicts the databases; how many labels that made, and frauds.

        A database was restored, rows came from another cluster, whose transaction numbers say nothing here,
        or somebody deleted rows: then the row at the mark or its label is gone, or the cluster is another.
        """
        with self.postgres, self.mysql.cursor() as labels, self.postgres.cursor() as reader:
            mark, cluster, horizon = lock_mark(labels), cluster_of(reader), horizon_of(reader)
            because = contradiction(labels, reader, mark, cluster, horizon)
            if because is None:
                if mark.cluster is None and cluster is not None:
                    move_mark(labels, mark._replace(cluster=cluster))
                self.mysql.commit()
                return 0, 0
            self.mysql.rollback()
        # What commits from here on is at or above the horizon, so it is read by its number.
        found = self._compare(repair=False)
        with self.postgres, self.mysql.cursor() as labels, self.postgres.cursor() as reader:
            mark_now = lock_mark(labels)
            reader.execute(_LAST_BELOW, (str(horizon),))
            xid, identity = reader.fetchone() or (0, 0)
            move_mark(labels, mark_now._replace(xid=int(xid), identity=identity, cluster=cluster))
            self.mysql.commit()
        _LOG.warning(
            logfmt("ids_compared", because=because, mark=mark.xid, horizon=horizon, labels=found.missing)
        )
        return found.missing, found.frauds

    def repair(self) -> Compared:
        """Give each transaction exactly one label: compare all ids, and mend what differs."""
        self.take_in_reports(None)
        return self._compare(repair=True)

    def _compare(self, *, repair: bool) -> Compared:
        return compare_ids(self.postgres, self.mysql, self._add, chunk=self.chunk, repair=repair)

    def _add(self, labels: MySQLCursor, reader: PostgresCursor, mark: Mark, ids: Integers) -> int:
        """Write the labels of transactions, and return how many say fraud."""
        if not len(ids):
            return 0
        made = label(self.seed, ids, _frauds(reader, ids), mark.reported_until)
        self._insert(labels, made, self._lines(made))
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
            mark = lock_mark(labels)
            chunk = ahead.result() if ahead else None
            if chunk is None or chunk.mark != mark or chunk.size != size:
                chunk = self._read(mark, size)
            new = frauds = 0
            if len(chunk.rows):
                if len(chunk.rows) == size:
                    self._ahead = pool.submit(self._read, chunk.end, size)
                positives = chunk.labels.ids[list(chunk.labels.positives)]
                frauds = len(positives) - len(_labelled(labels, positives))
                new = self._insert(labels, chunk.labels, chunk.lines)
                move_mark(labels, chunk.end)
            self.mysql.commit()
        return chunk, new, frauds

    def _read(self, mark: Mark, size: int) -> Chunk:
        """Read the rows that come after the mark, and make their labels."""
        with self.postgres, self.postgres.cursor() as reader:
            horizon = horizon_of(reader)
            rows = read_rows(reader, _NEW.format(mark.xid, mark.identity, horizon, size), _NUMBERED)
            ids = rows["id"].astype(np.int64)
            labels = label(self.seed, ids, _frauds(reader, ids), mark.reported_until)
        return Chunk(mark, size, rows, labels, self._lines(labels))

    def _lines(self, labels: Labels) -> list[bytes]:
        return labels.lines() if self.pipes and len(labels) >= FEWEST_TO_LOAD else []

    def _insert(self, cursor: MySQLCursor, labels: Labels, lines: list[bytes]) -> int:
        if self.pipes and lines:
            try:
                return load_lines(self.mysql, self.pipes, "fraud_labels", COLUMNS, lines, len(labels))
            except Exception as error:
                number = getattr(error, "errno", None)
                if number not in REFUSALS:
                    raise
                _LOG.warning(
                    logfmt("load_data_refused", error=error, remedy="set local_infile on the server")
                )
                self.pipes = None
        cursor.executemany(_INSERT, labels.rows())
        return cursor.rowcount

    def _waiting(self) -> tuple[int, float]:
        """Count committed rows at or above the horizon, and for how many seconds the oldest has no label.

        Warns with the transaction that holds the horizon back.
        """
        with self.postgres, self.mysql.cursor() as labels, self.postgres.cursor() as reader:
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
            rows = read_rows(reader, _WAITING.format(horizon_of(reader)), TIMED)
            rows = rows[~np.isin(rows["id"], _labelled(labels, rows["id"]))]
            self.mysql.rollback()
            lag = 0
            if len(rows):
                lag = max(postgres_clock(reader) - int(rows["time"].min()), 0)
                reader.execute(_HOLDER)
                holder, seconds = reader.fetchone() or ("a transaction that has just ended", None)
                _LOG.warning(
                    logfmt(
                        "labels_wait",
                        transactions=len(rows),
                        held_back_by=holder,
                        open_seconds=seconds,
                        remedy="labelled by the next run after that transaction ends",
                    )
                )
        return len(rows), lag / 1e6


def label_new(
    postgres: PostgresConnection, mysql: MySQLConnectionAbstract, *, seed: int, chunk: int = CHUNK
) -> Labelled:
    """Label all transactions that have ended and have no label yet, as of now."""
    return Labeller(postgres, mysql, seed=seed, chunk=chunk).run()


def _labelled(cursor: MySQLCursor, ids: Integers) -> list[int]:
    """Those of some transactions that have a label."""
    found: list[int] = []
    for first in range(0, len(ids), CHUNK):
        some = ", ".join(map(str, ids[first : first + CHUNK].tolist()))
        cursor.execute(_LABELLED.format(some))
        found += [identity for (identity,) in cast("list[tuple[int]]", cursor.fetchall())]
    return found


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
