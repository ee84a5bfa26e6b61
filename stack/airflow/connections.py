"""The connections that show under Admin > Connections, from the variables that the scripts read."""

from __future__ import annotations

import importlib
import json
import os

KINDS: tuple[tuple[str, str, int, dict[str, str]], ...] = (
    ("AIRBYTE_POSTGRES", "postgres", 5432, {}),
    ("AIRBYTE_MYSQL", "mysql", 3306, {"client": "mysql-connector-python"}),
)


def connections() -> list[dict[str, object]]:
    """Return one entry per business database, with the columns of Airflow's table as keys."""
    return [
        {
            "conn_id": prefix.lower(),
            "conn_type": kind,
            "host": os.environ[f"{prefix}_HOST"],
            "port": int(os.environ.get(f"{prefix}_PORT") or default_port),
            "schema": os.environ[f"{prefix}_DATABASE"],
            "login": os.environ[f"{prefix}_USER"],
            "password": os.environ[f"{prefix}_PASSWORD"],
            "extra": json.dumps(extra) if extra else None,
            "description": "Written by the stack at every start.",
        }
        for prefix, kind, default_port, extra in KINDS
    ]


def write() -> None:
    """Write them into the metadata database, over what stands there under their names."""
    connection_class = importlib.import_module("airflow.models.connection").Connection
    select = importlib.import_module("sqlalchemy").select
    with importlib.import_module("airflow.utils.session").create_session() as session:
        for values in connections():
            query = select(connection_class).where(connection_class.conn_id == values["conn_id"])
            connection = session.scalars(query).one_or_none()
            if connection is None:
                connection = connection_class(conn_id=values["conn_id"])
                session.add(connection)
            for name, value in values.items():
                setattr(connection, name, value)
