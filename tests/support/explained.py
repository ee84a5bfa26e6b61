"""Causes made on a real stack, and what `explain` says of each."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from support.project_copy import DAG_ID
from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from support.project_copy import Project

# Each DAG is in one state that needs an explanation; what holds a slot sleeps until its run is cancelled.
DAGS = """
import os
import shlex
import signal
import time
from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.providers.standard.operators.python import PythonOperator, ShortCircuitOperator
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG, Asset, task, task_group

LONG, SHORT = timedelta(hours=1), timedelta(seconds=2)
SCRIPTS = shlex.quote(os.environ.get("PIPECTL_SCRIPTS") or "/opt/airflow/scripts")


def sleeper(task_id, **more):
    return BashOperator(task_id=task_id, bash_command="exec sleep 3600", **more)


with DAG("why_paused"):
    sleeper("waits")
with DAG("why_behind", max_active_runs=1):
    sleeper("waits")
with DAG("why_tasks", max_active_tasks=1):
    sleeper("first", priority_weight=2)
    sleeper("second")
with DAG("why_pool"):
    sleeper("first", pool="why_small", priority_weight=2)
    sleeper("second", pool="why_small")
    sleeper("lost", pool="why_gone")
with DAG("why_slots"):
    sleeper("first") >> sleeper("next")
with DAG("why_late"):
    sleeper("waits")
with DAG("why_urgent"):
    sleeper("waits", priority_weight=9)
with DAG("why_retried"):
    BashOperator(task_id="tries", bash_command="echo ERROR: no rows; exit 4", retries=1, retry_delay=LONG)
with DAG("why_past", default_args={"depends_on_past": True}):

    @task
    def breaks(number=0):
        raise ValueError(f"no rows in part {number}")

    @task_group
    def parts():
        breaks.expand(number=[0, 1])

    parts() >> sleeper("after")
with DAG("why_database"):
    BashOperator(
        task_id="writes",
        bash_command=f"python {SCRIPTS}/transaction_generator.py",
        env={"AIRBYTE_POSTGRES_PASSWORD": "nonsense"},
        append_env=True,
    )
with DAG("why_killed"):
    PythonOperator(task_id="dies", python_callable=lambda: os.kill(os.getpid(), signal.SIGKILL))
with DAG("why_skipped"):
    ShortCircuitOperator(task_id="decides", python_callable=lambda: False) >> sleeper("left_out")
with DAG("why_timed", dagrun_timeout=timedelta(seconds=10)):
    sleeper("waits") >> sleeper("next")
with DAG("why_empty"):
    PythonOperator.partial(task_id="counts", python_callable=print).expand(op_args=[])
with DAG("why_raised"):

    @task
    def asks():
        try:
            {}["k"]
        except KeyError as error:
            raise ConnectionError("no host\\nof this name") from error

    asks()
with DAG("why_exited"):
    BashOperator(task_id="runs", bash_command="echo begun; nosuchcommand")
with DAG("why_left"):
    PythonOperator(task_id="leaves", python_callable=lambda: os._exit(5))
with DAG("why_long"):
    PythonOperator(task_id="sleeps", python_callable=lambda: time.sleep(99), execution_timeout=SHORT)
with DAG("why_asset", schedule=[Asset("why_orders")]):
    sleeper("waits")
with DAG("why_deferred"):
    TimeDeltaSensor(task_id="waits", delta=LONG, deferrable=True)
with DAG("why_asked"):
    HITLOperator(task_id="asks", subject="Ship it?", options=["Yes", "No"])
with DAG("why_looked"):
    PythonSensor(task_id="looks", python_callable=lambda: False, mode="reschedule", poke_interval=600)
"""
# The states that runs of their own reach, and what is said of them: the words asked with, the cause, and a
# part of the sentence.
SETTLED = {
    "why_retried": ("tries", "up_for_retry"),
    "why_database": ("writes", "failed"),
    "why_killed": ("dies", "failed"),
    "why_skipped": ("left_out", "skipped"),
    "why_timed": ("waits", "skipped"),
    "why_empty": ("counts", "skipped"),
    "why_raised": ("asks", "failed"),
    "why_exited": ("runs", "failed"),
    "why_left": ("leaves", "failed"),
    "why_long": ("sleeps", "failed"),
    "why_deferred": ("waits", "deferred"),
    "why_asked": ("asks", "awaiting_input"),
    "why_looked": ("looks", "up_for_reschedule"),
    "why_past": ("parts.breaks", "failed"),
}
SAID = [
    (("why_retried",), "up_for_retry", "tries: try 1 failed: ERROR: no rows; try 2 is due at "),
    (("why_database",), "database", "writes, on airbyte-postgres: try 1 failed: PostgreSQL at "),
    (("why_killed", "latest"), "worker_lost", "dies: try 1 failed: its process was ended by SIGKILL."),
    (
        ("why_skipped", "latest", "left_out"),
        "skipped",
        "left_out was skipped, because decides chose to leave it",
    ),
    (("why_skipped",), "succeeded", " succeeded in "),
    (("why_timed",), "run_timed_out", ": its DAG gives a run 10 s (dagrun_timeout)."),
    (("why_timed", "latest", "waits"), "run_timed_out", ": Airflow ended "),
    (("why_timed", "latest", "next"), "run_timed_out", "next was skipped before it began: Airflow ended "),
    (("why_empty", "latest", "counts"), "skipped", "because what it expands over was empty."),
    (("why_raised", "latest"), "task_failed", "asks: try 1 failed: ConnectionError: no host of this name."),
    (("why_exited", "latest"), "task_failed", ": line 1: nosuchcommand: command not found."),
    (("why_left",), "worker_lost", "its process ended with exit code 5, without a word to Airflow."),
    (("why_long",), "task_timed_out", "sleeps: try 1 failed: it took longer than 2 s (execution_timeout)."),
    (("why_asset",), "never_ran", ": the first starts after an update of the asset why_orders."),
    (("why_deferred",), "deferred", "waits has been deferred for "),
    (("why_asked",), "awaiting_input", "for an answer in Airflow's user interface: “Ship it?”"),
    (("why_looked",), "up_for_reschedule", "looks is a sensor that has not found what it waits for"),
    (
        ("why_past", "latest", "parts.breaks[1]"),
        "task_failed",
        "try 1 failed: ValueError: no rows in part 1.",
    ),
    (("why_past", "latest", "after"), "upstream_failed", "after did not start, because parts.breaks["),
]
HELD = [
    (("why_paused",), "paused", " waits, because why_paused is paused."),
    (("why_behind",), "behind_run", " has been queued behind "),
    (("why_tasks", "latest", "first"), "running", "first has been running for "),
    (("why_tasks",), "max_active_tasks", "at most 1 task of a run may be at work"),
    (("why_pool", "latest", "second"), "pool_full", "second waits for the pool why_small"),
    (("why_pool", "latest", "lost"), "pool_missing", "lost waits for the pool why_gone"),
    (("why_slots", "latest", "next"), "upstream", "next waits for the task before it: first (running)."),
    (("why_urgent",), "no_slots", "waits waits for a place among the 4 tasks"),
    (("why_late",), "priority", "after 1 scheduled task of higher priority"),
]


class Explained:
    """A stack with the DAGs above."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.client = project.client()

    def explain(self, *words: str, cause: str, said: str) -> Any:
        """Ask, and check what is said."""
        found = self.project.json("explain", *words)
        assert found["cause"] == cause, found
        assert said in found["sentence"], found
        return found

    def state(self, dag_id: str, task_id: str, run_id: str = "~") -> str:
        """Return the state of a task in the run of a DAG that it has."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='~')}/taskInstances?task_id={task_id}"
        found = self.client.call(path)["task_instances"]
        return str(found[0]["state"]) if found else ""

    def wait(self, dag_id: str, task_id: str, state: str) -> None:
        """Wait until a task is in a state."""
        until(lambda: self.state(dag_id, task_id) == state, f"{task_id} of {dag_id} to be {state}")

    def begin(self) -> None:
        """Write the DAGs, and wait until Airflow has them."""
        self.project.dag("why.py", DAGS)
        self.client.call("/api/v2/pools", {"name": "why_small", "slots": 1})
        until(lambda: self.client.sees("why_looked"), "the DAGs")

    def settle(self) -> None:
        """Have the runs that need no room reach their states, and explain each."""
        for dag_id in SETTLED.keys() - {"why_past"}:
            self.client.trigger(dag_id)
        self._run_of("why_past", "2026-01-01T00:00:00Z")
        self.client.pause("why_asset", paused=False)
        for dag_id, (task_id, state) in SETTLED.items():
            self.wait(dag_id, task_id, state)
        deferred = "/api/v2/dags/why_deferred/dagRuns/~/taskInstances"
        until(
            lambda: self.client.call(deferred)["task_instances"][0]["trigger"]["triggerer_id"],
            "the triggerer to take the trigger",
        )
        self.client.end_of("why_past", self.latest("why_past"))
        self.client.end_of("why_skipped", self.latest("why_skipped"))
        for words, cause, said in SAID:
            self.explain(*words, cause=cause, said=said)
        second = self._run_of("why_past", "2026-01-02T00:00:00Z")
        until(lambda: self.client.state("why_past", second) == "running", "the second run")
        found = self.explain("why_past", cause="depends_on_past", said="parts.breaks")
        assert found["run_id"] == second

    def bundle(self, folder: Path) -> None:
        """Pack what a helper needs: the runs that failed are in it, each with its reason."""
        path = folder / "help.tar.gz"
        self.project.run("doctor", "--only", "line-ends", "--bundle", str(path))
        with tarfile.open(path) as archive:
            file = archive.extractfile("pipectl-doctor/failed-runs.json")
            failed = json.loads(file.read()) if file else []
        why = {each["run"]["dag_id"]: each["explanation"]["cause"] for each in failed}
        assert why, failed
        assert why.items() <= {(words[0], cause) for words, cause, _ in SAID}, why
        assert all(each["tasks"] for each in failed)

    def _run_of(self, dag_id: str, date: str) -> str:
        """Trigger a run with a logical date, and return its id."""
        self.client.pause(dag_id, paused=False)
        body = {"logical_date": date, "run_after": date}
        return str(self.client.call(f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def fill(self) -> None:
        """Fill each limit with runs that hold it, and explain what waits for it."""
        self.client.call("/api/v2/dags/why_paused/dagRuns", {"logical_date": None})
        for dag_id, task_id in (("why_behind", "waits"), ("why_tasks", "first"), ("why_pool", "first")):
            self.client.trigger(dag_id)
            self.wait(dag_id, task_id, "running")
        self.client.trigger("why_behind")
        self.client.trigger("why_slots")
        self.wait("why_slots", "first", "running")
        for dag_id in ("why_late", "why_urgent"):
            self.client.trigger(dag_id)
            self.wait(dag_id, "waits", "scheduled")
        for words, cause, said in HELD:
            self.explain(*words, cause=cause, said=said)

    def cancel(self) -> None:
        """End all runs, and then one with a task at work, by command: its run reads so."""
        self.client.end_other_runs(DAG_ID)
        run_id = self.client.trigger("why_slots")
        until(lambda: self.state("why_slots", "first", run_id) == "running", "a task at work")
        assert "cancelled now" in self.project.run("cancel", "why_slots").stdout
        self.explain("why_slots", cause="cancelled", said=f"{run_id} was ended by hand by admin at ")
        assert self.project.json("runs", "why_slots")["runs"][0]["cancelled"]

    def break_file(self) -> None:
        """Break the DAG file, and explain one of its DAGs and one that nothing has."""
        error = "Config is wrong:\\n  missing key 'a'\\n\\n  see docs"
        path = self.project.dag("why.py", f'{DAGS}\nraise RuntimeError("{error}")\n')
        failures = "/api/v2/importErrors"
        until(lambda: self.client.call(failures)["import_errors"], "the import error")
        reason = "Airflow cannot import why.py: RuntimeError: Config is wrong: missing key 'a' see docs"
        self.explain("why_late", cause="import_error", said=f"{reason}.")
        for words in (("dags",), ("status",)):
            assert reason in self.project.run(*words).stdout
        path.write_text(DAGS, encoding="utf-8")
        until(lambda: not self.client.call(failures)["import_errors"], "the file to be mended")
        assert "Did you mean why_late?" in self.project.run("explain", "why_latte", code=9).stderr

    def latest(self, dag_id: str) -> str:
        """Return the id of a DAG's latest run."""
        return str(
            self.client.call(f"/api/v2/dags/{dag_id}/dagRuns?order_by=-id&limit=1")["dag_runs"][0][
                "dag_run_id"
            ]
        )
