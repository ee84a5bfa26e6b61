"""What verify-db counts by ranges of ids, against a reading of every row, after any changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipectl import databases as asked_module
from pipectl.databases import Databases
from pipectl.pipeline.verification import Verification, verify

if TYPE_CHECKING:
    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

CUSTOMERS, TERMINALS = 5, 3
# Ids of transactions and labels in four ranges of 10, and an hour's steps of when they were made.
FIRST, SIZE = 40, 10
IDS = [*range(FIRST + 4 * SIZE), -3, -1, 9_000_000_000_000_000_000]
LABEL_IDS = [each for each in IDS if each >= 0] + [18_000_000_000_000_000_000]
HOURS = st.integers(-30, 3)
CHANGES = st.one_of(
    st.tuples(
        st.just(
            "INSERT INTO public.transactions (transaction_id, customer_id, terminal_id, created_at)"
            " VALUES (%s, %s, %s, now() + interval '1 hour' * %s) ON CONFLICT DO NOTHING"
        ),
        st.sampled_from(IDS),
        st.integers(1, CUSTOMERS + 1),
        st.integers(1, TERMINALS + 1),
        HOURS,
    ),
    st.tuples(
        st.just("DELETE FROM public.transactions WHERE transaction_id BETWEEN %s AND %s"),
        st.sampled_from(IDS),
        st.sampled_from(IDS),
    ),
    st.tuples(
        st.just(
            "UPDATE public.transactions SET created_at = now() + interval '1 hour' * %s"
            " WHERE transaction_id = %s"
        ),
        HOURS,
        st.sampled_from(IDS),
    ),
    st.tuples(st.just("DELETE FROM public.customers WHERE customer_id = %s"), st.integers(1, CUSTOMERS)),
    st.tuples(st.just("TRUNCATE public.transactions")),
    st.tuples(
        st.just(
            "REPLACE INTO fraud_labels VALUES (%s, 0, NOW(6) + INTERVAL %s HOUR,"
            " UTC_TIMESTAMP(6) + INTERVAL %s HOUR)"
        ),
        st.sampled_from(LABEL_IDS),
        HOURS,
        HOURS,
    ),
    st.tuples(
        st.just("DELETE FROM fraud_labels WHERE transaction_id BETWEEN %s AND %s"),
        st.sampled_from(LABEL_IDS),
        st.sampled_from(LABEL_IDS),
    ),
    st.tuples(st.just("TRUNCATE TABLE fraud_labels")),
)
TABLES_OF_POSTGRES = (
    "CREATE TABLE public.customers (customer_id integer PRIMARY KEY)",
    "CREATE TABLE public.terminals (terminal_id integer PRIMARY KEY)",
    "CREATE TABLE public.transactions (transaction_id bigint PRIMARY KEY, customer_id integer NOT NULL,"
    " terminal_id integer NOT NULL, created_at timestamptz NOT NULL,"
    " xid xid8 NOT NULL DEFAULT pg_current_xact_id())",
    f"INSERT INTO public.customers SELECT generate_series(1, {CUSTOMERS})",
    f"INSERT INTO public.terminals SELECT generate_series(1, {TERMINALS})",
    f"INSERT INTO public.transactions SELECT id, 1 + mod(id, {CUSTOMERS}), 1 + mod(id, {TERMINALS}),"
    f" now() - interval '10 hours' FROM generate_series({FIRST}, {FIRST + 3 * SIZE - 1}) AS id",
)
TABLES_OF_MYSQL = (
    "CREATE TABLE fraud_labels (transaction_id BIGINT UNSIGNED PRIMARY KEY, is_fraud TINYINT(1) NOT NULL,"
    " created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), detected_at DATETIME(6) NOT NULL)",
    "INSERT INTO fraud_labels VALUES "
    + ", ".join(
        f"({id_}, 0, NOW(6) - INTERVAL 9 HOUR, UTC_TIMESTAMP(6) - INTERVAL 9 HOUR)"
        for id_ in range(FIRST, FIRST + 3 * SIZE)
    ),
)


def by_reading_all(servers: Servers) -> dict[str, int]:
    """Compare every row with every other, as slowly as it takes; the clocks are one machine's."""
    transactions = {
        row[0]: row[1:]
        for row in servers.ask_postgres(
            "SELECT transaction_id, customer_id, terminal_id, extract(epoch FROM created_at)::float8,"
            " created_at > now() FROM public.transactions"
        )
    }
    labels = {
        row[0]: row[1:]
        for row in servers.ask_mysql(
            "SELECT transaction_id, UNIX_TIMESTAMP(created_at), detected_at > UTC_TIMESTAMP(6)"
            " FROM fraud_labels"
        )
    }
    customers = {number for (number,) in servers.ask_postgres("SELECT customer_id FROM public.customers")}
    terminals = {number for (number,) in servers.ask_postgres("SELECT terminal_id FROM public.terminals")}
    both = transactions.keys() & labels.keys()
    return {
        "transactions": len(transactions),
        "labels": len(labels),
        "unlabelled": len(transactions.keys() - labels.keys()),
        "orphans": len(labels.keys() - transactions.keys()),
        "older": sum(
            float(labels[key][0]) < transactions[key][2] and not transactions[key][3] for key in both
        ),
        "dangling": sum(row[0] not in customers or row[1] not in terminals for row in transactions.values()),
        "transactions_ahead": sum(row[3] for row in transactions.values()),
        "labels_ahead": sum(row[1] for row in labels.values()),
    }


def by_ranges(found: Verification) -> dict[str, int]:
    rows = {table.name: table.rows for database in found.databases for table in database.tables}
    return {
        "transactions": rows["public.transactions"],
        "labels": rows["fraud_labels"],
        **{
            name: getattr(found, name)
            for name in ("unlabelled", "orphans", "older", "dangling", "transactions_ahead", "labels_ahead")
        },
    }


@given(changes=st.lists(CHANGES, max_size=10), most_mapped=st.sampled_from([0, asked_module.MOST_MAPPED]))
@settings(
    max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_was_changed_is_found_as_by_reading_every_row(
    running_servers: Servers, changes: list[tuple[Any, ...]], most_mapped: int
) -> None:
    running_servers.empty()
    for statement in TABLES_OF_POSTGRES:
        running_servers.ask_postgres(statement)
    for statement in TABLES_OF_MYSQL:
        running_servers.ask_mysql(statement)
    for statement, *values in changes:
        in_mysql = "fraud_labels" in statement
        (running_servers.ask_mysql if in_mysql else running_servers.ask_postgres)(statement, *values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asked_module, "BUCKET", SIZE)
        patch.setattr(asked_module, "MOST_MAPPED", most_mapped)
        found = verify(Databases(*running_servers.addresses), "reconciled")
    assert by_ranges(found) == by_reading_all(running_servers)
