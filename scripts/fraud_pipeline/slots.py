"""Replication slots, whose readers lose changes if much is written before they have read it.

PostgreSQL keeps its log for a slot until its reader has confirmed it, at most max_slot_wal_keep_size. A
reader that is further behind has lost its slot, and begins again with a snapshot.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from fraud_pipeline.errors import SlotError

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg2.extensions import connection as PostgresConnection  # noqa: N812 -- a class named in lower case
    from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812

# Of PostgreSQL's log for each transaction with its ground truth and the rows that it is the first to name, of
# MySQL's binary log for each label. Measured on PostgreSQL 15 and MariaDB 10.11 in loads of 50,000 to
# 1,000,000: 330 to 361, and 43. A test holds them.
LOG_BYTES = 370
BINLOG_BYTES = 45
# For what others write meanwhile; the log is also kept and deleted in whole files of 16 MB.
RESERVE_BYTES = 64 << 20
LOOK_SECONDS = 1.0

# Without a bound, and once a slot is lost, safe_wal_size is NULL.
_SLOTS = """
    SELECT slot_name, safe_wal_size::bigint, active FROM pg_replication_slots
    WHERE safe_wal_size < %s AND NOT temporary ORDER BY slot_name"""
_BOUND = "SELECT setting::bigint * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'"
_LOST = "SELECT slot_name FROM pg_replication_slots WHERE wal_status = 'lost' ORDER BY slot_name"


class Slot(NamedTuple):
    """A slot that cannot hold what comes.

    `room` are the bytes that can be written before it may be lost; `active` says whether somebody reads it.
    """

    name: str
    room: int
    active: bool

    @property
    def description(self) -> str:
        """Its name, for a sentence."""
        return self.name if self.active else f"{self.name} (nobody reads it now)"


def log_bytes(transactions: int) -> int:
    """How much of PostgreSQL's log so many transactions take, with all that is written with them."""
    return transactions * LOG_BYTES


def short_slots(cursor: PostgresCursor, size: int) -> list[Slot]:
    """The slots that `size` bytes of log, and what others write meanwhile, would cut off."""
    cursor.execute(_SLOTS, (size + RESERVE_BYTES,))
    return [Slot(*row) for row in cursor.fetchall()]


def require_room(
    cursor: PostgresCursor, transactions: int, tell: Callable[[int, list[Slot]], None] | None = None
) -> None:
    """Raise SlotError if a slot cannot hold so many transactions; `tell` gets the bytes and the slots."""
    size = log_bytes(transactions)
    slots = short_slots(cursor, size) if transactions else []
    if not slots:
        return
    if tell:
        tell(size, slots)
    names = ", ".join(f"{slot.name} (room for {_size(slot.room)})" for slot in slots)
    raise SlotError(
        f"This writes {_size(size)} of PostgreSQL's log, more than these replication slots keep for their "
        f"readers: {names}. Wait for the readers (wait_for_slots), or drop the slots."
    )


def require_bound(cursor: PostgresCursor, transactions: int) -> None:
    """Raise SlotError if so many transactions are more than any slot may keep: a wait would have no end."""
    cursor.execute(_BOUND)
    bound = int((cursor.fetchone() or (0,))[0])
    needed = log_bytes(transactions) + RESERVE_BYTES
    if bound < needed:
        raise SlotError(
            f"max_slot_wal_keep_size is {_size(bound)}, and what is written at once needs {_size(needed)}: "
            "raise it, use fewer shards, or drop the slots."
        )


def wait_for_room(
    connection: PostgresConnection, transactions: int, tell: Callable[[list[Slot]], None] | None = None
) -> None:
    """Wait until every slot can hold so many transactions.

    `tell` is told whenever other slots hold it up, or a reader comes or goes. Raises SlotError as
    `require_bound` does.
    """
    size, told = log_bytes(transactions), None
    while True:
        with connection, connection.cursor() as cursor:
            slots = short_slots(cursor, size)
            if slots:
                require_bound(cursor, transactions)
        names = [slot.description for slot in slots]
        if tell and names != told:
            tell(slots)
            told = names
        if not slots:
            return
        time.sleep(LOOK_SECONDS)


def lost_slots(connection: PostgresConnection) -> list[str]:
    """The slots whose readers were too far behind: they get no more changes."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_LOST)
        return [str(row[0]) for row in cursor.fetchall()]


def _size(count: int) -> str:
    return f"{max(count, 0) / 1_000_000:,.1f} MB"
