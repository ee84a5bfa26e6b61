"""Why something waits or failed: the causes that `explain` knows, and words that `trigger` says too."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from pipectl.names import moment

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from pipectl.models import DagRun, DatabaseAddress, TaskState


class Cause(StrEnum):
    """A cause, by a name that stays. Programs decide by it, so a new cause may come, and none is renamed."""

    meaning: str

    def __new__(cls, name: str, meaning: str) -> Self:
        """Make a cause with what it means, in words for the documentation."""
        cause = str.__new__(cls, name)
        cause._value_ = name
        cause.meaning = meaning
        return cause

    # The DAG and its file.
    IMPORT_ERROR = "import_error", "the DAG's file cannot be imported"
    DAG_MISSING = "dag_missing", "no file brings the DAG"
    DAG_STALE = "dag_stale", "a file brought the DAG, and does so no longer"
    NEVER_RAN = "never_ran", "the DAG has had no run"
    PAUSED = "paused", "the DAG is switched off"
    # Airflow's services.
    NO_SCHEDULER = "no_scheduler", "the scheduler is down or gives no heartbeat"
    NO_DAG_PROCESSOR = "no_dag_processor", "the DAG processor is down or gives no heartbeat"
    NO_TRIGGERER = "no_triggerer", "the triggerer, which the task needs, is down or gives no heartbeat"
    NO_WORKER = "no_worker", "no Celery worker is there"
    TASKS_API = "tasks_api", "tasks cannot reach Airflow's API for them, or it refuses their secret"
    # A run that has not begun.
    NOT_DUE = "not_due", "the run's time is to come"
    BEHIND_RUN = "behind_run", "another run comes first"
    MAX_ACTIVE_RUNS = "max_active_runs", "as many runs are active as the DAG allows"
    BACKFILL_PAUSED = "backfill_paused", "the run's backfill is paused"
    # A task that has not begun.
    UPSTREAM = "upstream", "other tasks must end before"
    DEPENDS_ON_PAST = "depends_on_past", "the task depends on its own end in the run before"
    DEPENDENCY = "dependency", "another condition of Airflow's is not met"
    MAX_ACTIVE_TASKS = "max_active_tasks", "as many tasks of the run are at work as the DAG allows"
    TASK_CONCURRENCY = "task_concurrency", "as many of this task are at work, over all runs, as it allows"
    POOL_FULL = "pool_full", "the task's pool has no room"
    POOL_MISSING = "pool_missing", "there is no such pool"
    POOL_TOO_SMALL = "pool_too_small", "the task takes more slots than its pool has"
    NO_SLOTS = "no_slots", "as many tasks are at work as Airflow may run"
    PRIORITY = "priority", "there is no room, and tasks of higher priority come first"
    STARTING = "starting", "it has become so within the last ten seconds"
    # A task that waits, or is at work.
    DEFERRED = "deferred", "the task waits for its trigger"
    AWAITING_INPUT = "awaiting_input", "the task waits for a human's answer"
    UP_FOR_RETRY = "up_for_retry", "the task waits for its next try"
    UP_FOR_RESCHEDULE = "up_for_reschedule", "the sensor waits for its next look"
    RUNNING = "running", "it is at work"
    # An end.
    SUCCEEDED = "succeeded", "it succeeded"
    CANCELLED = "cancelled", "it was ended by hand"
    SKIPPED = "skipped", "the task was skipped"
    REMOVED = "removed", "the task is no longer in the DAG"
    UPSTREAM_FAILED = "upstream_failed", "a task before it failed"
    WORKER_LOST = "worker_lost", "the task's process was lost"
    DATABASE = "database", "a database's error failed the task"
    TASK_TIMED_OUT = "task_timed_out", "the task's try took longer than its `execution_timeout`"
    RUN_TIMED_OUT = "run_timed_out", "the run took longer than its `dagrun_timeout`"
    TASK_FAILED = "task_failed", "the task's own error"
    # What was looked at is shown.
    UNKNOWN = "unknown", "nothing that was looked at explains it; what was looked at is shown"


def next_to_end(run: DagRun, active: tuple[DagRun, ...], limit: int | None) -> DagRun | None:
    """Return the run that must end before a queued one starts; None if that one waits for none.

    `active` are the DAG's active runs, oldest first: a later answer than `run`, which may have begun, or even
    ended, meanwhile. Airflow counts a backfill's runs apart, of which `limit` is the backfill's own.
    """
    ahead = runs_ahead(run, active)
    return ahead[0] if limit and len(ahead) >= limit else None


def runs_ahead(run: DagRun, active: tuple[DagRun, ...]) -> list[DagRun]:
    """Return the runs that count against a queued one: those at work first, then those queued before it."""
    own = next((place for place, other in enumerate(active) if other.run_id == run.run_id), None)
    if own is None or active[own].state != "queued":
        return []
    ahead = [
        other
        for place, other in enumerate(active)
        if (other.run_type == "backfill") == (run.run_type == "backfill")
        and (other.state == "running" or place < own)
    ]
    ahead.sort(key=lambda other: other.state != "running")
    return ahead


def queued_behind(behind: DagRun) -> str:
    """Say which run must end before a queued one starts."""
    return f"queued behind {behind.run_id} ({behind.run_type})"


def waiting(task: TaskState) -> str:
    """Return a task's state, and what ends its wait if it has given up its process."""
    return f"{task.state}, waits for {task.waits_for}" if task.waits_for else task.state


def failed_try(task: TaskState, reason: str, due: datetime | None, due_word: str = "due at") -> str:
    """Say why the try of a task failed, and when the next is due."""
    return (
        f"try {task.tries} failed"
        + (f": {reason.rstrip('.') if due else reason}" if reason else "")
        + (f"; try {task.tries + 1} is {due_word} {moment(due)}" if due else "")
    )


# What drivers, servers and the pipeline's own scripts say, by the product whose words these are.
_PRODUCTS = {
    "PostgreSQL": re.compile(
        r"psycopg2?\.|asyncpg\.|connection to server (?:at|on) |PostgreSQL (?:at|failed) "
    ),
    "MySQL": re.compile(
        r"mysql\.connector|pymysql\.|MySQLdb|(?:MySQL|MariaDB) server|MySQL (?:at|failed) "
        r"|\b[12]\d{3} \((?:HY000|\d{2}[0-9A-Z]{3})\)"
    ),
}


def blamed_database(error: str, addresses: Iterable[DatabaseAddress]) -> tuple[str, str]:
    """Return the database that an error comes from: its service, or "", and its product, "" for no database.

    A service is named only if the error has its name, or its host and port.
    """
    product = next((name for name, words in _PRODUCTS.items() if words.search(error)), "")
    ports = {port for pair in re.findall(r":(\d{2,5})\b|\bport (\d{2,5})\b", error) for port in pair}
    for address in addresses if product else ():
        if address.service in error or (address.host in error and str(address.port) in ports):
            return address.service, product
    return "", product
