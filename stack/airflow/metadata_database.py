"""Airflow's metadata database: its migrations, without importing Airflow, which takes seconds.

`metadata_database.py head` prints the newest migration that the installed Airflow has; `… wait` returns when
the database has reached it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from pathlib import Path

WAIT_SECONDS = 180
POLL_SECONDS = 0.1
REVISION = re.compile(r"""^(down_revision|revision)(?:\s*:[^=]+)?\s*=\s*['"](\w+)['"]""", re.MULTILINE)


class WrongPasswordError(Exception):
    """The server refused the login: its data was made with another password."""


def head() -> str:
    """Return the migration that no other one follows."""
    spec = importlib.util.find_spec("airflow")
    if spec is None or spec.origin is None:
        sys.exit("entrypoint: this image has no Airflow")
    found: dict[str, set[str]] = {"revision": set(), "down_revision": set()}
    for path in (Path(spec.origin).parent / "migrations" / "versions").glob("*.py"):
        for kind, identifier in REVISION.findall(path.read_text(encoding="utf-8")):
            found[kind].add(identifier)
    heads = found["revision"] - found["down_revision"]
    return heads.pop() if len(heads) == 1 else ""


def current() -> str | None:
    """Return the database's migration, empty where it has none, None while the server does not answer."""
    import psycopg2

    address = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2:", ":", 1)
    try:
        connection = psycopg2.connect(address, connect_timeout=5)
    except psycopg2.OperationalError as error:
        if "password authentication failed" in str(error):
            raise WrongPasswordError from error
        return None
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('alembic_version') IS NOT NULL")
            if not (cursor.fetchone() or (False,))[0]:
                return ""
            cursor.execute("SELECT version_num FROM alembic_version")
            return str((cursor.fetchone() or ("",))[0])
    finally:
        connection.close()


def wait(expected: str) -> None:
    """Return when the database has the migration `expected`, whatever it is where that is empty."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        found = current()
        if found is not None and expected in {"", found}:
            return
        if time.monotonic() > deadline:
            state = "does not answer" if found is None else f"has migration {found or 'none'}, not {expected}"
            sys.exit(f"entrypoint: after {WAIT_SECONDS} s the metadata database {state}")
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    if sys.argv[1:] == ["head"]:
        sys.stdout.write(head())
    else:
        wait(head())
