"""The DAG load_history in a real Airflow, with a task that is killed in the middle of its work."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from support.airflow_stack import AirflowStack
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TRANSACTIONS = 350_000
SHARDS = 3


@pytest.fixture
def stack(servers: Servers, tmp_path: Path) -> Iterator[AirflowStack]:
    (tmp_path / "dags").mkdir()
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    source = (ROOT / "dags" / "load_history_dag.py").read_text()
    assert "timedelta(seconds=30)" in source
    hurried = source.replace("timedelta(seconds=30)", "timedelta(seconds=1)")
    (tmp_path / "dags" / "load_history_dag.py").write_text(hurried)
    made = AirflowStack(tmp_path)
    postgres, mysql = servers.addresses
    made.site = dataclasses.replace(made.site, postgres=postgres, mysql=mysql)
    made.prepare()
    try:
        made.start()
        yield made
    finally:
        made.stop()


def trigger(stack: AirflowStack, **parameters: int) -> str:
    client = stack.client
    until(client.healthy, "a healthy Airflow")
    until(lambda: client.sees("load_history"), "the DAG")
    return client.trigger("load_history", **parameters)


def tasks(stack: AirflowStack, run: str) -> list[dict[str, Any]]:
    found = stack.client.call(f"/api/v2/dags/load_history/dagRuns/{run}/taskInstances")
    return list(found["task_instances"])


def process_of_a_shard(stack: AirflowStack, servers: Servers) -> int | None:
    """Return a task's process, a child of one of the scheduler's workers, while shards are being copied."""
    copies = servers.ask_postgres(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'load_history'"
        " AND query LIKE 'COPY public.transactions (%%' AND state = 'active'"
    )
    workers = psutil.Process(stack.processes["scheduler"].pid).children() if copies[0][0] else []
    return next((task.pid for worker in workers for task in worker.children()), None)


@pytest.mark.slow
def test_shards_are_mapped_and_a_killed_one_is_taken_up(stack: AirflowStack, servers: Servers) -> None:
    run = trigger(stack, transactions=TRANSACTIONS, days=30, shards=SHARDS)
    victim = until(lambda: process_of_a_shard(stack, servers), "a shard that writes")
    assert victim
    os.kill(victim, signal.SIGKILL)
    state = stack.client.end_of("load_history", run)

    found = tasks(stack, run)
    shards = [task for task in found if task["task_id"] == "write_shard"]
    assert state == "success", found
    assert sorted(task["map_index"] for task in shards) == list(range(SHARDS))
    assert max(task["try_number"] for task in shards) > 1
    assert servers.ask_postgres("SELECT count(*) FROM public.transactions") == [(TRANSACTIONS,)]
    assert servers.ask_postgres("SELECT count(*), sum(transactions) FROM sim.batches") == [(4, TRANSACTIONS)]
    assert servers.ask_mysql("SELECT COUNT(*) FROM fraud_labels") == [(TRANSACTIONS,)]
    assert servers.ask_postgres("SELECT load_id FROM sim.loads WHERE finished_at IS NOT NULL") == [(run,)]
