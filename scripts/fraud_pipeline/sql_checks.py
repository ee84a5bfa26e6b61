"""Checks in SQL: queries that must return no rows, each with its database and a sentence.

A file has one check or several. A check begins with two comments, in either order, and ends where the next
one begins:

    -- check: every payment has a customer
    -- database: airbyte-postgres
    SELECT t.transaction_id, t.customer_id
    FROM public.transactions AS t LEFT JOIN public.customers AS c USING (customer_id)
    WHERE c.customer_id IS NULL

The server takes a check as one statement that returns rows, in a transaction that cannot write, and ends it
once it has taken too long. PostgreSQL reads tables by the account's rights and calls functions by those of a
lesser role, if the account may become one: no transaction keeps a function from a replication slot.
"""

from __future__ import annotations

import math
import os
import re
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fraud_pipeline.connections import (
    mysql_database,
    mysql_value,
    open_mysql,
    open_postgres,
    postgres_database,
)
from fraud_pipeline.errors import DatabaseError, PipelineError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mysql.connector.abstracts import MySQLConnectionAbstract
    from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812 -- a class named in lower case

    from fraud_pipeline.connections import Database

POSTGRES, MYSQL = "airbyte-postgres", "airbyte-mysql"
DATABASES = (POSTGRES, MYSQL)
PASSED, FAILED, ERROR, TIMED_OUT = STATES = ("passed", "failed", "error", "timed out")
# Rows that are shown of a check, rows that are counted, and characters of a value, a name or a sentence.
MOST_SHOWN = 10
MOST_COUNTED = 10_000
MOST_CHARACTERS = 500
LARGEST_FILE = 1_000_000
PACKAGES = {"site-packages", "node_modules", "__pycache__"}
# In each virtual environment: Python's own, and conda's.
ENVIRONMENT_MARKS = ("pyvenv.cfg", "conda-meta")
# How long a server may take to end a check whose time is over, before the connection is cut.
GRACE_SECONDS = 5.0
NOT_A_QUERY = "A check is one query that returns rows, as one SELECT does, and this is not."

_HEADER = re.compile(r"--\s*(check|database)\s*:(.*)", re.IGNORECASE)
# What may follow the query, as it also stands in parentheses.
_AFTER_QUERY = re.compile(r"(?<![;\s])\s*;(?:\s|;|(?:--|#)[^\n]*|/\*(?:(?!\*/).)*\*/)*\Z", re.DOTALL)
# PL/pgSQL opens a cursor for one statement only, whose text never stands beside another one.
_POSTGRES_OPEN = """
    DO $$
    DECLARE found refcursor;
    BEGIN
        OPEN found FOR EXECUTE current_setting('pipectl.check');
    END $$"""
# Roles that may neither use replication slots nor end sessions, the one that reads more first. The owner of a
# database may become the second.
_POSTGRES_ROLE = """
    SELECT rolname FROM pg_roles
    WHERE rolname IN ('pg_read_all_data', 'pg_database_owner') AND pg_has_role(oid, %s)
    ORDER BY rolname DESC LIMIT 1"""
# Its owner is the account, by whose rights a view reads tables. What it calls runs by the rights of who asks.
_POSTGRES_VIEW = """
    CREATE TEMPORARY VIEW pipectl_rows AS SELECT ARRAY[{cells}]::text[] AS cells FROM (
{query}
    ) AS answer{columns}"""
# Nothing that runs within it can go back to the account's own rights, as `set_config('role', …)` else does.
_POSTGRES_FUNCTION = f"""
    CREATE FUNCTION pg_temp.pipectl_answer() RETURNS SETOF text[] LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE
        line text[];
        counted integer := 0;
    BEGIN
        FOR line IN SELECT cells FROM pg_temp.pipectl_rows LIMIT {MOST_COUNTED + 1} LOOP
            counted := counted + 1;
            IF counted <= {MOST_SHOWN} THEN
                RETURN NEXT line;
            END IF;
        END LOOP;
        RETURN NEXT ARRAY[counted::text];
    END $$"""  # noqa: S608 -- two numbers
# Since version 16 a member of a role may be kept from becoming it.
_ROLE_OPTIONS = 160_000
_NO_CURSOR = "42P11"
_POSTGRES_CANCELLED = "57014"
# MySQL's and MariaDB's numbers for a statement, or a wait for a lock, that took too long.
_MYSQL_TIMED_OUT = {1205, 1969, 3024}
_MYSQL_SYNTAX = 1064
# The protocol's numbers for types: bits and shapes, strings and blobs; and for no character set.
_MYSQL_BITS, _MYSQL_STRINGS, _MYSQL_BINARY = {16, 255}, {15, 249, 250, 251, 252, 253, 254}, 63
# What both drivers say of a table that is not there.
_NO_TABLE = {"42P01", 1146}


@dataclass(frozen=True)
class Check:
    """A query, the sentence that holds if it returns no rows, and where both stand."""

    sentence: str
    database: str
    query: str
    file: str
    line: int
    query_line: int


@dataclass(frozen=True)
class Result:
    """What became of a check. `state` is one of STATES.

    `rows` are the first that it found, their values as text, and `found` counts them; `more` says that there
    are more than that. `error` is what kept the check from an answer, and `line` then where.
    """

    check: str
    database: str
    file: str
    line: int
    state: str
    seconds: float
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    found: int = 0
    more: bool = False
    error: str = ""
    no_table: bool = False


@dataclass
class _Draft:
    """A check that is being read, from its first line on."""

    line: int
    header: dict[str, str] = field(default_factory=dict)
    lines: list[tuple[int, str]] = field(default_factory=list)

    @property
    def has_query(self) -> bool:
        return any(_is_statement(line) for _, line in self.lines)


@dataclass
class _Answer:
    """What a query returned, as far as it was read."""

    columns: tuple[str, ...] = ()
    rows: list[Sequence[str | None]] = field(default_factory=list)
    found: int = 0
    more: bool = False

    def count(self, found: int) -> None:
        """Take in how many rows were found, of MOST_COUNTED + 1 that were looked for."""
        self.found, self.more = min(found, MOST_COUNTED), found > MOST_COUNTED


class _RefusedError(Exception):
    """A query that the server does not answer: the reason, and in which of its lines, counted from 0."""

    def __init__(self, reason: str, *, offset: int = 0, state: str = ERROR, no_table: bool = False) -> None:
        super().__init__(reason)
        self.offset = offset
        self.state = state
        self.no_table = no_table


def read(path: Path) -> tuple[Check, ...]:
    """Read the checks of a file, or of a folder's .sql files. Raises SettingError.

    In folders below it too, but not in those that are hidden, or have programs of others.
    """
    # pathlib raises OSError for a name that is too long.
    files = sorted(_files_below(path)) if os.path.isdir(path) else [path]  # noqa: PTH112
    if not files:
        raise SettingError(f"{path} has no file whose name ends in .sql.")
    return tuple(check for file in files for check in parse(str(file), _text(file)))


def parse(file: str, text: str) -> list[Check]:
    """Return the checks of a file's text. Raises SettingError, which names the line."""
    drafts: list[_Draft] = []
    for number, line in enumerate(text.split("\n"), 1):
        header = _HEADER.fullmatch(line.strip())
        if not header:
            if drafts:
                drafts[-1].lines.append((number, line))
            elif _is_statement(line):
                raise SettingError(
                    f"{file}:{number}: no header stands before this query: `-- check: SENTENCE` and"
                    " `-- database: NAME`."
                )
            continue
        key, value = header[1].lower(), header[2].strip()
        if not drafts or drafts[-1].has_query:
            drafts.append(_Draft(number))
        if key in drafts[-1].header:
            raise SettingError(f"{file}:{number}: a second `-- {key}:` stands before the query of the first.")
        if not value:
            raise SettingError(f"{file}:{number}: `-- {key}:` says nothing.")
        if len(value) > MOST_CHARACTERS:
            raise SettingError(f"{file}:{number}: `-- {key}:` is longer than {MOST_CHARACTERS} characters.")
        drafts[-1].header[key] = value
    if not drafts:
        raise SettingError(f"{file} has no check: one begins with a line `-- check: SENTENCE`.")
    return [_finished(file, draft) for draft in drafts]


def run(check: Check, environment: Mapping[str, str], seconds: float) -> Result:
    """Run a check, for so many seconds at most. Raises PipelineError if its database cannot be used."""
    begun = time.monotonic()
    result = partial(Result, check.sentence, check.database, check.file)
    try:
        if check.database == POSTGRES:
            answer = _ask_postgres(check.query, postgres_database(environment), seconds)
        else:
            answer = _ask_mysql(check.query, mysql_database(environment), seconds)
    except _RefusedError as refusal:
        return result(
            check.query_line + refusal.offset,
            refusal.state,
            time.monotonic() - begun,
            error=str(refusal),
            no_table=refusal.no_table,
        )
    return result(
        check.line,
        FAILED if answer.found else PASSED,
        time.monotonic() - begun,
        columns=answer.columns,
        rows=tuple(tuple(map(_shown, row)) for row in answer.rows),
        found=answer.found,
        more=answer.more,
    )


def _files_below(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_of_others(Path(place, name))]
        yield from (Path(place, name) for name in names if name.endswith(".sql"))


def _is_of_others(folder: Path) -> bool:
    """Whether a folder is hidden, or has what a package manager has brought: what lies there is no check."""
    if folder.name.startswith(".") or folder.name in PACKAGES:
        return True
    return any((folder / mark).exists() for mark in ENVIRONMENT_MARKS)


def _text(file: Path) -> str:
    try:
        if not file.is_file():
            raise SettingError(f"{file} is no file of SQL." if file.exists() else f"There is no {file}.")
        with file.open("rb") as content:
            read = content.read(LARGEST_FILE + 1)
        if len(read) > LARGEST_FILE:
            raise SettingError(f"{file} is larger than {LARGEST_FILE:,} bytes.")
        text = read.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingError(f"{file} is no text in UTF-8.") from error
    except (OSError, ValueError) as error:  # as a path that is no text
        raise SettingError(f"{file} cannot be read: {error}.") from error
    if "\0" in text:
        raise SettingError(f"{file} is no text: it has a zero byte.")
    return text


def _is_statement(line: str) -> bool:
    return bool(line.strip()) and not line.strip().startswith("--")


def _finished(file: str, draft: _Draft) -> Check:
    for key, missing in (
        ("check", "a line `-- check: SENTENCE` is missing"),
        ("database", f"a line `-- database: NAME` is missing; NAME is {' or '.join(DATABASES)}"),
    ):
        if key not in draft.header:
            raise SettingError(f"{file}:{draft.line}: {missing}.")
    database = draft.header["database"]
    if database not in DATABASES:
        raise SettingError(
            f"{file}:{draft.line}: there is no database {database!r}: {' or '.join(DATABASES)}."
        )
    if not draft.has_query:
        raise SettingError(f"{file}:{draft.line}: the check has no query.")
    first = next(index for index, (_, line) in enumerate(draft.lines) if _is_statement(line))
    query = "\n".join(line for _, line in draft.lines[first:]).strip()
    return Check(
        draft.header["check"], database, query, file, line=draft.line, query_line=draft.lines[first][0]
    )


def _ask_postgres(query: str, database: Database, seconds: float) -> _Answer:
    import psycopg2

    end = time.monotonic() + seconds
    query = _AFTER_QUERY.sub("", query)
    with open_postgres(database, "sql_checks") as connection, connection.cursor() as cursor:
        try:
            with _cut_after(seconds, connection.fileno()):
                return _fetch_postgres(cursor, query, end)
        except psycopg2.Error as error:
            if error.pgcode == _POSTGRES_CANCELLED:
                raise _timed_out(seconds) from error
            # A position counts characters from 1, in the query or, for an error of ours, nowhere.
            position = error.diag.internal_position
            raise _RefusedError(
                _one_line(error.diag.message_primary or error),
                offset=query[: int(position) - 1].count("\n") if position else 0,
                no_table=error.pgcode in _NO_TABLE,
            ) from error
        except UnicodeDecodeError as error:  # of a database that has no encoding
            raise _RefusedError("It returns characters that are no UTF-8.") from error


def _fetch_postgres(cursor: PostgresCursor, query: str, end: float) -> _Answer:
    cursor.execute("SET TRANSACTION READ ONLY")
    is_newer = cursor.connection.server_version >= _ROLE_OPTIONS
    cursor.execute(_POSTGRES_ROLE, ("SET" if is_newer else "MEMBER",))
    role = row[0] if (row := cursor.fetchone()) else ""
    if not role:
        _refuse_replication(cursor)
    if role == "pg_read_all_data":
        cursor.execute(f"SET LOCAL ROLE {role}")
    columns = _describe_postgres(cursor, query, end)
    cursor.connection.rollback()

    # Committed, as a transaction that has written holds up the labels of those after it.
    cursor.execute("SET TRANSACTION READ WRITE")
    _limit_postgres(cursor, end)
    names = [f"c{number}" for number in range(len(columns))]
    cells = (f'left({name}::text, {MOST_CHARACTERS + 1}) COLLATE "C"' for name in names)
    alias = f"({', '.join(names)})" if names else ""
    cursor.execute(_POSTGRES_VIEW.format(cells=", ".join(cells), query=query, columns=alias))
    if role:
        cursor.execute(f"GRANT SELECT ON pg_temp.pipectl_rows TO {role}")
        cursor.execute(f"SET LOCAL ROLE {role}")
    cursor.execute(_POSTGRES_FUNCTION)
    cursor.connection.commit()

    cursor.execute("SET TRANSACTION READ ONLY")
    _limit_postgres(cursor, end)
    cursor.execute("SELECT * FROM pg_temp.pipectl_answer()")
    *rows, [found] = (cells for (cells,) in cursor.fetchall())
    answer = _Answer(columns, rows)
    answer.count(int(found))
    return answer


def _refuse_replication(cursor: PostgresCursor) -> None:
    """Refuse an account whose checks could use replication slots. Raises DatabaseError."""
    cursor.execute(
        "SELECT quote_ident(rolname) FROM pg_roles WHERE rolname = current_user AND rolreplication"
    )
    for (account,) in cursor.fetchall():
        raise DatabaseError(
            f"Checks would have the right of {account} to drop replication slots. To keep it from them, as a"
            f" superuser: GRANT pg_read_all_data TO {account}"
        )


def _describe_postgres(cursor: PostgresCursor, query: str, end: float) -> tuple[str, ...]:
    """Return the names of a query's columns. Nothing of the query runs. Refuses what is not one SELECT."""
    import psycopg2

    cursor.execute("SELECT set_config('pipectl.check', %s, true)", (query,))
    _limit_postgres(cursor, end)
    try:
        cursor.execute(_POSTGRES_OPEN)
    except psycopg2.Error as error:
        if error.pgcode == _NO_CURSOR:
            raise _RefusedError(NOT_A_QUERY) from error
        raise
    try:
        # One statement by now, but PL/pgSQL opens a cursor for EXPLAIN too, which FETCH 0 runs.
        cursor.execute(f"DECLARE pipectl_check CURSOR FOR\n{query}")
    except (psycopg2.errors.SyntaxError, psycopg2.errors.FeatureNotSupported) as error:
        raise _RefusedError(NOT_A_QUERY) from error
    cursor.execute("FETCH 0 FROM pipectl_check")
    return tuple(_shown(column.name) or "" for column in cursor.description or ())


def _limit_postgres(cursor: PostgresCursor, end: float) -> None:
    left = max(1, round((end - time.monotonic()) * 1000))
    cursor.execute(f"SET LOCAL statement_timeout = {left}")


def _ask_mysql(query: str, database: Database, seconds: float) -> _Answer:
    import mysql.connector

    with open_mysql(database, pure=True) as connection:

        def end() -> None:
            with open_mysql(database) as second, closing(second.cursor()) as cursor:
                cursor.execute(f"KILL {connection.connection_id}")

        try:
            # The driver has no other way to its socket.
            with _cut_after(seconds, connection._socket.sock.fileno(), end):  # type: ignore[attr-defined]  # noqa: SLF001
                return _fetch_mysql(connection, query, seconds)
        except mysql.connector.Error as error:
            if error.errno in _MYSQL_TIMED_OUT:
                raise _timed_out(seconds) from error
            line = re.search(r" at line (\d+)$", str(error.msg))
            raise _RefusedError(
                _one_line(error.msg or error),
                offset=int(line[1]) - 1 if line else 0,
                no_table=error.errno in _NO_TABLE,
            ) from error


def _fetch_mysql(connection: MySQLConnectionAbstract, query: str, seconds: float) -> _Answer:
    with closing(connection.cursor()) as cursor:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")
        cursor.execute("SELECT VERSION()")
        if "mariadb" in str(mysql_value(cursor)).lower():
            cursor.execute(f"SET SESSION max_statement_time = {seconds}")
        else:
            cursor.execute(f"SET SESSION max_execution_time = {max(1, round(seconds * 1000))}")
        waiting = max(1, math.ceil(seconds))
        cursor.execute(f"SET SESSION lock_wait_timeout = {waiting}, innodb_lock_wait_timeout = {waiting}")
        cursor.execute(f"SET SESSION sql_select_limit = {MOST_COUNTED + 1}")
        # Once it has begun, nothing makes a transaction write; the next one is read-only too.
        cursor.execute("START TRANSACTION READ ONLY")
        # The server prepares one statement only, and says whether that returns rows: INTO OUTFILE does not.
        prepared = cast("Any", connection).cmd_stmt_prepare(query.encode())
        connection.cmd_stmt_close(prepared["statement_id"])
        if not (prepared["num_columns"] and _is_select(connection, query)):
            raise _RefusedError(NOT_A_QUERY)
    # As the server writes values: the driver knows neither all dates nor all times that a server does.
    with closing(connection.cursor(raw=True)) as cursor:
        cursor.execute(query)
        described = cursor.description or []
        answer = _Answer(tuple(_shown(str(column[0])) or "" for column in described))
        found = 0
        while found <= MOST_COUNTED and (row := cursor.fetchone()) is not None:
            found += 1
            if found <= MOST_SHOWN:
                values = cast("Sequence[bytes | None]", row)
                answer.rows.append(list(map(_mysql_text, values, described)))
        answer.count(found)
        # What is left of a longer answer is not read.
        connection.shutdown()
    return answer


def _is_select(connection: MySQLConnectionAbstract, query: str) -> bool:
    """Whether it may be a subquery, which not all may that return rows, as MariaDB's ANALYZE TABLE."""
    import mysql.connector

    try:
        prepared = cast("Any", connection).cmd_stmt_prepare(
            f"SELECT EXISTS (\n{_AFTER_QUERY.sub('', query)}\n)".encode()
        )
    except mysql.connector.Error as error:
        if error.errno == _MYSQL_SYNTAX:
            return False
        raise
    connection.cmd_stmt_close(prepared["statement_id"])
    return True


def _mysql_text(value: bytes | None, column: Sequence[object]) -> str | None:
    """Return a value as text; bytes that are no characters as the server would read them again."""
    if value is None:
        return None
    kind, character_set = column[1], column[8]
    if kind in _MYSQL_BITS or (kind in _MYSQL_STRINGS and character_set == _MYSQL_BINARY):
        return f"0x{value[:MOST_CHARACTERS].hex().upper()}"
    return value.decode(errors="replace")


def _timed_out(seconds: float) -> _RefusedError:
    return _RefusedError(f"It took longer than {seconds:g} s.", state=TIMED_OUT)


@contextmanager
def _cut_after(seconds: float, descriptor: int, end: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Cut a connection if its server has not ended the statement by itself when the time is over.

    `end` asks the server once more, on another connection.
    """
    # Its own descriptor: the driver may close the connection's, whose number another one then gets.
    connection = socket.socket(fileno=os.dup(descriptor))
    is_over, is_cut = threading.Event(), threading.Event()

    def watch() -> None:
        if is_over.wait(seconds + GRACE_SECONDS):
            return
        is_cut.set()
        with suppress(PipelineError):
            end()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    except Exception as error:
        if is_cut.is_set():
            raise _timed_out(seconds) from error
        raise
    finally:
        is_over.set()
        watching.join()
        connection.close()


def _shown(text: str | None) -> str | None:
    """Return a value, or a column's name, cut if it is long."""
    return text if text is None or len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def _one_line(error: object) -> str:
    return _shown(" ".join(str(error).split())) or ""
