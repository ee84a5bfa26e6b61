"""From evidence to a cause: each cause by what shows it, and none without."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipectl.airflow_facts import MISMATCH, NO_HEARTBEAT, Blocker, Definition, Event, Instance, Pool
from pipectl.commands.explain import result_text
from pipectl.models import (
    Backfill,
    DagRun,
    DatabaseAddress,
    ImportFailure,
    ParsedDag,
    Service,
    TaskState,
)
from pipectl.pipeline.causes import Cause, blamed_database
from pipectl.pipeline.diagnosing import choose, explanation
from pipectl.pipeline.evidence import PATIENCE_SECONDS, Evidence, Explanation
from support.text import plain

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SERVICES = tuple(
    Service(name, "running", started=NOW - timedelta(hours=1))
    for name in ("webserver", "scheduler", "dag-processor", "triggerer")
)
HEALTH = {"scheduler": "healthy", "dag_processor": "healthy", "triggerer": "healthy"}
DAG = ParsedDag(
    paused=False,
    has_import_errors=False,
    file="mine.py",
    next_run="",
    parsed=NOW - timedelta(hours=1),
    dag_id="mine",
    max_active_runs=1,
    max_active_tasks=16,
)
DATABASES = (
    DatabaseAddress("airbyte-postgres", "127.0.0.1", 5432, "airbyte", "docker", "docker"),
    DatabaseAddress("airbyte-mysql", "127.0.0.1", 3306, "data", "docker", "docker"),
)
BASE = Evidence(
    "mine",
    NOW,
    services=SERVICES,
    health=HEALTH,
    heartbeats=dict.fromkeys(HEALTH, NOW - timedelta(seconds=1)),
    executor="LocalExecutor",
    dag=DAG,
    parallelism=4,
    databases=DATABASES,
)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def run(state: str, run_id: str = "ours", run_type: str = "manual", **more: Any) -> DagRun:
    start = None if state == "queued" else ago(100)
    end = ago(50) if state in {"success", "failed"} else None
    facts = {"queued_at": ago(200), "start": start, "end": end, **more}
    return DagRun("mine", run_id, run_type, state, **facts)


def task(name: str, state: str, *, tries: int = 1, index: int = -1, **more: Any) -> Instance:
    begun = state not in {"none", "scheduled", "queued"}
    ended = state in {"success", "failed", "up_for_retry", "up_for_reschedule"}
    start = more.pop("start", ago(90) if begun else None)
    end = more.pop("end", ago(60) if ended else None)
    seconds = (end - start).total_seconds() if start and end else None
    waits = more.pop("waits_for", "")
    facts = {"scheduled": ago(95), "queued": ago(94), "pool": "default_pool", **more}
    state_of_task = TaskState(name, state, tries if begun else 0, seconds, index, start, end, waits)
    return Instance("mine", "ours", state_of_task, **facts)


def about(chosen: Instance, *others: Instance, **more: Any) -> Evidence:
    """Evidence about a task of a run that is under way."""
    facts: dict[str, Any] = {
        "run": run("running"),
        "is_run_given": True,
        "instances": (chosen, *others),
        "chosen": chosen,
        "pool": Pool("default_pool", 128, 100),
        **more,
    }
    return replace(BASE, **facts)


def error(kind: str, value: str) -> dict[str, Any]:
    return {
        "event": "Task failed with exception",
        "level": "error",
        "error_detail": [{"exc_type": kind, "exc_value": value}],
    }


def chain(*failures: tuple[str, str, bool]) -> dict[str, Any]:
    """An error as Airflow logs it: what was raised, then what it was raised from, or while handling which."""
    told = [{"exc_type": kind, "exc_value": value, "is_cause": cause} for kind, value, cause in failures]
    return {"event": "Task failed with exception", "level": "error", "error_detail": told}


SHELL = error("AirflowException", "Bash command failed. The command returned a non-zero exit code 5.")
ENDED_BY_SERVER = {"event": "Server indicated the task shouldn't be running anymore. Terminating process"}
SHORT = replace(DAG, timeout=timedelta(seconds=45))
FAILURE = (ImportFailure("mine.py", "Traceback\nSyntaxError: nonsense"),)
BUSY = tuple(task(f"busy{number}", "running") for number in range(4))
BACKFILL = Backfill(1, "mine", NOW, NOW, NOW, 2, paused=True)


def down(name: str) -> tuple[Service, ...]:
    return tuple(replace(each, state="stopped") if each.name == name else each for each in SERVICES)


def noted(name: str, task_id: str = "load", **more: Any) -> Event:
    return Event(name, ago(60), "admin", more.pop("extra", ""), task_id, -1, more.pop("number", 1))


# The cause, the evidence, and words that the sentence has.
SHOWN: list[tuple[Cause, Evidence, str]] = [
    (
        Cause.IMPORT_ERROR,
        replace(BASE, dag=None, failures=FAILURE),
        "cannot import mine.py: SyntaxError: nonsense",
    ),
    (
        Cause.IMPORT_ERROR,
        replace(BASE, failures=FAILURE, run=run("success")),
        "mine.py: SyntaxError: nonsense",
    ),
    (
        Cause.DAG_MISSING,
        replace(BASE, dag=None, files=("a.py",)),
        "no DAG 'mine', although a.py mentions it",
    ),
    (Cause.DAG_STALE, replace(BASE, dag=replace(DAG, stale=True)), "no longer finds mine in mine.py"),
    (
        Cause.NO_DAG_PROCESSOR,
        replace(BASE, dag=None, files=("a.py",), services=down("dag-processor")),
        "the service dag-processor is stopped",
    ),
    (
        Cause.NO_DAG_PROCESSOR,
        replace(BASE, changed=NOW, health={**HEALTH, "dag_processor": "unhealthy"}),
        "has not read mine.py since it changed at",
    ),
    (Cause.NEVER_RAN, BASE, "has never run: only triggers start its runs"),
    (Cause.NEVER_RAN, replace(BASE, dag=replace(DAG, schedule="Asset")), "its schedule (Asset) plans none"),
    (
        Cause.NEVER_RAN,
        replace(BASE, dag=replace(DAG, schedule="Asset", asset_rule="all"), awaited_assets=("orders",)),
        "mine has never run: the first starts after an update of the asset orders.",
    ),
    (
        Cause.NEVER_RAN,
        replace(
            BASE,
            dag=replace(DAG, schedule="Asset or @daily", asset_rule="any", next_run="2030-01-01T00:00:00Z"),
            awaited_assets=("orders", "prices"),
        ),
        ", or starts after an update of one of the assets orders and prices.",
    ),
    (Cause.PAUSED, replace(BASE, dag=replace(DAG, paused=True)), "mine is paused"),
    (
        Cause.PAUSED,
        replace(BASE, dag=replace(DAG, paused=True), run=run("queued")),
        "ours waits, because mine is paused",
    ),
    (
        Cause.NO_SCHEDULER,
        replace(BASE, run=run("queued"), health={**HEALTH, "scheduler": "unhealthy"}),
        "the service scheduler runs and has given no heartbeat for 1 s",
    ),
    (
        Cause.NO_SCHEDULER,
        replace(BASE, services=down("scheduler")),
        "starts nothing: the service scheduler is stopped",
    ),
    (Cause.NO_SCHEDULER, about(task("load", "running"), services=down("scheduler")), "ours cannot go on"),
    (Cause.NOT_DUE, replace(BASE, run=run("queued", run_after=NOW + timedelta(hours=3))), "in 3 h 00 min"),
    (
        Cause.BEHIND_RUN,
        replace(BASE, run=run("queued"), active=(run("running", "slot", "scheduled"), run("queued"))),
        "ours has been queued behind slot (scheduled) for 200 s".replace("200 s", "3 min 20 s"),
    ),
    (
        Cause.MAX_ACTIVE_RUNS,
        replace(
            BASE,
            dag=replace(DAG, max_active_runs=2),
            run=run("queued"),
            active=(run("running", "a"), run("running", "b"), run("queued")),
        ),
        "at most 2 runs may be active (max_active_runs)",
    ),
    (
        Cause.MAX_ACTIVE_RUNS,
        replace(
            BASE,
            run=run("queued", run_type="backfill"),
            backfill=replace(BACKFILL, paused=False),
            active=(*(run("running", name, "backfill") for name in "ab"), run("queued", run_type="backfill")),
        ),
        "(runs at once of the backfill)",
    ),
    (
        Cause.BACKFILL_PAUSED,
        replace(BASE, run=run("queued", run_type="backfill"), backfill=BACKFILL),
        "its backfill",
    ),
    (Cause.STARTING, replace(BASE, run=run("queued", queued_at=ago(1))), "ours was queued 1 s ago"),
    (Cause.UNKNOWN, replace(BASE, run=run("queued")), "Nothing that was looked at says why ours is queued"),
    (
        Cause.UPSTREAM,
        about(
            task("load", "none"),
            task("middle", "none"),
            task("first", "running"),
            definitions={
                "first": Definition("first", ("middle",)),
                "middle": Definition("middle", ("load",), "all_success"),
                "load": Definition("load"),
            },
        ),
        "load waits for the task before it: middle (none), behind first (running)",
    ),
    (
        Cause.DEPENDS_ON_PAST,
        about(
            task("load", "none"),
            blockers=(
                Blocker("Task Instance State", "Task is in the 'None' state."),
                Blocker("Previous Dagrun State", "depends_on_past is true for this task."),
            ),
        ),
        "load does not start: depends_on_past is true for this task.",
    ),
    (
        Cause.DEPENDENCY,
        about(task("load", "none"), blockers=(Blocker("Of A Plugin", "The moon is not full."),)),
        "load does not start: The moon is not full.",
    ),
    (
        Cause.MAX_ACTIVE_TASKS,
        about(task("load", "scheduled"), task("other", "running"), dag=replace(DAG, max_active_tasks=1)),
        "of mine at most 1 task of a run may be at work (max_active_tasks)",
    ),
    (
        Cause.TASK_CONCURRENCY,
        about(
            task("load", "scheduled", index=1),
            blockers=(Blocker("Task Concurrency", "The max task concurrency per run has been reached."),),
            busy=(task("load", "running", index=0),),
        ),
        "load[1] waits until others of the task load have ended (max_active_tis_per_dagrun)",
    ),
    (
        Cause.POOL_FULL,
        about(
            task("load", "scheduled", pool="small"),
            pool=Pool("small", 1, 0),
            busy=(task("x", "running", pool="small"),),
        ),
        "load waits for the pool small, of whose 1 slot 0 are free",
    ),
    (Cause.POOL_MISSING, about(task("load", "scheduled", pool="gone"), pool=None), "no pool of that name"),
    (
        Cause.POOL_TOO_SMALL,
        about(task("load", "scheduled", pool="small", slots=3), pool=Pool("small", 2, 2)),
        "load needs 3 slots of the pool small, which has 2 in all",
    ),
    (
        Cause.NO_SLOTS,
        about(task("load", "scheduled"), busy=BUSY, busy_number=4),
        "load waits for a place among the 4 tasks that may be at work at once",
    ),
    (
        Cause.PRIORITY,
        about(
            task("load", "scheduled"),
            busy=BUSY,
            busy_number=4,
            rivals=(task("urgent", "scheduled", priority=9),),
        ),
        "after 1 scheduled task of higher priority",
    ),
    (Cause.STARTING, about(task("load", "scheduled", scheduled=ago(2))), "load was scheduled 2 s ago"),
    (Cause.UNKNOWN, about(task("load", "scheduled")), "says why load is scheduled"),
    (
        Cause.NO_WORKER,
        about(
            task("load", "queued"),
            executor="CeleryExecutor",
            services=(*SERVICES, Service("worker", "stopped")),
        ),
        "no worker runs",
    ),
    (
        Cause.NO_SLOTS,
        about(
            task("load", "queued"),
            executor="CeleryExecutor",
            services=(*SERVICES, Service("worker", "running")),
            concurrency=4,
            busy=BUSY,
        ),
        "that 1 worker may have at work at once",
    ),
    (
        Cause.TASKS_API,
        about(task("load", "queued"), tasks_api="ConnectError: refused"),
        "tasks cannot reach Airflow's API for them (ConnectError: refused)",
    ),
    (
        Cause.TASKS_API,
        about(task("load", "failed"), disagreeing=("AIRFLOW_JWT_SECRET",), events=(noted(MISMATCH),)),
        "different values of AIRFLOW_JWT_SECRET",
    ),
    (
        Cause.WORKER_LOST,
        about(task("load", "failed"), events=(noted(MISMATCH),)),
        "load: try 1 failed: its process ended without a word to Airflow.",
    ),
    (
        Cause.WORKER_LOST,
        about(
            task("load", "up_for_retry"),
            events=(
                noted(MISMATCH, extra="… Extra info: the process of the task ended with signal SIGKILL"),
            ),
        ),
        "load: try 1 failed: the process of the task ended with signal SIGKILL.",
    ),
    (
        Cause.RUNNING,
        about(task("load", "running"), earlier=(80.0, 100.0)),
        "for 90 s; 2 runs before took 90.0 s (median)",
    ),
    (
        Cause.DEFERRED,
        about(task("load", "deferred", waits_for="TimeTrigger in the triggerer", has_triggerer=True)),
        "load has been deferred for 90 s and waits for TimeTrigger in the triggerer.",
    ),
    (
        Cause.NO_TRIGGERER,
        about(
            task("load", "deferred", waits_for="the triggerer, to run TimeTrigger"),
            services=(*SERVICES[:3], Service("triggerer", "running", "waiting")),
            health={**HEALTH, "triggerer": "unknown"},
        ),
        "waits for the triggerer, to run TimeTrigger: the service triggerer has not started",
    ),
    (
        Cause.NO_TRIGGERER,
        about(task("load", "deferred", has_triggerer=True), services=down("triggerer")),
        "the service triggerer is stopped",
    ),
    (
        Cause.AWAITING_INPUT,
        about(
            task("load", "awaiting_input", waits_for="an answer in Airflow's user interface"),
            question="Ship it?",
            page="http://127.0.0.1:1/dags/mine/runs/ours/tasks/load/required_actions",
        ),
        "for an answer in Airflow's user interface: “Ship it?”",
    ),
    (
        Cause.UP_FOR_RETRY,
        about(
            task("load", "up_for_retry"),
            definitions={"load": Definition("load", delay=timedelta(minutes=5))},
            log=(error("ValueError", "no rows"),),
        ),
        "load: try 1 failed: ValueError: no rows; try 2 is due at ",
    ),
    (
        Cause.WORKER_LOST,
        about(task("load", "up_for_retry"), events=(noted(NO_HEARTBEAT),)),
        "gave no heartbeat any more",
    ),
    (Cause.UP_FOR_RESCHEDULE, about(task("load", "up_for_reschedule")), "and looked last 60 s ago"),
    (Cause.SUCCEEDED, about(task("load", "success"), is_task_given=True), "load succeeded in 30.0 s."),
    (Cause.SUCCEEDED, replace(BASE, run=run("success")), "ours succeeded in 50.0 s."),
    (
        Cause.CANCELLED,
        replace(
            BASE,
            run=run("failed", stopped=ago(60)),
            events=(Event("patch_dag_run", ago(60), "admin", '{"state": "failed"}'),),
        ),
        "ours was ended by hand by admin at ",
    ),
    (Cause.CANCELLED, replace(BASE, run=run("failed", start=None)), "before it began"),
    (
        Cause.CANCELLED,
        about(
            task("load", "failed"),
            run=run("failed"),
            is_task_given=True,
            events=(noted("patch_task_instance", extra='{"new_state": "failed"}'),),
        ),
        "load was marked as failed by admin",
    ),
    (
        Cause.SKIPPED,
        about(task("load", "skipped", start=None), left_out_by="branch"),
        "because branch chose to leave",
    ),
    (
        Cause.SKIPPED,
        about(task("load", "skipped"), log=({"event": "Skipping task: no data"},)),
        "load skipped itself: Skipping task: no data.",
    ),
    (
        Cause.SKIPPED,
        about(task("load", "skipped"), log=({"event": "Skipping task.", "reason": "no\ndata"},)),
        "load skipped itself: no data.",
    ),
    # Airflow notes a start of what it skips by a trigger rule.
    (
        Cause.SKIPPED,
        about(
            task("load", "skipped", tries=0, end=ago(80)),
            task("first", "skipped"),
            definitions={"first": Definition("first", ("load",))},
        ),
        "load was skipped after first (skipped).",
    ),
    (
        Cause.SKIPPED,
        about(task("load", "skipped", end=ago(60)), log=(ENDED_BY_SERVER,)),
        "load was ended while it ran: Airflow told its process that it should not run any more.",
    ),
    (
        Cause.SKIPPED,
        about(
            task("load", "skipped", start=None, tries=0),
            task("first", "success"),
            mapped_over_nothing=True,
            definitions={"first": Definition("first", ("load",))},
        ),
        "load was skipped, because what it expands over was empty.",
    ),
    (
        Cause.SKIPPED,
        about(
            task("load", "skipped", start=None, tries=0),
            task("first", "skipped"),
            mapped_over_nothing=True,
            definitions={"first": Definition("first", ("load",))},
        ),
        "load was skipped after first (skipped).",
    ),
    # The run may have ended before anything was expanded.
    (
        Cause.UNKNOWN,
        about(
            task("load", "skipped", start=None, tries=0),
            task("first", "success"),
            run=run("failed"),
            is_task_given=True,
            mapped_over_nothing=True,
        ),
        "says why load is skipped.",
    ),
    (Cause.REMOVED, about(task("load", "removed")), "it was taken out of the DAG after ours was made"),
    (
        Cause.UPSTREAM_FAILED,
        about(
            task("load", "upstream_failed", start=None),
            task("first", "failed"),
            run=run("failed"),
            is_task_given=True,
            definitions={"first": Definition("first", ("load",))},
        ),
        "load did not start, because first failed before it.",
    ),
    (
        Cause.WORKER_LOST,
        about(
            task("load", "failed"),
            log=({"event": "Process terminated by signal. Likely …", "signal_name": "SIGKILL"},),
        ),
        "load: try 1 failed: its process was ended by SIGKILL.",
    ),
    (
        Cause.DATABASE,
        about(
            task("load", "failed", tries=2),
            log=(
                {"event": 'level=error event=failed error="MySQL at 127.0.0.1:3306 (database data) refuses"'},
                SHELL,
            ),
        ),
        "load, on airbyte-mysql: try 2 failed: MySQL at 127.0.0.1:3306 (database data) refuses.",
    ),
    (
        Cause.RUN_TIMED_OUT,
        replace(BASE, dag=replace(DAG, timeout=timedelta(seconds=50)), run=run("failed"), is_run_given=True),
        "Airflow ended ours after 50 s",
    ),
    (
        Cause.RUN_TIMED_OUT,
        about(
            task("load", "skipped"), run=run("failed"), dag=SHORT, log=(ENDED_BY_SERVER,), is_run_given=False
        ),
        "Airflow ended ours after 50 s: its DAG gives a run 45 s (dagrun_timeout).",
    ),
    (
        Cause.RUN_TIMED_OUT,
        about(
            task("load", "skipped"), run=run("failed"), dag=SHORT, log=(ENDED_BY_SERVER,), is_task_given=True
        ),
        "load was ended while it ran: Airflow ended ours after 50 s: its DAG gives a run 45 s",
    ),
    (
        Cause.RUN_TIMED_OUT,
        about(
            task("next", "skipped", start=None, tries=0),
            task("load", "skipped"),
            run=run("failed"),
            dag=SHORT,
            is_task_given=True,
            definitions={"load": Definition("load", ("next",))},
        ),
        "next was skipped before it began: Airflow ended ours after 50 s",
    ),
    # It skipped itself before its run took too long.
    (
        Cause.SKIPPED,
        about(
            task("load", "skipped", end=ago(80)),
            run=run("failed"),
            dag=SHORT,
            is_task_given=True,
            log=({"event": "Skipping task.", "reason": "no data"},),
        ),
        "load skipped itself: no data.",
    ),
    (
        Cause.UNKNOWN,
        about(task("load", "skipped", start=None, tries=0), run=run("failed")),
        "says why ours is failed.",
    ),
    (
        Cause.STARTING,
        about(task("load", "scheduled"), busy_number=3, lately=(task("x", "success", end=ago(2)),)),
        "Room for load came free 2 s ago: the scheduler takes it up within seconds.",
    ),
    (
        Cause.UNKNOWN,
        about(task("load", "scheduled"), busy_number=1, lately=(task("x", "success", end=ago(2)),)),
        "says why load is scheduled.",
    ),
    (
        Cause.STARTING,
        about(
            task("load", "scheduled", pool="small"),
            pool=Pool("small", 1, 1),
            lately=(task("x", "success", pool="small", end=ago(2)),),
        ),
        "Room for load came free 2 s ago",
    ),
    (
        Cause.TASK_FAILED,
        about(
            task("load", "failed"),
            log=(chain(("ConnectionError", "no\nhost", False), ("KeyError", "'k'", True)),),
        ),
        "load: try 1 failed: ConnectionError: no host.",
    ),
    (
        Cause.DATABASE,
        about(
            task("load", "failed"),
            log=(
                chain(
                    ("AppError", "no rows", False),
                    ("OperationalError", "MySQL at 127.0.0.1:3306 refuses", True),
                ),
            ),
        ),
        "load, on airbyte-mysql: try 1 failed: AppError: no rows.",
    ),
    # It was raised while that was handled, and for another reason perhaps.
    (
        Cause.TASK_FAILED,
        about(
            task("load", "failed"),
            log=(
                chain(
                    ("AppError", "no rows", False),
                    ("OperationalError", "MySQL at 127.0.0.1:3306 refuses", False),
                ),
            ),
        ),
        "load: try 1 failed: AppError: no rows.",
    ),
    (
        Cause.TASK_FAILED,
        about(task("load", "failed"), log=({"event": "Task exited", "level": "error", "exit_code": 5},)),
        "load: try 1 failed: Task exited with exit code 5.",
    ),
    (
        Cause.TASK_FAILED,
        about(
            task("load", "failed"), log=({"event": "Task exited", "level": "error", "exit_code": "no file"},)
        ),
        "load: try 1 failed: Task exited: no file.",
    ),
    (
        Cause.TASK_FAILED,
        about(
            task("load", "failed"), log=({"event": "/usr/bin/bash: line 1: nosuch: command not found"}, SHELL)
        ),
        "load: try 1 failed: /usr/bin/bash: line 1: nosuch: command not found.",
    ),
    (
        Cause.UP_FOR_RETRY,
        about(
            task("load", "up_for_retry"),
            definitions={"load": Definition("load", delay=timedelta(minutes=5))},
            log=(SHELL,),
        ),
        "non-zero exit code 5; try 2 is due at ",
    ),
    (
        Cause.PAUSED,
        about(
            task("load", "up_for_retry"),
            dag=replace(DAG, paused=True),
            definitions={"load": Definition("load", delay=timedelta(minutes=5))},
            log=(error("ValueError", "no rows"),),
        ),
        "load waits, because mine is paused: try 1 failed: ValueError: no rows; try 2 is due at ",
    ),
    (
        Cause.PAUSED,
        replace(BASE, dag=replace(DAG, paused=True, end=ago(3600))),
        "mine is paused, and its end_date has passed (",
    ),
    (
        Cause.NEVER_RAN,
        replace(BASE, dag=replace(DAG, schedule="@daily", end=ago(3600))),
        "mine has never run: its end_date has passed (",
    ),
    # The log is the answer, whatever the scheduler does now.
    (
        Cause.TASK_FAILED,
        replace(
            about(task("load", "failed"), log=({"event": "bash: no such file"}, SHELL)),
            run=run("failed"),
            is_run_given=False,
            health={**HEALTH, "scheduler": "unhealthy"},
        ),
        "load: try 1 failed: AirflowException: Bash command failed.",
    ),
    # What was asked after the heartbeats took 20 s.
    (
        Cause.NO_SCHEDULER,
        replace(
            BASE,
            health={**HEALTH, "scheduler": "unhealthy"},
            heard=ago(-11),
            now=ago(-31),
        ),
        "has given no heartbeat for 12 s.",
    ),
    (
        Cause.NO_SCHEDULER,
        replace(
            BASE,
            health={**HEALTH, "scheduler": "unhealthy"},
            heard=ago(-71),
            overload="this machine has a load of 34 on 2 cores",
        ),
        "has given no heartbeat for 72 s, and this machine has a load of 34 on 2 cores",
    ),
    # One that is late on such a machine is not missed.
    (
        Cause.NEVER_RAN,
        replace(BASE, health={**HEALTH, "scheduler": "late"}, heard=ago(-41)),
        "mine has never run",
    ),
    (
        Cause.PAUSED,
        replace(BASE, dag=replace(DAG, paused=True, start=NOW + timedelta(days=1461))),
        "mine is paused: Airflow starts no run of it, and none before 2030-01-",
    ),
    (
        Cause.TASK_FAILED,
        about(task("load", "failed"), log=({"event": "bash: no such file"}, SHELL)),
        "load: try 1 failed: AirflowException: Bash command failed.",
    ),
    (
        Cause.TASK_TIMED_OUT,
        about(
            task("load", "failed"),
            log=(error("AirflowTaskTimeout", "Timeout, PID: 7"),),
            definitions={"load": Definition("load", timeout=timedelta(seconds=3))},
        ),
        "load: try 1 failed: it took longer than 3 s (execution_timeout).",
    ),
    (
        Cause.UP_FOR_RETRY,
        about(
            task("load", "up_for_retry"),
            log=(error("AirflowTaskTimeout", "Timeout, PID: 7"),),
            definitions={"load": Definition("load", delay=timedelta(minutes=5), timeout=timedelta(hours=3))},
        ),
        "load: try 1 failed: it took longer than 3 h 00 min (execution_timeout); try 2 is due at ",
    ),
    (
        Cause.WORKER_LOST,
        about(task("load", "failed"), log=({"event": "Process exited abnormally", "exit_code": 5},)),
        "load: try 1 failed: its process ended with exit code 5, without a word to Airflow.",
    ),
    (Cause.TASK_FAILED, about(task("load", "failed")), "load: try 1 failed, and Airflow has no log of it."),
    (
        Cause.TASK_FAILED,
        about(task("load", "failed"), log=({"event": "all is well"},)),
        "load: try 1 failed, and its log has no error.",
    ),
    (
        Cause.TASK_FAILED,
        about(task("load", "failed"), unread_log="Airflow refused."),
        "load: try 1 failed, and its log cannot be read.",
    ),
]


@pytest.mark.parametrize(
    ("cause", "evidence", "words"), SHOWN, ids=[f"{row[0]}-{n}" for n, row in enumerate(SHOWN)]
)
def test_a_cause_is_named_by_what_shows_it(cause: Cause, evidence: Evidence, words: str) -> None:
    found = explanation(evidence)
    assert (found.cause, words in found.sentence) == (cause, True), found.sentence
    assert found.next
    assert found.dag_id == "mine"


def test_each_cause_is_shown_here() -> None:
    assert {cause for cause, _, _ in SHOWN} == set(Cause)


STATES = (
    "none",
    "scheduled",
    "queued",
    "running",
    "restarting",
    "deferred",
    "awaiting_input",
    "up_for_retry",
    "up_for_reschedule",
    "success",
    "failed",
    "skipped",
    "upstream_failed",
    "removed",
    "a state of Airflow 4",
)
instances = st.builds(
    lambda name, state, slots, priority, seconds: task(
        name, state, slots=slots, priority=priority, scheduled=ago(seconds), queued=ago(seconds)
    ),
    st.sampled_from("abc"),
    st.sampled_from(STATES),
    st.integers(1, 3),
    st.integers(1, 3),
    st.floats(0, 60),
)
services = st.sampled_from(["running", "stopped", "crashed"]).map(
    lambda state: tuple(replace(each, state=state) for each in SERVICES)
)


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    found = draw(st.lists(instances, max_size=4).map(tuple))
    its_run = draw(st.none() | st.sampled_from(["queued", "running", "success", "failed"]).map(run))
    chosen = draw(st.sampled_from(found)) if found and its_run and draw(st.booleans()) else None
    return replace(
        BASE,
        services=draw(services),
        health={name: draw(st.sampled_from(["healthy", "unhealthy", "unknown"])) for name in HEALTH},
        executor=draw(st.sampled_from(["LocalExecutor", "CeleryExecutor"])),
        dag=draw(st.none() | st.builds(replace, st.just(DAG), paused=st.booleans(), stale=st.booleans())),
        files=("mine.py",),
        failures=draw(st.sampled_from([(), FAILURE])),
        run=its_run,
        is_run_given=draw(st.booleans()),
        active=(its_run,) if its_run else (),
        instances=found,
        chosen=chosen,
        is_task_given=chosen is not None and draw(st.booleans()),
        pool=draw(
            st.none() | st.builds(Pool, st.just("default_pool"), st.integers(-1, 3), st.integers(0, 3))
        ),
        busy=tuple(each for each in found if each.state in {"running", "queued"}),
        busy_number=draw(st.integers(0, 6)),
        parallelism=draw(st.none() | st.just(4)),
        tasks_api=draw(st.sampled_from(["", "refused"])),
        log=draw(st.sampled_from([(), (SHELL,)])),
        events=draw(st.sampled_from([(), (noted(NO_HEARTBEAT, "a"),)])),
        lately=tuple(each for each in found if each.task.end),
        mapped_over_nothing=draw(st.booleans()),
    )


def is_silent(evidence: Evidence, service: str, component: str) -> bool:
    state = next(each.state for each in evidence.services if each.name == service)
    return state != "running" or evidence.health[component] != "healthy"


def in_state(*states: str) -> Any:
    return lambda evidence: evidence.chosen is not None and evidence.chosen.state in states


# What must hold of the evidence if a cause is named: wrong words are worse than none.
NEEDED: dict[Cause, Any] = {
    Cause.IMPORT_ERROR: lambda evidence: evidence.failures,
    Cause.DAG_MISSING: lambda evidence: evidence.dag is None,
    Cause.DAG_STALE: lambda evidence: evidence.dag.stale,
    Cause.PAUSED: lambda evidence: evidence.dag.paused,
    Cause.NO_SCHEDULER: lambda evidence: is_silent(evidence, "scheduler", "scheduler"),
    Cause.NO_DAG_PROCESSOR: lambda evidence: is_silent(evidence, "dag-processor", "dag_processor"),
    Cause.NO_TRIGGERER: lambda evidence: is_silent(evidence, "triggerer", "triggerer"),
    Cause.NO_WORKER: lambda evidence: evidence.executor == "CeleryExecutor",
    Cause.POOL_MISSING: lambda evidence: evidence.pool is None,
    Cause.POOL_TOO_SMALL: lambda evidence: 0 <= evidence.pool.slots < evidence.chosen.slots,
    Cause.POOL_FULL: lambda evidence: evidence.pool.open < evidence.chosen.slots,
    Cause.NO_SLOTS: lambda evidence: evidence.busy_number >= 4,
    Cause.TASKS_API: lambda evidence: evidence.tasks_api,
    Cause.RUNNING: in_state("running", "restarting"),
    Cause.DEFERRED: in_state("deferred"),
    Cause.AWAITING_INPUT: in_state("awaiting_input"),
    Cause.UP_FOR_RETRY: in_state("up_for_retry"),
    Cause.UP_FOR_RESCHEDULE: in_state("up_for_reschedule"),
    Cause.SKIPPED: in_state("skipped"),
    Cause.UPSTREAM_FAILED: in_state("upstream_failed"),
    Cause.REMOVED: in_state("removed"),
    Cause.TASK_FAILED: in_state("failed"),
    Cause.WORKER_LOST: lambda evidence: evidence.events,
    Cause.SUCCEEDED: lambda evidence: (
        "success" in {evidence.run.state, evidence.chosen and evidence.chosen.state}
    ),
}


@given(evidences())
def test_whatever_was_found_the_answer_is_a_sentence_that_the_evidence_shows(evidence: Evidence) -> None:
    found = explanation(evidence)
    assert found.sentence.endswith(".")
    assert "\n" not in found.sentence
    assert found.next
    assert NEEDED.get(found.cause, lambda _: True)(evidence), found
    assert plain(result_text(found)).startswith(found.sentence[:20])


@given(st.lists(instances, max_size=6).map(tuple), st.sampled_from(["running", "failed", "success"]).map(run))
def test_the_task_that_is_told_of_is_one_that_the_run_waits_for_or_failed_by(
    found: tuple[Instance, ...], its_run: DagRun
) -> None:
    chosen = choose(found, its_run, NOW)
    if chosen is None:
        return
    assert chosen in found
    states = {each.state for each in found}
    if its_run.state == "failed":
        assert chosen.state == "failed" or "failed" not in states
    else:
        assert chosen.state not in {"success", "failed", "skipped"}
        assert chosen.state == "awaiting_input" or "awaiting_input" not in states


def test_a_triggerer_that_has_taken_the_trigger_has_started_whatever_its_container_still_says() -> None:
    """Docker asks a container's health now and then alone."""
    waiting = (*SERVICES[:3], Service("triggerer", "running", "waiting"))
    found = explanation(about(task("load", "deferred", has_triggerer=True), services=waiting))
    assert found.cause == Cause.DEFERRED


def test_a_scheduled_task_is_about_to_start_only_for_so_long() -> None:
    for seconds, cause in ((PATIENCE_SECONDS - 1, Cause.STARTING), (PATIENCE_SECONDS + 1, Cause.UNKNOWN)):
        assert explanation(about(task("load", "scheduled", scheduled=ago(seconds)))).cause == cause


def test_the_text_has_the_sentence_its_evidence_and_the_next_command() -> None:
    found = explanation(replace(BASE, dag=None, failures=FAILURE))
    assert plain(result_text(found)).splitlines() == [
        "The DAG 'mine' cannot run: Airflow cannot import mine.py: SyntaxError: nonsense.",
        "  import error   Traceback",
        "                 SyntaxError: nonsense",
        "  scheduler      healthy, heartbeat 1 s ago",
        "  dag-processor  healthy, heartbeat 1 s ago",
        "What to mend: pipectl check",
        "All import errors: pipectl dags",
    ]


def facts_of(evidence: Evidence) -> dict[str, str]:
    return {fact.name: fact.value for fact in explanation(evidence).evidence}


def test_a_dag_that_waits_for_assets_says_so_after_its_last_run_too() -> None:
    dag = replace(DAG, asset_rule="all")
    found = facts_of(replace(BASE, dag=dag, run=run("success"), awaited_assets=("orders", "prices")))
    assert found["next run"] == "after an update of each of the assets orders and prices"
    found = facts_of(replace(BASE, dag=replace(DAG, schedule="@daily", end=ago(3600)), run=run("success")))
    assert found["next run"].startswith("none, for its end_date has passed (")


def test_deferred_tasks_that_keep_their_slots_of_a_pool_are_named() -> None:
    full = Pool("small", 1, 0, counts_deferred=True)
    sleeper = task("sensor", "deferred", pool="small")
    found = explanation(about(task("load", "scheduled", pool="small"), pool=full, deferred=(sleeper,)))
    assert found.cause == Cause.POOL_FULL
    assert "sensor (deferred)" in {fact.name: fact.value for fact in found.evidence}["at work"]


def test_what_a_sensor_logged_last_is_in_the_evidence() -> None:
    poke = {"event": "Poking for DAG 'other' ... ", "logger": "airflow.task.operators.mine.Sensor"}
    end = {"event": "Rescheduling task, marking task as UP_FOR_RESCHEDULE", "logger": "task"}
    found = facts_of(about(task("load", "up_for_reschedule"), log=(poke, end)))
    assert found["it logged last"] == "Poking for DAG 'other' ..."


def test_what_an_error_was_raised_from_is_in_the_evidence() -> None:
    log = (chain(("C", "3", False), ("B", "2", True), ("A", "1", False)),)
    found = facts_of(about(task("load", "failed"), log=log))
    assert (found["the task's end"], found["raised from"]) == ("C: 3", "B: 2")


def test_of_an_exit_code_alone_the_last_lines_of_the_output_are_in_the_evidence() -> None:
    output = [{"event": line} for line in ("Running command: x", "Output:", "one", "two", "", "three\nfour")]
    end = {"event": "Command exited with return code 5"}
    found = facts_of(about(task("load", "failed"), log=(*output, end, {"event": "of Airflow"}, SHELL)))
    assert found["its last output"] == "two\nthree\nfour"
    exited = {"event": "Task exited", "level": "error", "exit_code": 5}
    printed = {"event": "no such customer", "logger": "task.stdout"}
    found = facts_of(about(task("load", "failed"), log=({"event": "of Airflow"}, printed, exited)))
    assert found["its last output"] == "no such customer"
    # An error says more.
    raised = (printed, error("ValueError", "no rows"))
    assert "its last output" not in facts_of(about(task("load", "failed"), log=raised))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("-9", "was ended by SIGKILL, as the system ends one when memory runs out"),
        ("137", "was ended by SIGKILL, as the system ends one when memory runs out"),
        ("143", "was ended by SIGTERM"),
        ("5", None),
        ("127", None),
        ("1379", None),
    ],
)
def test_a_signal_that_an_exit_code_stands_for_is_named(code: str, told: str | None) -> None:
    words = f"Bash command failed. The command returned a non-zero exit code {code}."
    found = facts_of(about(task("load", "failed"), log=(error("AirflowException", words),)))
    assert found.get("its program") == told


def test_a_paused_task_that_is_to_be_tried_again_has_the_commands_of_both() -> None:
    found = explanation(about(task("load", "up_for_retry"), dag=replace(DAG, paused=True), log=(SHELL,)))
    purposes = [step.purpose for step in found.next]
    assert purposes == ["To switch it on", "To run it now as well", "The whole log"]


def test_what_waits_for_a_place_is_told_which_setting_gives_more() -> None:
    found = explanation(about(task("load", "scheduled"), busy=BUSY, busy_number=4))
    assert "raise AIRFLOW_PARALLELISM in stack/.env (it is 4)" in found.next[-1].purpose
    assert found.next[-1].command == "pipectl up"


def test_names_in_commands_are_quoted_as_a_shell_needs_them() -> None:
    found: Explanation = explanation(about(task("group.load", "running", index=3)))
    assert found.task == "group.load[3]"
    assert found.next[0].command == "pipectl task-log mine ours 'group.load[3]' --follow"


@pytest.mark.parametrize(
    ("text", "blamed"),
    [
        (
            "PostgreSQL at airbyte-postgres:5432 (database airbyte, user docker) refuses",
            ("airbyte-postgres", "PostgreSQL"),
        ),
        (
            'psycopg2.OperationalError: connection to server at "127.0.0.1", port 5432 failed',
            ("airbyte-postgres", "PostgreSQL"),
        ),
        (
            "OperationalError: 2003 (HY000): Can't connect to MySQL server on '127.0.0.1:3306' (111)",
            ("airbyte-mysql", "MySQL"),
        ),
        ('connection to server at "db.example.com", port 5432 failed', ("", "PostgreSQL")),
        ("pymysql.err.OperationalError: lost", ("", "MySQL")),
        ("ValueError: not a word about port 5432 of 127.0.0.1", ("", "")),
        ("AirflowException: no PostgreSQL here", ("", "")),
    ],
)
def test_a_database_is_named_only_by_its_own_words_and_address(text: str, blamed: tuple[str, str]) -> None:
    assert blamed_database(text, DATABASES) == blamed


def test_a_long_error_is_told_once_and_cut() -> None:
    long = f"begins {'x' * 5_000}"
    broken = replace(BASE, dag=None, failures=(ImportFailure("mine.py", f"Traceback\nValueError: {long}"),))
    failed = about(task("load", "failed"), log=(error("ValueError", long),))
    for evidence in (broken, failed):
        found = explanation(evidence)
        text = "\n".join((found.sentence, *(fact.value for fact in found.evidence)))
        assert text.count("begins") == 1
        assert text.count("x") == 200 - len("ValueError: begins ")
        assert found.sentence.endswith("x…")


def test_the_page_of_a_question_is_named() -> None:
    page = "http://127.0.0.1:1/dags/mine/runs/ours/tasks/load/required_actions"
    found = explanation(about(task("load", "awaiting_input"), question="Ship it?", page=page))
    assert ("its page", page) in [(fact.name, fact.value) for fact in found.evidence]
