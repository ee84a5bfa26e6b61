"""A history is loaded whole, once, however often its loader is killed and whoever writes beside it."""

from __future__ import annotations

import json
import random
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipectl.errors import DatabaseError, UsageError
from pipectl.observer import Observer
from pipectl.pipeline.loading import HistoryLoader
from support.elsewhere import pipectl, project_of
from support.load_observer import LoadObserver

if TYPE_CHECKING:
    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
KILLS = 12
TRANSACTIONS = 60_000
ARGUMENTS = ("--transactions", str(TRANSACTIONS), "--days", "20", "--chunk", "3000")
FINGERPRINT = """
    SELECT md5(string_agg(md5(ROW(tx_time, customer_id, card_id, terminal_id, mcc, amount, currency, channel,
                                  country, lat, lon, status, device_id, scenario, reported_at)::text), ''
                          ORDER BY tx_time, customer_id, terminal_id, amount))
    FROM public.transactions LEFT JOIN sim.ground_truth USING (transaction_id)"""


def counts(servers: Servers) -> dict[str, Any]:
    """What must be true of the two databases together."""
    transactions = {row[0] for row in servers.ask_postgres("SELECT transaction_id FROM public.transactions")}
    labels = [row[0] for row in servers.ask_mysql("SELECT transaction_id FROM fraud_labels")]
    truth = {row[0] for row in servers.ask_postgres("SELECT transaction_id FROM sim.ground_truth")}
    [(overwritten,)] = servers.ask_mysql("SELECT COUNT(*) FROM fraud_labels WHERE updated_at <> created_at")
    return {
        "missed": len(transactions - set(labels)),
        "doubled": len(labels) - len(set(labels)) + overwritten,
        "orphaned": len(set(labels) - transactions),
        "truth of nothing": len(truth - transactions),
    }


NOTHING_WRONG = {"missed": 0, "doubled": 0, "orphaned": 0, "truth of nothing": 0}


def rows_of_loads(servers: Servers) -> list[tuple[Any, ...]]:
    return servers.ask_postgres(
        "SELECT count(*), sum(transactions) FROM sim.batches WHERE batch_id LIKE 'history%%'"
    )


def test_killed_at_random_it_ends_with_each_transaction_and_label_once(servers: Servers) -> None:
    assert servers.run("transaction_generator")[0] == 0
    chance = random.Random(7)  # noqa: S311
    stop = threading.Event()
    writers = [threading.Thread(target=servers.insert_beside, args=(stop,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    kills = 0
    try:
        for number in range(KILLS):
            # Two at once, as a retry beside a task that is believed dead; the later ones are labelling.
            pair = [servers.start("history_loader", *ARGUMENTS) for _ in range(1 + number % 2)]
            stop.wait(0.3 + 1.2 * chance.random())
            for process in pair:
                kills += process.poll() is None
                process.send_signal(signal.SIGKILL)
                process.communicate()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    code, log = servers.run("history_loader", *ARGUMENTS)

    assert code == 0, log
    assert kills >= KILLS // 2
    # A load that was finished before the last try is followed by another one, complete as well.
    [(chunks, loaded)] = rows_of_loads(servers)
    loads = servers.ask_postgres("SELECT count(*) FROM sim.loads WHERE finished_at IS NOT NULL")
    assert (chunks, loaded) == (20 * loads[0][0], TRANSACTIONS * loads[0][0])
    assert counts(servers) == NOTHING_WRONG
    [(batches,)] = servers.ask_postgres("SELECT sum(transactions) FROM sim.batches")
    [(by_hand,)] = servers.ask_postgres(
        "SELECT count(*) FROM public.transactions WHERE lat = 50 AND lon = 10 AND amount = 10"
    )
    [(everything,)] = servers.ask_postgres("SELECT count(*) FROM public.transactions")
    assert everything == batches + by_hand


def test_rows_do_not_depend_on_the_shards_that_write_them(servers: Servers) -> None:
    size = ("--transactions", "25000", "--days", "9", "--chunk", "4000", "--load", "history of a test")
    assert servers.run("history_loader", *size, "--only", "plan")[0] == 0
    begun = servers.ask_postgres("SELECT since, until FROM sim.loads")
    for shard in (3, 1, 2):
        code, log = servers.run("history_loader", *size, "--only", "transactions", "--shard", f"{shard}/3")
        assert code == 0, log
    in_three = servers.ask_postgres(FINGERPRINT)
    servers.ask_postgres("TRUNCATE public.transactions, sim.ground_truth, sim.batches")
    code, log = servers.run("history_loader", *size, "--only", "transactions")

    assert code == 0, log
    assert servers.ask_postgres(FINGERPRINT) == in_three
    assert servers.ask_postgres("SELECT since, until FROM sim.loads") == begun
    [(first, last, rows)] = servers.ask_postgres(
        "SELECT min(tx_time), max(tx_time), count(*) FROM public.transactions"
    )
    assert rows == 25_000
    assert begun[0][0] <= first < last <= begun[0][1]


def loader(servers: Servers, observer: Observer) -> HistoryLoader:
    return HistoryLoader(ROOT, servers.addresses, seed=None, observer=observer)


def test_loader_of_pipectl_reports_progress_and_what_it_did(servers: Servers) -> None:
    observer = LoadObserver()

    result = loader(servers, observer).load(transactions=230_000, days=30, shards=2)

    assert (result.transactions, result.labels, result.resumed) == (230_000, 230_000, 0)
    assert 1_000 < result.frauds < 4_000
    assert result.seconds >= result.transactions_seconds + result.labels_seconds
    for phase in ("transactions", "labels"):
        done = [progress.done for progress in observer.seen if progress.phase == phase]
        assert done[0] == 0 or phase == "labels"
        assert done == sorted(done)
        assert done[-1] == 230_000
    assert any(progress.rate and progress.left for progress in observer.seen)
    assert counts(servers) == NOTHING_WRONG


def test_loader_of_pipectl_takes_up_what_is_there(servers: Servers) -> None:
    arguments = ("--transactions", "150000", "--days", "30", "--only", "transactions", "--shard", "1/2")
    code, log = servers.run("history_loader", *arguments)
    assert code == 0, log
    observer, other = LoadObserver(), LoadObserver()

    loader(servers, other).load(transactions=1_000, days=1, shards=1)
    result = loader(servers, observer).load(transactions=150_000, days=30, shards=1)

    [unfinished] = other.reports
    assert unfinished.startswith("A load of 150,000 transactions, begun on 20")
    assert unfinished.endswith(
        "100,000 are written. Go on with it: pipectl load --transactions 150000 --days 30"
    )
    [taken_up] = observer.reports
    assert taken_up.startswith("This load was begun on 20")
    assert taken_up.endswith(" UTC: it goes on from 100,000 of 150,000 transactions")
    assert (result.resumed, result.transactions, result.labels) == (100_000, 50_000, 50_000)
    again = loader(servers, observer).load(transactions=150_000, days=30, shards=1)
    assert again.resumed == 0  # the first is complete, so this is another one
    assert observer.reports == [taken_up]
    assert servers.ask_postgres("SELECT count(*) FROM public.transactions") == [(301_000,)]


def test_loader_of_pipectl_says_which_database_fails(servers: Servers) -> None:
    postgres, mysql = servers.addresses
    wrong = type(mysql)(mysql.service, mysql.host, 1, mysql.database, mysql.user, mysql.password)

    with pytest.raises(DatabaseError, match=r"^MySQL at 127.0.0.1:1 .*cannot be reached") as caught:
        HistoryLoader(ROOT, (postgres, wrong), seed=None, observer=Observer()).load(
            transactions=1_000, days=1, shards=1
        )
    assert "goes on from there" in caught.value.hint
    with pytest.raises(UsageError, match="PIPECTL_SEED is 'x'"):
        HistoryLoader(ROOT, servers.addresses, seed="x", observer=Observer()).load(
            transactions=1_000, days=1, shards=1
        )


@pytest.fixture
def project(servers: Servers, tmp_path: Path) -> Path:
    return project_of(servers, tmp_path)


def test_command_prints_its_documented_json_and_progress_beside_it(project: Path) -> None:
    done = pipectl(project, "load", "--transactions", "2_000", "--days", "1", "--json")

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["transactions"] == result["labels"] == 2_000
    assert {"transactions_seconds", "labels_seconds", "seconds"} <= result.keys()
    assert "2,000 of 2,000" in done.stderr
    text = pipectl(project, "load", "--transactions", "2_000", "--days", "1")
    assert "Loaded history__" in text.stdout
    assert "rows/s" in text.stdout
