"""Who reads the changes of the business databases, how far behind, and what the servers keep for them."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipectl.errors import DatabaseError, UsageError
from pipectl.names import size
from pipectl.published import SLOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipectl.databases import Databases

BOUND_PLACE = "among the server's options (stack/postgres/business.conf, then pipectl up)"
# What a deletion writes of PostgreSQL's log beside what names its row, and for each index the vacuum that
# follows. Measured on PostgreSQL 15: 42 and 21.5. A test holds them, and the next.
DELETE_BYTES = 44
VACUUM_BYTES = 22
# Of MySQL's binary log in all, with a label that is full of text.
LABEL_DELETE_BYTES = 45
# As the scripts have it: for what others write meanwhile.
RESERVE_BYTES = 64 << 20
# A slot that has less left of what it may keep is about to be lost.
LEAST_SHARE = 0.1
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
# Tables whose deletions somebody may read, with the size of their pages, their indexes, and what a deletion
# names a row by: a row whose columns are null but for those of the key.
DELETED_TABLES = """
    SELECT DISTINCT relation::text, pg_relation_size(relation),
           (SELECT count(*) FROM pg_index WHERE indrelid = relation),
           CASE relreplident WHEN 'f' THEN 'deleted' ELSE
               (SELECT format('ROW(%s)', string_agg(
                    CASE WHEN attnum = ANY (indkey) THEN format('deleted.%I', attname) ELSE 'NULL' END, ', '))
                FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum > 0 AND NOT attisdropped
                WHERE indrelid = relation
                  AND CASE relreplident WHEN 'i' THEN indisreplident ELSE indisprimary END) END
    FROM pg_publication_tables
    CROSS JOIN LATERAL (SELECT format('%I.%I', schemaname, tablename)::regclass AS relation) AS named
    JOIN pg_class AS c ON c.oid = relation"""
DELETED_ROWS = "SELECT count(*), coalesce(sum(pg_column_size({identity})), 0) FROM {table} AS deleted"
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
        again = "then --create-slot" if self.name == SLOT else "make it anew"
        return f"{self._drop}, {again}, then clear what its reader has copied."

    @property
    def _drop(self) -> str:
        if self.name == SLOT:
            return "pipectl connections --drop-slot"
        return f"SELECT pg_drop_replication_slot('{self.name}'), as who may replicate"

    @property
    def is_endangered(self) -> bool:
        """Whether it is about to be lost: what it may keep is used up, or almost."""
        is_scarce = (
            self.room_bytes is not None
            and self.limit_bytes is not None
            and self.room_bytes < LEAST_SHARE * self.limit_bytes
        )
        return not self.is_lost and (self.wal_status == "unreserved" or is_scarce)

    @property
    def danger(self) -> str:
        """What has happened to it, or soon will, for a sentence; empty if nothing has."""
        if self.is_lost:
            return f"{self.name} is lost: its reader was too far behind, and gets no more changes"
        if self.is_endangered:
            left = size(max(self.room_bytes or 0, 0))
            limit = f" of {size(self.limit_bytes)}" if self.limit_bytes else ""
            return f"{self.name} is about to be lost: its reader is too far behind, {left}{limit} are left"
        return ""

    @property
    def rescue(self) -> str:
        """What to do about its danger."""
        if self.is_lost:
            return f"To begin again: {self.remedy}"
        return f"Let its reader read now. If nobody reads it any more: {self._drop}"


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


def require_following(found: Consumers, databases: Databases) -> None:
    """Raise UsageError if the reader of a slot would not get all deletions of `reset --propagate`.

    A slot may be lost already, or too small for what the deletions write.
    """
    for slot in found.slots:
        if slot.is_lost:
            raise UsageError(
                f"The replication slot {slot.name} is lost, so its reader would get no deletion; "
                "nothing was deleted.",
                hint=f"First: {slot.remedy}",
            )
    bounded = {slot.name: slot.room_bytes for slot in found.slots if slot.room_bytes is not None}
    written = deletion_bytes(databases) if bounded else 0
    short = {name: room for name, room in bounded.items() if written and room < written + RESERVE_BYTES}
    if not short:
        return
    needed = max((slot.lag_bytes or 0) for slot in found.slots if slot.name in short)
    megabytes = math.ceil((needed + written + RESERVE_BYTES) / (1 << 20))
    raise UsageError(
        f"The deletions write {too_much_for(short, written)} Nothing was deleted.",
        hint="Let what is behind be read, then run the command again: pipectl status\n"
        f"Or keep more for it: max_slot_wal_keep_size = {megabytes}MB {BOUND_PLACE}.\n"
        "Or delete without --propagate, and clear what the reader has copied.",
    )


def too_much_for(rooms: dict[str, int], written: int) -> str:
    """Say that slots cannot hold what is `written`, `rooms` being the bytes that each has left."""
    named = " and ".join(f"{name} ({size(max(room, 0))} left)" for name, room in rooms.items())
    many = len(rooms) > 1
    return (
        f"{size(written)} of PostgreSQL's log, more than it keeps for the replication slot{'s' * many} "
        f"{named}: {'their readers' if many else 'its reader'} would lose changes."
    )


def deletion_bytes(databases: Databases) -> int:
    """How much of PostgreSQL's log is written if all rows are deleted of the tables that somebody may read.

    Each deletion names its row: by its key, or whole with REPLICA IDENTITY FULL. Each page is written whole
    when it is changed first after a checkpoint, and a vacuum follows. Raises DatabaseError.
    """
    with databases.ask_postgres() as ask:
        written = 0
        for table, pages, indexes, identity in ask(DELETED_TABLES):
            [(rows, identities)] = ask(DELETED_ROWS.format(table=table, identity=identity or "NULL"))
            written += rows * (DELETE_BYTES + indexes * VACUUM_BYTES) + identities + pages
        return int(written)


def slots(databases: Databases) -> tuple[Slot, ...]:
    """Every replication slot of the PostgreSQL server. Raises DatabaseError."""
    with databases.ask_postgres() as ask:
        return slots_of(ask)


def slots_of(ask: Callable[..., list[tuple[Any, ...]]]) -> tuple[Slot, ...]:
    """Every replication slot, by a question that is open."""
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


def binlog_loss(databases: Databases) -> str:
    """Say that deleting all labels writes more of the binary log than MySQL keeps; empty if it does not."""
    log = binary_log(databases)
    if not log or not log.limit_bytes:
        return ""
    rows = sum(count for count, _ in databases.row_counts(databases.mysql.service).values())
    written = rows * LABEL_DELETE_BYTES
    return too_much_binlog("deletions", written, log.limit_bytes) if written > log.limit_bytes else ""


def too_much_binlog(what: str, written: int, limit: int) -> str:
    """Say who loses changes by what is written."""
    return (
        f"The {what} write {size(written)} of binary log, of which MySQL keeps {size(limit)}: "
        "a reader that is not connected meanwhile loses changes"
    )


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
