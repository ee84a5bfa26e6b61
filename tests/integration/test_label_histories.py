"""Labels in every history that two databases can have: rows changed by hand, restores, other clusters."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fraud_pipeline import id_comparison
from fraud_pipeline.connections import mysql_database, open_mysql, open_postgres, postgres_database
from fraud_pipeline.errors import DatabaseError as ScriptDatabaseError
from fraud_pipeline.labelling import Labeller
from pipectl import cli
from pipectl.databases import Databases
from pipectl.errors import ExitCode
from pipectl.models import Causes
from pipectl.pipeline.verification import verify
from support import ROOT
from support.needs import need_postgres
from support.script_servers import Servers, servers_in
from support.server_process import free_port
from support.text import documented_words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipectl.pipeline.verification import Verification

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

COLUMNS = (
    "tx_time, customer_id, card_id, terminal_id, mcc, amount, currency, channel, country, lat, lon, status"
)
VALUES = "now(), 1, 11, 1, 5411, 10, 'EUR', 'pos', 'DE', 50, 10, 'approved'"
INSERT = f"INSERT INTO public.transactions ({COLUMNS}) SELECT {VALUES} FROM generate_series(1, %s)"
INSERT_WITH = f"INSERT INTO public.transactions ({{}}, {COLUMNS}) SELECT {{}}, {VALUES}"
CUSTOMER = """
    INSERT INTO public.customers (customer_id, country, lat, lon, segment, cards, opened_on)
    VALUES (1, 'DE', 50, 10, 'basic', 1, '2000-01-01') ON CONFLICT DO NOTHING"""
TERMINAL = """
    INSERT INTO public.terminals (terminal_id, mcc, channel, country, lat, lon)
    VALUES (1, 5411, 'pos', 'DE', 50, 10) ON CONFLICT DO NOTHING"""
FAR = 1_000_000


class History:
    """Two databases with tables and no rows, and what may happen to them."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.postgres: Any = servers.postgres()
        self.postgres.autocommit = True
        self.mysql: Any = servers.mysql()
        self.change("TRUNCATE public.transactions, sim.ground_truth")
        self.change(CUSTOMER)
        self.change(TERMINAL)
        self.change("DROP TABLE IF EXISTS public.kept")
        self.change("ALTER TABLE public.transactions DROP CONSTRAINT IF EXISTS transaction_id_not_negative")
        for statement in (
            "DROP TABLE IF EXISTS kept_labels, kept_progress",
            "DELETE FROM fraud_labels",
            "UPDATE label_progress SET last_xid = 0, last_transaction_id = 0, system_identifier = NULL",
        ):
            self.change_labels(statement)
        self.keep(0)

    def change(self, statement: str, *values: object) -> None:
        self.postgres.cursor().execute(statement, values or None)

    def change_labels(self, statement: str, *values: object) -> None:
        cursor = self.mysql.cursor()
        cursor.execute(statement, values)

    def insert(self, number: int) -> None:
        self.change(INSERT, number)

    def insert_with_another_clusters_number(self, number: int) -> None:
        xid = number if number % 2 else f"pg_current_xact_id()::text::bigint + {FAR}"
        self.change(INSERT_WITH.format("xid", f"({xid})::text::xid8"))

    def insert_an_id_again(self, number: int) -> None:
        """As after a restore that set the sequence back."""
        again = f"""(SELECT id FROM generate_series(1, (SELECT max(transaction_id)
                     FROM public.transactions)) AS id
                     EXCEPT SELECT transaction_id FROM public.transactions ORDER BY 1 LIMIT {number})"""
        self.change(INSERT_WITH.format("transaction_id", "id") + f" FROM {again} AS free")

    def insert_poison(self, number: int) -> None:
        self.change(INSERT_WITH.format("transaction_id", str(-number)) + " ON CONFLICT DO NOTHING")

    def insert_dated_ahead(self, number: int) -> None:
        when = "'infinity'" if number % 2 else "now() + interval '1 day'"
        self.change(INSERT_WITH.format("created_at", when))

    def delete(self, number: int) -> None:
        self.change("DELETE FROM public.transactions WHERE transaction_id %% %s = 1", number)

    def delete_the_last(self, number: int) -> None:
        last = "SELECT transaction_id FROM public.transactions ORDER BY 1 DESC LIMIT %s"
        self.change(f"DELETE FROM public.transactions WHERE transaction_id IN ({last})", number)

    def change_ids(self, number: int) -> None:
        ids = "nextval(pg_get_serial_sequence('public.transactions', 'transaction_id'))"
        self.change(
            f"UPDATE public.transactions SET transaction_id = {ids} WHERE transaction_id %% %s = 0", number
        )

    def truncate(self, _: int) -> None:
        self.change("TRUNCATE public.transactions")

    def delete_labels(self, number: int) -> None:
        self.change_labels("DELETE FROM fraud_labels WHERE MOD(transaction_id, %s) = 1", number)

    def delete_all_labels(self, _: int) -> None:
        self.change_labels("DELETE FROM fraud_labels")

    def label_nothing(self, number: int) -> None:
        self.change_labels(
            "INSERT INTO fraud_labels VALUES (%s, 0, NULL, 1, 'x', NOW(6), DEFAULT, DEFAULT)"
            " ON DUPLICATE KEY UPDATE is_fraud = is_fraud",
            2**63 + number if number % 2 else 10**9 + number,
        )

    def keep(self, _: int) -> None:
        """Make a copy to restore."""
        self.change("DROP TABLE IF EXISTS public.kept")
        self.change("CREATE TABLE public.kept AS SELECT * FROM public.transactions")
        for copy, table in (("kept_labels", "fraud_labels"), ("kept_progress", "label_progress")):
            self.change_labels(f"DROP TABLE IF EXISTS {copy}")
            self.change_labels(f"CREATE TABLE {copy} SELECT * FROM {table}")

    def restore_transactions(self, _: int) -> None:
        self.change("DELETE FROM public.transactions")
        self.change("INSERT INTO public.transactions SELECT * FROM public.kept")

    def restore_labels(self, _: int) -> None:
        for copy, table in (("kept_labels", "fraud_labels"), ("kept_progress", "label_progress")):
            self.change_labels(f"DELETE FROM {table}")
            self.change_labels(f"INSERT INTO {table} SELECT * FROM {copy}")

    def move_to_another_cluster(self, number: int) -> None:
        away = FAR if number % 2 else -2
        self.change(
            "UPDATE public.transactions SET xid = greatest(1, xid::text::bigint + %s)::text::xid8", away
        )
        self.change_labels("UPDATE label_progress SET system_identifier = 7")

    def label(self, number: int) -> None:
        self.labeller(lambda labeller: labeller.run(limit=None if number % 2 else number))

    def labeller(self, work: Any) -> Any:
        environment = self.servers.environment
        with (
            open_postgres(postgres_database(environment), "test") as postgres,
            open_mysql(mysql_database(environment)) as mysql,
        ):
            return work(Labeller(postgres, mysql, seed=1, chunk=7))

    def verify(self) -> Verification:
        return verify(Databases(*self.servers.addresses), "reconciled")

    def close(self) -> None:
        self.postgres.close()
        self.mysql.close()


EVENTS = [
    name
    for name in vars(History)
    if not name.startswith("_") and name not in {"change", "change_labels", "labeller", "verify", "close"}
]


@pytest.fixture
def history(servers: Servers) -> Iterator[History]:
    run(servers, "transaction_generator", "detection_generator")
    history = History(servers)
    yield history
    history.close()


def run(servers: Servers, *scripts: str) -> str:
    log = ""
    for script in scripts:
        code, told = servers.run(script)
        assert code == 0, told
        log += told
    return log


def ids(servers: Servers) -> tuple[set[int], set[int]]:
    transactions = servers.ask_postgres("SELECT transaction_id FROM public.transactions")
    labels = servers.ask_mysql("SELECT transaction_id FROM fraud_labels")
    return {row[0] for row in transactions}, {row[0] for row in labels}


@settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(events=[("insert", 9), ("label", 1), ("delete", 2), ("insert_an_id_again", 5)])
@given(events=st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(1, 9)), max_size=12))
def test_after_any_history_labelling_and_repair_leave_one_label_for_each_transaction(
    history: History, events: list[tuple[str, int]]
) -> None:
    history.__init__(history.servers)  # type: ignore[misc]  # each example begins without rows
    for name, number in events:
        getattr(history, name)(number)

    history.label(1)
    repaired = history.labeller(Labeller.repair)

    transactions, labels = ids(history.servers)
    assert labels == {identity for identity in transactions if identity >= 0}
    found = history.verify()
    poison = sum(identity < 0 for identity in transactions)
    assert (found.causes, found.orphans, found.older) == (Causes(set_aside=poison), 0, 0), repaired
    again = history.labeller(Labeller.repair)
    assert (again.missing, again.orphans, again.older) == (0, 0, 0)


def test_labelling_alone_finds_what_contradicts_its_mark(history: History) -> None:
    for event in (
        history.delete_all_labels,
        history.delete_the_last,
        history.restore_transactions,
        partial(History.move_to_another_cluster, history),
    ):
        history.insert(20)
        history.label(1)
        history.keep(0)
        event(3)
        history.insert(5)
        history.label(1)
        transactions, labels = ids(history.servers)
        assert transactions <= labels


def test_verify_says_why_transactions_have_no_label(history: History) -> None:
    history.insert(10)
    history.label(1)
    history.change_labels("DELETE FROM fraud_labels ORDER BY transaction_id LIMIT 2")
    history.insert_with_another_clusters_number(2)
    history.insert_poison(7)
    for _ in range(3):
        history.insert(1)
    assert history.verify().causes == Causes(below_mark=2, next_run=3, other_cluster=1, set_aside=1)
    writer = history.servers.postgres()
    writer.cursor().execute(INSERT, (1,))
    history.insert(4)
    found = history.verify()
    writer.close()
    assert found.causes == Causes(below_mark=2, next_run=3, open_transaction=4, other_cluster=1, set_aside=1)
    assert found.unlabelled == 11
    assert found.reasons == (
        "3 transactions have no label yet",
        "4 transactions wait for the end of one that is open in PostgreSQL",
        "1 transaction that another PostgreSQL wrote has no label",
        "2 transactions lack a label where labelling has been already",
        "1 transaction has an id below 0, which no label can have",
    )
    history.change_labels("UPDATE label_progress SET system_identifier = 7")
    assert history.verify().causes == Causes(other_cluster=10, set_aside=1)


def test_a_labelled_row_does_not_wait(history: History) -> None:
    history.insert(3)
    writer = history.servers.postgres()
    writer.cursor().execute(INSERT, (1,))
    history.insert(4)
    assert history.labeller(Labeller.run).waiting == 4
    history.labeller(Labeller.repair)
    done = history.labeller(Labeller.run)
    assert (done.waiting, done.lag_seconds) == (0, 0.0)
    writer.commit()
    writer.close()
    assert history.labeller(Labeller.run).labels == 1


def test_a_label_of_an_earlier_transaction_with_the_same_id_is_replaced(history: History) -> None:
    history.insert(5)
    history.label(1)
    [(first,)] = history.servers.ask_postgres("SELECT min(transaction_id) FROM public.transactions")
    history.change("DELETE FROM public.transactions WHERE transaction_id = %s", first)
    history.change(INSERT_WITH.format("transaction_id", str(first)))
    history.change("INSERT INTO sim.ground_truth VALUES (%s, 'a\tstolen\\card', now(), 'monitoring')", first)
    assert history.verify().older == 1

    done = history.labeller(Labeller.repair)

    assert (done.missing, done.frauds, done.older) == (0, 1, 1)
    assert history.servers.ask_mysql(
        "SELECT transaction_id, fraud_type FROM fraud_labels WHERE is_fraud"
    ) == [(first, "a\tstolen\\card")]
    assert history.verify().ok


def test_a_transaction_that_is_dated_ahead_keeps_its_label(history: History) -> None:
    history.insert(2)
    history.insert_dated_ahead(1)
    history.insert_dated_ahead(2)
    history.label(1)
    history.change_labels("UPDATE fraud_labels SET detected_at = '2100-01-01', label_source = 'by hand'")
    done = history.labeller(Labeller.repair)
    assert (done.missing, done.orphans, done.older) == (0, 0, 0)
    found = history.verify()
    assert (found.ok, found.older, found.transactions_ahead, found.labels_ahead) == (True, 0, 2, 4)
    # The clock has come there meanwhile.
    history.change("UPDATE public.transactions SET created_at = now() WHERE created_at > now()")
    history.change_labels("UPDATE fraud_labels SET detected_at = UTC_TIMESTAMP(6)")
    found = history.verify()
    assert (found.older, found.transactions_ahead, found.labels_ahead) == (2, 0, 0)
    assert history.labeller(Labeller.repair).older == 2
    assert history.verify().ok


def test_transactions_that_are_dated_ahead_may_wait_for_their_labels(history: History) -> None:
    writer = history.servers.postgres()
    writer.cursor().execute(INSERT, (1,))
    history.insert_dated_ahead(1)
    history.insert_dated_ahead(2)
    done = history.labeller(Labeller.run)
    writer.close()
    assert (done.waiting, done.lag_seconds) == (2, 0.0)


def test_ids_are_compared_without_a_row_for_each_label(history: History) -> None:
    """The driver in pure Python takes 5 µs for a row."""
    if not history.servers.is_mariadb():
        pytest.skip("MySQL does not count the rows that it sends to a session")
    history.insert(5_000)
    history.label(1)
    history.change_labels("DELETE FROM fraud_labels WHERE MOD(transaction_id, 1000) = 7")

    def compared(labeller: Labeller) -> tuple[int, int]:
        labeller.chunk = 2_000
        with labeller.mysql.cursor() as cursor:
            sent = "SHOW SESSION STATUS LIKE 'Rows_sent'"
            cursor.execute(sent)
            [(_, before)] = cast("list[tuple[str, str]]", cursor.fetchall())
            missing = labeller.repair().missing
            cursor.execute(sent)
            [(_, after)] = cast("list[tuple[str, str]]", cursor.fetchall())
        return missing, int(after) - int(before)

    missing, rows = history.labeller(compared)
    assert missing == 5
    assert rows < 50


def test_ids_that_mysql_cuts_off_are_an_error_and_delete_nothing(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.insert(100)
    history.label(1)
    before = ids(history.servers)
    monkeypatch.setattr(id_comparison, "_LONG_ANSWERS", "SET SESSION group_concat_max_len = 64")
    with pytest.raises(ScriptDatabaseError, match="MySQL cut an answer of 7 labels off"):
        history.labeller(Labeller.repair)
    assert ids(history.servers) == before


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with servers_in(tmp_path_factory.mktemp("other")) as servers:
        yield servers


def test_a_dump_that_is_restored_into_another_cluster_is_labelled(servers: Servers, other: Servers) -> None:
    """The first cluster has given more numbers than the second will for long."""
    more = "DO $$ BEGIN FOR n IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
    servers.ask_postgres(more)
    run(servers, "transaction_generator", "detection_generator", "transaction_generator")
    other.empty()
    binaries = need_postgres()
    login = {**binaries.environment, "PGPASSWORD": "docker"}
    where = ("--host=127.0.0.1", "--username=docker", "--dbname=airbyte")
    dump = subprocess.run(
        (binaries.bin_dir / "pg_dump", *where, f"--port={servers.postgres_port}"),
        env=login,
        capture_output=True,
        check=True,
    )
    subprocess.run(
        (binaries.bin_dir / "psql", *where, f"--port={other.postgres_port}", "--quiet"),
        input=dump.stdout,
        env=login,
        capture_output=True,
        check=True,
    )
    restored = Servers(other.postgres_port, servers.mysql_port, other.folder)
    databases = Databases(*restored.addresses)
    transactions, labels = ids(restored)
    assert len(labels) < len(transactions)
    assert verify(databases, "reconciled").causes == Causes(other_cluster=len(transactions - labels))

    log = run(restored, "transaction_generator", "detection_generator")

    assert 'event=ids_compared because="the mark is of another cluster"' in log
    assert " waiting=0 " in log
    assert verify(databases, "reconciled").ok
    log = run(restored, "transaction_generator", "detection_generator")
    assert "ids_compared" not in log
    assert verify(databases, "reconciled").ok


def test_the_documented_dump_goes_into_an_emptied_a_full_and_a_new_database(
    servers: Servers, other: Servers
) -> None:
    run(servers, "transaction_generator", "detection_generator")
    other.empty()
    binaries = need_postgres()
    login = {**binaries.environment, "PGPASSWORD": "docker"}
    where = ("--host=127.0.0.1", "--username=docker", "--dbname=airbyte")
    words = documented_words("airbyte-postgres")
    dump = subprocess.run(
        (binaries.bin_dir / words[0], *where, f"--port={servers.postgres_port}", *words[1:]),
        env=login,
        capture_output=True,
        check=True,
    )
    content = "SELECT * FROM public.transactions ORDER BY transaction_id", "SELECT * FROM sim.ground_truth"
    before = [servers.ask_postgres(statement) for statement in content]
    published = "SELECT tablename FROM pg_publication_tables ORDER BY 1"
    tables = servers.ask_postgres(published)
    servers.ask_postgres("TRUNCATE public.transactions, sim.ground_truth, sim.batches, public.customers")

    for restored in (servers, servers, other):
        told = subprocess.run(
            (binaries.bin_dir / "psql", *where, f"--port={restored.postgres_port}", "-qv", "ON_ERROR_STOP=1"),
            input=dump.stdout,
            env=login,
            capture_output=True,
            check=False,
        )
        assert (told.returncode, b"ERROR" in told.stderr) == (0, False), told.stderr
        assert [restored.ask_postgres(statement) for statement in content] == before
        assert restored.ask_postgres(published) == tables

    # Ids, the trigger and the record of migrations go on from there.
    run(servers, "transaction_generator", "detection_generator")
    assert verify(Databases(*servers.addresses), "reconciled").ok


@pytest.fixture
def project(servers: Servers, tmp_path: Path) -> Path:
    (tmp_path / "dags").mkdir()
    (tmp_path / "stack").mkdir()
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / "stack" / ".env").write_text(
        f"AIRBYTE_POSTGRES_HOST=127.0.0.1\nAIRBYTE_POSTGRES_PORT={servers.postgres_port}\n"
        f"AIRBYTE_MYSQL_HOST=127.0.0.1\nAIRBYTE_MYSQL_PORT={servers.mysql_port}\n"
        f"AIRFLOW_PORT={free_port()}\n"
    )
    return tmp_path


def verify_db(project: Path, *words: str) -> Any:
    return CliRunner().invoke(cli.app, ("--project", str(project), "verify-db", *words))


def test_verify_db_plans_a_repair_asks_before_it_deletes_and_mends(history: History, project: Path) -> None:
    history.insert(10)
    history.label(1)
    history.change_labels("DELETE FROM fraud_labels ORDER BY transaction_id LIMIT 2")
    history.label_nothing(2)
    before = ids(history.servers)

    broken = verify_db(project, "--expect", "reconciled")
    assert broken.exit_code == ExitCode.VERIFICATION
    assert "pipectl verify-db --repair" in broken.stderr
    plan = verify_db(project, "--repair", "--dry-run", "--json")
    assert json.loads(plan.stdout) == {
        "would_write": 2,
        "would_remove": 1,
        "would_replace": 0,
        "set_aside": 0,
        "dangling": 0,
    }
    refused = verify_db(project, "--repair")
    assert refused.exit_code == ExitCode.USAGE
    assert "nothing was deleted" in refused.stderr
    assert ids(history.servers) == before

    done = verify_db(project, "--repair", "--yes", "--json")

    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["written"], found["removed"], found["replaced"]) == (2, 1, 0)
    assert found["verification"]["ok"]
    assert verify_db(project, "--expect", "reconciled").exit_code == 0
    assert "Labels written: 0, removed: 0, replaced: 0." in verify_db(project, "--repair").stdout
    assert verify_db(project, "--dry-run").exit_code == ExitCode.USAGE
    assert verify_db(project, "--repair", "--expect", "populated").exit_code == ExitCode.USAGE
