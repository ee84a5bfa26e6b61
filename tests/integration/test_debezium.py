"""The real Debezium, the engine inside Airbyte's sources, follows both databases through all that happens."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from pipectl.databases import Databases
from pipectl.pipeline import change_capture
from pipectl.pipeline.verification import verify
from support.change_reader import reader_of
from support.debezium import KEYS, debezium, need_debezium
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.debezium import Copy
    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = [pytest.mark.integration, pytest.mark.debezium]

# What a consumer gets of each column, as docs/data.md says. Decimals come as text if asked for so.
TYPES = {
    "transactions": {
        "transaction_id": "int64",
        "tx_time": "io.debezium.time.ZonedTimestamp",
        "customer_id": "int32",
        "card_id": "int64",
        "terminal_id": "int32",
        "mcc": "int16",
        "amount": "string",
        "currency": "string",
        "channel": "string",
        "country": "string",
        "lat": "float",
        "lon": "float",
        "status": "string",
        "device_id": "int32",
        "created_at": "io.debezium.time.ZonedTimestamp",
        "updated_at": "io.debezium.time.ZonedTimestamp",
    },
    "customers": {
        "customer_id": "int32",
        "country": "string",
        "lat": "float",
        "lon": "float",
        "segment": "string",
        "cards": "int16",
        "opened_on": "io.debezium.time.Date",
        "created_at": "io.debezium.time.ZonedTimestamp",
    },
    "terminals": {
        "terminal_id": "int32",
        "mcc": "int16",
        "channel": "string",
        "country": "string",
        "lat": "float",
        "lon": "float",
        "created_at": "io.debezium.time.ZonedTimestamp",
    },
    "fraud_labels": {
        "transaction_id": "int64",
        "is_fraud": "int16",
        "fraud_type": "string",
        "confidence": "string",
        "label_source": "string",
        "detected_at": "io.debezium.time.MicroTimestamp",
        "created_at": "io.debezium.time.ZonedTimestamp",
        "updated_at": "io.debezium.time.ZonedTimestamp",
    },
}
TRANSACTIONS = """
    SELECT transaction_id, card_id, mcc, amount::text, trim(currency), channel, status, lat, device_id,
           to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
    FROM public.transactions ORDER BY 1"""
CUSTOMERS = """
    SELECT customer_id, country, lat, segment, cards, opened_on - '1970-01-01'::date,
           to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
    FROM public.customers ORDER BY 1"""
TERMINALS = """
    SELECT terminal_id, mcc, channel, country, lat,
           to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
    FROM public.terminals ORDER BY 1"""
LABELS = """
    SELECT transaction_id, is_fraud, fraud_type, CAST(confidence AS CHAR), label_source,
           CAST(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', detected_at) AS SIGNED),
           DATE_FORMAT(created_at, '%Y-%m-%dT%H:%i:%s')
    FROM fraud_labels ORDER BY 1"""


@pytest.fixture
def folders(servers: Servers, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """A folder for each connector, in which it keeps how far it is, and PostgreSQL's slot."""
    need_debezium()
    for name in KEYS:
        (tmp_path / name).mkdir()
    reader = reader_of(servers)
    yield {name: tmp_path / name for name in KEYS}
    change_capture.drop_slot(reader)


def stored(servers: Servers) -> dict[str, list[tuple[object, ...]]]:
    return {
        "transactions": servers.ask_postgres(TRANSACTIONS),
        "customers": servers.ask_postgres(CUSTOMERS),
        "terminals": servers.ask_postgres(TERMINALS),
        "fraud_labels": servers.ask_mysql(LABELS),
    }


LOAD = ("--transactions", "6000", "--days", "30", "--chunk", "2500")
NAMES = {
    "transactions": ("card_id", "mcc", "amount", "currency", "channel", "status", "lat", "device_id"),
    "customers": ("country", "lat", "segment", "cards", "opened_on"),
    "terminals": ("mcc", "channel", "country", "lat"),
    "fraud_labels": ("is_fraud", "fraud_type", "confidence", "label_source", "detected_at"),
}


def copied(name: str, copy: Copy) -> list[tuple[object, ...]]:
    """What a consumer has, in the form of `stored`."""
    return [
        (identity, *(row[column] for column in NAMES[name]), row["created_at"][:19])
        for identity, row in sorted(copy.rows.items())
    ]


def write(servers: Servers, batch: str) -> None:
    for script in ("transaction_generator", "detection_generator"):
        code, log = servers.run(script, PIPECTL_BATCH_ID=batch)
        assert code == 0, log


def correct(servers: Servers, identity: int) -> None:
    servers.ask_postgres(
        "UPDATE public.transactions SET status = 'declined' WHERE transaction_id <= %s", identity
    )
    servers.ask_mysql(
        "UPDATE fraud_labels SET is_fraud = 1, label_source = 'chargeback', fraud_type = 'stolen_card'"
        " WHERE transaction_id <= %s",
        identity,
    )


def test_copies_are_the_tables_whatever_happens(servers: Servers, folders: dict[str, Path]) -> None:
    postgres, mysql = servers.addresses

    def follow(stack: ExitStack) -> dict[str, Copy]:
        return {
            table: copy
            for name in KEYS
            for table, copy in stack.enter_context(debezium(servers, name, folders[name])).items()
        }

    def until_equal(copies: dict[str, Copy], when: str) -> None:
        for name, rows in stored(servers).items():

            def is_equal(name: str = name, rows: list[tuple[object, ...]] = rows) -> bool:
                copies[name].take()
                return len(copies[name].rows) == len(rows) and copied(name, copies[name]) == rows

            until(is_equal, f"{name} as it is stored, {when}: {folders}", 240)

    write(servers, "before")
    change_capture.create_slot(reader_of(servers))
    with ExitStack() as stack:
        copies = follow(stack)
        until_equal(copies, "by the snapshot")
        snapshot = {name: len(copy.rows) for name, copy in copies.items()}
        assert {name: copy.kinds for name, copy in copies.items()} == {
            name: {"r": rows} for name, rows in snapshot.items()
        }
        assert snapshot["transactions"] == snapshot["fraud_labels"] >= snapshot["customers"] > 0
        write(servers, "during")
        code, log = servers.run("history_loader", *LOAD)
        assert code == 0, log
        correct(servers, 20)
        until_equal(copies, "by the stream")
    # Nobody reads meanwhile.
    write(servers, "between")
    correct(servers, 30)
    with ExitStack() as stack:
        again = follow(stack)
        for name, copy in again.items():
            copy.go_on_from(copies[name])
        until_equal(again, "after a restart")
        rows = {name: len(copy.rows) for name, copy in again.items()}
        # MySQL logs no update that changes nothing; nobody updates a customer or a terminal.
        updates = {"transactions": 20 + 30, "fraud_labels": 30, "customers": 0, "terminals": 0}
        for name, copy in again.items():

            def has_updates(name: str = name, copy: Copy = copy) -> bool:
                # The last of them change no column that is compared above.
                copy.take()
                return copy.kinds.get("u", 0) >= updates[name]

            until(has_updates, f"{updates[name]} updates of {name}", 240)
            assert copy.kinds["r"] == snapshot[name]
            assert copy.kinds["c"] == rows[name] - snapshot[name]
        Databases(postgres, mysql).empty(propagate=True)
        write(servers, "after")
        until_equal(again, "after a reset that propagates")
        for name, copy in again.items():
            assert copy.kinds["d"] == rows[name]
            assert copy.types == TYPES[name]
    assert verify(Databases(postgres, mysql), "reconciled").ok
