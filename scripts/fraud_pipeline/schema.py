"""The tables of both databases: made, and brought up to date, by the SQL files in `migrations/`.

`migrations/postgres` and `migrations/mysql` are applied in the order of their numbers, and each is recorded
in its database: `sim.schema_migrations` in PostgreSQL, `schema_migrations` in MySQL. If nothing is to do, one
query finds that out, and it waits for no lock. Otherwise one script at a time applies what is missing.

A migration may run again over its own result and later ones: after a crash in its middle (MySQL commits each
statement that changes a table), after a table was dropped, and over a database of release 0.1.0, which has no
record. PostgreSQL: a migration is one transaction, and says IF NOT EXISTS. MySQL: a statement makes one
change and ends with `;` at the end of a line; an object that exists already, or is gone, is no error.
"""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from fraud_pipeline.connections import MYSQL_COLLATION, mysql_value
from fraud_pipeline.errors import DatabaseError
from fraud_pipeline.logs import logfmt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mysql.connector.abstracts import MySQLConnectionAbstract
    from psycopg2.extensions import connection as PostgresConnection  # noqa: N812 -- a class named in lower case
    from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812

MIGRATIONS = Path(__file__).with_name("migrations")
PUBLICATION = "airbyte_publication"
PUBLISHED_TABLES = ("public.transactions", "public.customers", "public.terminals")
PROGRESS_NAME = "fraud_labels"
# How long a script waits for another one that migrates, and a migration for transactions that use its tables.
LOCK_SECONDS = 30

# What all migrations together make. An object that is missing later is made again.
POSTGRES_RELATIONS = (
    "public.customers",
    "public.terminals",
    "public.transactions",
    "public.transactions_updated_at",
    "public.transactions_xid_id",
    "sim.batches",
    "sim.ground_truth",
    "sim.ground_truth_reported_at",
    "sim.loads",
)
MYSQL_TABLES = ("fraud_labels", "label_progress")

# Any number will do as long as no other program of this database locks on it.
_ADVISORY_LOCK = 7_244_110_358
# No consumer knows xid8, so a list names all other columns; a column that a migration adds is published by
# the next run. With REPLICA IDENTITY FULL every column is published: PostgreSQL then refuses to update and to
# delete rows of a table whose list lacks one. A table that is published with all others, or by a row filter,
# was published by somebody else, and stays so. PostgreSQL before 15 publishes whole rows.
_UNPUBLISHED = """
    SELECT name, t.pubname IS NOT NULL, columns
    FROM unnest(%s) AS name
    JOIN pg_class AS c ON c.oid = to_regclass(name)
    CROSS JOIN LATERAL (
        SELECT array_agg(attname::text ORDER BY attname) AS names,
               CASE WHEN relreplident <> 'f' THEN string_agg(quote_ident(attname), ', ' ORDER BY attnum) END
                   AS columns
        FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
          AND (attname <> 'xid' OR relreplident = 'f')
    ) AS wanted
    LEFT JOIN pg_publication_tables AS t ON pubname = %s AND schemaname || '.' || tablename = name
    LEFT JOIN pg_publication AS p USING (pubname)
    WHERE t.pubname IS NULL
       OR current_setting('server_version_num')::int >= 150000 AND pg_has_role(pubowner, 'USAGE')
          AND EXISTS (SELECT FROM pg_publication_rel AS r
                      WHERE prpubid = p.oid AND prrelid = c.oid AND to_jsonb(r) ->> 'prqual' IS NULL)
          AND names <> ARRAY(SELECT jsonb_array_elements_text(to_jsonb(t) -> 'attnames') ORDER BY 1)"""
_POSTGRES_STATE = f"""
    SELECT coalesce((SELECT max(version) FROM sim.schema_migrations), 0),
           NOT EXISTS (SELECT FROM unnest(%s) AS name WHERE to_regclass(name) IS NULL),
           current_setting('wal_level') <> 'logical' OR NOT EXISTS ({_UNPUBLISHED})"""  # noqa: S608 -- constants
_POSTGRES_RECORD = """
    CREATE TABLE IF NOT EXISTS sim.schema_migrations (
        version    integer PRIMARY KEY,
        name       text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )"""
_PUBLICATION_EXISTS = "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = %s)"
# PostgreSQL before this publishes whole rows.
_COLUMN_LISTS = 150_000

_MYSQL_LOCK = "fraud_pipeline.schema"
_MYSQL_STATE = f"""
    SELECT (SELECT COALESCE(MAX(version), 0) FROM schema_migrations),
           (SELECT COUNT(*) FROM information_schema.tables
            WHERE table_schema = DATABASE() AND table_name IN {MYSQL_TABLES}) = {len(MYSQL_TABLES)},
           EXISTS (SELECT 1 FROM label_progress WHERE name = '{PROGRESS_NAME}')"""  # noqa: S608 -- constants
_MYSQL_EXISTING = f"""
    SELECT table_name FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_name IN {MYSQL_TABLES}"""  # noqa: S608 -- constants
_MYSQL_RECORD = f"""
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version    INT NOT NULL PRIMARY KEY,
        name       VARCHAR(64) NOT NULL,
        applied_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
    ) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE {MYSQL_COLLATION}"""
_MYSQL_ADD_MARK = """
    INSERT INTO label_progress (name, last_xid) VALUES (%s, 0) ON DUPLICATE KEY UPDATE name = name"""
_MYSQL_NO_SUCH_TABLE = 1146
_MYSQL_LOCK_TIMEOUT = 1205
# A table, column or index that exists already; one to be dropped that does not exist.
_MYSQL_DONE_ALREADY = frozenset({1050, 1060, 1061, 1091})

_RECORD = "INSERT INTO {}schema_migrations (version, name) VALUES (%s, %s)"

_LOG = logging.getLogger(__name__)


class _State(NamedTuple):
    """The last migration that is recorded, whether its tables are all there, and what else must be."""

    version: int
    complete: bool
    # PostgreSQL: the table is published, if that can be. MySQL: the row that carries the mark.
    ready: bool


def prepare_postgres(connection: PostgresConnection) -> None:
    """Bring PostgreSQL's tables up to date, and publish them for change data capture if its WAL is logical.

    Raises DatabaseError if the database is newer than these scripts, a migration fails, or others hold a lock
    for longer than LOCK_SECONDS; psycopg2.Error.
    """
    import psycopg2

    files, name = migrations("postgres"), "PostgreSQL"
    state = _postgres_state(connection)
    _require_known(name, state.version, files)
    if state == (len(files), True, True):
        return
    try:
        first = True
        while _apply_to_postgres(connection, files, first=first):
            first = False
    except psycopg2.errors.LockNotAvailable as error:
        raise _locked(name) from error


def prepare_mysql(connection: MySQLConnectionAbstract) -> None:
    """Bring MySQL's tables up to date, and add the row that carries the mark.

    Raises DatabaseError as prepare_postgres does; mysql.connector.Error.
    """
    import mysql.connector

    files, name = migrations("mysql"), "MySQL"
    state = _mysql_state(connection)
    # Ends the transaction that the look-up began. Its snapshot would be older than the mark's lock, and
    # whoever waits for the migrations' lock inside it blocks the ALTER TABLE of the one who has that lock.
    connection.commit()
    _require_known(name, state.version, files)
    if state != (len(files), True, True):
        try:
            with _mysql_lock(connection):
                _migrate_mysql(connection, files)
        except mysql.connector.Error as error:
            if error.errno == _MYSQL_LOCK_TIMEOUT:
                raise _locked(name) from error
            raise


def migrations(folder: str) -> list[Path]:
    """The SQL files of `postgres` or `mysql` in order; a file's place in the list, from 1, is its version."""
    return sorted((MIGRATIONS / folder).glob("[0-9]*.sql"))


def statements(file: Path) -> list[str]:
    """The statements of a file, each of which ends with a semicolon at the end of a line."""
    text = re.sub(r"^\s*--.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [part.strip() for part in re.split(r";\s*$", text, flags=re.MULTILINE) if part.strip()]


def _require_known(name: str, version: int, files: list[Path]) -> None:
    if version > len(files):
        raise DatabaseError(
            f"{name}'s schema has version {version}, but these scripts know only {len(files)}:"
            " update the project's scripts, with git pull."
        )


def _locked(name: str) -> DatabaseError:
    return DatabaseError(
        f"{name}'s schema is not up to date, and others have locked it for {LOCK_SECONDS} seconds:"
        " run again when their transactions have ended."
    )


def _failed(name: str, file: Path, error: Exception) -> DatabaseError:
    return DatabaseError(f"{name} failed migration {file.name}: {' '.join(str(error).split())}")


def _postgres_state(connection: PostgresConnection) -> _State:
    import psycopg2

    try:
        with connection, connection.cursor() as cursor:
            return _ask_postgres_state(cursor)
    except psycopg2.errors.UndefinedTable:
        return _State(0, complete=False, ready=False)


def _ask_postgres_state(cursor: PostgresCursor) -> _State:
    cursor.execute(_POSTGRES_STATE, (list(POSTGRES_RELATIONS), list(PUBLISHED_TABLES), PUBLICATION))
    return _State(*cursor.fetchone() or (0, False, False))


@contextmanager
def _postgres_lock(connection: PostgresConnection) -> Iterator[PostgresCursor]:
    """One transaction that no other script's migration runs beside."""
    with connection, connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
        yield cursor


def _apply_to_postgres(connection: PostgresConnection, files: list[Path], *, first: bool) -> bool:
    """Apply the next migration, publish and record it, in one transaction; False if there is none.

    The `first` starts again from version 1 if an object is missing.
    """
    import psycopg2

    with _postgres_lock(connection) as cursor:
        if first:
            _make_postgres_record(cursor)
        state = _ask_postgres_state(cursor)
        _require_known("PostgreSQL", state.version, files)
        again = first and not state.complete
        version = 1 if again else state.version + 1
        file = files[version - 1] if version <= len(files) else None
        if file:
            try:
                cursor.execute(file.read_text(encoding="utf-8"))
            except psycopg2.errors.LockNotAvailable:
                raise
            except psycopg2.Error as error:
                raise _failed("PostgreSQL", file, error) from error
        # Before any row is written: a slot that is older than the publication could decode no row before it.
        if not _ask_postgres_state(cursor).ready:
            _publish(cursor)
        if file is None:
            return False
        if again:
            cursor.execute("DELETE FROM sim.schema_migrations")
        cursor.execute(_RECORD.format("sim."), (version, file.stem))
    _LOG.info(logfmt("schema_migrated", database="postgres", version=version, migration=file.stem))
    return True


def _make_postgres_record(cursor: PostgresCursor) -> None:
    # An account that may not create schemas may use one that exists.
    cursor.execute("SELECT to_regnamespace('sim') IS NULL, to_regclass('sim.schema_migrations') IS NULL")
    no_schema, no_record = cursor.fetchone() or (True, True)
    if no_schema:
        cursor.execute("CREATE SCHEMA sim")
    if no_record:
        cursor.execute(_POSTGRES_RECORD)


def _publish(cursor: PostgresCursor) -> None:
    import psycopg2

    cursor.execute(_PUBLICATION_EXISTS, (PUBLICATION,))
    [exists] = cursor.fetchone() or (False,)
    cursor.execute(_UNPUBLISHED, (list(PUBLISHED_TABLES), PUBLICATION))
    refused: dict[str, list[str]] = {}
    for table, is_published, columns in cursor.fetchall():
        action = "ALTER PUBLICATION {} ADD" if exists else "CREATE PUBLICATION {} FOR"
        listed = f" ({columns})" if columns and cursor.connection.server_version >= _COLUMN_LISTS else ""
        cursor.execute("SAVEPOINT publication")
        try:
            if is_published:
                # In one transaction: a consumer sees no moment without the table.
                cursor.execute(f"ALTER PUBLICATION {PUBLICATION} DROP TABLE {table}")
            cursor.execute(f"{action.format(PUBLICATION)} TABLE {table}{listed}")
            exists = True
        except (psycopg2.errors.InsufficientPrivilege, psycopg2.errors.InvalidParameterValue) as error:
            # The pipeline works without change data capture; who runs the server has to allow it.
            # A publication of a whole schema takes no list of columns.
            cursor.execute("ROLLBACK TO SAVEPOINT publication")
            refused.setdefault(str(error.diag.message_primary), []).append(table)
    for reason, tables in refused.items():
        _LOG.warning(
            logfmt("publication_refused", publication=PUBLICATION, tables=", ".join(tables), reason=reason)
        )


def _mysql_state(connection: MySQLConnectionAbstract) -> _State:
    import mysql.connector

    with connection.cursor() as cursor:
        try:
            cursor.execute(_MYSQL_STATE)
        except mysql.connector.Error as error:
            if error.errno != _MYSQL_NO_SUCH_TABLE:
                raise
            return _State(0, complete=False, ready=False)
        [(version, complete, ready)] = cast("list[tuple[int, int, int]]", cursor.fetchall())
    return _State(version, complete=bool(complete), ready=bool(ready))


@contextmanager
def _mysql_lock(connection: MySQLConnectionAbstract) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK(%s, %s)", (_MYSQL_LOCK, LOCK_SECONDS))
        if mysql_value(cursor) != 1:
            raise _locked("MySQL")
        try:
            cursor.execute(f"SET SESSION lock_wait_timeout = {LOCK_SECONDS}")
            yield
        finally:
            cursor.execute("SET SESSION lock_wait_timeout = DEFAULT")
            cursor.execute("SELECT RELEASE_LOCK(%s)", (_MYSQL_LOCK,))
            cursor.fetchall()


def _migrate_mysql(connection: MySQLConnectionAbstract, files: list[Path]) -> None:
    import mysql.connector

    with connection.cursor() as cursor:
        cursor.execute(_MYSQL_RECORD)
        cursor.execute("SELECT COALESCE(MAX(version), 0) FROM schema_migrations")
        version = int(str(mysql_value(cursor)))
        _require_known("MySQL", version, files)
        cursor.execute(_MYSQL_EXISTING)
        tables = {name for (name,) in cast("list[tuple[str]]", cursor.fetchall())}
        if tables < set(MYSQL_TABLES):
            cursor.execute("DELETE FROM schema_migrations")
            version = 0
        if "fraud_labels" not in tables and "label_progress" in tables:
            # A mark without its labels (the table was dropped) would leave all older transactions unlabelled.
            cursor.execute("DELETE FROM label_progress WHERE name = %s", (PROGRESS_NAME,))
        connection.commit()
        for number, file in enumerate(files[version:], start=version + 1):
            for statement in statements(file):
                try:
                    cursor.execute(statement)
                except mysql.connector.Error as error:
                    if error.errno == _MYSQL_LOCK_TIMEOUT:
                        raise
                    if error.errno not in _MYSQL_DONE_ALREADY:
                        raise _failed("MySQL", file, error) from error
            cursor.execute(_RECORD.format(""), (number, file.stem))
            connection.commit()
            _LOG.info(logfmt("schema_migrated", database="mysql", version=number, migration=file.stem))
        cursor.execute(_MYSQL_ADD_MARK, (PROGRESS_NAME,))
        connection.commit()
