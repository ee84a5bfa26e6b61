"""Print the connections that show under Admin > Connections, as JSON, from the variables of the scripts."""

from __future__ import annotations

import json
import os
import sys

KINDS = (
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


if __name__ == "__main__":
    sys.stdout.write(json.dumps(connections()))
