"""transaction_generator.py on a real PostgreSQL."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline.batches import write_batch
from fraud_pipeline.connections import open_postgres, postgres_database
from fraud_pipeline.errors import DatabaseError
from fraud_pipeline.places import COUNTRIES
from fraud_pipeline.scenarios import NAMES
from fraud_pipeline.schema import prepare_postgres
from fraud_pipeline.transactions import NEVER, BatchRequest, generate, moment
from fraud_pipeline.world import CHANNELS

if TYPE_CHECKING:
    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_first_run_makes_schema_and_one_batch(servers: Servers) -> None:
    code, log = servers.run("transaction_generator", PIPECTL_BATCH_ID="scheduled__2026-01-02T12:00:00+00:00")

    assert code == 0, log
    [(rows, positive, lowest, highest)] = servers.ask_postgres(
        "SELECT count(*), bool_and(amount > 0), min(tx_time), max(tx_time) FROM public.transactions"
    )
    batches = servers.ask_postgres("SELECT batch_id, transactions FROM sim.batches")
    assert 50 <= rows <= 200
    assert positive
    assert highest - lowest <= timedelta(minutes=30)
    assert batches == [("scheduled__2026-01-02T12:00:00+00:00", rows)]
    assert f"event=batch_written batch=scheduled__2026-01-02T12:00:00+00:00 transactions={rows} " in log


def test_retry_of_a_batch_writes_nothing(servers: Servers) -> None:
    servers.run("transaction_generator", PIPECTL_BATCH_ID="run 1")
    before = servers.ask_postgres("SELECT count(*) FROM public.transactions")

    code, log = servers.run("transaction_generator", PIPECTL_BATCH_ID="run 1")

    assert code == 0
    assert 'event=batch_already_written batch="run 1" transactions=0' in log
    assert servers.ask_postgres("SELECT count(*) FROM public.transactions") == before


def test_bare_calls_write_a_batch_each(servers: Servers) -> None:
    for _ in range(2):
        servers.run("transaction_generator")

    assert servers.ask_postgres("SELECT count(*) FROM sim.batches") == [(2,)]


def test_starts_at_once_on_an_empty_database_write_a_shared_batch_once(servers: Servers) -> None:
    names = ("shared", "shared", "shared", "other")
    processes = [servers.start("transaction_generator", PIPECTL_BATCH_ID=name) for name in names]
    logs = [process.communicate(timeout=200)[0] for process in processes]

    assert [process.returncode for process in processes] == [0] * len(names), logs
    batches = servers.ask_postgres("SELECT batch_id, transactions FROM sim.batches ORDER BY 1")
    rows = servers.ask_postgres("SELECT count(*) FROM public.transactions")
    assert [name for name, _ in batches] == ["other", "shared"]
    assert rows == [(sum(count for _, count in batches),)]


def test_batch_that_fails_midway_leaves_nothing_and_can_be_tried_again(servers: Servers) -> None:
    request = BatchRequest(1, "broken", 60, NOON, NOON)
    whole = generate(request)
    broken = replace(whole, cents=np.where(np.arange(60) < 59, whole.cents, 0))
    database = postgres_database(servers.environment)

    with open_postgres(database, "test") as connection:
        prepare_postgres(connection)
    with (
        pytest.raises(DatabaseError, match=r"failed a statement: .*amount"),
        open_postgres(database, "test") as connection,
    ):
        write_batch(connection, request, broken)
    assert servers.ask_postgres("SELECT count(*) FROM public.transactions, sim.batches") == [(0,)]
    with open_postgres(database, "test") as connection:
        written = write_batch(connection, request, whole)

    assert written.transactions == 60
    assert servers.ask_postgres("SELECT count(*) FROM public.transactions") == [(60,)]


def test_ground_truth_names_the_very_rows_that_the_generator_made_fraudulent(servers: Servers) -> None:
    request = BatchRequest(1, "truth", 2_000, NOON, NOON + timedelta(minutes=30))
    batch = generate(request)
    with open_postgres(postgres_database(servers.environment), "test") as connection:
        prepare_postgres(connection)
        write_batch(connection, request, batch)

    stored = servers.ask_postgres(
        "SELECT amount, scenario, reported_at, reported_by"
        " FROM public.transactions JOIN sim.ground_truth USING (transaction_id) ORDER BY transaction_id"
    )
    assert stored == [
        (
            Decimal(int(batch.cents[i])).scaleb(-2),
            NAMES[batch.scenario[i]],
            None if batch.reported_at[i] == NEVER else moment(int(batch.reported_at[i])),
            None
            if batch.reported_at[i] == NEVER
            else ("monitoring" if batch.reported_at[i] == batch.tx_time[i] else "chargeback"),
        )
        for i in np.flatnonzero(batch.scenario)
    ]


def test_every_column_arrives_as_it_was_generated(servers: Servers) -> None:
    request = BatchRequest(1, "columns", 2_000, NOON, NOON + timedelta(days=1))
    batch = generate(request)
    with open_postgres(postgres_database(servers.environment), "test") as connection:
        prepare_postgres(connection)
        write_batch(connection, request, batch)

    stored = servers.ask_postgres(
        "SELECT tx_time, customer_id, card_id, terminal_id, mcc, amount, currency, channel, country, lat,"
        " lon, status, device_id, created_at = updated_at FROM public.transactions ORDER BY transaction_id"
    )
    assert stored == [
        (
            moment(int(batch.tx_time[i])),
            batch.customer_id[i],
            batch.card_id[i],
            batch.terminal_id[i],
            batch.mcc[i],
            Decimal(int(batch.cents[i])).scaleb(-2),
            COUNTRIES[batch.country[i]][1],
            CHANNELS[batch.channel[i]],
            COUNTRIES[batch.country[i]][0],
            # The driver reads a real by its shortest text.
            float(str(batch.lat[i])),
            float(str(batch.lon[i])),
            "declined" if batch.declined[i] else "approved",
            batch.device_id[i],
            True,
        )
        for i in range(len(batch))
    ]


def test_ids_of_a_batch_follow_one_another_beside_a_writer_that_takes_some(servers: Servers) -> None:
    database = postgres_database(servers.environment)
    with open_postgres(database, "test") as connection:
        prepare_postgres(connection)
    stop = threading.Event()
    thief = threading.Thread(target=take_ids_until, args=(servers, stop))
    thief.start()
    try:
        for number in range(20):
            request = BatchRequest(1, f"batch {number}", 500, NOON, NOON + timedelta(minutes=30))
            with open_postgres(database, "test") as connection:
                write_batch(connection, request, generate(request))
    finally:
        stop.set()
        thief.join()

    assert servers.ask_postgres(
        "SELECT count(*), count(DISTINCT transaction_id) FROM public.transactions"
    ) == [(10_000, 10_000)]
    [(frauds, named)] = servers.ask_postgres(
        "SELECT count(*), count(t.transaction_id) FROM sim.ground_truth g"
        " LEFT JOIN public.transactions t USING (transaction_id)"
    )
    assert frauds == named


def take_ids_until(servers: Servers, stop: threading.Event) -> None:
    connection = servers.postgres()
    connection.autocommit = True
    while not stop.is_set():
        connection.cursor().execute(
            "SELECT nextval(pg_get_serial_sequence('public.transactions', 'transaction_id'))"
        )
        stop.wait(0.0005)
    connection.close()


def test_schema_is_ready_for_change_data_capture(servers: Servers) -> None:
    servers.run("transaction_generator")
    servers.run("transaction_generator")

    tables = servers.ask_postgres(
        "SELECT pubname, schemaname, tablename, relreplident FROM pg_publication_tables"
        " JOIN pg_class ON oid = (schemaname || '.' || tablename)::regclass ORDER BY 3"
    )
    assert tables == [
        ("airbyte_publication", "public", name, "d") for name in ("customers", "terminals", "transactions")
    ]
    assert servers.ask_postgres(
        "SELECT indexname FROM pg_indexes WHERE tablename = 'transactions' ORDER BY 1"
    ) == [("transactions_pkey",), ("transactions_updated_at",), ("transactions_xid_id",)]


def test_what_is_missing_of_a_schema_is_added(servers: Servers) -> None:
    servers.run("transaction_generator")
    servers.ask_postgres("DROP INDEX public.transactions_xid_id")
    servers.ask_postgres("DROP PUBLICATION airbyte_publication")

    code, log = servers.run("transaction_generator")

    assert code == 0
    assert "event=schema_migrated database=postgres version=1 " in log
    assert servers.ask_postgres("SELECT to_regclass('public.transactions_xid_id') IS NOT NULL") == [(True,)]
    assert servers.ask_postgres("SELECT count(*) FROM pg_publication_tables") == [(3,)]


def test_open_transaction_of_another_writer_does_not_hold_up_a_batch(servers: Servers) -> None:
    servers.run("transaction_generator")
    writer = servers.postgres()
    try:
        writer.cursor().execute("UPDATE public.transactions SET status = status")
        code, log = servers.run("transaction_generator")
    finally:
        writer.close()

    assert code == 0, log
    assert servers.ask_postgres("SELECT count(*) FROM sim.batches") == [(2,)]
