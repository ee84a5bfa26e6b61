"""detection_generator.py on a real PostgreSQL and a real MySQL-protocol server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from support.waiting import until

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline.connections import mysql_database, open_mysql, open_postgres, postgres_database
from fraud_pipeline.labelling import Labeller, label_new
from fraud_pipeline.local_infile import pipe_folder

if TYPE_CHECKING:
    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

INSERT = """
    INSERT INTO public.transactions (tx_time, customer_id, card_id, terminal_id, mcc, amount, currency,
                                     channel, country, lat, lon, status)
    SELECT now(), 1, 11, 1, 5411, 10, 'EUR', 'pos', 'DE', 50, 10, 'approved' FROM generate_series(1, %s)
    RETURNING transaction_id"""


def report_everything(servers: Servers) -> None:
    """Let be reported by now what will ever be."""
    servers.ask_postgres("UPDATE sim.ground_truth SET reported_at = now() WHERE reported_at > now()")


def transactions(servers: Servers) -> set[int]:
    return {
        identity for (identity,) in servers.ask_postgres("SELECT transaction_id FROM public.transactions")
    }


def labelled(servers: Servers) -> set[int]:
    return {identity for (identity,) in servers.ask_mysql("SELECT transaction_id FROM fraud_labels")}


def mark(servers: Servers) -> int:
    [(last,)] = servers.ask_mysql("SELECT last_xid FROM label_progress")
    return int(last)


def insert(writer: Any, count: int) -> set[int]:
    cursor = writer.cursor()
    cursor.execute(INSERT, (count,))
    return {identity for (identity,) in cursor.fetchall()}


def test_run_on_empty_databases_makes_the_tables_and_no_label(servers: Servers) -> None:
    code, log = servers.run("detection_generator")

    assert code == 0, log
    assert "event=labels_written" in log
    assert labelled(servers) == set()


def test_every_transaction_gets_one_label_that_follows_its_ground_truth(servers: Servers) -> None:
    for name in ("a", "b", "c", "d"):
        servers.run("transaction_generator", PIPECTL_BATCH_ID=name)

    code, log = servers.run("detection_generator", PIPECTL_BATCH_ID="d")

    assert code == 0, log
    assert labelled(servers) == transactions(servers)
    assert truth(servers, "reported_at <= now()") == labelled_frauds(servers)
    [(frauds,)] = servers.ask_mysql("SELECT COUNT(*) FROM fraud_labels WHERE is_fraud")
    assert f" batch=d labels={len(transactions(servers))} frauds={frauds} corrected=0 waiting=0 " in log


def truth(servers: Servers, condition: str) -> list[tuple[Any, ...]]:
    return servers.ask_postgres(
        "SELECT transaction_id, scenario, reported_by, reported_at::timestamp FROM sim.ground_truth"
        f" WHERE {condition} ORDER BY 1"
    )


def labelled_frauds(servers: Servers) -> list[tuple[Any, ...]]:
    return servers.ask_mysql(
        "SELECT transaction_id, fraud_type, label_source, detected_at FROM fraud_labels"
        " WHERE is_fraud AND fraud_type <> 'unconfirmed' ORDER BY 1"
    )


def test_fraud_that_is_reported_later_is_corrected_and_moves_updated_at(servers: Servers) -> None:
    servers.run("transaction_generator", "--count", "20000")
    servers.run("detection_generator")
    before = labelled_frauds(servers)
    [(first,)] = servers.ask_mysql("SELECT MAX(updated_at) FROM fraud_labels")

    report_everything(servers)
    code, log = servers.run("detection_generator")

    after = labelled_frauds(servers)
    [(moved,)] = servers.ask_mysql("SELECT COUNT(*) FROM fraud_labels WHERE updated_at > %s", first)
    assert code == 0, log
    assert 0 < len(before) < len(after)
    assert after == truth(servers, "reported_at IS NOT NULL")
    assert set(before) < set(after)
    assert {row[2] for row in set(after) - set(before)} == {"chargeback"}
    assert f" labels=0 frauds=0 corrected={moved} " in log
    assert moved >= len(after) - len(before)
    assert servers.ask_postgres("SELECT count(*) FROM sim.ground_truth WHERE reported_at IS NULL") > [(0,)]


def test_fraud_whose_report_is_older_than_its_label_is_labelled_once(servers: Servers) -> None:
    servers.run("transaction_generator", "--count", "5000")
    report_everything(servers)
    servers.run("detection_generator")

    code, log = servers.run("detection_generator")

    assert code == 0, log
    assert labelled_frauds(servers) == truth(servers, "reported_at IS NOT NULL")
    assert servers.ask_mysql("SELECT COUNT(*) FROM fraud_labels WHERE updated_at <> created_at") == [(0,)]


def test_limit_leaves_the_rest_to_the_next_run(servers: Servers) -> None:
    servers.run("transaction_generator", "--count", "60")
    code, _ = servers.run("detection_generator", "--count", "25")
    some = labelled(servers)

    servers.run("detection_generator")

    assert code == 0
    assert len(some) == 25
    assert some < labelled(servers) == transactions(servers)


def test_many_labels_of_one_transaction_are_committed_in_chunks_by_load_data(servers: Servers) -> None:
    servers.run("transaction_generator", "--count", "30000", "--batch", "many")
    servers.run("detection_generator", "--count", "1")
    with (
        pipe_folder() as pipes,
        open_postgres(postgres_database(servers.environment), "test") as postgres,
        open_mysql(mysql_database(servers.environment), pipes) as mysql,
    ):
        labeller = Labeller(postgres, mysql, seed=1, chunk=7_000, pipes=pipes)
        seen: list[tuple[int, int]] = []
        done = labeller.run(
            progress=lambda rows: seen.append(
                (rows, servers.ask_mysql("SELECT last_transaction_id FROM label_progress")[0][0])
            )
        )

    assert [rows for rows, _ in seen] == [7_000, 7_000, 7_000, 7_000, 1_999]
    assert [last for _, last in seen] == sorted({last for _, last in seen})
    assert done.labels == 29_999
    assert labelled(servers) == transactions(servers)
    assert labelled_frauds(servers) == truth(servers, "reported_at <= now()")


def test_labels_by_load_data_and_by_insert_are_the_same(servers: Servers) -> None:
    everything = (
        "SELECT transaction_id, is_fraud, fraud_type, confidence, label_source FROM fraud_labels ORDER BY 1"
    )
    servers.run("transaction_generator", "--count", "5000")
    report_everything(servers)
    servers.run("detection_generator")
    loaded = servers.ask_mysql(everything)
    servers.ask_mysql("DELETE FROM fraud_labels")
    servers.ask_mysql("UPDATE label_progress SET last_xid = 0")
    with (
        open_postgres(postgres_database(servers.environment), "test") as postgres,
        open_mysql(mysql_database(servers.environment)) as mysql,
    ):
        Labeller(postgres, mysql, seed=1).run()

    assert servers.ask_mysql(everything) == loaded


def test_second_run_writes_only_what_is_new(servers: Servers) -> None:
    servers.run("transaction_generator")
    servers.run("detection_generator")
    first = servers.ask_mysql("SELECT * FROM fraud_labels ORDER BY 1")
    before = mark(servers)
    servers.run("transaction_generator")
    servers.run("detection_generator")

    assert labelled(servers) == transactions(servers)
    assert servers.ask_mysql("SELECT * FROM fraud_labels ORDER BY 1 LIMIT %s", len(first)) == first
    assert mark(servers) > before


def test_starts_at_once_on_empty_databases_all_succeed(servers: Servers) -> None:
    scripts = ("detection_generator", "transaction_generator", "detection_generator", "detection_generator")
    processes = [servers.start(script) for script in scripts]
    logs = [process.communicate(timeout=200)[0] for process in processes]

    assert [process.returncode for process in processes] == [0] * len(scripts), logs
    servers.run("detection_generator")
    assert labelled(servers) == transactions(servers)


def test_commits_beside_an_open_transaction_wait_for_the_next_run_with_a_warning(servers: Servers) -> None:
    servers.run("transaction_generator")
    servers.run("detection_generator")
    old = transactions(servers)
    writer = servers.postgres()
    try:
        late = insert(writer, 3)
        servers.run("transaction_generator")
        code, log = servers.run("detection_generator")
        assert code == 0, log
        assert labelled(servers) == old
        assert f"event=labels_wait transactions={len(transactions(servers) - old)} " in log
        assert f'held_back_by="process {writer.info.backend_pid} of user docker"' in log
        writer.commit()
    finally:
        writer.close()

    code, log = servers.run("detection_generator")

    assert late <= labelled(servers) == transactions(servers)
    assert "event=labels_wait" not in log


def test_rolled_back_transactions_get_no_label(servers: Servers) -> None:
    servers.run("transaction_generator")
    writer = servers.postgres()
    gone = insert(writer, 5)
    writer.rollback()
    writer.close()

    servers.run("detection_generator")

    assert not labelled(servers) & gone
    assert labelled(servers) == transactions(servers)


def test_mark_stays_below_transactions_that_were_rolled_back(servers: Servers) -> None:
    servers.run("transaction_generator")
    writer = servers.postgres()
    insert(writer, 5)
    writer.rollback()
    writer.close()

    servers.run("detection_generator")

    [(highest,)] = servers.ask_postgres("SELECT max(xid)::text FROM public.transactions")
    assert mark(servers) == int(highest)


def test_mark_ahead_of_a_restored_database_starts_again_without_a_second_label(servers: Servers) -> None:
    servers.run("transaction_generator")
    servers.run("detection_generator")
    first = servers.ask_mysql("SELECT * FROM fraud_labels ORDER BY 1")
    servers.ask_mysql("UPDATE label_progress SET last_xid = 18446744073709551615")
    servers.run("transaction_generator")

    code, log = servers.run("detection_generator")

    assert code == 0, log
    assert 'event=ids_compared because="the mark is ahead of the database"' in log
    assert labelled(servers) == transactions(servers)
    assert servers.ask_mysql("SELECT * FROM fraud_labels ORDER BY 1 LIMIT %s", len(first)) == first
    assert f" labels={len(labelled(servers)) - len(first)} " in log


@pytest.mark.parametrize(
    "damage", ["DROP TABLE fraud_labels", "DROP TABLE label_progress", "DELETE FROM label_progress"]
)
def test_lost_table_or_mark_is_made_again_and_all_is_labelled(servers: Servers, damage: str) -> None:
    servers.run("transaction_generator")
    servers.run("detection_generator")
    servers.ask_mysql(damage)

    code, log = servers.run("detection_generator")

    assert code == 0, log
    assert labelled(servers) == transactions(servers)


def test_second_labeller_waits_for_the_first_and_sees_its_mark(servers: Servers) -> None:
    servers.run("transaction_generator")
    servers.run("detection_generator")
    holder = servers.mysql()
    holder.autocommit = False
    cursor = holder.cursor()
    cursor.execute("SELECT last_xid FROM label_progress FOR UPDATE")
    cursor.fetchall()
    second = servers.start("detection_generator")
    try:
        until(
            lambda: (
                servers.ask_mysql(
                    "SELECT COUNT(*) FROM information_schema.processlist"
                    " WHERE info LIKE 'SELECT last_xid%FOR UPDATE'"
                )
                == [(1,)]
            ),
            "the second labeller's lock",
        )
        assert second.poll() is None
        cursor.execute("UPDATE label_progress SET last_xid = 7")
        holder.commit()
        log, _ = second.communicate(timeout=200)
    finally:
        second.kill()
        holder.close()

    assert second.returncode == 0, log
    assert mark(servers) > 7
    assert " labels=0 " in log  # started from 7 and found each label there


def test_chunks_smaller_than_the_work_change_nothing(servers: Servers) -> None:
    servers.run("transaction_generator")
    servers.run("detection_generator")
    servers.ask_mysql("DELETE FROM fraud_labels")
    servers.ask_mysql("UPDATE label_progress SET last_xid = 0")
    with (
        open_postgres(postgres_database(servers.environment), "test") as postgres,
        open_mysql(mysql_database(servers.environment)) as mysql,
    ):
        done = label_new(postgres, mysql, seed=1, chunk=7)

    assert done.labels == len(transactions(servers))
    assert labelled(servers) == transactions(servers)


def test_the_log_says_once_why_the_driver_lacks_its_extension(servers: Servers, tmp_path: Path) -> None:
    """The driver itself falls back to pure Python without a word, as on a system with an older libssl."""
    (tmp_path / "_mysql_connector.py").write_text("raise ImportError('libssl.so.3 is too old')")
    code, log = servers.run("detection_generator", PYTHONPATH=str(tmp_path))
    assert code == 0, log
    assert log.count('mysql_driver_is_pure_python_because="libssl.so.3 is too old"') == 1


def test_a_row_that_no_label_fits_is_set_aside_and_named_and_the_others_are_labelled(
    servers: Servers,
) -> None:
    servers.run("transaction_generator", PIPECTL_BATCH_ID="a")
    poison = INSERT.replace("(tx_time", "(transaction_id, tx_time").replace(
        "SELECT now()", "SELECT -7, now()"
    )
    with pytest.raises(psycopg2.errors.CheckViolation):
        servers.ask_postgres(poison, 1)
    # As in a database that an earlier release made.
    servers.ask_postgres("ALTER TABLE public.transactions DROP CONSTRAINT transaction_id_not_negative")
    servers.ask_postgres(poison, 1)
    servers.run("transaction_generator", PIPECTL_BATCH_ID="b")

    code, log = servers.run("detection_generator")

    assert code == 0, log
    assert labelled(servers) == transactions(servers) - {-7}
    assert "event=transactions_set_aside transactions=1 last_id=-7" in log
    assert servers.run("detection_generator")[0] == 0


def test_frauds_that_are_read_again_are_not_counted_again(servers: Servers) -> None:
    servers.run("transaction_generator", "--count", "3000")
    report_everything(servers)
    first = servers.run("detection_generator")[1]
    servers.ask_mysql("UPDATE label_progress SET last_xid = 0, last_transaction_id = 0")
    again = servers.run("detection_generator")[1]
    [(frauds,)] = servers.ask_mysql("SELECT COUNT(*) FROM fraud_labels WHERE is_fraud = 1")
    assert f" frauds={frauds} " in first
    assert " labels=0 frauds=0 " in again


FOREIGN = "UPDATE public.transactions SET xid = (xid::text::bigint + 1000000)::text::xid8"


@pytest.mark.parametrize("mysql_came_too", [True, False])
def test_rows_that_another_cluster_wrote_are_labelled_whatever_their_numbers_say(
    servers: Servers, *, mysql_came_too: bool
) -> None:
    """A dump that was restored: its rows' numbers are above this cluster's, or below its mark."""
    servers.run("transaction_generator", PIPECTL_BATCH_ID="a")
    servers.run("detection_generator")
    servers.run("transaction_generator", PIPECTL_BATCH_ID="never labelled")
    servers.ask_postgres(FOREIGN)
    if mysql_came_too:
        moved = "last_xid = last_xid + 1000000, system_identifier = 7"
        servers.ask_mysql(f"UPDATE label_progress SET {moved}")
    else:
        servers.ask_mysql("DELETE FROM fraud_labels")
        servers.ask_mysql("UPDATE label_progress SET last_xid = 0, system_identifier = NULL")
    servers.run("transaction_generator", PIPECTL_BATCH_ID="of this cluster")

    code, log = servers.run("detection_generator")

    assert code == 0, log
    assert "event=ids_compared because=" in log
    assert "of another cluster" in log
    assert " waiting=0 " in log
    assert labelled(servers) == transactions(servers)
    servers.run("transaction_generator", PIPECTL_BATCH_ID="later")
    code, log = servers.run("detection_generator")
    assert "ids_compared" not in log
    assert labelled(servers) == transactions(servers)


def test_a_labeller_that_may_not_know_the_cluster_labels_as_before(servers: Servers) -> None:
    may = "{} EXECUTE ON FUNCTION pg_control_system() {} PUBLIC"
    servers.ask_superuser(may.format("REVOKE", "FROM"))
    try:
        servers.run("transaction_generator")
        code, log = servers.run("detection_generator")
    finally:
        servers.ask_superuser(may.format("GRANT", "TO"))
    assert code == 0, log
    assert labelled(servers) == transactions(servers)


def test_the_mark_is_never_ahead_of_the_databases_clock(servers: Servers) -> None:
    servers.run("transaction_generator", "--count", "5000")
    ahead = "SELECT reported_until > UTC_TIMESTAMP(6) FROM label_progress"

    code, log = servers.run("detection_generator", "--until", "2037-01-01")

    assert code == 0, log
    assert "event=until_is_ahead_of_the_clock" in log
    assert servers.ask_mysql(ahead) == [(0,)]
    assert labelled_frauds(servers) == truth(servers, "reported_at <= now()")
    # As a clock that was wrong for a while has left it.
    servers.ask_mysql("UPDATE label_progress SET reported_until = '2037-01-01'")
    servers.run("transaction_generator")
    code, log = servers.run("detection_generator")
    assert "event=mark_ahead_of_clock" in log
    assert servers.ask_mysql(ahead) == [(0,)]
    assert servers.ask_mysql("SELECT COUNT(*) FROM fraud_labels WHERE detected_at > UTC_TIMESTAMP(6)") == [
        (0,)
    ]


@pytest.mark.parametrize("chunk", [3, 50, 50_000])
def test_labels_that_somebody_deleted_or_orphaned_are_repaired(servers: Servers, chunk: int) -> None:
    for name in "ab":
        servers.run("transaction_generator", PIPECTL_BATCH_ID=name)
    servers.run("detection_generator")
    before = servers.ask_mysql("SELECT transaction_id, is_fraud, confidence FROM fraud_labels ORDER BY 1")
    [(first, last)] = servers.ask_postgres(
        "SELECT min(transaction_id), max(transaction_id) FROM public.transactions"
    )
    servers.ask_mysql("DELETE FROM fraud_labels WHERE transaction_id IN (%s, %s)", first, last - 5)
    servers.ask_postgres("DELETE FROM public.transactions WHERE transaction_id IN (%s, %s)", first + 3, last)
    servers.run("transaction_generator", PIPECTL_BATCH_ID="waits for its labels")
    with (
        open_postgres(postgres_database(servers.environment), "test") as postgres,
        open_mysql(mysql_database(servers.environment)) as mysql,
    ):
        done = Labeller(postgres, mysql, seed=1, chunk=chunk).repair()

    assert done.orphans == 2
    assert labelled(servers) == transactions(servers)
    after = servers.ask_mysql("SELECT transaction_id, is_fraud, confidence FROM fraud_labels ORDER BY 1")
    assert set(before) - set(after) == {row for row in before if row[0] in {first + 3, last}}
    _, log = servers.run("detection_generator", "--repair")
    assert " missing=0 frauds=0 orphans=0 older=0 " in log
