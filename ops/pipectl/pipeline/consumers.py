"""Who reads the changes of the business databases, how far behind, and what the servers keep for them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipectl.errors import DatabaseError, UsageError
from pipectl.published import SLOT

if TYPE_CHECKING:
    from pipectl.databases import Databases

# Of the binary log, if the server has no bound in bytes of its own: stack/mysql/server.cnf names the same.
BINLOG_LIMIT_BYTES = 4 << 30

SLOTS = """
    SELECT slot_name, active, wal_status,
           pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                ELSE pg_current_wal_lsn() END, restart_lsn)::bigint,
           safe_wal_size::bigint,
           (SELECT nullif(setting::bigint, -1) * 1048576 FROM pg_settings
            WHERE name = 'max_slot_wal_keep_size')
    FROM pg_replication_slots WHERE NOT temporary ORDER BY slot_name"""
BINLOG_BOUND = "SHOW GLOBAL VARIABLES LIKE 'max_binlog_total_size'"
# An account sees its own sessions, and those of others only with a right that neither of ours has.
BINLOG_READERS = """
    SELECT user, host, time FROM information_schema.processlist
    WHERE command IN ('Binlog Dump', 'Binlog Dump GTID') ORDER BY id"""


@dataclass(frozen=True)
class Slot:
    """A replication slot: the log that PostgreSQL keeps for it now, and at most.

    `wal_status` is PostgreSQL's word. A slot that is lost keeps nothing (`lag_bytes` is None), and its reader
    gets no more changes. `limit_bytes` is None if there is no limit, `room_bytes`, what can be written before
    the slot may be lost, also if it is lost.
    """

    name: str
    active: bool
    wal_status: str
    lag_bytes: int | None
    limit_bytes: int | None
    room_bytes: int | None

    @property
    def is_lost(self) -> bool:
        """Whether the reader must begin again with a snapshot."""
        return self.wal_status == "lost"

    @property
    def remedy(self) -> str:
        """What to type so that a lost slot's reader gets changes again."""
        drop = (
            "pipectl connections --drop-slot, then --create-slot"
            if self.name == SLOT
            else f"SELECT pg_drop_replication_slot('{self.name}'), as who may replicate; make it anew"
        )
        return f"{drop}, then clear what its reader has copied."


@dataclass(frozen=True)
class BinaryLog:
    """The size of MySQL's binary log, and the bound that the server keeps, None if it knows only days."""

    bytes: int
    limit_bytes: int | None


@dataclass(frozen=True)
class BinlogReader:
    """A session that reads MySQL's binary log, and since when, in seconds."""

    user: str
    host: str
    seconds: int


@dataclass(frozen=True)
class Consumers:
    """Who is known to read changes: slots of PostgreSQL, sessions of MySQL.

    A reader of MySQL that is not connected is known to nobody but itself.
    """

    slots: tuple[Slot, ...] = ()
    binlog_readers: tuple[BinlogReader, ...] = ()

    @property
    def names(self) -> str:
        """All of them, for a sentence."""
        names = [f"replication slot {slot.name}" for slot in self.slots]
        names += [
            f"{reader.user} from {reader.host}, who reads the binary log" for reader in self.binlog_readers
        ]
        return "; ".join(names)


def require_following(found: Consumers) -> None:
    """Raise UsageError if a slot is lost: its reader would get no deletion."""
    for slot in found.slots:
        if slot.is_lost:
            raise UsageError(
                f"The replication slot {slot.name} is lost, so its reader would get no deletion; "
                "nothing was deleted.",
                hint=f"First: {slot.remedy}",
            )


def slots(databases: Databases) -> tuple[Slot, ...]:
    """Every replication slot of the PostgreSQL server. Raises DatabaseError."""
    with databases.ask_postgres() as ask:
        return tuple(
            Slot(name, active, wal_status, lag, limit, room)
            for name, active, wal_status, lag, room, limit in ask(SLOTS)
        )


def drop_slots(databases: Databases, names: tuple[str, ...]) -> None:
    """Drop replication slots, so that PostgreSQL keeps no log for them.

    Raises DatabaseError if one is being read, or the account may not.
    """
    with databases.ask_postgres() as ask:
        for name in names:
            ask("SELECT pg_drop_replication_slot(%s)", name)


def binary_log(databases: Databases) -> BinaryLog | None:
    """The size of the binary log; None if there is none, or the account may not ask."""
    with suppress(DatabaseError), databases.ask_mysql() as ask:
        size = sum(int(row[1]) for row in ask("SHOW BINARY LOGS"))
        bounds = [int(value) for _, value in ask(BINLOG_BOUND)]
        return BinaryLog(size, next((bound for bound in bounds if bound), None))
    return None


def consumers(*logins: Databases) -> Consumers:
    """Who reads changes, as far as these accounts may see; a database that does not answer has none."""
    found: tuple[Slot, ...] = ()
    readers: dict[BinlogReader, None] = {}
    for databases in logins:
        if not found:
            with suppress(DatabaseError):
                found = slots(databases)
        with suppress(DatabaseError), databases.ask_mysql() as ask:
            for user, host, seconds in ask(BINLOG_READERS):
                readers[BinlogReader(str(user), str(host), int(seconds))] = None
    return Consumers(found, tuple(readers))
