"""What `explain` asks of Airflow: without airflow_client, whose import alone takes half of its time."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from pipectl.airflow_answers import (
    NEWEST_FIRST,
    PAGE,
    RUN_CHANGED,
    all_pages,
    may_be_stopped,
    objects,
    one_line,
    read_backfill,
    read_dag,
    read_duration,
    read_run,
    read_task,
    read_time,
    refusal,
    with_stop,
)
from pipectl.airflow_health import EVERY_DAG, AirflowHealth, unknown_dag, unusable_answer
from pipectl.errors import AirflowError, AirflowMissingError, AirflowSilentError
from pipectl.task_logs import error_last

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from pipectl.errors import DagError
    from pipectl.models import Backfill, DagRun, ParsedDag, TaskState

# What Airflow notes of a run and its tasks that says why they ended: by its own names.
TASK_CHANGED, NO_HEARTBEAT, MISMATCH = "patch_task_instance", "heartbeat timeout", "state mismatch"
NOTED = (RUN_CHANGED, TASK_CHANGED, NO_HEARTBEAT, MISMATCH)
EARLIER = 20  # runs or tasks that a duration is compared with
MOST_TASKS = 1000  # of a run, of which an explanation looks at the first


@dataclass(frozen=True)
class Instance:
    """A task instance, and what decides when it starts. Times are timezone-aware."""

    dag_id: str
    run_id: str
    task: TaskState
    pool: str = ""
    slots: int = 1
    priority: int = 1
    scheduled: datetime | None = None
    queued: datetime | None = None
    most_tries: int = 0
    has_triggerer: bool = False
    queue: str = ""

    @property
    def state(self) -> str:
        """Its state, `none` for one that Airflow has not scheduled yet."""
        return self.task.state


@dataclass(frozen=True)
class Definition:
    """A task as the DAG's latest version has it. `delay` is the shortest from a failed try to the next.

    `timeout` is the longest that a try may take.
    """

    id: str
    downstream: tuple[str, ...] = ()
    trigger_rule: str = ""
    delay: timedelta | None = None
    delay_grows: bool = False
    timeout: timedelta | None = None


@dataclass(frozen=True)
class Pool:
    """A pool: all its slots, -1 for any number, and how many are free; a deferred task may keep its own."""

    name: str
    slots: int
    open: int
    counts_deferred: bool = False


@dataclass(frozen=True)
class Event:
    """What Airflow has noted of a run or task: `number` is the try, 0 if the note does not name one."""

    name: str
    when: datetime | None
    owner: str = ""
    extra: str = ""
    task_id: str = ""
    map_index: int = -1
    number: int = 0


@dataclass(frozen=True)
class Blocker:
    """A condition of Airflow's that a task does not meet, in Airflow's words."""

    name: str
    reason: str


class AirflowFacts(AirflowHealth):
    """The questions. Every method may raise AirflowError."""

    def dag(self, dag_id: str) -> ParsedDag | None:
        """The DAG with its details, as far as Airflow gives them; None if it has parsed none of that id."""
        status, body = self._get(f"/api/v2/dags/{_id(dag_id)}/details")
        return read_dag(body) if status == http.client.OK else super().dag(dag_id)

    def dag_ids(self) -> tuple[str, ...]:
        """Ids of the DAGs that Airflow has parsed."""
        return tuple(dag.dag_id for dag in self.dags())

    def missing_dag(self, dag_id: str) -> DagError:
        """Return the error for a DAG that Airflow has not parsed."""
        return unknown_dag(dag_id, self.dag_ids(), self.import_failures())

    def run(self, dag_id: str, run_id: str) -> DagRun:
        """Return a run as it is now; AirflowMissingError if there is none."""
        found = read_run(self._ask(f"{_run(dag_id, run_id)}"))
        if found is None:
            raise unusable_answer(self.address, self.version(), "a run has no dag_run_id")
        return with_stop(found, self._stops(dag_id)) if may_be_stopped(found) else found

    def runs(self, dag_id: str, limit: int = EARLIER) -> tuple[DagRun, ...]:
        """Return the runs that were made last, the newest first."""
        return tuple(self._runs(dag_id, urlencode({"limit": limit, "order_by": NEWEST_FIRST})))

    def successes(self, dag_id: str) -> tuple[DagRun, ...]:
        """Return the latest runs that succeeded."""
        return tuple(self._runs(dag_id, f"state=success&limit={EARLIER}&order_by={NEWEST_FIRST}"))

    def failures(self, limit: int) -> tuple[DagRun, ...]:
        """Return the latest runs of all DAGs that failed, and that nobody ended by hand."""
        found = self._runs(EVERY_DAG, f"state=failed&limit={PAGE}&order_by={NEWEST_FIRST}")
        return tuple(run for run in found if not run.cancelled)[:limit]

    def runs_under_way(self, dag_id: str) -> tuple[DagRun, ...]:
        """Return the runs that are queued or running, oldest first."""
        return tuple(self._runs(dag_id, f"state=running&state=queued&limit={PAGE}&order_by=run_after"))

    def awaited_assets(self, dag_id: str) -> tuple[str, ...]:
        """Return the assets on which a DAG is scheduled, without those updated for its next run."""
        query = urlencode({"dag_ids": dag_id, "limit": PAGE})
        assets = objects(self._ask(f"/api/v2/assets?{query}").get("assets"))
        try:
            queued = self._ask(f"/api/v2/dags/{_id(dag_id)}/assets/queuedEvents").get("queued_events")
        except AirflowMissingError:
            queued = []
        updated = [event.get("asset_id") for event in objects(queued)]
        return tuple(
            str(asset.get("name") or asset.get("uri"))
            for asset in assets
            if asset.get("id") not in updated
            and any(dag.get("dag_id") == dag_id for dag in objects(asset.get("scheduled_dags")))
        )

    def backfill(self, dag_id: str) -> Backfill | None:
        """Return the backfill of a DAG that Airflow has not closed."""
        answer = self._ask(f"/api/v2/backfills?{urlencode({'dag_id': dag_id, 'order_by': '-id'})}")
        found = (read_backfill(backfill) for backfill in objects(answer.get("backfills")))
        return next((backfill for backfill in found if backfill), None)

    def instances(self, dag_id: str, run_id: str) -> tuple[Instance, ...]:
        """Return the latest try of each task of a run."""
        found = all_pages(
            lambda offset: (
                self._ask(f"{_run(dag_id, run_id)}/taskInstances?limit={PAGE}&offset={offset}")
                if offset < MOST_TASKS
                else {}
            ),
            "task_instances",
        )
        return _instances(found)

    def instances_in(self, *states: str) -> tuple[tuple[Instance, ...], int]:
        """Return task instances of all DAGs in these states, a page of them, and how many there are."""
        query = urlencode([*(("state", state) for state in states), ("limit", PAGE)])
        answer = self._ask(f"/api/v2/dags/~/dagRuns/~/taskInstances?{query}")
        found, total = _instances(objects(answer.get("task_instances"))), answer.get("total_entries")
        return found, total if isinstance(total, int) else len(found)

    def ended_since(self, when: datetime) -> tuple[Instance, ...]:
        """Return task instances of all DAGs that have ended since then, a page of them."""
        query = urlencode({"end_date_gte": when.isoformat(), "limit": PAGE})
        answer = self._ask(f"/api/v2/dags/~/dagRuns/~/taskInstances?{query}")
        return _instances(objects(answer.get("task_instances")))

    def seconds_of_earlier(self, instance: Instance) -> tuple[float, ...]:
        """Return how long a task took in other runs, the latest ones, if it succeeded."""
        query = urlencode(
            {
                "task_id": instance.task.id,
                "state": "success",
                "order_by": "-start_date",
                "limit": EARLIER,
            }
        )
        answer = self._ask(f"/api/v2/dags/{_id(instance.dag_id)}/dagRuns/~/taskInstances?{query}")
        found = _instances(objects(answer.get("task_instances")))
        return tuple(
            each.task.seconds
            for each in found
            # Airflow 3.0 does not choose by task.
            if each.task.seconds is not None
            and each.task.id == instance.task.id
            and each.run_id != instance.run_id
        )

    def definitions(self, dag_id: str) -> dict[str, Definition]:
        """Return the tasks of the DAG's latest version, by their ids."""
        answer = self._ask(f"/api/v2/dags/{_id(dag_id)}/tasks")
        return {
            task["task_id"]: _definition(task) for task in objects(answer.get("tasks")) if "task_id" in task
        }

    def blockers(self, instance: Instance) -> tuple[Blocker, ...]:
        """Return the conditions that keep a task from being scheduled or queued, as Airflow tells them."""
        index = f"/{instance.task.map_index}" if instance.task.map_index >= 0 else ""
        answer = self._ask(f"{_task(instance)}{index}/dependencies")
        return tuple(
            Blocker(str(blocker.get("name") or ""), str(blocker.get("reason") or ""))
            for blocker in objects(answer.get("dependencies"))
        )

    def pool(self, name: str) -> Pool | None:
        """Return a pool, None if there is none of that name."""
        try:
            answer = self._ask(f"/api/v2/pools/{_id(name)}")
        except AirflowMissingError:
            return None
        slots, free = answer.get("slots"), answer.get("open_slots")
        if not isinstance(slots, int) or not isinstance(free, int):
            raise unusable_answer(self.address, self.version(), "a pool has no number of slots")
        return Pool(name, slots, free, answer.get("include_deferred") is True)

    def events(self, dag_id: str, run_id: str) -> tuple[Event, ...]:
        """Return what Airflow has noted of how a run and its tasks ended, the latest first."""
        query = urlencode(
            [
                ("dag_id", dag_id),
                ("run_id", run_id),
                *(("included_events", name) for name in NOTED),
                ("order_by", "-when"),
                ("limit", PAGE),
            ]
        )
        answer = self._ask(f"/api/v2/eventLogs?{query}")
        return tuple(_event(event) for event in objects(answer.get("event_logs")))

    def log(self, instance: Instance) -> tuple[dict[str, Any], ...]:
        """Return the entries of the log of a task's latest try, the error that ended the task last."""
        query = urlencode({"full_content": "true", "map_index": instance.task.map_index})
        number = max(1, instance.task.tries)
        content = self._ask(f"{_task(instance)}/logs/{number}?{query}").get("content")
        return tuple(self.address.mask(objects(error_last(content)))) if isinstance(content, list) else ()

    def question(self, instance: Instance) -> str:
        """Return what a task asks a human, empty if Airflow does not tell."""
        try:
            answer = self._ask(f"{_task(instance)}/{instance.task.map_index}/hitlDetails")
        except AirflowMissingError:
            return ""
        return one_line(self.address.mask(str(answer.get("subject") or "")))

    def page_of_question(self, instance: Instance) -> str:
        """Return the address of the page on which that is answered."""
        mapped = f"/mapped/{instance.task.map_index}" if instance.task.map_index >= 0 else ""
        run = f"dags/{_id(instance.dag_id)}/runs/{_id(instance.run_id)}"
        return f"{self.address.url}/{run}/tasks/{_id(instance.task.id)}{mapped}/required_actions"

    def is_mapped_over_nothing(self, instance: Instance) -> bool:
        """Whether a task is mapped, and has no instance because there was nothing to map it over."""
        if instance.task.map_index >= 0:
            return False
        try:
            return self._ask(f"{_task(instance)}/listMapped?limit=1").get("total_entries") == 0
        except AirflowMissingError:
            return False

    def left_out_by(self, dag_id: str, run_id: str, parent: str, task_id: str) -> bool:
        """Whether a branch or a short circuit, the task `parent`, has decided that a task is skipped."""
        path = (
            f"{_run(dag_id, run_id)}/taskInstances/{_id(parent)}/xcomEntries/skipmixin_key?deserialize=true"
        )
        try:
            value = self._ask(path).get("value")
        except AirflowMissingError:
            return False
        if not isinstance(value, dict):
            return False
        followed, skipped = value.get("followed"), value.get("skipped")
        return (isinstance(followed, list) and task_id not in followed) or (
            isinstance(skipped, list) and task_id in skipped
        )

    def _ask(self, path: str) -> dict[str, Any]:
        status, body = self._get(path)
        if status == http.client.OK:
            return body
        detail = refusal(body) or f"HTTP {status}"
        kind = AirflowMissingError if status == http.client.NOT_FOUND else AirflowError
        if status >= http.client.INTERNAL_SERVER_ERROR:
            kind = AirflowSilentError
        raise kind(f"Airflow at {self.address.url} refused the request: {detail}.")


def _id(text: str) -> str:
    return quote(text, safe="")


def _run(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{_id(dag_id)}/dagRuns/{_id(run_id)}"


def _task(instance: Instance) -> str:
    return f"{_run(instance.dag_id, instance.run_id)}/taskInstances/{_id(instance.task.id)}"


def _instances(answers: Iterable[dict[str, Any]]) -> tuple[Instance, ...]:
    return tuple(_instance(answer) for answer in answers if answer.get("task_id"))


def _instance(answer: dict[str, Any]) -> Instance:
    trigger = answer.get("trigger")
    return Instance(
        dag_id=str(answer.get("dag_id") or ""),
        run_id=str(answer.get("dag_run_id") or ""),
        task=read_task(answer),
        pool=str(answer.get("pool") or ""),
        slots=_number(answer.get("pool_slots"), 1),
        priority=_number(answer.get("priority_weight"), 1),
        scheduled=read_time(answer.get("scheduled_when")),
        queued=read_time(answer.get("queued_when")),
        most_tries=_number(answer.get("max_tries"), 0) + 1,
        has_triggerer=isinstance(trigger, dict) and trigger.get("triggerer_id") is not None,
        queue=str(answer.get("queue") or ""),
    )


def _definition(answer: dict[str, Any]) -> Definition:
    downstream, backoff = answer.get("downstream_task_ids"), answer.get("retry_exponential_backoff")
    return Definition(
        id=str(answer["task_id"]),
        downstream=tuple(map(str, downstream)) if isinstance(downstream, list) else (),
        trigger_rule=str(answer.get("trigger_rule") or ""),
        delay=read_duration(answer.get("retry_delay")),
        delay_grows=bool(backoff),
        timeout=read_duration(answer.get("execution_timeout")),
    )


def _event(answer: dict[str, Any]) -> Event:
    return Event(
        name=str(answer.get("event") or ""),
        when=read_time(answer.get("when")),
        owner=str(answer.get("owner") or ""),
        extra=str(answer.get("extra") or ""),
        task_id=str(answer.get("task_id") or ""),
        map_index=_number(answer.get("map_index"), -1),
        number=_number(answer.get("try_number"), 0),
    )


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) else default
