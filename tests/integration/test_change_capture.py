"""Changes read as Airbyte reads them, from a real PostgreSQL and a real MySQL-protocol server."""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pipectl import databases as asked_module
from pipectl import published, replication
from pipectl.databases import Databases
from pipectl.errors import DatabaseError, UsageError
from pipectl.models import ReplicationLogin
from pipectl.pipeline import capture_checks, change_capture, consumers
from pipectl.pipeline.verification import verify
from support import ROOT
from support.change_reader import LOGIN, reader_of, stream
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

READ_SECONDS = 200
LAST = "the last change"


@pytest.fixture
def slot(servers: Servers) -> Iterator[Databases]:
    databases = reader_of(servers)
    change_capture.create_slot(databases)
    yield databases
    change_capture.drop_slot(databases)


def failed(servers: Servers, login: ReplicationLogin = LOGIN) -> dict[tuple[str, str], str]:
    checks = capture_checks.check(*servers.addresses, login)
    return {(check.database, check.name): check.found for check in checks if not check.ok}


class PostgresChanges:
    """Rows of a pgoutput stream (protocol version 1) by operation, without their unchanged parts."""

    def __init__(self) -> None:
        self.tables: dict[int, str] = {}
        self.columns: dict[int, list[str]] = {}
        self.changes: dict[str, list[tuple[str, dict[str, str | None]]]] = defaultdict(list)

    def take(self, message: bytes) -> None:
        kind, body = message[:1], message[1:]
        if kind == b"R":
            self._relation(body)
        elif kind in {b"I", b"U", b"D"}:
            (relation,) = struct.unpack_from("!I", body)
            row, rest = self._row(relation, body[5:])
            if kind == b"U" and rest:  # the old key came first
                row, rest = self._row(relation, rest[1:])
            self.changes[self.tables[relation]].append((kind.decode(), row))

    def _relation(self, body: bytes) -> None:
        (relation,) = struct.unpack_from("!I", body)
        _, table, rest = body[4:].split(b"\0", 2)
        (count,) = struct.unpack_from("!H", rest, 1)
        names, rest = [], rest[3:]
        for _ in range(count):
            name, rest = rest[1:].split(b"\0", 1)
            names.append(name.decode())
            rest = rest[8:]
        self.tables[relation], self.columns[relation] = table.decode(), names

    def _row(self, relation: int, data: bytes) -> tuple[dict[str, str | None], bytes]:
        (count,) = struct.unpack_from("!H", data)
        data, values = data[2:], []
        for _ in range(count):
            kind, data = data[:1], data[1:]
            value = None
            if kind == b"t":
                (size,) = struct.unpack_from("!I", data)
                value, data = data[4 : 4 + size].decode(), data[4 + size :]
            values.append(value)
        return dict(zip(self.columns[relation], values, strict=True)), data


def read_postgres(servers: Servers, last: str) -> dict[str, list[tuple[str, dict[str, str | None]]]]:
    """Changes of each table up to the one whose status is `last`, confirmed, as a sync of Airbyte does it."""
    found = PostgresChanges()
    with stream(servers) as cursor:
        confirm: Any = cursor.send_feedback
        while True:
            message: Any = until(cursor.read_message, f"a change with status {last!r}")
            found.take(message.payload)
            done = any(row.get("status") == last for _, row in found.changes["transactions"])
            if done and message.payload[:1] == b"C":
                confirm(flush_lsn=message.wal_end, reply=True, force=True)
                return found.changes


def read_mysql(servers: Servers, start: tuple[str, int], last: str) -> list[tuple[str, dict[str, Any]]]:
    """Changes of fraud_labels in the binary log from `start` to the one whose label_source is `last`."""
    from pymysqlreplication import BinLogStreamReader
    from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

    stream = BinLogStreamReader(
        {"host": "127.0.0.1", "port": servers.mysql_port, "user": LOGIN.user, "password": LOGIN.password}
        | {"read_timeout": READ_SECONDS},
        server_id=4_000_000_000,
        blocking=True,
        resume_stream=True,
        log_file=start[0],
        log_pos=start[1],
        only_events=[WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent],
        only_tables=["fraud_labels"],
        use_column_name_cache=True,
        enable_logging=False,
    )
    changes: list[tuple[str, dict[str, Any]]] = []
    with closing(stream):
        for event in stream:
            for row in event.rows:
                if isinstance(event, UpdateRowsEvent):
                    changes.append(("U", row["after_values"]))
                else:
                    changes.append(("I" if isinstance(event, WriteRowsEvent) else "D", row["values"]))
            if changes[-1][1]["label_source"] == last:
                return changes
    raise AssertionError(last)


def applied(changes: list[tuple[str, dict[str, Any]]], key: str = "transaction_id") -> dict[int, Any]:
    rows: dict[int, Any] = {}
    for kind, row in changes:
        identity = int(row[key])
        if kind == "I":
            assert identity not in rows, f"{identity} was inserted twice"
        if kind == "D":
            del rows[identity]
        else:
            rows[identity] = row
    return rows


@pytest.mark.usefixtures("slot")
def test_each_committed_transaction_is_in_the_stream_once_while_scripts_write(servers: Servers) -> None:
    servers.run("transaction_generator")
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read_postgres, servers, "first")
        writers = [servers.start("transaction_generator", PIPECTL_BATCH_ID=name) for name in "abc"]
        logs = [writer.communicate(timeout=200)[0] for writer in writers]
        servers.ask_postgres("UPDATE public.transactions SET status = 'first' WHERE transaction_id = 1")
        changes = reading.result()["transactions"]
    assert [writer.returncode for writer in writers] == [0, 0, 0], logs

    late = servers.start("transaction_generator", PIPECTL_BATCH_ID="d")
    undone = servers.postgres()
    undone.cursor().execute("UPDATE public.transactions SET country = 'XX'")
    undone.rollback()
    undone.close()
    servers.ask_postgres("DELETE FROM public.transactions WHERE transaction_id = 2")
    assert late.wait(60) == 0
    servers.ask_postgres("UPDATE public.transactions SET status = 'second' WHERE transaction_id = 3")
    changes += read_postgres(servers, "second")["transactions"]

    stored = servers.ask_postgres("SELECT transaction_id, amount::text, status FROM public.transactions")
    assert {(identity, row["amount"], row["status"]) for identity, row in applied(changes).items()} == set(
        stored
    )
    assert [kind for kind, _ in changes].count("I") == len(stored) + 1
    assert not [row for _, row in changes if row.get("country") == "XX"]


def test_each_label_is_in_the_binary_log_once_while_scripts_write(servers: Servers) -> None:
    start = servers.binary_log_end()
    servers.run("transaction_generator")
    servers.run("detection_generator")
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read_mysql, servers, start, LAST)
        for name in "ab":
            servers.run("transaction_generator", PIPECTL_BATCH_ID=name)
        labellers = [servers.start("detection_generator") for _ in range(2)]
        servers.run("transaction_generator", PIPECTL_BATCH_ID="c")
        logs = [labeller.communicate(timeout=200)[0] for labeller in labellers]
        servers.run("detection_generator")
        servers.ask_mysql("UPDATE fraud_labels SET is_fraud = 1 - is_fraud WHERE transaction_id <= 5")
        servers.ask_mysql("DELETE FROM fraud_labels WHERE transaction_id = 6")
        servers.ask_mysql("UPDATE fraud_labels SET label_source = %s WHERE transaction_id = 7", LAST)
        changes = reading.result()
    assert [labeller.returncode for labeller in labellers] == [0, 0], logs

    stored = servers.ask_mysql("SELECT transaction_id, is_fraud, label_source FROM fraud_labels")
    assert {
        (identity, row["is_fraud"], row["label_source"]) for identity, row in applied(changes).items()
    } == set(stored)
    assert [kind for kind, _ in changes].count("I") == len(stored) + 1
    assert [kind for kind, _ in changes].count("U") == 6


def documented(table: str) -> set[str]:
    """The columns that docs/data.md says a consumer gets of a table."""
    text = (ROOT / "docs" / "data.md").read_text()
    columns = text.split(f"| Column of `{table}` |")[1].split("\n\n")[0]
    return {name for row in columns.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ")[0])}


@pytest.mark.usefixtures("slot")
def test_a_consumer_gets_the_columns_that_the_docs_name(servers: Servers) -> None:
    start = servers.binary_log_end()
    servers.run("transaction_generator")
    servers.run("detection_generator")
    servers.ask_postgres("DELETE FROM public.transactions WHERE transaction_id = 2")
    servers.ask_mysql("DELETE FROM fraud_labels WHERE transaction_id = 2")
    servers.ask_mysql("UPDATE fraud_labels SET label_source = 'end' WHERE transaction_id = 1")

    servers.ask_postgres("DELETE FROM public.customers WHERE customer_id %% 2 = 0")
    servers.ask_postgres("DELETE FROM public.terminals WHERE terminal_id %% 2 = 0")
    servers.ask_postgres("UPDATE public.transactions SET status = 'end' WHERE transaction_id = 1")

    read = read_postgres(servers, "end")
    for table in ("customers", "terminals"):
        dimension = read[table]
        assert {kind for kind, _ in dimension} == {"I", "D"}
        assert all(row.keys() == documented(table) for _, row in dimension)
        [(left,)] = servers.ask_postgres(f"SELECT count(*) FROM public.{table}")
        assert len(applied(dimension, f"{table[:-1]}_id")) == left > 0
    changes = read["transactions"]
    for kind, row in changes:
        assert row.keys() == documented("transactions")
        values = {name for name, value in row.items() if value is not None}
        assert values == ({"transaction_id"} if kind == "D" else row.keys())
    labels = read_mysql(servers, start, "end")
    for _, row in labels:
        assert row.keys() == documented("fraud_labels")
        assert row["confidence"] is not None
    assert {kind for kind, _ in changes} == {kind for kind, _ in labels} == {"I", "U", "D"}


@pytest.mark.usefixtures("slot")
@pytest.mark.parametrize("propagate", [True, False])
def test_consumers_follow_a_reset_that_propagates_and_no_other(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, *, propagate: bool
) -> None:
    # Several transactions of each server.
    monkeypatch.setattr(asked_module, "BLOCKS_AT_ONCE", 1)
    monkeypatch.setattr(asked_module, "ROWS_AT_ONCE", 50)
    start = servers.binary_log_end()
    servers.run("transaction_generator")
    servers.run("transaction_generator", PIPECTL_BATCH_ID="more")
    servers.run("detection_generator")
    [(highest,)] = servers.ask_postgres("SELECT max(transaction_id) FROM public.transactions")
    own = Databases(*servers.addresses)
    emptied = own.empty(propagate=propagate)
    assert [database.rows for database in own.content()] == [0, 0]
    servers.run("transaction_generator", PIPECTL_BATCH_ID="after")
    servers.run("detection_generator")
    assert verify(own, "reconciled").ok
    stored = dict(servers.ask_postgres("SELECT transaction_id, status FROM public.transactions"))
    assert min(stored) > highest
    last = min(stored)
    servers.ask_postgres("UPDATE public.transactions SET status = 'last' WHERE transaction_id = %s", last)
    servers.ask_mysql("UPDATE fraud_labels SET label_source = %s WHERE transaction_id = %s", LAST, last)

    changes = read_postgres(servers, "last")
    for table in ("customers", "terminals"):
        key = f"{table[:-1]}_id"
        kept = {identity for (identity,) in servers.ask_postgres(f"SELECT {key} FROM public.{table}")}
        if propagate:
            assert applied(changes[table], key).keys() == kept
        else:
            assert not [kind for kind, _ in changes[table] if kind == "D"]
    copies = (
        applied(changes["transactions"]),
        applied(read_mysql(servers, start, LAST)),
    )
    gone = next(table.rows for table in emptied[1].tables if table.name == "fraud_labels")
    assert gone > 50
    for copy in copies:
        assert stored.keys() <= copy.keys()
        assert len(copy) - len(stored) == (0 if propagate else gone)


@pytest.mark.usefixtures("slot")
def test_who_reads_changes_is_named(servers: Servers) -> None:
    from pymysqlreplication import BinLogStreamReader

    reader, own = reader_of(servers), Databases(*servers.addresses)
    stream = BinLogStreamReader(
        {"host": "127.0.0.1", "port": servers.mysql_port, "user": LOGIN.user, "password": LOGIN.password},
        server_id=4_000_000_001,
        blocking=True,
        enable_logging=False,
    )
    with closing(stream):
        stream.fetchone()
        found = until(
            lambda: (seen := consumers.consumers(own, reader)).binlog_readers and seen, "the reader"
        )
    assert found
    assert found.names.startswith("replication slot airbyte_slot; airbyte from 127.0.0.1:")
    assert found.names.endswith(", who reads the binary log")
    postgres, mysql = servers.addresses
    silent = Databases(replace(postgres, port=1), replace(mysql, port=1))
    assert consumers.consumers(silent).names == ""


@pytest.mark.usefixtures("slot")
def test_check_finds_nothing_wrong_after_one_run(servers: Servers) -> None:
    servers.run("transaction_generator")
    servers.run("detection_generator")

    assert failed(servers) == {}


def test_check_names_what_the_first_run_and_the_slot_would_bring(servers: Servers) -> None:
    assert failed(servers) == {
        ("postgres", "table"): "no public.transactions and no public.customers and no public.terminals yet",
        ("postgres", "replication slot"): "no airbyte_slot",
        ("mysql", "table"): "no fraud_labels yet",
    }


@pytest.mark.usefixtures("slot")
def test_check_sees_a_table_that_left_the_publication_or_has_no_key(servers: Servers) -> None:
    servers.run("transaction_generator")
    servers.run("detection_generator")
    servers.ask_postgres(
        "ALTER PUBLICATION airbyte_publication DROP TABLE public.transactions, public.terminals"
    )
    servers.ask_postgres("ALTER TABLE public.transactions DROP CONSTRAINT transactions_pkey CASCADE")
    servers.ask_mysql("ALTER TABLE fraud_labels DROP PRIMARY KEY")

    assert failed(servers) == {
        ("postgres", "table"): ("public.transactions, read-only, no primary key, replica identity default"),
        ("postgres", "publication"): "airbyte_publication lacks public.transactions and public.terminals",
        ("mysql", "table"): "fraud_labels, no primary key",
    }


def test_check_runs_what_connectors_run(servers: Servers) -> None:
    [found] = [
        check for check in capture_checks.check(*servers.addresses, LOGIN) if check.name == "connectors"
    ]
    [(version,)] = servers.ask_mysql("SELECT VERSION()")
    if "MariaDB" in version:
        assert " answers SHOW MASTER STATUS: connectors of Debezium 3.4" in found.found
        assert "those of 3.6 refuse it" in found.found
    assert found.ok


@pytest.mark.parametrize(
    ("version", "known", "said"),
    [
        ("10.11.19-MariaDB-0+deb12u1-log", ("SHOW MASTER STATUS",), "those of 3.6 refuse it"),
        ("8.0.40-0ubuntu1", ("SHOW MASTER STATUS",), "3.4 and 3.6 read it"),
        ("8.4.3", ("SHOW BINARY LOG STATUS",), "3.4 and 3.6 read it"),
        ("8.4.3", (), "no connector reads it"),
    ],
)
def test_check_says_which_connectors_read_a_server(version: str, known: tuple[str, ...], said: str) -> None:
    check = capture_checks.connectors_check(version, known)
    assert said in check.found
    assert check.ok == bool(known)
    assert bool(check.remedy) != check.ok


def test_check_says_that_an_account_is_refused(servers: Servers) -> None:
    assert failed(servers, ReplicationLogin("airbyte", "wrong")) == {
        ("postgres", "login"): "airbyte was refused",
        ("mysql", "login"): "airbyte was refused",
    }


def test_check_sees_an_account_that_may_read_and_not_replicate(servers: Servers) -> None:
    servers.ask_superuser("ALTER ROLE airbyte NOREPLICATION")
    try:
        found = failed(servers)
        with pytest.raises(DatabaseError, match=r"PostgreSQL gave no stream of changes: .*replication"):
            replication.round_trip(reader_of(servers).postgres, published.PUBLICATION)
    finally:
        servers.ask_superuser("ALTER ROLE airbyte REPLICATION")
    assert found["postgres", "login"] == "airbyte, may not replicate"
    assert ("postgres", "stream of changes") in found


def test_binary_log_refuses_an_account_without_the_right(servers: Servers) -> None:
    address = replace(reader_of(servers).mysql, password="wrong")
    with pytest.raises(DatabaseError, match=r"MySQL gave no stream of changes: .*Access denied"):
        replication.open_binlog(address)


def test_account_reads_the_published_tables_and_writes_none(servers: Servers) -> None:
    servers.run("transaction_generator")
    servers.run("detection_generator")
    databases = reader_of(servers)

    with databases.ask_postgres() as ask:
        for table in published.CAPTURED:
            assert ask(f"SELECT count(*) > 0 FROM {table}") == [(True,)]
    with databases.ask_mysql() as ask:
        assert ask("SELECT COUNT(*) > 0 FROM fraud_labels") == [(1,)]
    for statement in (
        "DELETE FROM public.transactions",
        "DELETE FROM public.customers",
        "SELECT * FROM sim.ground_truth",
        "CREATE TABLE public.own (id int)",
    ):
        with pytest.raises(DatabaseError, match="permission denied"), databases.ask_postgres() as ask:
            ask(statement)
    for statement in (
        "DELETE FROM fraud_labels",
        "CREATE TABLE own (id int)",
        "SELECT * FROM mysql.global_priv",
    ):
        with pytest.raises(DatabaseError, match="denied"), databases.ask_mysql() as ask:
            ask(statement)


def test_slot_is_made_and_dropped_once(servers: Servers) -> None:
    databases = reader_of(servers)

    assert change_capture.create_slot(databases) is None
    kept = change_capture.create_slot(databases)
    assert kept
    assert (kept.name, kept.active, kept.danger) == ("airbyte_slot", False, "")
    assert change_capture.drop_slot(databases)
    assert not change_capture.drop_slot(databases)


def test_slot_of_another_plugin_is_not_taken_for_airbytes(servers: Servers) -> None:
    databases = reader_of(servers)
    servers.ask_postgres("SELECT pg_create_physical_replication_slot('airbyte_slot')")
    try:
        with pytest.raises(UsageError, match="'airbyte_slot' is not one of pgoutput"):
            change_capture.create_slot(databases)
        assert ("postgres", "replication slot") in failed(servers)
    finally:
        assert change_capture.drop_slot(databases)


def test_slot_behind_an_open_transaction_says_what_it_waits_for(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_capture, "SLOT_SECONDS", 1)
    servers.run("transaction_generator")
    writer = servers.postgres()
    writer.cursor().execute("UPDATE public.transactions SET country = 'XX'")
    try:
        with pytest.raises(DatabaseError, match="waits for a transaction that is still open"):
            change_capture.create_slot(reader_of(servers))
    finally:
        writer.close()
    assert change_capture.drop_slot(reader_of(servers)) is False
