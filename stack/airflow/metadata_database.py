"""Airflow's metadata database and its migrations, without importing Airflow, which takes seconds.

`metadata_database.py head` prints the newest migration of the installed Airflow, `metadata_database.py wait`
returns when the database has it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812  a class named in lower case

WAIT_SECONDS = 180
POLL_SECONDS = 0.05
TELL_SECONDS = 10
CONNECT_SECONDS = 5
# The statements of an empty database that another project's start has migrated; pipectl puts them there.
TEMPLATE = Path("/tmp/pipectl-metadata.sql")  # noqa: S108  in a container of its own
TEMPLATE_END = "-- pipectl: the end"
# For libpq: connections that the server may not end because they idle in a transaction, see metadata.conf.
LONG_TRANSACTIONS = {"PGOPTIONS": "-c idle_in_transaction_session_timeout=0"}
REVISION = re.compile(r"""^(down_revision|revision)(?:\s*:[^=]+)?\s*=\s*['"](\w+)['"]""", re.MULTILINE)


class NoAnswerError(Exception):
    """The server cannot be asked, for example because it is still starting."""


class WrongPasswordError(Exception):
    """The server refused the login: its data was made with another password."""

    def __str__(self) -> str:
        return (
            "the metadata database refused AIRFLOW_POSTGRES_PASSWORD of stack/.env: "
            "its data was made with another one"
        )


def head() -> str:
    """Return the migration that no other one follows, empty if there is not exactly one."""
    spec = importlib.util.find_spec("airflow")
    if spec is None or spec.origin is None:
        sys.exit("pipectl: this Python has no Airflow")
    identifiers: dict[str, set[str]] = {"revision": set(), "down_revision": set()}
    for path in (Path(spec.origin).parent / "migrations" / "versions").glob("*.py"):
        for kind, identifier in REVISION.findall(path.read_text(encoding="utf-8")):
            identifiers[kind].add(identifier)
    heads = identifiers["revision"] - identifiers["down_revision"]
    return heads.pop() if len(heads) == 1 else ""


def connect() -> Connection:
    """Connect to the database. Raises psycopg2.Error."""
    import psycopg2

    address = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2:", ":", 1)
    return psycopg2.connect(address, connect_timeout=CONNECT_SECONDS)


def current() -> str:
    """Return the database's migration, empty if it has none. Raises NoAnswerError, WrongPasswordError."""
    import psycopg2

    try:
        connection = connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT to_regclass('alembic_version') IS NOT NULL")
                if not (cursor.fetchone() or (False,))[0]:
                    return ""
                cursor.execute("SELECT version_num FROM alembic_version")
                return str((cursor.fetchone() or ("",))[0])
        finally:
            connection.close()
    except psycopg2.Error as error:
        if "password authentication failed" in str(error):
            raise WrongPasswordError from error
        raise NoAnswerError(str(error).strip()) from error


def fill(statements: str, expected: str) -> bool:
    """Run a template's statements in an empty database, all or none; return whether it is at `expected` now.

    Raises psycopg2.Error.
    """
    connection = connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
            if cursor.fetchone() != (0,) or not statements.rstrip().endswith(TEMPLATE_END):
                return False
            cursor.execute(statements)
            cursor.execute("SELECT version_num FROM public.alembic_version")
            if cursor.fetchall() != [(expected,)]:
                return False
        connection.commit()
    finally:
        # Nothing that was not committed stays.
        connection.close()
    return True


def answers() -> bool:
    """Whether the server lets in whoever knows the password."""
    try:
        current()
    except (NoAnswerError, WrongPasswordError):
        return False
    return True


def wait(expected: str) -> None:
    """Return when the database answers with the migration `expected`; with any, or none, if that is empty.

    Exits with 1 after WAIT_SECONDS. Raises WrongPasswordError.
    """
    started = told = time.monotonic()
    while True:
        try:
            migration = current()
            if expected in {"", migration}:
                return
            state = f"has migration {migration or 'none'} instead of {expected}"
        except NoAnswerError as error:
            state = f"does not answer: {error}"
        now = time.monotonic()
        if now - started > WAIT_SECONDS:
            sys.exit(f"pipectl: after {WAIT_SECONDS} s the metadata database still {state}")
        if now - told > TELL_SECONDS:
            told = now
            sys.stderr.write(f"pipectl: waiting, since the metadata database {state}\n")
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    if sys.argv[1:] == ["head"]:
        sys.stdout.write(head())
    else:
        try:
            wait(head())
        except WrongPasswordError as error:
            sys.exit(f"pipectl: {error}")
