"""What a scheduler at rest does at once: here it would sleep for ten minutes if nobody woke it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pipectl.engines.local import airflow
from support.airflow_stack import TWO_TASKS, AirflowStack
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.rest_client import RestClient

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

DAGS = """\
from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG, Asset

start = datetime(2024, 1, 1)
with DAG("retries", schedule=None, start_date=start):
    BashOperator(
        task_id="second_try",
        retries=1,
        retry_delay=timedelta(seconds=2),
        bash_command="[ {{ ti.try_number }} = 2 ]",
    )
for mode, options in {"defers": {"deferrable": True}, "reschedules": {"mode": "reschedule"}}.items():
    with DAG(mode, schedule=None, start_date=start):
        TimeDeltaSensor(task_id="waits", delta=timedelta(seconds=2), poke_interval=1, **options)
with DAG("by_asset", schedule=[Asset("something")], start_date=start):
    BashOperator(task_id="one", bash_command="true")
with DAG("by_clock", schedule="* * * * *", start_date=start, catchup=False):
    BashOperator(task_id="one", bash_command="true")
with DAG("daily", schedule="@daily", start_date=start, catchup=False, max_active_runs=1):
    BashOperator(task_id="one", bash_command="true")
"""
ADDED = """\
with DAG("added", schedule="@daily", start_date=start, catchup=False, is_paused_upon_creation=False):
    BashOperator(task_id="one", bash_command="true")
"""
ALWAYS_HEALTHY = "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD=100000\n"
RUNS = "/api/v2/dags/{}/dagRuns"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    project = tmp_path_factory.mktemp("my project")
    (project / "dags").mkdir()
    (project / "dags" / "waits.py").write_text(DAGS, encoding="utf-8")
    (project / "dags" / "two_tasks.py").write_text(TWO_TASKS, encoding="utf-8")
    (project / "stack" / "airflow").mkdir(parents=True)
    (project / "stack" / "airflow" / "user.env").write_text(ALWAYS_HEALTHY, encoding="utf-8")
    started = AirflowStack(project)
    code = project / "stack" / "airflow" / "notifications.py"
    text, changes = re.subn("(?m)^LONGEST_SECONDS = .*", "LONGEST_SECONDS = 600.0", code.read_text("utf-8"))
    assert changes == 1
    code.write_text(text, encoding="utf-8")
    started.prepare()
    started.start("postgres", *airflow.COMMANDS)
    try:
        until(started.client.healthy, "a healthy Airflow", 300)
        yield started
    finally:
        started.stop()


@pytest.fixture
def client(stack: AirflowStack) -> RestClient:
    ready = stack.client
    until(lambda: ready.sees("daily") and ready.sees("nothing_to_do"), "the DAGs")
    return ready


def ended(client: RestClient, dag_id: str, count: int) -> None:
    """Wait until a DAG has so many runs that succeeded."""
    path = f"{RUNS.format(dag_id)}?state=success"
    until(lambda: client.call(path)["total_entries"] >= count, f"{count} runs of {dag_id}")


@pytest.mark.parametrize("dag_id", ["nothing_to_do", "retries", "reschedules", "defers"])
def test_a_triggered_run_goes_through_all_its_states(client: RestClient, dag_id: str) -> None:
    assert client.run(dag_id) == "success"


def test_a_cleared_task_runs_again(client: RestClient) -> None:
    run_id = client.trigger("nothing_to_do")
    client.end_of("nothing_to_do", run_id)
    body = {"dry_run": False, "dag_run_id": run_id, "only_failed": False}
    client.call("/api/v2/dags/nothing_to_do/clearTaskInstances", body)
    task = f"{RUNS.format('nothing_to_do')}/{run_id}/taskInstances/second"
    until(lambda: client.call(task)["try_number"] == 2, "the second try")
    assert client.end_of("nothing_to_do", run_id) == "success"


def test_a_run_of_a_paused_dag_begins_when_it_is_unpaused(client: RestClient) -> None:
    client.pause("nothing_to_do")
    run_id = str(client.call(RUNS.format("nothing_to_do"), {"logical_date": None})["dag_run_id"])
    client.pause("nothing_to_do", paused=False)
    assert client.end_of("nothing_to_do", run_id) == "success"


def test_a_new_dag_runs_by_its_schedule(stack: AirflowStack, client: RestClient) -> None:
    text = DAGS.partition('with DAG("retries"')[0]
    text += ADDED
    (stack.project / "dags" / "added.py").write_text(text, encoding="utf-8")
    until(lambda: client.sees("added"), "the new DAG")
    ended(client, "added", 1)


def test_what_is_due_by_the_clock_begins(client: RestClient) -> None:
    client.pause("by_clock", paused=False)
    try:
        # One for the slot that has passed, one for the next minute.
        ended(client, "by_clock", 2)
    finally:
        client.pause("by_clock")


def test_an_event_of_an_asset_starts_what_waits_for_it(client: RestClient) -> None:
    client.pause("by_asset", paused=False)
    [asset] = client.call("/api/v2/assets?name_pattern=something")["assets"]
    client.call("/api/v2/assets/events", {"asset_id": asset["id"]})
    ended(client, "by_asset", 1)


def test_runs_of_a_backfill_follow_each_other(client: RestClient) -> None:
    client.pause("daily", paused=False)
    body = {"dag_id": "daily", "from_date": "2024-02-01T00:00:00Z", "to_date": "2024-02-04T00:00:00Z"}
    client.call("/api/v2/backfills", body | {"max_active_runs": 1, "run_backwards": False})
    ended(client, "daily", 4)


def test_a_scheduler_whose_listening_connection_was_ended_finds_work(
    stack: AirflowStack, client: RestClient
) -> None:
    with stack.metadata() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE query LIKE '%WITH active AS%' AND pid <> pg_backend_pid()"
        )
        assert cursor.fetchone() == (1,)
    assert client.run("nothing_to_do") == "success"


def test_a_trigger_that_was_dropped_is_made_again(stack: AirflowStack, client: RestClient) -> None:
    with stack.metadata() as connection, connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER pipectl_tell_scheduler_update ON task_instance")
        # It sleeps for long here, and sees what is missing before it sleeps once more.
        cursor.execute("NOTIFY pipectl_scheduler")

        def exists() -> bool:
            cursor.execute(
                "SELECT FROM pg_trigger WHERE tgrelid = 'task_instance'::regclass"
                " AND tgname = 'pipectl_tell_scheduler_update'"
            )
            return bool(cursor.rowcount)

        until(exists, "the trigger")
    assert client.run("nothing_to_do") == "success"
