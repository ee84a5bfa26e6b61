"""The one-shot role: migrate the metadata database if it needs it, and make the administrator's login.

An up-to-date database costs 0.2 s, since Airflow is not imported; a new one 0.5 s if there is a template.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import Any

import login
import metadata_database


def main() -> None:
    """Migrate the database and make the login, unless both are done."""
    # Imports make millions of objects, none of them garbage.
    gc.disable()
    expected = metadata_database.head()
    try:
        migration = metadata_database.current()
    except metadata_database.NoAnswerError:
        if not metadata_database.TEMPLATE.exists():
            # The server is still starting: import meanwhile.
            importlib.import_module("airflow.cli.commands.db_command")
        metadata_database.wait("")
        migration = metadata_database.current()
    if not migration and expected and filled_from_template(expected):
        migration = expected
    if not expected or migration != expected:
        # It imports for seconds within a transaction, a minute on a slow machine.
        os.environ |= metadata_database.LONG_TRANSACTIONS
        airflow("db", "migrate")
    if "fab" in os.environ["AIRFLOW__CORE__AUTH_MANAGER"].lower():
        make_fab_login()
    sys.stdout.write(f"pipectl: the metadata database is at migration {expected or 'head'}\n")


def filled_from_template(expected: str) -> bool:
    """Fill the empty database as a migration would, 0.3 s; False if that has to be done by one."""
    try:
        statements = metadata_database.TEMPLATE.read_text(encoding="utf-8")
        return metadata_database.fill(statements, expected)
    except FileNotFoundError:
        return False
    except Exception as error:  # noqa: BLE001  whatever it is, a migration does without
        sys.stderr.write(f"pipectl: migrating, since the template could not be used: {error}\n")
        return False


def make_fab_login() -> None:
    """Make the user, or give the existing one the password of the environment."""
    user, password = login.administrator()
    account = ("--username", user, "--password", password)
    airflow("users", "create", "--role", "Admin", "--email", f"{user}@localhost", "--firstname", user,
            "--lastname", "admin", *account)  # fmt: skip
    airflow("users", "reset-password", *account)


def airflow(*arguments: str) -> None:
    """Run a command of Airflow in this process, so that no password is seen in the list of processes."""
    command: Any = importlib.import_module("airflow.__main__")
    sys.argv = ["airflow", *arguments]
    try:
        command.main()
    except SystemExit as end:
        if end.code not in {None, 0}:
            raise


if __name__ == "__main__":
    try:
        main()
    except metadata_database.WrongPasswordError as error:
        sys.exit(f"pipectl: {error}")
    # Others wait for the end of this process, and taking all of Airflow down in good order takes a second.
    sys.stdout.flush()
    os._exit(0)
