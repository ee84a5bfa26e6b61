"""What the stack's Airflow knows of both tables as Assets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.waiting import until

if TYPE_CHECKING:
    from support.project_copy import Project

EXAMPLE = "watch_fraud_share"
TASKS = {"generate_transactions": "transactions", "generate_labels": "labels"}


def compare_events_with_a_run(project: Project) -> None:
    """Let the pipeline run, compare its events with its rows, and see the example start by them."""
    client = project.client()
    assert client.call(f"/api/v2/dags/{EXAMPLE}")["is_paused"]
    client.pause(EXAMPLE, paused=False)
    try:
        run = project.json("trigger")
        listed = client.call("/api/v2/assets/events?order_by=-timestamp&limit=20")["asset_events"]
        events: dict[str, Any] = {
            event["source_task_id"]: event["extra"]
            for event in listed
            if event["source_run_id"] == run["run_id"]
        }
        assert {task: extra["rows"] for task, extra in events.items()} == {
            task: run["delta"][name] for task, name in TASKS.items()
        }
        assert all(0 <= extra["fraud_share"] < 1 for extra in events.values())
        assert all(extra["lag_seconds"] >= 0 for extra in events.values())
        runs = f"/api/v2/dags/{EXAMPLE}/dagRuns?order_by=-id&limit=1"
        until(lambda: client.call(runs)["total_entries"], "the run of the example")
        assert client.end_of(EXAMPLE, client.call(runs)["dag_runs"][0]["dag_run_id"]) == "success"
    finally:
        client.pause(EXAMPLE, paused=True)
