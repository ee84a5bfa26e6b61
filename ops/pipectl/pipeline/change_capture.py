"""What Airbyte's two sources are set up with, and the replication slot that one of them reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipectl.errors import DatabaseError, DatabaseLockedError, UsageError
from pipectl.pipeline.consumers import slots_of
from pipectl.published import PUBLICATION, SLOT

if TYPE_CHECKING:
    from pipectl.databases import Databases
    from pipectl.models import CaptureCheck, DatabaseAddress, ReplicationLogin
    from pipectl.pipeline.consumers import Slot

SLOT_SECONDS = 10
MASK = "********"
# The scripts and Airbyte's MySQL source both mean UTC; "+00:00" is no name that the source would know.
TIME_ZONE = "UTC"

SLOT_STATE = """
    SELECT plugin, database, current_database() FROM pg_replication_slots WHERE slot_name = %s"""


@dataclass(frozen=True)
class TunnelMethod:
    """Whether Airbyte connects through SSH."""

    tunnel_method: str = "NO_TUNNEL"


@dataclass(frozen=True)
class SslMode:
    """Whether Airbyte encrypts the connection."""

    mode: str


@dataclass(frozen=True)
class PostgresReplication:
    """How Airbyte's PostgreSQL source reads changes."""

    method: str
    plugin: str
    replication_slot: str
    publication: str


@dataclass(frozen=True)
class MysqlReplication:
    """How Airbyte's MySQL source reads changes."""

    method: str
    server_timezone: str


@dataclass(frozen=True)
class PostgresSource:
    """The configuration of Airbyte's PostgreSQL source. The password may be a mask."""

    host: str
    port: int
    database: str
    schemas: tuple[str, ...]
    username: str
    password: str
    tunnel_method: TunnelMethod
    ssl_mode: SslMode
    replication_method: PostgresReplication


@dataclass(frozen=True)
class MysqlSource:
    """The configuration of Airbyte's MySQL source. The password may be a mask."""

    host: str
    port: int
    database: str
    username: str
    password: str
    tunnel_method: TunnelMethod
    ssl_mode: SslMode
    replication_method: MysqlReplication


@dataclass(frozen=True)
class Sources:
    """The configurations of Airbyte's two sources; `checks` only if they were asked for."""

    postgres: PostgresSource
    mysql: MysqlSource
    checks: tuple[CaptureCheck, ...] | None = field(default=None, metadata={"optional": True})


def source_configurations(
    postgres: DatabaseAddress, mysql: DatabaseAddress, login: ReplicationLogin, *, secrets: bool
) -> Sources:
    """The configuration of Airbyte's two sources in the form that its API and Terraform provider take.

    Passwords are masked unless `secrets`.
    Source: the specifications of source-postgres 3 and source-mysql 3.
    """
    password = login.password if secrets else MASK
    return Sources(
        PostgresSource(
            host=postgres.host,
            port=postgres.port,
            database=postgres.database,
            schemas=("public",),
            username=login.user,
            password=password,
            tunnel_method=TunnelMethod(),
            ssl_mode=SslMode("prefer"),
            replication_method=PostgresReplication("CDC", "pgoutput", SLOT, PUBLICATION),
        ),
        MysqlSource(
            host=mysql.host,
            port=mysql.port,
            database=mysql.database,
            username=login.user,
            password=password,
            tunnel_method=TunnelMethod(),
            ssl_mode=SslMode("preferred"),
            replication_method=MysqlReplication("CDC", TIME_ZONE),
        ),
    )


def create_slot(databases: Databases) -> Slot | None:
    """Make the replication slot that Airbyte's PostgreSQL source reads; return the one that there is already.

    From now on PostgreSQL keeps its log until Airbyte has read it, at most max_slot_wal_keep_size.
    Raises DatabaseError if it cannot be made, UsageError if it is lost, or another kind of slot has its name.
    """
    try:
        with databases.ask_postgres() as ask:
            slots = ask(SLOT_STATE, SLOT)
            if not slots:
                ask(f"SET LOCAL lock_timeout = '{SLOT_SECONDS}s'")
                ask("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", SLOT)
                return None
            [slot] = [slot for slot in slots_of(ask) if slot.name == SLOT]
    except DatabaseLockedError as error:
        raise DatabaseError(
            f"PostgreSQL made no slot in {SLOT_SECONDS} s: it waits for a transaction that is still open.",
            hint="Run the command again when nothing writes. Who does: SELECT * FROM pg_stat_activity",
        ) from error
    plugin, database, current = slots[0]
    if (plugin, database) != ("pgoutput", current):
        raise UsageError(
            f"The replication slot {SLOT!r} is not one of pgoutput for database {current!r}.",
            hint="If no other program reads it: pipectl connections --drop-slot, then --create-slot",
        )
    if slot.is_lost:
        raise UsageError(f"No slot was made: {slot.danger}.", hint=slot.rescue)
    return slot


def drop_slot(databases: Databases) -> bool:
    """Drop Airbyte's replication slot, so that PostgreSQL keeps no log for it; False if there is none.

    Raises DatabaseError if a client reads it.
    """
    with databases.ask_postgres() as ask:
        slots = ask(SLOT_STATE, SLOT)
        if slots:
            ask("SELECT pg_drop_replication_slot(%s)", SLOT)
        return bool(slots)
