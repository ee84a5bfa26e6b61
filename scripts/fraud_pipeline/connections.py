"""Where the two databases are, how they are opened, and what a failure to do so means for the reader.

Drivers are imported when a connection is opened: `--help` and a bad setting cost nothing.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

from fraud_pipeline.errors import DatabaseError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mysql.connector.abstracts import MySQLConnectionAbstract, MySQLCursorAbstract
    from psycopg2.extensions import connection as PostgresConnection  # noqa: N812 -- a class named in lower case

CONNECT_SECONDS = 10
# libpq's time-out is of whole seconds. What ends this much later was late for another reason.
LATE_SECONDS = 1.5
HIGHEST_PORT = 65535
# By libpq's words, for both databases.
VERIFYING = ("verify-ca", "verify-full")
SSL_MODES = frozenset({"disable", "prefer", "require", *VERIFYING})
# libpq would else look in ~/.postgresql for authorities, and for a certificate to show.
NO_FILE = "/dev/null/none"
# Known to MySQL 8 and 9 and to MariaDB, unlike the drivers' and MySQL's own default utf8mb4_0900_ai_ci.
MYSQL_COLLATION = "utf8mb4_unicode_ci"

_MYSQL_UNREACHABLE = {2002, 2003, 2005, 2006, 2013, 3024}
_MYSQL_ACCESS_DENIED = {1045, 1698}
_MYSQL_NO_DATABASE = {1044, 1049}
# Both drivers' words for a connection that is not encrypted as either side asks.
_ENCRYPTION = r"[Cc]ertificate|support SSL|doesn't support it|insecure transport"


@dataclass(frozen=True)
class Database:
    """One database's address and login; `prefix` names the environment variables that set them."""

    product: str
    prefix: str
    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)
    ssl_mode: str = "prefer"
    root_certificate: str = ""

    def __str__(self) -> str:
        return f"{self.product} at {self.host}:{self.port} (database {self.name}, user {self.user})"

    def variables(self, *names: str) -> str:
        """Name the environment variables to check: `AIRBYTE_MYSQL_HOST and AIRBYTE_MYSQL_PORT`."""
        *others, last = (f"{self.prefix}_{name}" for name in names)
        return f"{', '.join(others)} and {last}" if others else last


def postgres_database(environment: Mapping[str, str]) -> Database:
    """PostgreSQL's address from AIRBYTE_POSTGRES_*. Raises SettingError."""
    return _database("PostgreSQL", "AIRBYTE_POSTGRES", environment, ("airbyte-postgres", 5432, "airbyte"))


def mysql_database(environment: Mapping[str, str]) -> Database:
    """MySQL's address from AIRBYTE_MYSQL_*. Raises SettingError."""
    return _database("MySQL", "AIRBYTE_MYSQL", environment, ("airbyte-mysql", 3306, "data"))


def _database(
    product: str, prefix: str, environment: Mapping[str, str], defaults: tuple[str, int, str]
) -> Database:
    def setting(name: str, default: str) -> str:
        # Compose passes a variable that is not set as an empty one.
        return environment.get(f"{prefix}_{name}") or default

    host, port, name = defaults
    written_port = setting("PORT", str(port))
    if not (written_port.isascii() and written_port.isdigit() and 0 < int(written_port) <= HIGHEST_PORT):
        raise SettingError(f"{prefix}_PORT is {written_port!r}, which is no port from 1 to {HIGHEST_PORT}.")
    ssl_mode = setting("SSLMODE", "prefer")
    if ssl_mode not in SSL_MODES:
        raise SettingError(
            f"{prefix}_SSLMODE is {ssl_mode!r}, which is none of {', '.join(sorted(SSL_MODES))}."
        )
    return Database(
        product=product,
        prefix=prefix,
        host=setting("HOST", host),
        port=int(written_port),
        name=setting("DATABASE", name),
        user=setting("USER", "docker"),
        password=setting("PASSWORD", "docker"),
        ssl_mode=ssl_mode,
        root_certificate=setting("SSLROOTCERT", ""),
    )


@contextmanager
def open_postgres(database: Database, application: str) -> Iterator[PostgresConnection]:
    """Open a connection in UTC, closed at the end; what was not committed is rolled back.

    Raises DatabaseError for every failure of the server, of the login or of a statement inside.
    """
    import psycopg2

    forget_client_settings()
    trusted = (database.root_certificate or "system") if database.ssl_mode in VERIFYING else NO_FILE
    connect = partial(
        psycopg2.connect,
        host=database.host,
        port=database.port,
        dbname=database.name,
        user=database.user,
        password=database.password,
        connect_timeout=CONNECT_SECONDS,
        application_name=application,
        options="-c timezone=UTC",
        sslmode=database.ssl_mode,
        sslrootcert=trusted,
        sslcert=NO_FILE,
        gssencmode="disable",
    )
    begun = time.monotonic()
    try:
        try:
            connection = connect()
        except psycopg2.OperationalError:
            # libpq's time-out goes on while this process is stopped, as in a laptop that sleeps: then the
            # server has not been asked for as long as that.
            if time.monotonic() - begun < CONNECT_SECONDS + LATE_SECONDS:
                raise
            connection = connect()
    except psycopg2.OperationalError as error:
        raise DatabaseError(_postgres_refusal(database, str(error))) from error
    try:
        yield connection
    except psycopg2.Error as error:
        raise DatabaseError(f"{database} failed a statement: {_one_line(error)}") from error
    finally:
        connection.close()


@contextmanager
def open_mysql(
    database: Database, files: Path | None = None, *, pure: bool = False
) -> Iterator[MySQLConnectionAbstract]:
    """Open a connection in UTC without autocommit, closed at the end; what was not committed is rolled back.

    `files` is the one folder from which LOAD DATA LOCAL may read; without it, it may not read at all. `pure`
    asks for the driver in Python, which is slower with many rows.
    Raises DatabaseError for every failure of the server, of the login or of a statement inside.
    """
    import mysql.connector

    try:
        connection = mysql.connector.connect(
            host=database.host,
            port=database.port,
            database=database.name,
            user=database.user,
            password=database.password,
            connection_timeout=CONNECT_SECONDS,
            charset="utf8mb4",
            collation=MYSQL_COLLATION,
            time_zone="+00:00",
            autocommit=False,
            allow_local_infile=False,
            allow_local_infile_in_path=str(files) if files else None,
            **({"use_pure": True} if pure else {}),
            **_mysql_encryption(database),
        )
        if database.ssl_mode == "require":
            _require_cipher(cast("MySQLConnectionAbstract", connection), database)
    except mysql.connector.Error as error:
        raise DatabaseError(_mysql_refusal(database, error.errno, _one_line(error))) from error
    try:
        yield cast("MySQLConnectionAbstract", connection)
    except mysql.connector.Error as error:
        raise DatabaseError(f"{database} failed a statement: {_one_line(error)}") from error
    finally:
        connection.close()


def forget_client_settings() -> None:
    """Take libpq's variables away from this process, which are meant for other programs.

    libpq takes a value from them for every parameter that a connection does not name, and for some that none
    can: PGHOSTADDR leads to another server, PGTZ changes what times mean.
    """
    for name in list(os.environ):
        if name.startswith("PG"):
            del os.environ[name]


def _mysql_encryption(database: Database) -> dict[str, object]:
    if database.ssl_mode == "disable":
        return {"ssl_disabled": True}
    if database.ssl_mode not in VERIFYING:
        return {}
    from ssl import get_default_verify_paths  # noqa: PLC0415 -- 15 ms, for a database elsewhere alone

    trusted = database.root_certificate or get_default_verify_paths().cafile
    identity = database.ssl_mode == "verify-full"
    return {"ssl_ca": trusted, "ssl_verify_cert": True, "ssl_verify_identity": identity}


def _require_cipher(connection: MySQLConnectionAbstract, database: Database) -> None:
    """Refuse a connection that is not encrypted, on which no parameter of the driver insists."""
    with closing(connection.cursor()) as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        rows = cast("list[tuple[str, str]]", cursor.fetchall())
    if not dict(rows).get("Ssl_cipher"):
        connection.close()
        raise DatabaseError(f"{database} offers no encryption: check {database.variables('SSLMODE')}.")


def missing_mysql_extension() -> str | None:
    """Return why the driver runs without its extension in C, None if it has it. It falls back silently."""
    try:
        importlib.import_module("_mysql_connector")
    except ImportError as error:
        return _one_line(error)
    return None


def mysql_value(cursor: MySQLCursorAbstract) -> object:
    """Read a query's answer to its end and give the first row's first column, None if there is no row."""
    rows = cast("list[Sequence[object]]", cursor.fetchall())
    return rows[0][0] if rows else None


def _postgres_refusal(database: Database, reason: str) -> str:
    """Tell refusals apart by libpq's words, as they carry no code; unknown words name all variables."""
    reason = _one_line(reason)
    for words, describe, names in _POSTGRES_REFUSALS:
        if re.search(words, reason):
            return describe(database, reason, *names)
    return _unreachable(database, reason, "HOST", "PORT", "DATABASE", "USER", "PASSWORD")


def _mysql_refusal(database: Database, number: int | None, reason: str) -> str:
    if re.search(_ENCRYPTION, reason):
        return _unreachable(database, reason, "SSLMODE", "SSLROOTCERT")
    if number in _MYSQL_ACCESS_DENIED:
        return _refused(database, reason, "USER", "PASSWORD")
    if number in _MYSQL_NO_DATABASE:
        return _refused(database, reason, "DATABASE", "USER")
    if number in _MYSQL_UNREACHABLE:
        return _unreachable(database, reason, "HOST", "PORT")
    return _unreachable(database, reason, "HOST", "PORT", "DATABASE", "USER", "PASSWORD")


def _refused(database: Database, reason: str, *variables: str) -> str:
    return f"{database} refused the login: check {database.variables(*variables)}. The server said: {reason}"


def _unreachable(database: Database, reason: str, *variables: str) -> str:
    return f"{database} cannot be reached: check {database.variables(*variables)}. The driver said: {reason}"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


_POSTGRES_REFUSALS = (
    (_ENCRYPTION, _unreachable, ("SSLMODE", "SSLROOTCERT")),
    (r"pg_hba\.conf", _refused, ("USER", "DATABASE", "SSLMODE")),
    (r"authentication failed|no password supplied|role", _refused, ("USER", "PASSWORD")),
    (r"database.*does not exist", _refused, ("DATABASE",)),
    (r"could not translate host name", _unreachable, ("HOST",)),
    (r"connection to server|timeout", _unreachable, ("HOST", "PORT")),
)
