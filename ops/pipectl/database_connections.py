"""Connections to the databases, whose servers prove that they are this project's.

No statement waits without end: for a lock, for a server that is silent, or in spite of Ctrl-C.
"""

from __future__ import annotations

import io
import os
import select
import socket
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from pipectl import published
from pipectl.database_errors import CONNECT_SECONDS, explained, foreign, has_no_answer, is_held, named, silent
from pipectl.errors import DatabaseError, DatabaseLockedError
from pipectl.models import VERIFYING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipectl.models import DatabaseAddress

MYSQL = "airbyte-mysql"
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
_IMPORTING = threading.Lock()
# Sessions of this process, which block themselves at no time.
_POSTGRES_SESSIONS: set[int] = set()
_MYSQL_SESSIONS: set[int] = set()
_MYSQL_LISTING = threading.Lock()
# PostgreSQL's code and MySQL's number for a lock that was waited for too long.
LOCK_TIMEOUTS = {"55P03", 1205}
# libpq would else look in ~/.postgresql for authorities, and for a certificate to show.
NO_FILE = "/dev/null/none"
# How a server names itself: options that the engine sets.
POSTGRES_MARK = "SELECT current_setting('cluster_name')"
MYSQL_MARK = "SELECT @@report_host"


@contextmanager
def open_postgres(
    address: DatabaseAddress, lock_seconds: int = LOCK_SECONDS, *, name_blockers: bool = True
) -> Iterator[Any]:
    """Give a cursor whose transaction is committed at the end. Raises DatabaseError."""
    # A connection that Ctrl-C has interrupted is closed, and would fail to roll back.
    with (
        _interruptible(),
        _postgres_connection(address, lock_seconds, name_blockers=name_blockers) as connection,
    ):
        with connection.cursor() as cursor:
            yield cursor
        connection.commit()


@contextmanager
def copy_postgres(address: DatabaseAddress, lock_seconds: int) -> Iterator[Callable[[str], bytes]]:
    """Give a function, for one thread at a time, that returns what a COPY sends. Raises DatabaseError.

    All of its answers are of one snapshot. While _interruptible is at work the driver copies nothing, so
    Ctrl-C in the main thread cancels what a thread waits for.
    """
    with _postgres_connection(address, lock_seconds) as connection:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'; SET datestyle = ISO")

            def copy(statement: str) -> bytes:
                received = io.BytesIO()
                cursor.copy_expert(statement, received)
                return received.getvalue()

            try:
                yield copy
            except BaseException:
                connection.cancel()
                raise


@contextmanager
def _postgres_connection(
    address: DatabaseAddress, lock_seconds: int, *, name_blockers: bool = True
) -> Iterator[Any]:
    """Give a connection to a server that has proved on it that it is this project's. Raises DatabaseError."""
    import psycopg2  # 35 ms

    login = postgres_login(address)
    try:
        with (
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
            yield connection
    except psycopg2.Error as error:
        if error.pgcode in LOCK_TIMEOUTS and name_blockers:
            raise _locked(address, lock_seconds, _postgres_blockers) from error
        raise explained(address, error, refusal="authentication failed") from error


@contextmanager
def open_mysql(
    address: DatabaseAddress, lock_seconds: int = LOCK_SECONDS, *, name_blockers: bool = True
) -> Iterator[Any]:
    """Give a cursor whose statements are committed each. Raises DatabaseError."""
    _import_mysql()
    import mysql.connector

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
        raise explained(address, error, refusal="Access denied") from error


def _import_mysql() -> None:
    """Import MySQL's driver, but for its extension in C, whose 27 MB nothing here uses: 60 ms."""
    extension = "_mysql_connector"
    with _IMPORTING:
        if "mysql.connector" not in sys.modules:
            # None forbids an import.
            sys.modules[extension] = None  # type: ignore[assignment]
            try:
                import mysql.connector  # noqa: F401
            finally:
                del sys.modules[extension]


def prove(address: DatabaseAddress, lock_seconds: int = LOCK_SECONDS) -> None:
    """Log in to a database and out again. Raises ForeignDatabaseError if the server is another project's."""
    with (open_mysql if address.service == MYSQL else open_postgres)(address, lock_seconds):
        return


def ask(cursor: Any, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:  # noqa: ANN401
    """Run a statement and return its rows."""
    # Without values a % is a %.
    cursor.execute(statement, values or None)
    return list(cursor.fetchall()) if cursor.description else []


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C into what psycopg2 waits for, in all threads, until the last block of this kind ends.

    The driver knows one way to wait for all connections; with this one it neither streams nor copies.
    It costs 2 µs a statement, a tenth of `SELECT 1`; of 200,000 rows or a login nothing that could be
    measured.
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


def _log_in_to_mysql(address: DatabaseAddress) -> Any:  # noqa: ANN401  untyped driver
    import mysql.connector
    from mysql.connector.constants import ClientFlag

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
            # What the driver tells of this machine it asks other programs, which takes longer than the login.
            client_flags=[-ClientFlag.CONNECT_ARGS],
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
                if has_no_answer(error, str(error)):
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
            raise silent(address, f"Nothing came for {seconds} s, nor an answer to a new login.") from error
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


def _postgres_blockers(address: DatabaseAddress) -> str:
    """Name the sessions that hold locks on tables."""
    with open_postgres(address, name_blockers=False) as cursor:
        rows = ask(cursor, POSTGRES_BLOCKERS, (list(_POSTGRES_SESSIONS),))
    return ", ".join(
        f"process {pid} of user {user} ({program or 'unnamed'}, in its transaction for {seconds:.0f} s)"
        for pid, user, program, seconds in rows
    )


def _mysql_blockers(address: DatabaseAddress) -> str:
    """Name the other sessions that use the database, as far as the account may see them."""
    with open_mysql(address, name_blockers=False) as cursor, _MYSQL_LISTING:
        rows = ask(cursor, MYSQL_BLOCKERS, ())
    sessions = [
        f"session {number} of user {user} from {host} ({command.lower()} for {seconds} s)"
        for number, user, host, command, seconds in rows
        if number not in _MYSQL_SESSIONS
    ]
    return ("one of: " if len(sessions) > 1 else "") + ", ".join(sessions)


def _require_mark(cursor: Any, question: str, address: DatabaseAddress) -> None:  # noqa: ANN401
    """Raise ForeignDatabaseError if the server is not this project's.

    A server without the mark is this project's if the engine sees it there: an earlier release started it.
    """
    cursor.execute(question)
    if str(cursor.fetchall()[0][0]) != address.mark and not is_held(address):
        raise foreign(address)


def _require_cipher(cursor: Any, address: DatabaseAddress) -> None:  # noqa: ANN401  untyped driver
    """Raise DatabaseError if the connection is not encrypted: no parameter of the driver insists on it."""
    cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
    if not dict(cursor.fetchall()).get("Ssl_cipher"):
        raise DatabaseError(
            f"{named(address)} offers no encryption.",
            hint="AIRBYTE_MYSQL_SSLMODE=require in stack/.env insists on it.",
        )


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
