"""A deferred task, and what users see of the triggerer that ends its wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.project_copy import Project

DAG = """
from datetime import timedelta

from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG

for seconds in (3, 6):
    with DAG(f"defers_{seconds}", schedule=None):
        TimeDeltaSensor(task_id="waits", delta=timedelta(seconds=seconds), deferrable=True)
"""


def triggerer_health(project: Project) -> str:
    services = {service["name"]: service for service in project.json("status")["services"]}
    return str(services["triggerer"]["health"])


def check_triggerer(project: Project, kill: Callable[[], None]) -> None:
    """Have a task deferred, which starts the triggerer, then another one while the triggerer is killed."""
    project.dag("defers.py", DAG)
    done = project.run("trigger", "defers_3")
    assert "waits: deferred, waits for " in done.stderr
    until(lambda: triggerer_health(project) == "healthy", "the triggerer")
    run_id = project.json("trigger", "defers_6", "--no-wait")["run_id"]
    path = f"/api/v2/dags/defers_6/dagRuns/{run_id}/taskInstances/waits"
    until(lambda: project.client().call(path)["state"] == "deferred", "a deferred task")
    kill()
    assert project.client().end_of("defers_6", run_id) == "success"
    until(lambda: triggerer_health(project) == "healthy", "the triggerer after its kill")
