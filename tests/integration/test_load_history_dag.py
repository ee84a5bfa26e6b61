"""The DAG load_history in a real Airflow, with a task that is killed in the middle of its work."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from airflow_stack import AirflowStack, wait_for

from pipectl.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from script_servers import Servers

pytest_plugins = ["script_servers"]
pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TRANSACTIONS = 350_000
SHARDS = 3
START_SECONDS = 120
RUN_SECONDS = 180


@pytest.fixture
def stack(servers: Servers, tmp_path: Path) -> Iterator[AirflowStack]:
    (tmp_path / "dags").mkdir()
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    source = (ROOT / "dags" / "load_history_dag.py").read_text()
    assert "timedelta(seconds=30)" in source
    hurried = source.replace("timedelta(seconds=30)", "timedelta(seconds=1)")
    (tmp_path / "dags" / "load_history_dag.py").write_text(hurried)
    try:
        made = AirflowStack(tmp_path)
    except EngineError as error:
        if "airflow" in os.environ.get("PIPECTL_REQUIRE", ""):
            raise
        pytest.skip(f"no Airflow: {error}")
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
    wait_for(client.healthy, START_SECONDS, "Airflow is healthy")
    wait_for(lambda: client.sees("load_history"), START_SECONDS, "the DAG is parsed")
    client.call("/api/v2/dags/load_history", {"is_paused": False}, "PATCH")
    body = {"logical_date": None, "conf": parameters}
    return str(client.call("/api/v2/dags/load_history/dagRuns", body)["dag_run_id"])


def tasks(stack: AirflowStack, run: str) -> list[dict[str, Any]]:
    client = stack.client
    client.log_in()
    found = client.call(f"/api/v2/dags/load_history/dagRuns/{run}/taskInstances")
    return list(found["task_instances"])


def final_state(stack: AirflowStack, run: str) -> str:
    client = stack.client
    client.log_in()
    state = client.state("load_history", run)
    return state if state in {"success", "failed"} else ""


def process_of_a_shard(servers: Servers) -> int | None:
    """The process whose transaction is in the middle of a COPY, by its end of the connection."""
    ports = servers.ask_postgres(
        "SELECT client_port FROM pg_stat_activity WHERE application_name = 'load_history'"
        " AND query LIKE 'COPY public.transactions (%%' AND state = 'active'"
    )
    if not ports:
        return None
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == ports[0][0]:
            return connection.pid
    return None


def test_shards_are_mapped_and_a_killed_one_is_taken_up(stack: AirflowStack, servers: Servers) -> None:
    run = trigger(stack, transactions=TRANSACTIONS, days=30, shards=SHARDS)
    victim = wait_for(lambda: process_of_a_shard(servers), RUN_SECONDS, "a shard writes")
    os.kill(victim, signal.SIGKILL)
    state = wait_for(lambda: final_state(stack, run), RUN_SECONDS, "the run ended")

    found = tasks(stack, run)
    shards = [task for task in found if task["task_id"] == "write_shard"]
    assert state == "success", found
    assert sorted(task["map_index"] for task in shards) == list(range(SHARDS))
    assert max(task["try_number"] for task in shards) > 1
    assert servers.ask_postgres("SELECT count(*) FROM public.transactions") == [(TRANSACTIONS,)]
    assert servers.ask_postgres("SELECT count(*), sum(transactions) FROM sim.batches") == [(4, TRANSACTIONS)]
    assert servers.ask_mysql("SELECT COUNT(*) FROM fraud_labels") == [(TRANSACTIONS,)]
    assert servers.ask_postgres("SELECT load_id FROM sim.loads WHERE finished_at IS NOT NULL") == [(run,)]
