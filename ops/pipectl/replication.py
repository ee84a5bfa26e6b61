"""Change streams of the two business databases, opened as Airbyte opens them.

Beside `databases`, the only module that imports psycopg2, and the only one that imports pymysqlreplication.
"""

from __future__ import annotations

import logging
import re
import secrets
import select
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from pipectl.database_connections import mysql_encryption, postgres_login
from pipectl.database_errors import CONNECT_SECONDS
from pipectl.errors import DatabaseError

if TYPE_CHECKING:
    from pipectl.models import DatabaseAddress

# How long a new slot may wait for transactions that are open: it starts when none is.
SLOT_SECONDS = 10
STREAM_SECONDS = 10
# Replicas are told apart by their ids, and a second one with the same id throws the first one out.
LOWEST_SERVER_ID = 2**31


def round_trip(address: DatabaseAddress, publication: str) -> float:
    """Write a message into PostgreSQL's log, read it back through pgoutput, and return the seconds between.

    The message touches no table, and the slot is gone when the connection ends. Raises DatabaseError if
    the account may not replicate, the publication is missing, or nothing comes within STREAM_SECONDS.
    """
    import psycopg2  # 35 ms
    from psycopg2 import errors
    from psycopg2.extras import LogicalReplicationConnection

    login = postgres_login(address)
    token = f"pipectl_{secrets.token_hex(8)}"
    try:
        with (
            closing(psycopg2.connect(**login, connection_factory=LogicalReplicationConnection)) as stream,
            closing(psycopg2.connect(**login)) as writer,
            stream.cursor() as reader,
            writer,
            writer.cursor() as cursor,
        ):
            reader.execute(f"SET lock_timeout = '{SLOT_SECONDS}s'")
            reader.execute(f"CREATE_REPLICATION_SLOT {token} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")
            since = time.monotonic()
            cursor.execute("SELECT pg_logical_emit_message(true, %s, '')", (token,))
            writer.commit()
            reader.start_replication(
                slot_name=token,
                decode=False,
                options={"proto_version": "1", "publication_names": publication, "messages": "true"},
            )
            _await_message(reader, token.encode(), since + STREAM_SECONDS)
            return time.monotonic() - since
    except errors.LockNotAvailable as error:
        raise DatabaseError(
            f"PostgreSQL made no slot in {SLOT_SECONDS} s: it waits for a transaction that is still open."
        ) from error
    except psycopg2.Error as error:
        raise DatabaseError(f"PostgreSQL gave no stream of changes: {_one_line(error)}") from error


def open_binlog(address: DatabaseAddress) -> str:
    """Read MySQL's binary log as a replica does, and return the name of its newest file.

    Raises DatabaseError if the account may not replicate or the log is not written.
    """
    import pymysql  # with pymysqlreplication 150 ms
    from pymysqlreplication import BinLogStreamReader

    # It advises on column names in the log, which Airbyte takes from the schema.
    logging.getLogger("pymysqlreplication").setLevel(logging.ERROR)
    stream = BinLogStreamReader(
        {
            "host": address.host,
            "port": address.port,
            "user": address.user,
            "password": address.password,
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": STREAM_SECONDS,
            **mysql_encryption(address),
        },
        server_id=LOWEST_SERVER_ID + secrets.randbelow(LOWEST_SERVER_ID),
        filter_non_implemented_events=False,
        enable_logging=False,
    )
    try:
        with closing(stream):
            if stream.fetchone() is None:
                raise DatabaseError("MySQL gave no stream of changes: its binary log is empty.")
            return str(stream.log_file)
    except (pymysql.Error, OSError, RuntimeError) as error:
        raise DatabaseError(f"MySQL gave no stream of changes: {_one_line(error)}") from error


def _await_message(reader: Any, token: bytes, deadline: float) -> None:  # noqa: ANN401  untyped driver
    while True:
        message = reader.read_message()
        if message is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DatabaseError(f"PostgreSQL's stream of changes stayed silent for {STREAM_SECONDS} s.")
            select.select([reader], [], [], left)
        elif message.payload[:1] == b"M" and token in message.payload:
            return


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()
