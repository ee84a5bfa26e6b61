"""What pipectl asks the two business databases, and Airflow's for its version."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import astuple
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pipectl import published
from pipectl.database_connections import (
    LOCK_SECONDS,
    ask,
    copy_postgres,
    open_mysql,
    open_postgres,
    prove,
)
from pipectl.errors import DatabaseError, DatabaseLockedError
from pipectl.models import Causes, Counts, DatabaseContent, Reconciliation, Table
from pipectl.names import counted
from pipectl.wait import Aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from pipectl.models import DatabaseAddress

    # Runs a statement with its values and returns the rows that it gives.
    Ask = Callable[..., list[tuple[Any, ...]]]

# Ids that are counted together, and fetched together if the counts do not tell.
BUCKET = 10_000
# The ids that no label can have.
LOWEST_IDS = (-(2**63), -1)
# Rows of MySQL, and blocks of PostgreSQL with some 70 rows each, that a transaction deletes.
ROWS_AT_ONCE = 10_000
BLOCKS_AT_ONCE = 200
# Counting a million rows takes MySQL 0.2 s.
MOST_COUNTED = 500_000
# Numbers of customers and terminals for each of which PostgreSQL keeps a byte.
MOST_MAPPED = 10_000_000
POSTGRES_TABLES = """
    SELECT format('%I.%I', schemaname, tablename), schemaname || '.' || tablename
    FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"""
# Tables whose changes somebody may read, and how many blocks one has.
FOLLOWED_TABLES = "SELECT DISTINCT format('%I.%I', schemaname, tablename) FROM pg_publication_tables"
TABLE_BLOCKS = "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int"
MYSQL_TABLES = """
    SELECT CONCAT('`', REPLACE(table_name, '`', '``'), '`'), table_name
    FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' ORDER BY 1"""
MYSQL_COUNTING_TABLES = """
    SELECT table_name FROM information_schema.columns
    WHERE table_schema = DATABASE() AND extra LIKE '%auto_increment%'"""


class Databases:
    """Questions to `airbyte-postgres` and `airbyte-mysql`. Every method may raise DatabaseError.

    A lock is waited for `lock_seconds`; then DatabaseLockedError names who holds it. A server from which
    nothing has come for as long, and that takes no other login either, raises DatabaseSilentError.
    """

    def __init__(
        self, postgres: DatabaseAddress, mysql: DatabaseAddress, *, lock_seconds: int = LOCK_SECONDS
    ) -> None:
        self.postgres = postgres
        self.mysql = mysql
        self._lock_seconds = lock_seconds

    def ping(self, service: str) -> None:
        """Log in to one of them, whose server proves that it is this project's."""
        prove(self.postgres if service == self.postgres.service else self.mysql, self._lock_seconds)

    def content(self) -> tuple[DatabaseContent, DatabaseContent]:
        """Every table of both databases that holds data, with its exact number of rows."""
        with self._postgres_cursor() as cursor:
            postgres = DatabaseContent(self.postgres.service, _count_tables(cursor, POSTGRES_TABLES))
        with self._mysql_cursor() as cursor:
            return postgres, DatabaseContent(self.mysql.service, _count_tables(cursor, MYSQL_TABLES))

    def row_counts(self, service: str) -> dict[str, tuple[int, bool]]:
        """Rows of each table of one of them, and whether that is the server's estimate.

        A table of more than MOST_COUNTED rows is not counted, which would take seconds.
        """
        with self.look(service) as (_, count):
            return count()

    @contextmanager
    def look(self, service: str) -> Iterator[tuple[Ask, Callable[[], dict[str, tuple[int, bool]]]]]:
        """Give a function that runs statements in one of them, and one that does what `row_counts` does."""
        is_postgres = service == self.postgres.service
        with self._postgres_cursor() if is_postgres else self._mysql_cursor() as cursor:
            yield (
                lambda statement, *values: ask(cursor, statement, values),
                lambda: _row_counts(cursor, is_postgres=is_postgres),
            )

    def estimated_transactions(self) -> int:
        """How many transactions PostgreSQL takes there to be, without counting."""
        with self._postgres_cursor() as cursor:
            if not _postgres_has_transactions(cursor):
                return 0
            return _estimate(cursor, published.TRANSACTIONS, published.TRANSACTIONS, is_postgres=True)

    def clock(self, service: str) -> float:
        """The time of one of them, in seconds since 1970."""
        is_postgres = service == self.postgres.service
        with self._postgres_cursor() if is_postgres else self._mysql_cursor() as cursor:
            return _number(cursor, published.POSTGRES_CLOCK if is_postgres else published.MYSQL_CLOCK)

    def label_lag(self) -> tuple[int, float]:
        """How many transactions wait for their label, and the oldest for how many seconds."""
        with self._mysql_cursor() as mysql, self._postgres_cursor() as postgres:
            if not _postgres_has_transactions(postgres):
                return 0, 0.0
            _, place = _mark(mysql)
            postgres.execute(published.WAITING, place)
            [(waiting, seconds)] = postgres.fetchall()
        return int(waiting), float(seconds)

    def batch(self, batch_id: str) -> Counts | None:
        """Transactions of a batch, their labels, and the frauds among these; None if there is no such batch.

        What other runs, a load or other writers do at the same time is not in it.
        """
        return self.batches((batch_id,))

    def batches(self, batch_ids: Iterable[str]) -> Counts | None:
        """The same of several batches together; None if there is none of them."""
        ranges: list[tuple[int, int, int]] = []
        with self._postgres_cursor() as cursor:
            cursor.execute(published.HAS_BATCHES)
            if not cursor.fetchall()[0][0]:
                return None
            for batch_id in batch_ids:
                cursor.execute(published.BATCH, (batch_id,))
                ranges += cursor.fetchall()
        if not ranges:
            return None
        labels = frauds = 0
        with self._mysql_cursor() as cursor:
            if _mysql_has_labels(cursor):
                for first, last, transactions in ranges:
                    if transactions:
                        cursor.execute(published.BATCH_LABELS, (first, last))
                        counted = cursor.fetchall()[0]
                        labels, frauds = labels + int(counted[0]), frauds + int(counted[1])
        return Counts(sum(int(transactions) for _, _, transactions in ranges), labels, frauds)

    def compare(self) -> tuple[tuple[DatabaseContent, DatabaseContent], Reconciliation]:
        """Count every table, and compare transactions with labels, exactly, in one pass over each.

        Both servers count ids per range of 10,000, with the latest transaction and the earliest label. A
        range that is full on both sides, or empty on one, is settled by that if no label is older than a
        transaction; of the others the ids and times are compared. What is read of labels is older than what
        is read of transactions: a label's transaction was committed before it, so an orphan is never an
        effect of the order. Of a transaction that is dated ahead of the clock nobody can say whether its
        label is older.
        """
        with (
            self._mysql_snapshot() as mysql,
            self._mysql_snapshot() as second_mysql,
            self._postgres_cursor() as postgres,
        ):
            before = _number(mysql, published.MYSQL_CLOCK)
            postgres.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            now = _number(postgres, published.POSTGRES_CLOCK)  # the snapshot is as old as this
            reading = Aside(partial(_read_labels, mysql, second_mysql))
            postgres_tables, transactions = _read_transactions(postgres)
            mysql_tables, labels = reading.result()
            content = (
                DatabaseContent(self.postgres.service, postgres_tables),
                DatabaseContent(self.mysql.service, mysql_tables),
            )
            return content, _compared(mysql, postgres, transactions, labels, now=now, ahead=now - before)

    def empty(self, *, propagate: bool = False) -> tuple[DatabaseContent, DatabaseContent]:
        """Delete every row of both databases or of neither, keep the tables, and return what was there.

        Both servers lock their tables first. PostgreSQL commits last, and its ids go on, as MySQL's do: one
        that is used twice would get the label of an earlier transaction, at a consumer too. Killed in
        between, labels are gone and their mark before them, so the next run labels all transactions again.

        No consumer takes a truncation in. With `propagate` rows are deleted, so that consumers follow: in
        transactions of some thousands, while MySQL's locks keep everybody from labelling. Interrupted, it
        goes on when it is called again.
        """
        emptied: list[str] = []
        try:
            return self._delete_rows(emptied) if propagate else self._empty(emptied)
        except DatabaseLockedError as error:
            if emptied:
                raise
            message = f"{error.message.removesuffix('.')}; nothing was deleted."
            raise DatabaseLockedError(message, hint=error.hint) from error

    def _empty(self, emptied: list[str]) -> tuple[DatabaseContent, DatabaseContent]:
        before = self.content()
        with self._postgres_cursor() as postgres, self._mysql_cursor() as mysql:
            quoted = _postgres_tables_to_empty(postgres)
            if quoted:
                postgres.execute(f"TRUNCATE {', '.join(quoted)} CONTINUE IDENTITY CASCADE")
            tables = _lock_mysql_tables(mysql)
            # MySQL's truncation starts ids again at 1.
            mysql.execute(MYSQL_COUNTING_TABLES)
            counting = {name for (name,) in mysql.fetchall()}
            for quoted_name, name in tables:
                mysql.execute(f"{'DELETE FROM' if name in counting else 'TRUNCATE TABLE'} {quoted_name}")
                emptied.append(name)
        return before

    def _delete_rows(self, emptied: list[str]) -> tuple[DatabaseContent, DatabaseContent]:
        before = self.content()
        with self._postgres_cursor() as postgres, self._mysql_cursor() as mysql:
            for quoted, name in _lock_mysql_tables(mysql):
                emptied.append(name)
                delete = f"DELETE FROM {quoted} LIMIT {ROWS_AT_ONCE}"  # noqa: S608  quoted by the server itself
                mysql.execute(delete)
                while mysql.rowcount == ROWS_AT_ONCE:
                    mysql.execute(delete)
            quoted_tables = _postgres_tables_to_empty(postgres)
            postgres.execute(FOLLOWED_TABLES)
            published_tables = {quoted for (quoted,) in postgres.fetchall()}
            followed = [quoted for quoted in quoted_tables if quoted in published_tables]
            for quoted in followed:
                emptied.append(quoted)
                _delete_most(postgres, quoted)
            if quoted_tables:
                # What was written meanwhile, and what nobody follows.
                postgres.execute(f"LOCK TABLE {', '.join(quoted_tables)} IN ACCESS EXCLUSIVE MODE")
                for quoted in followed:
                    postgres.execute(f"DELETE FROM {quoted}")  # noqa: S608  quoted by the server itself
                if others := [quoted for quoted in quoted_tables if quoted not in followed]:
                    postgres.execute(f"TRUNCATE {', '.join(others)} CONTINUE IDENTITY CASCADE")
        return before

    @contextmanager
    def ask_postgres(self) -> Iterator[Ask]:
        """Give a function that runs statements in `airbyte-postgres`; all of them see the same rows."""
        with self._postgres_cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield lambda statement, *values: ask(cursor, statement, values)

    @contextmanager
    def ask_mysql(self) -> Iterator[Ask]:
        """Give a function that runs statements in `airbyte-mysql`; all of them see the same rows."""
        with self._mysql_snapshot() as cursor:
            yield lambda statement, *values: ask(cursor, statement, values)

    @contextmanager
    def _mysql_snapshot(self) -> Iterator[Any]:
        """Give a cursor that sees the rows of now, whatever is committed later."""
        with self._mysql_cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            yield cursor

    def copying(self) -> AbstractContextManager[Callable[[str], bytes]]:
        """Give a function that returns what a COPY of `airbyte-postgres` sends; all see the same rows."""
        return copy_postgres(self.postgres, self._lock_seconds)

    def _postgres_cursor(self) -> AbstractContextManager[Any]:
        return open_postgres(self.postgres, self._lock_seconds)

    def _mysql_cursor(self) -> AbstractContextManager[Any]:
        return open_mysql(self.mysql, self._lock_seconds)


def metadata_version(address: DatabaseAddress) -> str | None:
    """Migration of the Airflow metadata database at `address`, None if it has none yet; DatabaseError."""
    with open_postgres(address) as cursor:
        cursor.execute("SELECT to_regclass('public.alembic_version') IS NOT NULL")
        if not cursor.fetchall()[0][0]:
            return None
        cursor.execute("SELECT version_num FROM alembic_version")
        rows = cursor.fetchall()
    return str(rows[0][0]) if rows else None


def script_variables(prefix: str, address: DatabaseAddress) -> dict[str, str]:
    """Return the variables, which begin with `prefix`, by which the scripts find a business database."""
    return {
        f"{prefix}_HOST": address.host,
        f"{prefix}_PORT": str(address.port),
        f"{prefix}_DATABASE": address.database,
        f"{prefix}_USER": address.user,
        f"{prefix}_PASSWORD": address.password,
        f"{prefix}_SSLMODE": address.ssl_mode,
        f"{prefix}_SSLROOTCERT": address.root_certificate,
    }


def _count_tables(
    cursor: Any,  # noqa: ANN401  two drivers, one interface
    query: str,
    known: Mapping[str, int] = MappingProxyType({}),
) -> tuple[Table, ...]:
    """Count the rows of each table whose number is not `known` already."""
    return tuple(
        Table(name, known[name] if name in known else _count(cursor, quoted))
        for quoted, name in _tables(cursor, query)
    )


def _row_counts(cursor: Any, *, is_postgres: bool) -> dict[str, tuple[int, bool]]:  # noqa: ANN401  as above
    counts: dict[str, tuple[int, bool]] = {}
    for quoted, name in _tables(cursor, POSTGRES_TABLES if is_postgres else MYSQL_TABLES):
        estimate = _estimate(cursor, quoted, name, is_postgres=is_postgres)
        is_large = estimate > MOST_COUNTED
        counts[name] = (_rounded(estimate) if is_large else _count(cursor, quoted), is_large)
    return counts


def _count(cursor: Any, quoted: str) -> int:  # noqa: ANN401  two drivers, one interface
    cursor.execute(f"SELECT COUNT(*) FROM {quoted}")  # noqa: S608  quoted by the server itself
    return int(cursor.fetchall()[0][0])


def _estimate(cursor: Any, quoted: str, name: str, *, is_postgres: bool) -> int:  # noqa: ANN401  as above
    """Return what the server takes a table's number of rows to be."""
    if is_postgres:
        cursor.execute(published.POSTGRES_ESTIMATE.format(table=quoted))
        return int(cursor.fetchall()[0][0][0]["Plan"]["Plan Rows"])
    cursor.execute(published.MYSQL_ESTIMATE, (name,))
    return int(cursor.fetchall()[0][0])


def _rounded(estimate: int) -> int:
    """Round to as many digits as are known."""
    return int(float(f"{estimate:.2g}"))


def _tables(cursor: Any, query: str) -> list[tuple[str, str]]:  # noqa: ANN401  two drivers, one interface
    """Tables that hold data, each quoted for a statement and as it is named in messages."""
    cursor.execute(query)
    return [(quoted, name) for quoted, name in cursor.fetchall() if name not in published.MIGRATION_RECORDS]


def _postgres_tables_to_empty(cursor: Any) -> list[str]:  # noqa: ANN401  untyped driver
    """Quoted tables in the order in which the scripts lock them, then all others."""
    order = {name: place for place, name in enumerate(published.WRITTEN_IN_ORDER)}
    tables = _tables(cursor, POSTGRES_TABLES)
    return [quoted for quoted, name in sorted(tables, key=lambda table: order.get(table[1], len(order)))]


def _lock_mysql_tables(mysql: Any) -> list[tuple[str, str]]:  # noqa: ANN401  untyped driver
    """Lock all tables, and return them as _tables does, the one with the mark first.

    A mark without its labels would leave transactions without one.
    """
    tables = sorted(_tables(mysql, MYSQL_TABLES), key=lambda table: table[1] != published.PROGRESS)
    if tables:
        mysql.execute("SET foreign_key_checks = 0")
        mysql.execute(f"LOCK TABLES {', '.join(f'{name} WRITE' for name, _ in tables)}")
    return tables


def _delete_most(postgres: Any, quoted: str) -> None:  # noqa: ANN401  untyped driver
    """Delete the rows that a table has now, some blocks a transaction, so that the dead are read once."""
    postgres.execute(TABLE_BLOCKS, (quoted,))
    blocks = int(postgres.fetchall()[0][0])
    for first in range(0, blocks, BLOCKS_AT_ONCE):
        postgres.execute(
            f"DELETE FROM {quoted} WHERE ctid >= %s::tid AND ctid < %s::tid",  # noqa: S608  quoted by the server
            (f"({first},0)", f"({first + BLOCKS_AT_ONCE},0)"),
        )
        postgres.connection.commit()


def _postgres_has_transactions(cursor: Any) -> bool:  # noqa: ANN401  untyped driver
    cursor.execute(published.HAS_TRANSACTIONS)
    return bool(cursor.fetchall()[0][0])


def _mysql_has_labels(cursor: Any) -> bool:  # noqa: ANN401  untyped driver
    cursor.execute(published.HAS_LABELS)
    return bool(cursor.fetchall())


class _Transactions(NamedTuple):
    """Transactions of a range of ids, the latest of their times, and how many name what has no row.

    Times are in seconds since 1970.
    """

    rows: int
    when: float
    dangling: int


class _Labels(NamedTuple):
    """Labels of a range of ids, the earliest of their times, and the latest date that one has."""

    rows: int
    when: float
    detected: float


def _read_transactions(postgres: Any) -> tuple[tuple[Table, ...], dict[int, _Transactions]]:  # noqa: ANN401
    """Count all tables, and transactions per range; those with an id that no label can have in range -1."""
    ranges = {}
    is_there = _postgres_has_transactions(postgres)
    if is_there:
        for bucket, rows, when, dangling in ask(postgres, _transaction_buckets(postgres), (BUCKET,)):
            ranges[int(bucket)] = _Transactions(int(rows), float(when), int(dangling))
    total = sum(there.rows for there in ranges.values())
    known = {published.TRANSACTIONS: total} if is_there else {}
    return _count_tables(postgres, POSTGRES_TABLES, known), ranges


def _transaction_buckets(postgres: Any) -> str:  # noqa: ANN401  untyped driver
    """Return the statement that counts transactions the fastest way."""
    postgres.execute(published.HAS_DIMENSIONS)
    if not postgres.fetchall()[0][0]:
        # Before the next run has made the tables, no transaction lacks a row there.
        return published.TRANSACTION_BUCKETS
    numbers = int(_number(postgres, published.DIMENSION_ENDS))
    rows = _estimate(postgres, published.TRANSACTIONS, published.TRANSACTIONS, is_postgres=True)
    return published.MAPPED_BUCKETS if numbers < min(rows, MOST_MAPPED) else published.NAMING_BUCKETS


def _read_labels(mysql: Any, second: Any) -> tuple[tuple[Table, ...], dict[int, _Labels]]:  # noqa: ANN401
    """Count all tables, and labels per range: half of them by a second session, on another processor."""
    if not _mysql_has_labels(mysql):
        return _count_tables(mysql, MYSQL_TABLES), {}
    [(lowest, highest)] = ask(mysql, published.LABEL_ENDS, ())
    middle = (int(lowest) + int(highest)) // 2 // BUCKET * BUCKET

    def read(cursor: Any, first: int, last: int) -> dict[int, _Labels]:  # noqa: ANN401  untyped driver
        return {
            int(bucket): _Labels(int(rows), float(when), float(detected))
            for bucket, rows, when, detected in ask(cursor, published.LABEL_BUCKETS, (BUCKET, first, last))
        }

    upper = Aside(lambda: read(second, middle, int(highest)))
    labels = read(mysql, int(lowest), middle - 1) if middle else {}
    labels |= upper.result()
    total = sum(labelled.rows for labelled in labels.values())
    return _count_tables(mysql, MYSQL_TABLES, {published.LABELS: total}), labels


def _compared(
    mysql: Any,  # noqa: ANN401  untyped driver
    postgres: Any,  # noqa: ANN401  untyped driver
    transactions: dict[int, _Transactions],
    labels: dict[int, _Labels],
    *,
    now: float,
    ahead: float,
) -> Reconciliation:
    """Compare ranges of ids; `now` is PostgreSQL's time, which is `ahead` of MySQL's by so many seconds."""
    mysql.execute(published.LONG_ANSWERS)
    orphans = older = 0
    unlabelled: list[int] = []
    ranges = [LOWEST_IDS]
    for bucket in sorted((labels.keys() | transactions.keys()) - {-1}):
        there, labelled = transactions.get(bucket), labels.get(bucket)
        if labelled is None:
            first = ranges.pop()[0] if ranges[-1][1] == BUCKET * bucket - 1 else BUCKET * bucket
            ranges.append((first, BUCKET * (bucket + 1) - 1))
            continue
        if there is None:
            orphans += labelled.rows
            continue
        if there.rows == labelled.rows == BUCKET and labelled.when + ahead >= there.when:
            continue
        label_times = _label_times(mysql, bucket)
        transaction_times = _transaction_times(postgres, bucket)
        unlabelled += transaction_times.keys() - label_times.keys()
        orphans += len(label_times.keys() - transaction_times.keys())
        older += sum(
            label_times[identity] + ahead < transaction_times[identity] <= now
            for identity in label_times.keys() & transaction_times.keys()
        )
    causes = _causes(mysql, postgres, ranges, unlabelled) if transactions else Causes()
    transactions_ahead = labels_ahead = 0
    if any(there.when > now for there in transactions.values()):
        transactions_ahead = int(_number(postgres, published.TRANSACTIONS_AHEAD, now))
    if any(labelled.detected > now for labelled in labels.values()):
        labels_ahead = int(_number(mysql, published.LABELS_AHEAD, now))
    return Reconciliation(
        unlabelled=causes.total,
        orphans=orphans,
        older=older,
        causes=causes,
        transactions_ahead=transactions_ahead,
        labels_ahead=labels_ahead,
        dangling=sum(there.dangling for there in transactions.values()),
    )


def _transaction_times(postgres: Any, bucket: int) -> dict[int, float]:  # noqa: ANN401  untyped driver
    postgres.execute(published.TRANSACTION_TIMES, (BUCKET * bucket, BUCKET * (bucket + 1)))
    return {int(identity): float(when) for identity, when in postgres.fetchall()}


def _label_times(mysql: Any, bucket: int) -> dict[int, float]:  # noqa: ANN401  untyped driver
    mysql.execute(published.LABEL_TIMES, (BUCKET * bucket, BUCKET * (bucket + 1)))
    [(count, packed)] = mysql.fetchall()
    text = str(packed or "")
    words = text.split()
    # Cut off in the middle of its last number, the text would not end so.
    if len(words) != 2 * count or (text and not text.endswith(" ")):
        raise labels_cut_off(count)
    return dict(zip(map(int, words[::2]), map(float, words[1::2]), strict=True))


def labels_cut_off(count: int) -> DatabaseError:
    """Return the error for an answer that has not all of `count` labels, which come packed into one row."""
    return DatabaseError(
        f"MySQL cut an answer of {counted(count, 'label')} off.",
        hint="Set max_allowed_packet to 4 MB or more on that server.",
    )


def _number(cursor: Any, query: str, *values: float) -> float:  # noqa: ANN401  two drivers, one interface
    cursor.execute(query, values or None)
    return float(cursor.fetchall()[0][0])


def _mark(mysql: Any) -> tuple[Any, tuple[str, int]]:  # noqa: ANN401  untyped driver
    """Return how far labels have come: the cluster, None if it is not known, and the place in it."""
    mark: dict[str, Any] = {}
    mysql.execute(published.HAS_PROGRESS)
    if mysql.fetchall():
        mysql.execute(published.MARK)
        names = [column[0] for column in mysql.description]
        mark = next((dict(zip(names, row, strict=True)) for row in mysql.fetchall()), {})
    return mark.get("system_identifier"), (str(mark.get("last_xid", 0)), mark.get("last_transaction_id", 0))


def _causes(mysql: Any, postgres: Any, ranges: list[tuple[int, int]], ids: list[int]) -> Causes:  # noqa: ANN401
    """Why transactions in ranges of ids, from the first to the last, and those of `ids` have no label."""
    of_mark, place = _mark(mysql)
    postgres.execute(published.CLUSTER)
    cluster = postgres.fetchall()[0][0]
    counted = Causes()
    parts: list[tuple[str, tuple[Any, ...]]] = [(published.CAUSES_OF_RANGE, part) for part in ranges]
    parts += [
        (published.CAUSES_OF_IDS, (ids[first : first + BUCKET],)) for first in range(0, len(ids), BUCKET)
    ]
    for statement, values in parts:
        postgres.execute(statement, (*place, *place, *values))
        more = Causes(*map(int, postgres.fetchall()[0]))
        counted = Causes(*(one + other for one, other in zip(astuple(counted), astuple(more), strict=True)))
    if None not in (cluster, of_mark) and cluster != of_mark:
        return Causes(other_cluster=counted.total - counted.set_aside, set_aside=counted.set_aside)
    return counted
