"""The connections that show under Admin > Connections, from the variables of the scripts.

`connections.py` prints them as JSON for the launcher, which writes them when it has Airflow imported anyway;
`connections.py write` does so by itself, in seconds, where the launcher is not mounted.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile

KINDS: tuple[tuple[str, str, str, int, dict[str, str]], ...] = (
    ("AIRBYTE_POSTGRES", "airbyte_postgres", "postgres", 5432, {}),
    ("AIRBYTE_MYSQL", "airbyte_mysql", "mysql", 3306, {"client": "mysql-connector-python"}),
)


def connections() -> list[dict[str, object]]:
    """Return one entry per business database."""
    found: list[dict[str, object]] = []
    for prefix, name, kind, port, extra in KINDS:
        written = os.environ.get(f"{prefix}_PORT", "")
        found.append(
            {
                "conn_id": name,
                "conn_type": kind,
                "host": os.environ[f"{prefix}_HOST"],
                "port": int(written) if written.isdigit() else port,
                "schema": os.environ[f"{prefix}_DATABASE"],
                "login": os.environ[f"{prefix}_USER"],
                "password": os.environ[f"{prefix}_PASSWORD"],
                "extra": json.dumps(extra) if extra else None,
                "description": "Written by the stack at every start.",
            }
        )
    return found


def write() -> None:
    """Let Airflow's own command write them, in this process, which also ends it."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump({str(each.pop("conn_id")): each for each in connections()}, file)
        file.flush()
        sys.argv = ["airflow", "connections", "import", "--overwrite", file.name]
        importlib.import_module("airflow.__main__").main()


if __name__ == "__main__":
    if sys.argv[1:] == ["write"]:
        write()
    else:
        sys.stdout.write(json.dumps(connections()))
