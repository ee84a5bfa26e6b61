"""What pipectl asks the two business databases, on real servers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

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


def test_counts_tell_frauds_from_labels(servers: Servers) -> None:
    assert databases(servers).counts() == Counts(0, 0, 0)
    fill(servers, set(range(1, 15)), set(range(1, 15)))
    assert databases(servers).counts() == Counts(14, 14, 2)


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


def test_a_server_that_is_not_there_says_how_to_start_it(servers: Servers) -> None:
    right = databases(servers)
    for wrong in (
        Databases(replace(right.postgres, port=1), right.mysql),
        Databases(right.postgres, replace(right.mysql, port=1)),
    ):
        with pytest.raises(DatabaseError, match="does not answer") as caught:
            wrong.content()
        assert "pipectl up" in caught.value.hint


def test_a_database_that_does_not_exist_is_said(servers: Servers) -> None:
    right = databases(servers)
    with pytest.raises(DatabaseError, match="nowhere"):
        Databases(replace(right.postgres, database="nowhere"), right.mysql).content()
