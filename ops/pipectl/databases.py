"""The two business databases: the only module that imports psycopg2 and mysql.connector."""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from pipectl import published, services
from pipectl.errors import DatabaseError, DatabaseSilentError, LoginError
from pipectl.models import VERIFYING, Counts, DatabaseContent, Reconciliation, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from pipectl.models import DatabaseAddress

    # Runs a statement with its values and returns the rows that it gives.
    Ask = Callable[..., list[tuple[Any, ...]]]

CONNECT_SECONDS = 5
# MySQL's numbers for no connection, for one that was lost, and for a server that is shutting down.
NO_CONNECTION = {None, 1053, 1927, 2003, 2005, 2006, 2013, 2055}
# PostgreSQL: it is starting up, shutting down, or in recovery; or it is ending this connection for that.
STARTING_OR_ENDING = re.compile(r"the database system is|terminating connection due to")
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


class Databases:
    """Questions to `airbyte-postgres` and `airbyte-mysql`. Every method may raise DatabaseError."""

    def __init__(self, postgres: DatabaseAddress, mysql: DatabaseAddress) -> None:
        self.postgres = postgres
        self.mysql = mysql

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
        with self._postgres_cursor() as cursor:
            cursor.execute(published.HAS_BATCHES)
            if not cursor.fetchall()[0][0]:
                return None
            cursor.execute(published.BATCH, (batch_id,))
            rows = cursor.fetchall()
        if not rows:
            return None
        first, last, transactions = rows[0]
        labels = frauds = 0
        with self._mysql_cursor() as cursor:
            if transactions and _mysql_has_labels(cursor):
                cursor.execute(published.BATCH_LABELS, (first, last))
                labels, frauds = map(int, cursor.fetchall()[0])
        return Counts(int(transactions), labels, frauds)

    def reconcile(self) -> Reconciliation:
        """Compare the ids of transactions and labels, exactly.

        Both servers count ids per range of 10,000. A range that is full on both sides, or empty on one, is
        settled by that; of the others the ids are compared. Labels are read first: a label's transaction was
        committed before it, so an orphan is never an effect of the order.
        """
        with self._mysql_cursor() as mysql, self._postgres_cursor() as postgres:
            labels = _buckets(mysql, published.LABEL_BUCKETS) if _mysql_has_labels(mysql) else {}
            has_transactions = _postgres_has_transactions(postgres)
            transactions = _buckets(postgres, published.TRANSACTION_BUCKETS) if has_transactions else {}
            unlabelled = orphans = 0
            for bucket in labels.keys() | transactions.keys():
                pair = transactions.get(bucket, 0), labels.get(bucket, 0)
                if pair == (BUCKET, BUCKET):
                    continue
                if 0 in pair:
                    unlabelled, orphans = unlabelled + pair[0], orphans + pair[1]
                    continue
                label_ids = _ids(mysql, published.LABEL_IDS, bucket)
                transaction_ids = _ids(postgres, published.TRANSACTION_IDS, bucket)
                unlabelled += len(transaction_ids - label_ids)
                orphans += len(label_ids - transaction_ids)
        return Reconciliation(unlabelled, orphans)

    def empty(self) -> tuple[DatabaseContent, DatabaseContent]:
        """Delete every row of both databases, keep the tables, and return the tables as they were."""
        before = self.content()
        with self._postgres_cursor() as cursor:
            cursor.execute("SET lock_timeout = '10s'")
            tables = ", ".join(quoted for quoted, _ in _tables(cursor, POSTGRES_TABLES))
            if tables:
                cursor.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        with self._mysql_cursor() as cursor:
            cursor.execute("SET lock_wait_timeout = 10")
            cursor.execute("SET foreign_key_checks = 0")
            for quoted, _ in _tables(cursor, MYSQL_TABLES):
                cursor.execute(f"TRUNCATE TABLE {quoted}")
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
        return _postgres(self.postgres)

    @contextmanager
    def _mysql_cursor(self) -> Iterator[Any]:
        import mysql.connector  # 90 ms

        address = self.mysql
        try:
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
            )
            with closing(connection), closing(connection.cursor()) as cursor:
                if address.ssl_mode == "require":
                    _require_cipher(cursor, address)
                yield cursor
        except mysql.connector.Error as error:
            raise _explain("MySQL", address, error, refusal="Access denied") from error


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
def _postgres(address: DatabaseAddress) -> Iterator[Any]:
    import psycopg2  # 35 ms

    try:
        connection = psycopg2.connect(
            **postgres_encryption(address),
            host=address.host,
            port=address.port,
            dbname=address.database,
            user=address.user,
            password=address.password,
            connect_timeout=CONNECT_SECONDS,
            application_name="pipectl",
        )
        with closing(connection), connection, connection.cursor() as cursor:
            yield cursor
    except psycopg2.Error as error:
        raise _explain("PostgreSQL", address, error, refusal="authentication failed") from error


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
            f"MySQL {address.service!r} at {address.host}:{address.port} offers no encryption.",
            hint="AIRBYTE_MYSQL_SSLMODE=require in stack/.env insists on it.",
        )


def _explain(server: str, address: DatabaseAddress, error: Exception, *, refusal: str) -> DatabaseError:
    where = f"{server} {address.service!r} at {address.host}:{address.port}"
    text = re.sub(r"\s+", " ", str(error)).strip()
    prefix = services.get(address.service).prefix
    if refusal in text:
        variable = address.password_variable or services.get(address.service).password_variable
        return LoginError(
            f"{where} refused the password of user {address.user!r} for database {address.database!r}.",
            hint=f"Set {variable} in stack/.env to the password that its data was created with, "
            "or start anew: pipectl reset",
        )
    if ENCRYPTION.search(text) and _is_of_the_connection(error, NO_CONNECTION | NO_ENCRYPTION):
        return DatabaseError(
            f"{where} is not reached with {prefix}_SSLMODE={address.ssl_mode}: {text}",
            hint=f"{prefix}_SSLMODE and {prefix}_SSLROOTCERT in stack/.env say how it is encrypted.",
        )
    # psycopg2 knows no code of a failed connection, but a server that answers says FATAL.
    silent = getattr(error, "pgcode", None) is None and "FATAL" not in text
    if (silent and getattr(error, "errno", None) in NO_CONNECTION) or STARTING_OR_ENDING.search(text):
        return DatabaseSilentError(
            f"{where} does not answer.",
            hint=f"What runs: pipectl status. {prefix}_HOST and {prefix}_PORT in stack/.env are its address.",
            detail=text,
        )
    return DatabaseError(f"{where} refused: {text}")


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


def _buckets(cursor: Any, query: str) -> dict[int, int]:  # noqa: ANN401  two drivers, one interface
    cursor.execute(query, (BUCKET,))
    return {int(bucket): int(count) for bucket, count in cursor.fetchall()}


def _ids(cursor: Any, query: str, bucket: int) -> set[int]:  # noqa: ANN401  two drivers, one interface
    cursor.execute(query, (BUCKET * bucket, BUCKET * (bucket + 1)))
    return {int(row[0]) for row in cursor.fetchall()}
