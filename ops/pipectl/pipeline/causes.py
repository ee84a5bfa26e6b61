"""Why something waits or failed: the causes that `explain` knows, and words that `trigger` says too."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

from pipectl.names import moment

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from pipectl.models import DagRun, DatabaseAddress, TaskState


class Cause(StrEnum):
    """A cause, by a name that stays. Programs decide by it, so a new cause may come, and none is renamed."""

    # The DAG and its file.
    IMPORT_ERROR = "import_error"
    DAG_MISSING = "dag_missing"
    DAG_STALE = "dag_stale"
    NEVER_RAN = "never_ran"
    PAUSED = "paused"
    # Airflow's services.
    NO_SCHEDULER = "no_scheduler"
    NO_DAG_PROCESSOR = "no_dag_processor"
    NO_TRIGGERER = "no_triggerer"
    NO_WORKER = "no_worker"
    TASKS_API = "tasks_api"
    # A run that has not begun.
    NOT_DUE = "not_due"
    BEHIND_RUN = "behind_run"
    MAX_ACTIVE_RUNS = "max_active_runs"
    BACKFILL_PAUSED = "backfill_paused"
    # A task that has not begun.
    UPSTREAM = "upstream"
    DEPENDS_ON_PAST = "depends_on_past"
    DEPENDENCY = "dependency"
    MAX_ACTIVE_TASKS = "max_active_tasks"
    TASK_CONCURRENCY = "task_concurrency"
    POOL_FULL = "pool_full"
    POOL_MISSING = "pool_missing"
    POOL_TOO_SMALL = "pool_too_small"
    NO_SLOTS = "no_slots"
    PRIORITY = "priority"
    STARTING = "starting"
    # A task that waits, or is at work.
    DEFERRED = "deferred"
    AWAITING_INPUT = "awaiting_input"
    UP_FOR_RETRY = "up_for_retry"
    UP_FOR_RESCHEDULE = "up_for_reschedule"
    RUNNING = "running"
    # An end.
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    REMOVED = "removed"
    UPSTREAM_FAILED = "upstream_failed"
    WORKER_LOST = "worker_lost"
    DATABASE = "database"
    RUN_TIMED_OUT = "run_timed_out"
    TASK_FAILED = "task_failed"
    # What was looked at is shown.
    UNKNOWN = "unknown"


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
