"""Concurrent writers, open transactions, roll-backs, labellers killed at random: no label lost or doubled.

The same harness runs a labeller that looks right, `id > MAX(id)`, and must catch it losing labels.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.waiting import until

if TYPE_CHECKING:
    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

SCRIPTS = Path(__file__).parents[2] / "scripts"
COMMITS, ROLLBACKS, KILLS = 80, 15, 15
WRITERS = 4
LABELLERS = 2
LONGEST_OPEN_SECONDS = 1.0
ROLLBACK_SHARE = 0.2
LONGEST_LIFE_SECONDS = 1.0
INSERT = """
    INSERT INTO public.transactions (tx_time, customer_id, card_id, terminal_id, mcc, amount, currency,
                                     channel, country, lat, lon, status)
    SELECT now(), 1, 11, 1, 5411, 10, 'EUR', 'pos', 'DE', 50, 10, 'approved' FROM generate_series(1, %s)"""

# Each connects once and labels without a pause, so that a kill finds it at work rather than at its imports.
# Small chunks make many places to be killed at.
HORIZON_LABELLER = """
import os
from fraud_pipeline.connections import mysql_database, open_mysql, open_postgres, postgres_database
from fraud_pipeline.labelling import label_new
with open_postgres(postgres_database(os.environ), "labeller") as postgres:
    with open_mysql(mysql_database(os.environ)) as mysql:
        while True:
            label_new(postgres, mysql, seed=1, chunk=5)
            if os.environ.get("ONCE"):
                break
"""
NAIVE_LABELLER = """
import os
from fraud_pipeline.connections import mysql_database, mysql_value
from fraud_pipeline.connections import open_mysql, open_postgres, postgres_database
with open_postgres(postgres_database(os.environ), "labeller") as postgres:
    with open_mysql(mysql_database(os.environ)) as mysql:
        reader, labels = postgres.cursor(), mysql.cursor()
        while True:
            labels.execute("SELECT COALESCE(MAX(transaction_id), 0) FROM fraud_labels")
            last = mysql_value(labels)
            reader.execute("SELECT transaction_id FROM transactions WHERE transaction_id > %s", (last,))
            for row in reader.fetchall():
                labels.execute(
                    "INSERT INTO fraud_labels VALUES (%s, 0, NULL, 1, 'naive', NOW(6), DEFAULT, DEFAULT)"
                    " ON DUPLICATE KEY UPDATE transaction_id = transaction_id", row)
            mysql.commit()
            postgres.commit()
            if os.environ.get("ONCE"):
                break
"""


@dataclass(frozen=True)
class Outcome:
    """What the harness counted. `doubled` are labels written over another one, or beside it."""

    transactions: int
    rolled_back: int
    kills: int
    missed: int
    doubled: int
    orphaned: int


class Harness:
    def __init__(self, servers: Servers, labeller: str) -> None:
        self.servers = servers
        self.labeller = labeller
        self.over = threading.Event()
        self.committed = 0
        self.rolled_back = 0
        self.kills = 0
        self.errors: list[str] = []

    def run(self) -> Outcome:
        for script in ("transaction_generator", "detection_generator"):  # makes the tables
            assert self.servers.run(script)[0] == 0
        threads = [threading.Thread(target=self._write, args=(seed,)) for seed in range(WRITERS)]
        threads += [threading.Thread(target=self._label_and_kill, args=(seed,)) for seed in range(LABELLERS)]
        for thread in threads:
            thread.start()
        until(self._enough, "kills, roll-backs and transactions")
        self.over.set()
        for thread in threads:
            thread.join()
        final = self._start(ONCE="1")
        log, _ = final.communicate(timeout=200)
        assert final.returncode == 0, log
        assert not self.errors, self.errors[0]
        return self._count()

    def _enough(self) -> bool:
        return self.committed >= COMMITS and self.rolled_back >= ROLLBACKS and self.kills >= KILLS

    def _write(self, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 -- a test that can be repeated
        connection = self.servers.postgres()
        while not self.over.is_set():
            connection.cursor().execute(INSERT, (chance.randint(1, 20),))
            # Mostly short, sometimes long: ids are taken now and appear when others have long committed.
            self.over.wait(LONGEST_OPEN_SECONDS * chance.random() ** 3)
            if chance.random() < ROLLBACK_SHARE:
                connection.rollback()
                self.rolled_back += 1
            else:
                connection.commit()
                self.committed += 1
        connection.close()

    def _label_and_kill(self, seed: int) -> None:
        chance = random.Random(1_000 + seed)  # noqa: S311
        while not self.over.is_set():
            process = self._start()
            try:
                log, _ = process.communicate(timeout=0.2 + LONGEST_LIFE_SECONDS * chance.random())
                self.errors.append(log)  # it never ends by itself
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                self.kills += 1

    def _start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            (sys.executable, "-c", self.labeller),
            env=self.servers.environment | environment | {"PYTHONPATH": str(SCRIPTS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _count(self) -> Outcome:
        ask_mysql: Any = self.servers.ask_mysql
        committed = {
            row[0] for row in self.servers.ask_postgres("SELECT transaction_id FROM public.transactions")
        }
        written = [row[0] for row in ask_mysql("SELECT transaction_id FROM fraud_labels")]
        [(overwritten,)] = ask_mysql("SELECT COUNT(*) FROM fraud_labels WHERE updated_at <> created_at")
        return Outcome(
            transactions=len(committed),
            rolled_back=self.rolled_back,
            kills=self.kills,
            missed=len(committed - set(written)),
            doubled=len(written) - len(set(written)) + overwritten,
            orphaned=len(set(written) - committed),
        )


def test_horizon_labeller_loses_doubles_and_invents_nothing(servers: Servers) -> None:
    outcome = Harness(servers, HORIZON_LABELLER).run()

    assert outcome.transactions > 200, outcome
    assert (outcome.missed, outcome.doubled, outcome.orphaned) == (0, 0, 0), outcome


def test_harness_catches_a_labeller_that_trusts_the_highest_id(servers: Servers) -> None:
    outcome = Harness(servers, NAIVE_LABELLER).run()

    assert outcome.missed > 0, outcome
