"""The two business databases: the only module that imports psycopg2 and mysql.connector."""

from __future__ import annotations

import os
import re
import select
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pipectl import published, services
from pipectl.errors import (
    DatabaseError,
    DatabaseLockedError,
    DatabaseRefusedError,
    DatabaseSilentError,
    ForeignDatabaseError,
    LoginError,
)
from pipectl.models import VERIFYING, Counts, DatabaseContent, Reconciliation, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from pipectl.models import DatabaseAddress

    # Runs a statement with its values and returns the rows that it gives.
    Ask = Callable[..., list[tuple[Any, ...]]]

MYSQL = "airbyte-mysql"
CONNECT_SECONDS = 5
LOCK_SECONDS = 10
# Who holds locks in PostgreSQL: on tables that somebody has, or wants, for himself, if there are such.
POSTGRES_BLOCKERS = """
    WITH locks AS (
        SELECT l.pid, l.granted,
               bool_or(l.mode = 'AccessExclusiveLock') OVER (PARTITION BY l.relation) AS exclusive
        FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
        WHERE c.oid >= 16384 AND l.pid <> ALL (%s))
    SELECT a.pid, usename, application_name,
           coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)::float8
    FROM pg_stat_activity AS a
    WHERE datname = current_database() AND EXISTS (
        SELECT FROM locks
        WHERE locks.pid = a.pid AND granted
          AND (exclusive OR NOT EXISTS (SELECT FROM locks WHERE exclusive)))
    ORDER BY xact_start"""
# Who may hold locks in MySQL, which does not tell: whoever can have the database open and waits for none.
MYSQL_BLOCKERS = """
    SELECT id, user, host, command, time FROM information_schema.processlist
    WHERE COALESCE(db, DATABASE()) = DATABASE() AND command NOT IN ('Daemon', 'Binlog Dump')
      AND COALESCE(state, '') NOT LIKE '%metadata lock%' ORDER BY time DESC"""
# Blocks of _interruptible that have not ended.
_interruptible_blocks = 0
_INTERRUPTIBLE = threading.Lock()
# Sessions of this process, which block themselves at no time.
_POSTGRES_SESSIONS: set[int] = set()
_MYSQL_SESSIONS: set[int] = set()
_MYSQL_LISTING = threading.Lock()
# PostgreSQL's code and MySQL's number for a lock that was waited for too long.
LOCK_TIMEOUTS = {"55P03", 1205}
# MySQL's numbers for no connection or answer, one that was lost, and a server that is shutting down.
NO_CONNECTION = {None, 1053, 1927, 2003, 2005, 2006, 2013, 2055, 3024}
# PostgreSQL: it is starting up, shutting down, or in recovery; or it is ending this connection for that.
STARTING_OR_ENDING = re.compile(r"the database system is|terminating connection due to")
# What a server says at a login that fails until somebody changes the server.
REFUSALS = re.compile(
    r'FATAL: +((?:database|role) ".*" does not exist'
    r'|database ".*" is not currently accepting connections|cannot connect to invalid database'
    r'|too many connections for (?:database|role)|role ".*" is not permitted to log in'
    r"|permission denied for database|no pg_hba\.conf entry)"
)
# MySQL's and MariaDB's numbers: no right to the database or none such, this machine's address, an account
# that is locked, or whose password has expired.
REFUSING = {1044, 1049, 1130, 1820, 1862, 3118, 4151}
# What both drivers say of a connection that is not encrypted as either side asks, and MySQL's numbers for it.
ENCRYPTION = re.compile(r"certificate|support SSL|doesn't support it|insecure transport", re.IGNORECASE)
NO_ENCRYPTION = {-1, 2026, 3159}
# libpq would else look in ~/.postgresql for authorities, and for a certificate to show.
NO_FILE = "/dev/null/none"
# Ids that are counted together, and fetched together if the counts do not tell.
BUCKET = 10_000
POSTGRES_TABLES = """
    SELECT format('%I.%I', schemaname, tablename), schemaname || '.' || tablename
    FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"""
MYSQL_TABLES = """
    SELECT CONCAT('`', REPLACE(table_name, '`', '``'), '`'), table_name
    FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' ORDER BY 1"""


# How a server names itself: options that the engine sets.
POSTGRES_MARK = "SELECT current_setting('cluster_name')"
MYSQL_MARK = "SELECT @@report_host"


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
        """Log in to one of them and run a statement."""
        cursors = {self.postgres.service: self._postgres_cursor, self.mysql.service: self._mysql_cursor}
        with cursors[service]() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchall()

    def content(self) -> tuple[DatabaseContent, DatabaseContent]:
        """Every table of both databases that holds data, with its exact number of rows."""
        return self.postgres_content(), self.mysql_content()

    def postgres_content(self) -> DatabaseContent:
        """Tables of `airbyte-postgres`, each named schema.table."""
        with self._postgres_cursor() as cursor:
            return DatabaseContent(self.postgres.service, _count_tables(cursor, POSTGRES_TABLES))

    def mysql_content(self) -> DatabaseContent:
        """Tables of `airbyte-mysql`."""
        with self._mysql_cursor() as cursor:
            return DatabaseContent(self.mysql.service, _count_tables(cursor, MYSQL_TABLES))

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

    def reconcile(self) -> Reconciliation:
        """Compare the ids of transactions and labels, and when they were made, exactly.

        Both servers count ids per range of 10,000, with the latest transaction and the earliest label. A
        range that is full on both sides, or empty on one, is settled by that if no label is older than a
        transaction; of the others the ids and times are compared. Labels are read first: a label's
        transaction was committed before it, so an orphan is never an effect of the order.
        """
        with self._mysql_cursor() as mysql, self._postgres_cursor() as postgres:
            labels = _buckets(mysql, published.LABEL_BUCKETS) if _mysql_has_labels(mysql) else {}
            has_transactions = _postgres_has_transactions(postgres)
            transactions = _buckets(postgres, published.TRANSACTION_BUCKETS) if has_transactions else {}
            unlabelled = orphans = older = 0
            for bucket in labels.keys() | transactions.keys():
                there, labelled = transactions.get(bucket), labels.get(bucket)
                if there is None or labelled is None:
                    unlabelled += there.rows if there else 0
                    orphans += labelled.rows if labelled else 0
                    continue
                if there.rows == labelled.rows == BUCKET and labelled.when >= there.when:
                    continue
                label_times = _times(mysql, published.LABEL_TIMES, bucket)
                transaction_times = _times(postgres, published.TRANSACTION_TIMES, bucket)
                unlabelled += len(transaction_times.keys() - label_times.keys())
                orphans += len(label_times.keys() - transaction_times.keys())
                older += sum(
                    label_times[identity] < transaction_times[identity]
                    for identity in label_times.keys() & transaction_times.keys()
                )
        return Reconciliation(unlabelled, orphans, older)

    def empty(self) -> tuple[DatabaseContent, DatabaseContent]:
        """Delete every row of both databases or of neither, keep the tables, and return what was there.

        Both servers lock their tables first. PostgreSQL commits last, and its ids go on: one that is used
        twice would get the label of an earlier transaction. Killed in between, labels are gone and their
        mark before them, so the next run labels all transactions again.
        """
        emptied: list[str] = []
        try:
            return self._empty(emptied)
        except DatabaseLockedError as error:
            if emptied:
                raise
            message = f"{error.message.removesuffix('.')}; nothing was deleted."
            raise DatabaseLockedError(message, hint=error.hint) from error

    def _empty(self, emptied: list[str]) -> tuple[DatabaseContent, DatabaseContent]:
        before = self.content()
        with self._postgres_cursor() as postgres, self._mysql_cursor() as mysql:
            quoted = [quoted for quoted, _ in _tables(postgres, POSTGRES_TABLES)]
            if quoted:
                postgres.execute(f"TRUNCATE {', '.join(quoted)} CONTINUE IDENTITY CASCADE")
            # The mark's table first: a mark without its labels would leave transactions without one.
            tables = sorted(_tables(mysql, MYSQL_TABLES), key=lambda table: table[1] != published.PROGRESS)
            if tables:
                mysql.execute("SET foreign_key_checks = 0")
                mysql.execute(f"LOCK TABLES {', '.join(f'{name} WRITE' for name, _ in tables)}")
                for name, _ in tables:
                    mysql.execute(f"TRUNCATE TABLE {name}")
                    emptied.append(name)
        return before

    @contextmanager
    def ask_postgres(self) -> Iterator[Ask]:
        """Give a function that runs statements in `airbyte-postgres`; all of them see the same rows."""
        with self._postgres_cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            yield lambda statement, *values: _ask(cursor, statement, values)

    @contextmanager
    def ask_mysql(self) -> Iterator[Ask]:
        """Give a function that runs statements in `airbyte-mysql`; all of them see the same rows."""
        with self._mysql_cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            yield lambda statement, *values: _ask(cursor, statement, values)

    def _postgres_cursor(self) -> AbstractContextManager[Any]:
        return _postgres(self.postgres, self._lock_seconds)

    def _mysql_cursor(self) -> AbstractContextManager[Any]:
        return _mysql(self.mysql, self._lock_seconds)


def prove(address: DatabaseAddress) -> None:
    """Log in to a database and out again. Raises ForeignDatabaseError if the server is another project's."""
    with (_mysql if address.service == MYSQL else _postgres)(address):
        return


def metadata_version(address: DatabaseAddress) -> str | None:
    """Migration of the Airflow metadata database at `address`, None if it has none yet; DatabaseError."""
    with _postgres(address) as cursor:
        cursor.execute("SELECT to_regclass('public.alembic_version') IS NOT NULL")
        if not cursor.fetchall()[0][0]:
            return None
        cursor.execute("SELECT version_num FROM alembic_version")
        rows = cursor.fetchall()
    return str(rows[0][0]) if rows else None


@contextmanager
def _postgres(
    address: DatabaseAddress, lock_seconds: int = LOCK_SECONDS, *, name_blockers: bool = True
) -> Iterator[Any]:
    import psycopg2  # 35 ms

    login = postgres_login(address)
    try:
        # A connection that Ctrl-C has interrupted is closed, and would fail to roll back.
        with (
            _interruptible(),
            closing(psycopg2.connect(**login, application_name="pipectl")) as connection,
            _watched(address, connection.fileno(), lock_seconds, partial(psycopg2.connect, **login)),
        ):
            _POSTGRES_SESSIONS.add(connection.info.backend_pid)
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = '{lock_seconds}s'")
                if address.mark:
                    _require_mark(cursor, POSTGRES_MARK, address)
            connection.autocommit = False
            with connection.cursor() as cursor:
                yield cursor
            connection.commit()
    except psycopg2.Error as error:
        if error.pgcode in LOCK_TIMEOUTS and name_blockers:
            raise _locked(address, lock_seconds, _postgres_blockers) from error
        raise _explain(address, error, refusal="authentication failed") from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C into what psycopg2 waits for, in all threads, until the last block of this kind ends.

    The driver knows one way to wait for all connections; with this one it neither streams nor copies.
    It costs 2 µs a statement, a tenth of `SELECT 1`, and nothing measurable of 200,000 rows or of a login.
    """
    global _interruptible_blocks  # noqa: PLW0603  as the driver's own setting
    from psycopg2.extensions import set_wait_callback

    with _INTERRUPTIBLE:
        _interruptible_blocks += 1
        set_wait_callback(_wait)
    try:
        yield
    finally:
        with _INTERRUPTIBLE:
            _interruptible_blocks -= 1
            if not _interruptible_blocks:
                set_wait_callback(None)


def _wait(connection: Any) -> None:  # noqa: ANN401  untyped driver
    """Wait for the server as libpq does, which lets no Ctrl-C in.

    It leaves it to its caller then to give up on a server that does not answer to a login.
    """
    from psycopg2 import OperationalError
    from psycopg2.extensions import POLL_OK, POLL_READ, STATUS_SETUP

    deadline = time.monotonic() + CONNECT_SECONDS if connection.status == STATUS_SETUP else None
    while (state := connection.poll()) != POLL_OK:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        left = max(0.0, deadline - time.monotonic()) * 1000 if deadline else None
        if not poll.poll(left):
            raise OperationalError("timeout expired")


@contextmanager
def _mysql(
    address: DatabaseAddress, lock_seconds: int = LOCK_SECONDS, *, name_blockers: bool = True
) -> Iterator[Any]:
    import mysql.connector  # 90 ms

    log_in = partial(_log_in_to_mysql, address)
    try:
        with (
            closing(log_in()) as connection,
            # The driver has no other way to its socket.
            _watched(address, connection._socket.sock.fileno(), lock_seconds, log_in),  # noqa: SLF001
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute(f"SET lock_wait_timeout = {lock_seconds}")
            if address.mark:
                _require_mark(cursor, MYSQL_MARK, address)
            if address.ssl_mode == "require":
                _require_cipher(cursor, address)
            yield cursor
    except mysql.connector.Error as error:
        if error.errno in LOCK_TIMEOUTS and name_blockers:
            raise _locked(address, lock_seconds, _mysql_blockers) from error
        raise _explain(address, error, refusal="Access denied") from error


def _log_in_to_mysql(address: DatabaseAddress) -> Any:  # noqa: ANN401  untyped driver
    import mysql.connector

    # So that nobody who lists sessions meanwhile takes this one for another's.
    with _MYSQL_LISTING:
        connection = mysql.connector.connect(
            **mysql_encryption(address),
            host=address.host,
            port=address.port,
            database=address.database,
            user=address.user,
            password=address.password,
            connection_timeout=CONNECT_SECONDS,
            charset="utf8mb4",
            collation=published.MYSQL_COLLATION,
            autocommit=True,
            use_pure=True,  # the driver in C lets no Ctrl-C in
        )
        _MYSQL_SESSIONS.add(int(connection.connection_id or 0))
    return connection


@contextmanager
def _watched(
    address: DatabaseAddress, descriptor: int, seconds: int, log_in: Callable[[], Any]
) -> Iterator[None]:
    """End a connection, and with it the wait for an answer, once its server takes no other login either.

    Asked every `seconds`: a statement may take long, and the drivers cannot tell a server that works on it
    from one that is stopped.
    """
    # Its own descriptor: the driver may close the connection's, whose number another one then gets.
    connection = socket.socket(fileno=os.dup(descriptor))
    is_over, is_silent = threading.Event(), threading.Event()

    def watch() -> None:
        while not is_over.wait(seconds):
            try:
                log_in().close()
            except Exception as error:  # noqa: BLE001  those of two drivers
                if _has_no_answer(error, str(error)):
                    is_silent.set()
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                    return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    except Exception as error:
        if is_silent.is_set():
            raise _silent(address, f"Nothing came for {seconds} s, nor an answer to a new login.") from error
        raise
    finally:
        is_over.set()
        connection.close()


def _locked(
    address: DatabaseAddress, waited_seconds: int, blockers: Callable[[DatabaseAddress], str]
) -> DatabaseLockedError:
    sessions = blockers(address) or "a session that this account may not see"
    return DatabaseLockedError(
        f"Tables of {address.service} are locked by {sessions}.",
        hint=f"End that session, or wait for its end (waited {waited_seconds} s), then run this again.",
    )


def _require_mark(cursor: Any, question: str, address: DatabaseAddress) -> None:  # noqa: ANN401
    """Raise ForeignDatabaseError if the server is not this project's.

    A server without the mark is this project's if the engine sees it there: an earlier release started it.
    """
    cursor.execute(question)
    if str(cursor.fetchall()[0][0]) != address.mark and not _is_held(address):
        raise foreign(address)


def _is_held(address: DatabaseAddress) -> bool:
    return address.witness is not None and address.witness.holds(address.service, address.port)


def foreign(address: DatabaseAddress) -> ForeignDatabaseError:
    """Return the error that says whose server answers at an address."""
    who = (address.witness.stranger(address.port) if address.witness else "") or "another program"
    return ForeignDatabaseError(
        f"At {address.host}:{address.port} answers {who}, not this project's {address.service}.",
        hint="Start this project's own: pipectl up. It takes another port if this one stays taken.",
    )


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


def postgres_login(address: DatabaseAddress) -> dict[str, Any]:
    """Return libpq's parameters for a connection."""
    return {
        "host": address.host,
        "port": address.port,
        "dbname": address.database,
        "user": address.user,
        "password": address.password,
        "connect_timeout": CONNECT_SECONDS,
        **postgres_encryption(address),
    }


def postgres_encryption(address: DatabaseAddress) -> dict[str, Any]:
    """Return libpq's parameters for an encrypted connection; without Kerberos, for which it would look."""
    trusted = NO_FILE
    if address.ssl_mode in VERIFYING:
        trusted = address.root_certificate or "system"
    return {
        "sslmode": address.ssl_mode,
        "sslrootcert": trusted,
        "sslcert": NO_FILE,
        "gssencmode": "disable",
    }


def mysql_encryption(address: DatabaseAddress) -> dict[str, Any]:
    """Return the parameters of mysql.connector and of pymysql for an encrypted connection."""
    if address.ssl_mode == "disable":
        return {"ssl_disabled": True}
    if address.ssl_mode not in VERIFYING:
        return {}
    from ssl import get_default_verify_paths  # noqa: PLC0415  15 ms, for a database elsewhere alone

    trusted = address.root_certificate or get_default_verify_paths().cafile
    identity = address.ssl_mode == "verify-full"
    return {"ssl_ca": trusted, "ssl_verify_cert": True, "ssl_verify_identity": identity}


def _require_cipher(cursor: Any, address: DatabaseAddress) -> None:  # noqa: ANN401  untyped driver
    """Raise DatabaseError if the connection is not encrypted: no parameter of the driver insists on it."""
    cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
    if not dict(cursor.fetchall()).get("Ssl_cipher"):
        raise DatabaseError(
            f"{_named(address)} offers no encryption.",
            hint="AIRBYTE_MYSQL_SSLMODE=require in stack/.env insists on it.",
        )


def _explain(address: DatabaseAddress, error: Exception, *, refusal: str) -> DatabaseError:
    where = _named(address)
    text = re.sub(r"\s+", " ", str(error)).strip()
    answered = not _is_silent(error, text)
    # Another project's server may have another password, and what is no database answers nonsense.
    if address.witness and (answered or _listens(address)) and not _is_held(address):
        return foreign(address)
    prefix = services.get(address.service).prefix
    # What runs elsewhere, no reset touches.
    anew = ", or delete all data of the project and start anew: pipectl reset" if address.mark else "."
    reason = _refusal(error, text)
    if reason:
        return DatabaseRefusedError(
            f"{where} does not let user {address.user!r} into database {address.database!r}: {reason}.",
            hint=f"Waiting does not change that. Undo it in the server{anew}",
        )
    if refusal in text:
        variable = address.password_variable or services.get(address.service).password_variable
        return LoginError(
            f"{where} refused the password of user {address.user!r} for database {address.database!r}.",
            hint=f"Set {variable} in stack/.env to the password that the server has now, or give the server"
            f" its password of before{anew}",
        )
    if ENCRYPTION.search(text) and _is_of_the_connection(error, NO_CONNECTION | NO_ENCRYPTION):
        return DatabaseError(
            f"{where} is not reached with {prefix}_SSLMODE={address.ssl_mode}: {text}",
            hint=f"{prefix}_SSLMODE and {prefix}_SSLROOTCERT in stack/.env say how it is encrypted.",
        )
    if answered:
        return DatabaseError(f"{where} refused: {text}")
    return _silent(address, text)


def _silent(address: DatabaseAddress, text: str) -> DatabaseSilentError:
    prefix = services.get(address.service).prefix
    place = f"{prefix}_HOST and {prefix}_PORT in stack/.env are its address."
    hint = f"What runs: pipectl status. {'Start what does not: pipectl up' if address.mark else place}"
    if STARTING_OR_ENDING.search(text):
        hint = "Wait for it: pipectl up" if address.mark else "Run the command again when it has started."
    return DatabaseSilentError(f"{_named(address)} does not answer.", hint=hint, detail=text)


def _named(address: DatabaseAddress) -> str:
    server = "MySQL" if address.service == "airbyte-mysql" else "PostgreSQL"
    return f"{server} {address.service!r} at {address.host}:{address.port}"


def _refusal(error: Exception, text: str) -> str:
    """Return why a login fails until the server is changed; empty for every other error."""
    if getattr(error, "errno", None) in REFUSING:
        return text.rstrip(".")
    said = REFUSALS.search(text) if _is_of_the_connection(error, {None}) else None
    return text[said.start(1) :].rstrip(".") if said else ""


def _listens(address: DatabaseAddress) -> bool:
    try:
        socket.create_connection((address.host, address.port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _is_silent(error: Exception, text: str) -> bool:
    return _has_no_answer(error, text) or STARTING_OR_ENDING.search(text) is not None


def _has_no_answer(error: Exception, text: str) -> bool:
    # A server that answers says FATAL.
    return "FATAL" not in text and _is_of_the_connection(error, NO_CONNECTION)


def _is_of_the_connection(error: Exception, numbers: set[int | None]) -> bool:
    """Whether an error is none of a statement: psycopg2 knows no code of a failed connection."""
    return getattr(error, "pgcode", None) is None and getattr(error, "errno", None) in numbers


def _ask(cursor: Any, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:  # noqa: ANN401
    # Without values a % is a %.
    cursor.execute(statement, values or None)
    return list(cursor.fetchall()) if cursor.description else []


def _count_tables(cursor: Any, query: str) -> tuple[Table, ...]:  # noqa: ANN401  two drivers, one interface
    tables = []
    for quoted, name in _tables(cursor, query):
        cursor.execute(f"SELECT COUNT(*) FROM {quoted}")  # noqa: S608  quoted by the server itself
        tables.append(Table(name, int(cursor.fetchall()[0][0])))
    return tuple(tables)


def _tables(cursor: Any, query: str) -> list[tuple[str, str]]:  # noqa: ANN401  two drivers, one interface
    """Tables that hold data, each quoted for a statement and as it is named in messages."""
    cursor.execute(query)
    return [(quoted, name) for quoted, name in cursor.fetchall() if name not in published.MIGRATION_RECORDS]


def _postgres_has_transactions(cursor: Any) -> bool:  # noqa: ANN401  untyped driver
    cursor.execute(published.HAS_TRANSACTIONS)
    return bool(cursor.fetchall()[0][0])


def _mysql_has_labels(cursor: Any) -> bool:  # noqa: ANN401  untyped driver
    cursor.execute(published.HAS_LABELS)
    return bool(cursor.fetchall())


class _Bucket(NamedTuple):
    """Rows of a range of ids, and the earliest or latest of their times, in seconds since 1970."""

    rows: int
    when: float


def _buckets(cursor: Any, query: str) -> dict[int, _Bucket]:  # noqa: ANN401  two drivers, one interface
    cursor.execute(query, (BUCKET,))
    return {int(bucket): _Bucket(int(count), float(when)) for bucket, count, when in cursor.fetchall()}


def _times(cursor: Any, query: str, bucket: int) -> dict[int, float]:  # noqa: ANN401  two drivers, one interface
    cursor.execute(query, (BUCKET * bucket, BUCKET * (bucket + 1)))
    return {int(identity): float(when) for identity, when in cursor.fetchall()}


def _postgres_blockers(address: DatabaseAddress) -> str:
    """Name the sessions that hold locks on tables."""
    with _postgres(address, name_blockers=False) as cursor:
        rows = _ask(cursor, POSTGRES_BLOCKERS, (list(_POSTGRES_SESSIONS),))
    return ", ".join(
        f"process {pid} of user {user} ({program or 'unnamed'}, in its transaction for {seconds:.0f} s)"
        for pid, user, program, seconds in rows
    )


def _mysql_blockers(address: DatabaseAddress) -> str:
    """Name the other sessions that use the database, as far as the account may see them."""
    with _mysql(address, name_blockers=False) as cursor, _MYSQL_LISTING:
        rows = _ask(cursor, MYSQL_BLOCKERS, ())
    sessions = [
        f"session {number} of user {user} from {host} ({command.lower()} for {seconds} s)"
        for number, user, host, command, seconds in rows
        if number not in _MYSQL_SESSIONS
    ]
    return ("one of: " if len(sessions) > 1 else "") + ", ".join(sessions)
