"""The scheduler sleeps until there is work. Airflow's own looks ten times a second, for 0.2 core at rest.

Triggers in the metadata database notify a channel of every change that may be work, and the scheduler listens
there. It waits for the ends of its tasks' processes too, and for the next moment at which something is due. A
lost notification costs LONGEST_SECONDS. While nobody tells of changes, it looks as often as Airflow's own.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import select
import time
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How long the scheduler sleeps if nobody wakes it. Each loop writes its heartbeat, and does what Airflow does
# by timers, the shortest of which are 5 s.
LONGEST_SECONDS = 5.0
AGAIN_SECONDS = 5.0
CHANNEL = "pipectl_scheduler"
FUNCTION = "pipectl_tell_scheduler"
# Tables whose changes make a run or a task start, or free the place for another one.
TABLES = (
    "asset_dag_run_queue",
    "asset_partition_dag_run",
    "backfill",
    "backfill_dag_run",
    "callback",
    "connection_test_request",
    "dag",
    "dag_run",
    "deadline",
    "partitioned_asset_key_log",
    "serialized_dag",
    "slot_pool",
    "task_instance",
)
EVENTS = {
    "INSERT": "NEW TABLE AS new_rows",
    "UPDATE": "OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "DELETE": "OLD TABLE AS old_rows",
}
# What only says when somebody looked, or that a task still runs. The body leaves out tasks that are queued
# or have begun too: they make no other one start and free no place.
IGNORED = "{last_heartbeat_at,last_parse_duration,last_parsed_time,last_scheduling_decision,updated_at}"
BODY = f"""
DECLARE changed boolean;
BEGIN
    IF TG_OP = 'INSERT' THEN
        changed := EXISTS (SELECT FROM new_rows);
    ELSIF TG_OP = 'DELETE' THEN
        changed := EXISTS (SELECT FROM old_rows);
    ELSE
        changed := EXISTS (
            SELECT to_jsonb(new_rows) - '{IGNORED}'::text[] FROM new_rows
            WHERE TG_TABLE_NAME <> 'task_instance'
                OR to_jsonb(new_rows) ->> 'state' IS NULL
                OR to_jsonb(new_rows) ->> 'state' NOT IN ('queued', 'running')
            EXCEPT SELECT to_jsonb(old_rows) - '{IGNORED}'::text[] FROM old_rows);
    END IF;
    IF changed THEN
        PERFORM pg_notify('{CHANNEL}', TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END """  # noqa: S608  constants
CURRENT_BODY = "SELECT prosrc FROM pg_proc WHERE proname = %s AND pronamespace = current_schema::regnamespace"
CURRENT_TRIGGERS = """
    SELECT tgrelid::regclass::text, tgname FROM pg_trigger
    WHERE tgfoid = %s::regproc AND tgenabled = 'O' AND tgrelid = ANY (%s::text[]::regclass[])"""
# What waits for a lock keeps others waiting: a moment at most.
LOCK_TIMEOUT = "SET lock_timeout = '1s'"
# How long it is until something is due that was not when the last loop began, none if nothing is: a run, a
# task that looks again, a deadline. How long a task waits for its retry is known to its DAG alone: the longer
# it has waited, the rarer the looks, and a delay grows by a twentieth at most. A loop looks at so many runs
# and no more. Then, how many triggers there are.
DUE = f"""
    WITH active AS (
        SELECT run.dag_id, run.run_id, run.state, run.run_after FROM dag_run run JOIN dag USING (dag_id)
        WHERE run.state IN ('queued', 'running') AND NOT is_paused AND NOT is_stale
    )
    SELECT CASE WHEN (SELECT count(*) FROM active WHERE state = 'running') > %(examined)s THEN 0
    ELSE extract(epoch FROM least(
        (SELECT min(next_dagrun_create_after) FROM dag
         WHERE NOT is_paused AND NOT is_stale AND next_dagrun_create_after > %(looked)s),
        (SELECT min(run_after) FROM active WHERE run_after > %(looked)s),
        (SELECT min(reschedule_date) FROM active JOIN task_instance ti USING (dag_id, run_id)
         JOIN task_reschedule ON ti_id = ti.id
         WHERE ti.state = 'up_for_reschedule' AND reschedule_date > %(looked)s),
        (SELECT now() + (now() - max(end_date)) / 20 FROM active JOIN task_instance ti USING (dag_id, run_id)
         WHERE ti.state = 'up_for_retry'),
        (SELECT min(deadline_time) FROM deadline WHERE NOT missed AND deadline_time > %(looked)s)
    ) - now())::float END,
    (SELECT count(*) FROM pg_trigger WHERE tgfoid = '{FUNCTION}'::regproc AND tgenabled = 'O')"""  # noqa: S608  constants


def sleep_until_there_is_work(connect: Callable[[], Any]) -> None:
    """Let the scheduler's loop wait for work instead of looking for it: 0.2 core less at rest."""
    module: Any = importlib.import_module("airflow.jobs.scheduler_job_runner")
    runner = module.SchedulerJobRunner
    loop = runner._run_scheduler_loop  # noqa: SLF001  there is no public place for it
    examined = module.DagRun.DEFAULT_DAGRUNS_TO_EXAMINE

    def run_loop(self: Any) -> None:  # noqa: ANN401  passed through
        with contextlib.closing(Sleeper(connect, self.executors, self.log, examined)) as sleeper:
            # The loop calls it once, where it is idle, and the module nowhere else.
            module.time = types.SimpleNamespace(**vars(time) | {"sleep": sleeper.until_work})
            schedule = self._do_scheduling

            def begin_and_schedule(session: Any) -> int:  # noqa: ANN401  passed through
                sleeper.note_beginning()
                return int(schedule(session))

            self._do_scheduling = begin_and_schedule
            try:
                loop(self)
            finally:
                module.time = time
                del self._do_scheduling

    runner._run_scheduler_loop = run_loop  # noqa: SLF001


class Sleeper:
    """Sleeps until there is work, and at least as long as the loop before took: half a core at most."""

    def __init__(
        self,
        connect: Callable[[], Any],
        executors: Any,  # noqa: ANN401  Airflow's own, as the next one
        log: Any,  # noqa: ANN401
        examined: int,
    ) -> None:
        self._connect, self._executors, self._log, self._examined = connect, executors, log, examined
        self._connection: Any = None
        self._connect_after = 0.0
        self._looked, self._began = dt.datetime.now(dt.UTC), time.monotonic()

    def note_beginning(self) -> None:
        """Forget what was told until now: the loop that begins sees it."""
        self._looked, self._began = dt.datetime.now(dt.UTC), time.monotonic()
        if self._connection is not None:
            with self._falling_back():
                self._connection.poll()
                self._connection.notifies.clear()

    def until_work(self, seconds: float) -> None:
        """Return once somebody tells of work or something is due; after `seconds` if that cannot be known.

        After LONGEST_SECONDS at the latest, and not before as much time is over as the loop took.
        """
        slept = min(seconds, time.monotonic() - self._began) if self._connection is not None else seconds
        time.sleep(slept)
        waited = False
        with self._falling_back():
            waited = self._listens() and self._wait(seconds - slept, LONGEST_SECONDS - slept)
        if not waited:
            time.sleep(seconds - slept)

    @contextlib.contextmanager
    def _falling_back(self) -> Iterator[None]:
        """Let the loop go on as Airflow's own, whatever fails in the block."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  of the connection, mostly
            self.close()
            self._connect_after = time.monotonic() + AGAIN_SECONDS
            self._log.warning("Looking for work all the time, since nobody tells of it: %s", error)

    def close(self) -> None:
        """Listen no more."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None

    def _listens(self) -> bool:
        if self._connection is None and time.monotonic() >= self._connect_after:
            self._connection = self._connect()
            listen(self._connection)
            # What changed before is for the next loop, which begins at once.
            return False
        return self._connection is not None

    def _wait(self, least: float, most: float) -> bool:
        """Wait until somebody tells of work, or something is due; say whether that can be waited for.

        For the latter `least` seconds at least, and for both `most` seconds at most.
        """
        ends = ends_of_tasks(self._executors)
        if ends is None:
            return False
        with self._connection.cursor() as cursor:
            cursor.execute(DUE, {"examined": self._examined, "looked": self._looked})
            due, triggers = cursor.fetchone()
        if triggers != len(TABLES) * len(EVENTS):
            raise LookupError(f"the metadata database has {triggers} triggers for it")
        # What has come with the answer, or right after it, is not to be read from the socket any more.
        self._connection.poll()
        if not self._connection.notifies:
            seconds = most if due is None else max(least, min(most, due))
            select.select([self._connection, *ends], [], [], seconds)
        return True


def listen(connection: Any) -> None:  # noqa: ANN401  psycopg2's connection
    """Have `connection` told of work from now on, by triggers that it makes. Raises psycopg2.Error."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(LOCK_TIMEOUT)
        cursor.execute(CURRENT_BODY, (FUNCTION,))
        if cursor.fetchone() != (BODY,):
            cursor.execute(
                f"CREATE OR REPLACE FUNCTION {FUNCTION}() RETURNS trigger"
                f" LANGUAGE plpgsql AS $body${BODY}$body$"
            )
        cursor.execute(CURRENT_TRIGGERS, (FUNCTION, list(TABLES)))
        existing = set(cursor.fetchall())
        # Without the names of columns, which would keep a migration from changing their types. Each in a
        # transaction of its own: who holds one lock only can be part of no deadlock.
        for table in TABLES:
            for event, rows in EVENTS.items():
                name = f"{FUNCTION}_{event.lower()}"
                if (table, name) not in existing:
                    cursor.execute(f"DROP TRIGGER IF EXISTS {name} ON {table}")
                    cursor.execute(
                        f"CREATE TRIGGER {name} AFTER {event} ON {table} REFERENCING {rows} "
                        f"FOR EACH STATEMENT EXECUTE FUNCTION {FUNCTION}()"
                    )
        cursor.execute(f"LISTEN {CHANNEL}")


def ends_of_tasks(executors: Any) -> list[int] | None:  # noqa: ANN401  Airflow's own
    """Return what can be read from once a task has ended; None if that has to be looked for."""
    ends: list[int] = []
    for executor in executors:
        if executor.queued_tasks or (executor.running and not hasattr(executor, "sentinels")):
            return None
        if executor.running:
            sentinels = executor.sentinels()
            if sentinels is None:
                return None
            ends += sentinels
    return ends
