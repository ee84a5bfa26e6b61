"""Whether both databases give Airbyte their changes: tried with its account, up to opening the streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipectl import published, replication
from pipectl.databases import Databases
from pipectl.errors import DatabaseError, LoginError
from pipectl.models import CaptureCheck, ReplicationLogin
from pipectl.names import counted, size
from pipectl.pipeline import consumers
from pipectl.pipeline.change_capture import SLOT_STATE
from pipectl.published import LABELS, PUBLICATION, SLOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipectl.databases import Ask
    from pipectl.models import DatabaseAddress

# Airbyte's advice; a sync that pauses for longer starts again from a snapshot.
BINLOG_DAYS = 7
DAY_SECONDS = 86400
# Its troubleshooting of MySQL sources: below these, a consumer whose destination is slow meets the log's end.
TIMEOUTS = {"net_write_timeout": 3600, "replica_net_timeout": 120}
NEW_ACCOUNT = (
    f"If it has another password, set {ReplicationLogin.password_variable} in stack/.env to that. "
    "It is made with new data: pipectl reset. On a server of your own, run stack/{}/replication-account.sql."
)
LATER = "Remove what the lines above name, then check again."

POSTGRES_STATE = """
    SELECT current_setting('server_version'), current_setting('wal_level'),
           current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots),
           current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication),
           (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user)"""
REPLICA_IDENTITIES = {"d": "default", "f": "full", "i": "by an index", "n": "none"}

MYSQL_STATE = """
    SELECT @@log_bin, @@binlog_format, @@binlog_row_image, @@server_id,
           @@binlog_expire_logs_seconds, TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())"""
# How connectors ask where the log ends: MySQL 8.4 knows the second alone, MariaDB the first.
OLD_STATUS, NEW_STATUS = "SHOW MASTER STATUS", "SHOW BINARY LOG STATUS"
NEW_STATUS_SINCE = (8, 4)
# MariaDB, and MySQL before 8.0.26, call a replica a slave.
MYSQL_TIMEOUTS = """
    SHOW GLOBAL VARIABLES
    WHERE variable_name IN ('net_write_timeout', 'replica_net_timeout', 'slave_net_timeout')"""
# What MySQL calls a right, and what MariaDB does.
MYSQL_RIGHTS = (
    ("SELECT",),
    ("REPLICATION SLAVE", "REPLICATION REPLICA"),
    ("REPLICATION CLIENT", "BINLOG MONITOR"),
)


def check(
    postgres: DatabaseAddress, mysql: DatabaseAddress, login: ReplicationLogin
) -> tuple[CaptureCheck, ...]:
    """Try what Airbyte needs, one by one. Raises DatabaseError if a database does not answer."""
    databases = Databases(login.at(postgres), login.at(mysql))
    return (*_check_postgres(databases), *_check_mysql(databases))


def server_checks(databases: Databases, database: str) -> Iterator[CaptureCheck]:
    """Look at what a server is set to, for `postgres` or `mysql`, and change nothing; DatabaseError."""
    if database == "postgres":
        with databases.ask_postgres() as ask:
            yield from _postgres_server(ask, databases.postgres.user)
        return
    with databases.ask_mysql() as ask:
        yield _mysql_account(ask, databases.mysql.user)
        yield from _mysql_server(ask)


def _check_postgres(databases: Databases) -> Iterator[CaptureCheck]:
    address = databases.postgres
    try:
        with databases.ask_postgres() as ask:
            yield from _postgres_server(ask, address.user)
            yield from _postgres_tables(ask)
            yield _postgres_slot(ask)
    except LoginError:
        yield CaptureCheck(
            "postgres", "login", False, f"{address.user} was refused", NEW_ACCOUNT.format("postgres")
        )
    else:
        yield _stream("postgres", lambda: _round_trip(address))


def _postgres_server(ask: Ask, user: str) -> Iterator[CaptureCheck]:
    [(version, wal_level, free_slots, free_senders, may_replicate)] = ask(POSTGRES_STATE)
    yield CaptureCheck(
        "postgres",
        "login",
        bool(may_replicate),
        f"{user}, {'may' if may_replicate else 'may not'} replicate",
        f"As a superuser: ALTER ROLE {user} REPLICATION",
    )
    yield CaptureCheck(
        "postgres",
        "write-ahead log",
        wal_level == "logical",
        f"wal_level {wal_level}, PostgreSQL {version.split()[0]}",
        "Set wal_level = logical and start PostgreSQL again.",
    )
    yield CaptureCheck(
        "postgres",
        "room for a reader",
        free_slots > 0 and free_senders > 0,
        f"{counted(free_slots, 'slot')} and {counted(free_senders, 'sender')} free",
        "Drop slots that nobody reads, or raise max_replication_slots and max_wal_senders.",
    )


def _postgres_tables(ask: Ask) -> Iterator[CaptureCheck]:
    tables = ask(published.TABLES_CAPTURE)
    if missing := [name for name, exists, *_ in tables if not exists]:
        found = f"no {' and no '.join(missing)} yet"
        yield CaptureCheck("postgres", "table", False, found, "Run the pipeline once: pipectl trigger")
        return
    for name, _, readable, writable, keyed, identity in tables:
        yield CaptureCheck(
            "postgres",
            "table",
            readable and keyed and identity != "n",
            f"{name}, {_rights(readable=readable, writable=writable)}, "
            f"{'a' if keyed else 'no'} primary key, replica identity {REPLICA_IDENTITIES[identity]}",
            "It needs GRANT SELECT, a primary key and REPLICA IDENTITY DEFAULT.",
        )
    rows = ask(published.PUBLISHES_TABLES)
    has_all_changes, lacking = rows[0] if rows else (False, [])
    state = (
        f"lacks {' and '.join(lacking)}"
        if lacking
        else "covers them"
        if has_all_changes
        else "lacks inserts, updates or deletions"
        if rows
        else "does not exist"
    )
    yield CaptureCheck(
        "postgres",
        "publication",
        has_all_changes and not lacking,
        f"{PUBLICATION} {state}",
        "The next run makes it: pipectl trigger",
    )


def _postgres_slot(ask: Ask) -> CaptureCheck:
    slots = ask(SLOT_STATE, SLOT)
    remedy = "Make it: pipectl connections --create-slot"
    if not slots:
        return CaptureCheck("postgres", "replication slot", False, f"no {SLOT}", remedy)
    plugin, database, own = slots[0]
    [slot] = [slot for slot in consumers.slots_of(ask) if slot.name == SLOT]
    if slot.danger:
        return CaptureCheck("postgres", "replication slot", False, slot.danger, slot.rescue)
    return CaptureCheck(
        "postgres",
        "replication slot",
        (plugin, database) == ("pgoutput", own),
        f"{SLOT}, {plugin}, database {database}, {'being read' if slot.active else 'not being read'}, "
        f"keeps {size(slot.lag_bytes or 0)} of log",
        "If no other program reads it: pipectl connections --drop-slot, then --create-slot",
    )


def _check_mysql(databases: Databases) -> Iterator[CaptureCheck]:
    address = databases.mysql
    try:
        with databases.ask_mysql() as ask:
            [(version,)] = ask("SELECT VERSION()")
            yield _mysql_account(ask, address.user)
            known = tuple(words for words in (OLD_STATUS, NEW_STATUS) if _answers(databases, words))
            yield connectors_check(str(version), known)
            yield from _mysql_server(ask)
            yield _mysql_table(ask)
    except LoginError:
        yield CaptureCheck(
            "mysql", "login", False, f"{address.user} was refused", NEW_ACCOUNT.format("mysql")
        )
    else:
        yield _stream("mysql", lambda: f"reads {replication.open_binlog(address)} as a replica")


def _answers(databases: Databases, statement: str) -> bool:
    try:
        with databases.ask_mysql() as ask:
            return bool(ask(statement))
    except DatabaseError:
        return False


def connectors_check(version: str, known: tuple[str, ...]) -> CaptureCheck:
    """Say which connectors ask for the log's position by a statement that the server answers: `known`.

    Debezium 3.4, which Airbyte's sources carry, asks either way. 3.6 does so only below version 8.4, and a
    MariaDB's version is above it. Source: both connectors, run and read.
    """
    number = version.partition("-")[0]
    name = f"{'MariaDB' if 'MariaDB' in version else 'MySQL'} {number}"
    remedy = ""
    if not known:
        readers, remedy = "no connector reads it", "Switch the binary log on, and grant REPLICATION CLIENT."
    elif NEW_STATUS in known or tuple(map(int, number.split(".")[:2])) < NEW_STATUS_SINCE:
        readers = "connectors of Debezium 3.4 and 3.6 read it"
    else:
        readers = (
            "connectors of Debezium 3.4 (Airbyte's) read it, those of 3.6 refuse it. Before such an upgrade "
            "take MySQL: PIPECTL_MYSQL_BIN, or the docker engine"
        )
    found = f"{name} answers {' and '.join(known) or 'neither statement of theirs'}: {readers}"
    return CaptureCheck("mysql", "connectors", bool(known), found, remedy)


def _mysql_account(ask: Ask, user: str) -> CaptureCheck:
    grants = " ".join(str(row[0]) for row in ask("SHOW GRANTS"))
    missing = [names[0] for names in MYSQL_RIGHTS if not any(name in grants for name in names)]
    if "ALL PRIVILEGES ON *.*" in grants:
        missing = []
    return CaptureCheck(
        "mysql",
        "login",
        not missing,
        f"{user}, lacks {', '.join(missing)}" if missing else f"{user}, may replicate",
        f"As root: GRANT {', '.join(missing)} ON *.* TO '{user}'@'%'",
    )


def _mysql_server(ask: Ask) -> Iterator[CaptureCheck]:
    [(log_bin, log_format, row_image, server_id, expire, offset)] = ask(MYSQL_STATE)
    log = f"{'on' if log_bin else 'off'}, format {log_format}, row image {row_image}, server id {server_id}"
    yield CaptureCheck(
        "mysql",
        "binary log",
        bool(log_bin) and (log_format, row_image) == ("ROW", "FULL") and server_id > 0,
        log,
        "Set log_bin, binlog_format = ROW, binlog_row_image = FULL and server_id, and start MySQL again.",
    )
    yield CaptureCheck(
        "mysql",
        "log kept",
        expire == 0 or expire >= BINLOG_DAYS * DAY_SECONDS,
        _kept(expire),
        f"Set binlog_expire_logs_seconds to {BINLOG_DAYS * DAY_SECONDS} or more.",
    )
    timeouts = {
        str(name).replace("slave", "replica"): (name, int(seconds))
        for name, seconds in sorted(ask(MYSQL_TIMEOUTS), reverse=True)
    }
    yield CaptureCheck(
        "mysql",
        "time-outs",
        all(timeouts[name][1] >= least for name, least in TIMEOUTS.items()),
        ", ".join(f"{name} {seconds} s" for name, seconds in timeouts.values()),
        "Set " + " and ".join(f"{timeouts[name][0]} to {least}" for name, least in TIMEOUTS.items()) + ".",
    )
    yield CaptureCheck(
        "mysql",
        "time zone",
        offset == 0,
        "UTC" if offset == 0 else f"{offset / 3600:+g} h from UTC",
        "Set default_time_zone to +00:00: the labels' times are UTC.",
    )


def _mysql_table(ask: Ask) -> CaptureCheck:
    tables = ask(published.LABELS_CAPTURE)
    if not tables:
        return CaptureCheck(
            "mysql", "table", False, f"no {LABELS} yet", "Run the pipeline once: pipectl trigger"
        )
    keyed = bool(tables[0][0])
    found = f"{LABELS}, {'a' if keyed else 'no'} primary key"
    return CaptureCheck("mysql", "table", keyed, found, "It needs a primary key.")


def _stream(database: str, open_stream: Callable[[], str]) -> CaptureCheck:
    try:
        return CaptureCheck(database, "stream of changes", True, open_stream())
    except DatabaseError as error:
        return CaptureCheck(database, "stream of changes", False, error.message, LATER)


def _round_trip(address: DatabaseAddress) -> str:
    milliseconds = replication.round_trip(address, PUBLICATION) * 1000
    return f"a message came back through pgoutput after {milliseconds:.0f} ms"


def _kept(seconds: int) -> str:
    if not seconds:
        return "for ever"
    days, rest = divmod(seconds, DAY_SECONDS)
    return f"{seconds / 3600:g} h" if rest else counted(days, "day")


def _rights(*, readable: bool, writable: bool) -> str:
    if not readable:
        return "not readable"
    return "readable and writable" if writable else "read-only"
