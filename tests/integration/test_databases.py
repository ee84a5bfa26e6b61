"""What pipectl asks the two business databases, on real servers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pipectl import published
from pipectl.databases import BUCKET, Databases, metadata_version
from pipectl.errors import DatabaseError, LoginError
from pipectl.models import Counts, DatabaseAddress
from pipectl.pipeline.verification import verify

if TYPE_CHECKING:
    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

CREATE_TRANSACTIONS = "CREATE TABLE public.transactions (transaction_id bigint PRIMARY KEY)"
CREATE_LABELS = (
    "CREATE TABLE fraud_labels (transaction_id BIGINT UNSIGNED PRIMARY KEY, is_fraud TINYINT(1) NOT NULL)"
)


def databases(servers: Servers) -> Databases:
    return Databases(
        DatabaseAddress(
            "airbyte-postgres", "127.0.0.1", servers.postgres_port, "airbyte", "docker", "docker"
        ),
        DatabaseAddress("airbyte-mysql", "127.0.0.1", servers.mysql_port, "data", "docker", "docker"),
    )


def fill(servers: Servers, transactions: set[int], labels: set[int]) -> None:
    servers.ask_postgres(CREATE_TRANSACTIONS)
    servers.ask_mysql(CREATE_LABELS)
    if transactions:
        servers.ask_postgres("INSERT INTO public.transactions SELECT unnest(%s)", sorted(transactions))
    if labels:
        values = ", ".join(f"({identity}, {identity % 7 == 0})" for identity in sorted(labels))
        servers.ask_mysql(f"INSERT INTO fraud_labels VALUES {values}")


def test_databases_without_tables_are_empty_and_reconciled(servers: Servers) -> None:
    for expect in ("empty", "reconciled"):
        assert verify(databases(servers), expect).ok
    populated = verify(databases(servers), "populated")
    assert populated.reasons == ("public.transactions does not exist", "fraud_labels does not exist")


def test_tables_without_rows_are_empty_and_rows_are_not(servers: Servers) -> None:
    fill(servers, set(), set())
    assert verify(databases(servers), "empty").ok
    servers.ask_postgres("INSERT INTO public.transactions VALUES (1), (2)")
    found = verify(databases(servers), "empty")
    assert found.reasons == ("public.transactions has 2 rows",)


def test_ids_are_compared_exactly_across_both_servers(servers: Servers) -> None:
    # The same number and the same sum on both sides of a range, so that nothing less than the ids tells.
    transactions = {1, 4, 9, *range(BUCKET - 50, BUCKET + 50), 5 * BUCKET}
    labels = {2, 3, 9, *range(BUCKET - 50, BUCKET + 50), 7 * BUCKET}
    fill(servers, transactions, labels)
    found = verify(databases(servers), "reconciled")
    assert (found.unlabelled, found.orphans) == (3, 3)
    assert found.reasons == ("3 transactions have no label", "3 labels have no transaction")


def test_full_ranges_and_large_ids_are_compared_too(servers: Servers) -> None:
    first = 900_000_000_000_000_000 // BUCKET * BUCKET
    fill(servers, set(range(first, first + BUCKET)), set(range(first, first + BUCKET)))
    assert verify(databases(servers), "reconciled").ok
    servers.ask_mysql("DELETE FROM fraud_labels WHERE transaction_id = %s", first + BUCKET - 1)
    assert verify(databases(servers), "reconciled").unlabelled == 1


def test_ranges_that_one_side_lacks_are_counted_whole(servers: Servers) -> None:
    fill(servers, {1, 2, *range(3 * BUCKET, 3 * BUCKET + 5)}, {1, 2, *range(9 * BUCKET, 9 * BUCKET + 7)})
    found = verify(databases(servers), "reconciled")
    assert (found.unlabelled, found.orphans) == (5, 7)


def test_a_batch_is_counted_apart_from_what_others_write_meanwhile(servers: Servers) -> None:
    asked = databases(servers)
    assert asked.batch("run 2") is None
    for run in ("run 1", "run 2", "run 3"):
        code, log = servers.run("transaction_generator", PIPECTL_BATCH_ID=run)
        assert code == 0, log
    assert asked.batch("run 4") is None
    [(written,)] = servers.ask_postgres("SELECT transactions FROM sim.batches WHERE batch_id = 'run 2'")
    assert asked.batch("run 2") == Counts(written, 0, 0)
    servers.run("detection_generator")
    servers.ask_mysql("UPDATE fraud_labels SET is_fraud = 1")
    assert asked.batch("run 2") == Counts(written, written, written)
    # A row that came later than the batch's does not count, nor does its label.
    [(last,)] = servers.ask_postgres("SELECT max(transaction_id) FROM public.transactions")
    servers.ask_mysql("DELETE FROM fraud_labels WHERE transaction_id < %s", last)
    assert asked.batch("run 2") == Counts(written, 0, 0)


def test_a_batch_is_exact_among_writers_that_write_all_the_while(servers: Servers) -> None:
    """Other runs, labellers, and writers that take ids from the same sequence and stay open for a while."""
    asked, own = databases(servers), [f"run {number}" for number in range(5)]
    assert servers.run("transaction_generator", PIPECTL_BATCH_ID="first")[0] == 0
    stop = threading.Event()
    with ThreadPoolExecutor() as pool:
        try:
            for _ in range(2):
                pool.submit(servers.insert_beside, stop)
            runs = [pool.submit(servers.run, "transaction_generator", PIPECTL_BATCH_ID=run) for run in own]
            labellers = [pool.submit(servers.run, "detection_generator") for _ in range(2)]
            assert [done.result()[0] for done in (*runs, *labellers)] == [0] * 7
            meanwhile = {run: asked.batch(run) for run in own}
        finally:
            stop.set()
    assert servers.run("detection_generator")[0] == 0
    # Which rows are whose, told otherwise: both tables have the time at which their transaction began.
    members = dict(
        servers.ask_postgres(
            "SELECT batch_id, array_agg(transaction_id) FROM sim.batches JOIN public.transactions"
            " USING (created_at) GROUP BY 1"
        )
    )
    labels = dict(servers.ask_mysql("SELECT transaction_id, is_fraud FROM fraud_labels"))
    for run in own:
        ids = members[run]
        assert asked.batch(run) == Counts(len(ids), len(ids), sum(labels[identity] for identity in ids))
        counted = meanwhile[run]
        assert counted is not None
        assert counted.transactions == len(ids)
    [(rows, batches)] = servers.ask_postgres(
        "SELECT count(*), (SELECT sum(transactions) FROM sim.batches) FROM public.transactions"
    )
    assert rows > batches


def test_a_batch_is_found_when_the_servers_numbers_of_transactions_have_wrapped_round(
    servers: Servers,
) -> None:
    numbers = """
        SELECT next, low, low + 4294967296 * floor((next - low) / 4294967296)
        FROM (VALUES (100::numeric, 90::numeric), (4294967296 * 3 + 5, 4294967295), (4294967296 * 3 + 5, 4))
             AS v (next, low)"""
    assert "low + 4294967296 * floor((next - low) / 4294967296)" in published.BATCH
    found = [int(row[2]) for row in servers.ask_postgres(numbers)]
    assert found == [90, 4294967296 * 2 + 4294967295, 4294967296 * 3 + 4]


def test_emptying_keeps_the_tables_and_tells_what_was_there(servers: Servers) -> None:
    fill(servers, {1, 2, 3}, {1, 2})
    before = databases(servers).empty()
    assert [database.rows for database in before] == [3, 2]
    after = databases(servers).content()
    assert [(table.name, table.rows) for database in after for table in database.tables] == [
        ("public.transactions", 0),
        ("fraud_labels", 0),
    ]


def test_a_wrong_password_names_the_variable_to_set(servers: Servers) -> None:
    right = databases(servers)
    for wrong, variable in (
        (Databases(replace(right.postgres, password="x"), right.mysql), "AIRBYTE_POSTGRES_PASSWORD"),
        (Databases(right.postgres, replace(right.mysql, password="x")), "AIRBYTE_MYSQL_PASSWORD"),
    ):
        with pytest.raises(LoginError, match="refused the password of user 'docker'") as caught:
            wrong.content()
        assert f"Set {variable} in" in caught.value.hint
    with pytest.raises(LoginError) as caught:
        metadata_version(replace(right.postgres, service="postgres", password="x"))
    assert "Set AIRFLOW_POSTGRES_PASSWORD in" in caught.value.hint


def test_a_server_that_is_not_there_says_what_to_look_at(servers: Servers) -> None:
    right = databases(servers)
    for wrong in (
        Databases(replace(right.postgres, port=1), right.mysql),
        Databases(right.postgres, replace(right.mysql, port=1)),
    ):
        with pytest.raises(DatabaseError, match="does not answer") as caught:
            wrong.content()
        assert "pipectl status" in caught.value.hint


def test_a_database_that_does_not_exist_is_said(servers: Servers) -> None:
    right = databases(servers)
    with pytest.raises(DatabaseError, match="nowhere"):
        Databases(replace(right.postgres, database="nowhere"), right.mysql).content()
