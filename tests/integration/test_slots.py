"""What a load does to replication slots, on servers that keep little for them."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from fraud_pipeline import slots as script_slots
from pipectl.databases import Databases
from pipectl.errors import UsageError
from pipectl.pipeline import capture_checks, change_capture, consumers
from pipectl.pipeline.loading import HistoryLoader
from support import ROOT
from support.change_reader import LOGIN, reader_of, stream
from support.elsewhere import pipectl, project_of
from support.load_observer import LoadObserver
from support.script_servers import servers_in
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.script_servers import Servers

pytestmark = pytest.mark.integration

LIMIT = 128 << 20
# More than the limit leaves after the reserve.
MANY = 250_000


def options(_: Path) -> dict[str, tuple[str, ...]]:
    return {
        "postgres": ("-c", "max_slot_wal_keep_size=128MB"),
        "mysql": ("--net-write-timeout=60",),
    }


@pytest.fixture(scope="module")
def small_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with servers_in(tmp_path_factory.mktemp("servers"), options) as servers:
        yield servers


@pytest.fixture
def servers(small_servers: Servers) -> Iterator[Servers]:
    small_servers.empty()
    yield small_servers
    for slot in consumers.slots(reader_of(small_servers)):
        consumers.drop_slots(reader_of(small_servers), (slot.name,))


@pytest.fixture
def project(servers: Servers, tmp_path: Path) -> Path:
    return project_of(servers, tmp_path)


def log_position(servers: Servers) -> int:
    return int(servers.ask_postgres("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')")[0][0])


def vacuum(servers: Servers, table: str) -> None:
    connection = servers.postgres()
    connection.autocommit = True
    connection.cursor().execute(f"VACUUM {table}")
    connection.close()


def write_log(servers: Servers, size: int) -> None:
    """Write so much of PostgreSQL's log, and let it see what it may delete."""
    end = log_position(servers) + size
    while log_position(servers) < end:
        servers.ask_postgres("SELECT pg_logical_emit_message(false, '', repeat('x', 8000000))")
    servers.ask_superuser("CHECKPOINT")


@contextmanager
def consumer(servers: Servers) -> Iterator[list[int]]:
    """Confirm all changes as they come, and count the transactions that were inserted."""
    stop, inserted = threading.Event(), [0]

    def read() -> None:
        with stream(servers, status_interval=1) as cursor:
            confirm: Any = cursor.send_feedback
            transactions = b""
            while not stop.is_set():
                message = cursor.read_message()
                if message is None:
                    confirm(flush_lsn=cursor.wal_end, reply=True)
                    stop.wait(0.05)
                elif message.payload[:1] == b"R" and b"\0transactions\0" in message.payload:
                    transactions = message.payload[1:5]
                elif message.payload[:5] == b"I" + transactions:
                    inserted[0] += 1

    def checkpoint() -> None:
        # What a slot keeps ends where the server has noted its open transactions: there, or every 15 s.
        while not stop.wait(0.2):
            servers.ask_superuser("CHECKPOINT")

    threads = [threading.Thread(target=work) for work in (read, checkpoint)]
    for thread in threads:
        thread.start()
    try:
        yield inserted
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_what_a_load_writes_is_what_it_says_it_will(servers: Servers) -> None:
    def binlog() -> int:
        return sum(int(row[1]) for row in servers.ask_mysql("SHOW BINARY LOGS"))

    assert servers.run("detection_generator")[0] == 0  # makes the tables
    before, binlog_before = log_position(servers), binlog()
    code, output = servers.run("history_loader", "--transactions", "50000", "--days", "30")
    assert code == 0, output

    plan = json.loads(output.splitlines()[0])
    assert plan["event"] == "plan"
    written, binlog_written = log_position(servers) - before, binlog() - binlog_before
    assert written <= script_slots.log_bytes(50_000) <= 1.15 * written
    assert binlog_written <= plan["binlog_bytes"] <= 1.15 * binlog_written


def test_a_load_that_a_slot_cannot_hold_says_so_before_it_writes_anything(
    servers: Servers, project: Path
) -> None:
    change_capture.create_slot(reader_of(servers))

    told = pipectl(project, "load", "--transactions", str(MANY), "--days", "30")

    assert told.returncode == 2, told.stderr
    writes = script_slots.log_bytes(MANY) / 1e6
    assert f"The load writes {writes:.1f} MB of PostgreSQL's log" in told.stderr
    # PostgreSQL keeps whole files, so what is left depends on how full the last one is.
    assert re.search(
        r"slot airbyte_slot \([12]\d\d\.\d MB left\): its reader would lose changes\. Nothing was written\.",
        told.stderr,
    )
    assert "--wait-for-slots" in told.stderr
    assert "--drop-slots" in told.stderr
    assert servers.ask_postgres("SELECT count(*) FROM sim.loads") == [(0,)]
    small = pipectl(project, "load", "--transactions", "10_000", "--days", "30")
    assert small.returncode == 0, small.stderr
    both = pipectl(project, "load", "--wait-for-slots", "--drop-slots")
    assert both.returncode == 2
    assert "exclude each other" in both.stderr

    dropped = pipectl(project, "load", "--transactions", str(MANY), "--days", "30", "--drop-slots")
    assert dropped.returncode == 0, dropped.stderr
    assert "Dropped: airbyte_slot. Their readers begin again with a snapshot." in dropped.stderr
    assert consumers.slots(reader_of(servers)) == ()
    assert servers.ask_postgres("SELECT count(*) FROM public.transactions") == [(MANY + 10_000,)]


@pytest.mark.slow
def test_a_load_that_waits_for_slots_writes_in_pieces_and_no_slot_is_lost(servers: Servers) -> None:
    assert servers.run("transaction_generator")[0] == 0  # makes the publication
    [(before,)] = servers.ask_postgres("SELECT count(*) FROM public.transactions")
    change_capture.create_slot(reader_of(servers))
    reports = LoadObserver()
    loader = HistoryLoader(ROOT, servers.addresses, seed=None, observer=reports)
    wanted = 400_000
    assert script_slots.log_bytes(wanted) > LIMIT

    def load() -> None:
        loader.load(transactions=wanted, days=30, shards=1, wait_for_slots=True)

    loading = threading.Thread(target=load)
    loading.start()
    until(lambda: len(reports.reports) > 1, "a wait for the slot", seconds=60)
    [(committed,)] = servers.ask_postgres("SELECT count(*) FROM public.transactions")
    with consumer(servers) as inserted:
        loading.join(120)
        until(lambda: inserted[0] >= wanted, "all changes", seconds=60)

    assert reports.reports[0].startswith("Nobody reads airbyte_slot now")
    assert reports.reports[0].endswith("If none will: Ctrl-C, then --drop-slots instead of --wait-for-slots")
    assert reports.reports[1] == (
        "Waiting for the reader of airbyte_slot; what is committed stays. Nobody reads airbyte_slot now"
    )
    assert before < committed < wanted
    assert inserted == [wanted]
    [slot] = consumers.slots(reader_of(servers))
    assert not slot.is_lost
    assert servers.ask_mysql("SELECT COUNT(*) FROM fraud_labels") == [(wanted + before,)]


def test_a_wait_that_would_never_end_is_refused_before_anything_is_noted(servers: Servers) -> None:
    change_capture.create_slot(reader_of(servers))
    reports = LoadObserver()
    loader = HistoryLoader(ROOT, servers.addresses, seed=None, observer=reports)

    with pytest.raises(UsageError, match=r"max_slot_wal_keep_size is 134\.2 MB.*fewer shards"):
        loader.load(transactions=MANY, days=30, shards=3, wait_for_slots=True)
    assert reports.reports == []
    assert servers.ask_postgres("SELECT count(*) FROM sim.loads") == [(0,)]


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_what_deletions_write_is_what_they_are_said_to(servers: Servers, identity: str) -> None:
    """A vacuum of what is deleted counts too: the reader may come after it."""

    def binlog() -> int:
        return sum(int(row[1]) for row in servers.ask_mysql("SHOW BINARY LOGS"))

    databases = Databases(*servers.addresses)
    code, output = servers.run("history_loader", "--transactions", "100000", "--days", "30")
    assert code == 0, output
    servers.ask_postgres(f"ALTER TABLE public.transactions REPLICA IDENTITY {identity}")
    try:
        assert servers.run("transaction_generator")[0] == 0  # publishes what the identity needs
        servers.ask_superuser("CHECKPOINT")
        said = consumers.deletion_bytes(databases)
        before, binlog_before = log_position(servers), binlog()
        databases.empty(propagate=True)
        written, binlog_written = log_position(servers) - before, binlog() - binlog_before
        vacuum(servers, "public.transactions")
        vacuumed = log_position(servers) - before
    finally:
        servers.ask_postgres("ALTER TABLE public.transactions REPLICA IDENTITY DEFAULT")
    assert servers.ask_postgres("SELECT count(*) FROM public.transactions") == [(0,)]
    assert written < vacuumed <= said <= 1.15 * vacuumed
    assert binlog_written <= 100_000 * consumers.LABEL_DELETE_BYTES <= 1.15 * binlog_written


def test_deletions_that_a_slot_cannot_hold_are_refused(servers: Servers) -> None:
    databases = Databases(*servers.addresses)
    code, output = servers.run("history_loader", "--transactions", "100000", "--days", "30")
    assert code == 0, output
    change_capture.create_slot(reader_of(servers))
    consumers.require_following(consumers.consumers(databases), databases)
    write_log(servers, 60 << 20)

    with pytest.raises(UsageError) as caught:
        consumers.require_following(consumers.consumers(databases), databases)
    assert re.fullmatch(
        r"The deletions write \d\d\.\d MB of PostgreSQL's log, more than it keeps for the replication slot "
        r"airbyte_slot \(\d\d\.\d MB left\): its reader would lose changes\. Nothing was deleted\.",
        caught.value.message,
    )
    assert re.search(r"max_slot_wal_keep_size = \d{3}MB", caught.value.hint)


def test_a_slot_in_danger_is_no_slot_that_is_ok(servers: Servers, project: Path) -> None:
    def slot_check() -> tuple[bool, str, str]:
        checks = capture_checks.check(*servers.addresses, LOGIN)
        [found] = [
            check for check in checks if (check.database, check.name) == ("postgres", "replication slot")
        ]
        return found.ok, found.found, found.remedy

    made = pipectl(project, "connections", "--create-slot")
    assert "Made the slot airbyte_slot." in made.stderr
    kept = pipectl(project, "connections", "--create-slot")
    assert "There was already the slot airbyte_slot, so none was made" in kept.stderr
    assert "pipectl connections --drop-slot, then --create-slot" in kept.stderr
    assert slot_check()[0]

    while not (slot := consumers.slots(reader_of(servers))[0]).is_endangered:
        assert not slot.is_lost
        servers.ask_postgres("SELECT pg_logical_emit_message(false, '', repeat('x', 2000000))")
    ok, found, remedy = slot_check()
    assert not ok
    assert re.fullmatch(
        r"airbyte_slot is about to be lost: its reader is too far behind, .* of 134\.2 MB are left", found
    )
    assert remedy == "Let its reader read now. If nobody reads it any more: pipectl connections --drop-slot"
    kept = pipectl(project, "connections", "--create-slot")
    assert "There was already a slot, so none was made: airbyte_slot is about to be lost" in kept.stderr

    write_log(servers, LIMIT)
    assert not slot_check()[0]
    lost = pipectl(project, "connections", "--create-slot")
    assert lost.returncode == 2
    assert "No slot was made: airbyte_slot is lost: its reader was too far behind" in lost.stderr
    assert "pipectl connections --drop-slot, then --create-slot" in lost.stderr


def test_status_shows_how_far_slots_are_behind_and_that_one_is_lost(servers: Servers, project: Path) -> None:
    change_capture.create_slot(reader_of(servers))
    write_log(servers, 40 << 20)

    database = json.loads(pipectl(project, "status", "--json").stdout)["databases"]
    [slot] = database["postgres"]["slots"]
    assert (slot["name"], slot["active"], slot["limit_bytes"]) == ("airbyte_slot", False, LIMIT)
    assert 40 << 20 <= slot["lag_bytes"] < LIMIT - slot["room_bytes"] + (17 << 20)
    assert database["mysql"]["binary_log"]["bytes"] > 0
    text = pipectl(project, "status").stdout
    assert "slot airbyte_slot: lags by" in text
    assert "of 134.2 MB, nobody reads it now" in text

    write_log(servers, LIMIT)
    lost = pipectl(project, "status")
    assert "slot airbyte_slot: lost" in lost.stdout
    assert "The replication slot airbyte_slot is lost" in lost.stdout
    assert "pipectl connections --drop-slot, then --create-slot" in lost.stdout
    assert servers.run("transaction_generator")[0] == 0
    code, log = servers.run("detection_generator")
    assert code == 0, log
    assert "event=replication_slot_lost slot=airbyte_slot" in log


def test_check_names_time_outs_that_are_too_short(servers: Servers) -> None:
    found = {check.name: check for check in capture_checks.check(*servers.addresses, LOGIN)}

    assert not found["time-outs"].ok
    assert "net_write_timeout 60 s" in found["time-outs"].found
    reader = "slave" if servers.is_mariadb() else "replica"
    assert found["time-outs"].remedy == f"Set net_write_timeout to 3600 and {reader}_net_timeout to 120."
