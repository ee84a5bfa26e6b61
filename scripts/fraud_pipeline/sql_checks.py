"""Checks in SQL: queries that must return no rows, each with its database and a sentence.

A file has one check or several. A check begins with two comments, in either order, and ends where the next
one begins:

    -- check: every payment has a customer
    -- database: airbyte-postgres
    SELECT t.transaction_id, t.customer_id
    FROM public.transactions AS t LEFT JOIN public.customers AS c USING (customer_id)
    WHERE c.customer_id IS NULL

The server takes a check as one statement that returns rows, in a transaction that cannot change anything, and
ends it once it has taken too long.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from fraud_pipeline.connections import (
    mysql_database,
    mysql_value,
    open_mysql,
    open_postgres,
    postgres_database,
)
from fraud_pipeline.errors import PipelineError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mysql.connector.abstracts import MySQLConnectionAbstract
    from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812 -- a class named in lower case

    from fraud_pipeline.connections import Database

POSTGRES, MYSQL = "airbyte-postgres", "airbyte-mysql"
DATABASES = (POSTGRES, MYSQL)
PASSED, FAILED, ERROR, TIMED_OUT = STATES = ("passed", "failed", "error", "timed out")
# Rows that are shown of a check, rows that are counted, and characters that are shown of a value.
MOST_SHOWN = 10
MOST_COUNTED = 10_000
MOST_CHARACTERS = 500
LARGEST_FILE = 1_000_000
# How long a server may take to end a check whose time is over, before the connection is cut.
GRACE_SECONDS = 5.0

_HEADER = re.compile(r"--\s*(check|database)\s*:(.*)", re.IGNORECASE)
# A superuser, as the official image makes one, could do more than read.
_POSTGRES_READER = "SELECT 1 FROM pg_roles WHERE rolname = 'pg_read_all_data' AND pg_has_role(oid, 'MEMBER')"
# PL/pgSQL opens a cursor for one query only, whose text never stands beside another statement.
_POSTGRES_OPEN = """
    DO $$
    DECLARE found refcursor := 'pipectl_check';
    BEGIN
        OPEN found FOR EXECUTE current_setting('pipectl.check');
    END $$"""
_POSTGRES_CANCELLED = "57014"
# MySQL's and MariaDB's numbers for a statement, or a wait for a lock, that took too long.
_MYSQL_TIMED_OUT = {1205, 1969, 3024}
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
    rows: list[Sequence[object]] = field(default_factory=list)
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
    """Read the checks of a file, or of all .sql files in a folder. Raises SettingError."""
    # pathlib raises OSError for a name that is too long.
    files = sorted(path.rglob("*.sql")) if os.path.isdir(path) else [path]  # noqa: PTH112
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
    for key, example in (("check", "every payment has a customer"), ("database", POSTGRES)):
        if key not in draft.header:
            raise SettingError(f"{file}:{draft.line}: a line `-- {key}: {example}` is missing.")
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


def _fetch_postgres(cursor: PostgresCursor, query: str, end: float) -> _Answer:
    cursor.execute("SET TRANSACTION READ ONLY")
    cursor.execute(_POSTGRES_READER)
    if cursor.fetchall():
        cursor.execute("SET LOCAL ROLE pg_read_all_data")
    cursor.execute("SELECT set_config('pipectl.check', %s, true)", (query,))
    _limit_postgres(cursor, end)
    cursor.execute(_POSTGRES_OPEN)
    # The query itself may have set another limit by now, for the statements after it.
    _limit_postgres(cursor, end)
    cursor.execute(f"FETCH {MOST_SHOWN} FROM pipectl_check")
    answer = _Answer(
        tuple(column.name for column in cursor.description or ()),
        list(cursor.fetchall()) if cursor.description else [()] * cursor.rowcount,
        cursor.rowcount,
    )
    if answer.found == MOST_SHOWN:
        _limit_postgres(cursor, end)
        cursor.execute(f"MOVE {MOST_COUNTED - MOST_SHOWN + 1} FROM pipectl_check")
        answer.count(MOST_SHOWN + cursor.rowcount)
    return answer


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
            reason = _one_line(error.msg or error)
            line = re.search(r" at line (\d+)$", reason)
            raise _RefusedError(
                reason,
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
        # The server prepares one statement only, and says whether that returns rows: INTO OUTFILE does not.
        prepared = cast("Any", connection).cmd_stmt_prepare(query.encode())
        connection.cmd_stmt_close(prepared["statement_id"])
        if not prepared["num_columns"]:
            raise _RefusedError("It is no query that returns rows.")
        cursor.execute(query)
        answer = _Answer(tuple(str(column[0]) for column in cursor.description or ()))
        found = 0
        while found <= MOST_COUNTED and (row := cursor.fetchone()) is not None:
            found += 1
            if found <= MOST_SHOWN:
                answer.rows.append(cast("Sequence[object]", row))
        answer.count(found)
        # What is left of a longer answer is not read.
        connection.shutdown()
    return answer


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


def _shown(value: object) -> str | None:
    """Return a value as text, cut if it is long."""
    if value is None:
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).decode(errors="replace")
    text = json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
