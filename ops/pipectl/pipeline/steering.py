"""Let tasks of a run start again, and end runs before their time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipectl.errors import UsageError
from pipectl.pipeline.inspecting import find_run, find_tasks
from pipectl.pipeline.triggering import follow

if TYPE_CHECKING:
    from pipectl.airflow_api import AirflowApi
    from pipectl.models import DagRun, TaskState
    from pipectl.observer import Observer
    from pipectl.pipeline.triggering import Patience


@dataclass(frozen=True)
class ClearResult:
    """A run of which tasks started again: `cleared` as they were before, `tasks` as they are now.

    `paused` tells that nothing starts before the DAG is unpaused.
    """

    dag_id: str
    run_id: str
    state: str
    seconds: float | None
    cleared: tuple[TaskState, ...]
    tasks: tuple[TaskState, ...]
    paused: bool

    def started(self, task: TaskState) -> bool:
        """Whether a task is one of those cleared, or an instance of one that was not yet mapped."""
        cleared = {(earlier.id, earlier.map_index) for earlier in self.cleared}
        return not cleared.isdisjoint({(task.id, task.map_index), (task.id, -1)})


@dataclass(frozen=True)
class CancelledRun:
    """A run that was ended, or had ended already if that was its state `before`.

    One that is still running has teardown tasks, which run to their end.
    """

    run_id: str
    before: str
    state: str
    tasks: tuple[TaskState, ...]


@dataclass(frozen=True)
class CancelResult:
    """The runs of a DAG that were to be ended, oldest first."""

    dag_id: str
    runs: tuple[CancelledRun, ...]


def tasks_to_clear(
    api: AirflowApi, run: DagRun, names: tuple[str, ...], *, only_failed: bool, downstream: bool
) -> tuple[TaskState, ...]:
    """Return the task instances that `clear` lets start again, as they are now.

    Raises AirflowMissingError for a name that is that of no task of the run.
    """
    tasks = _chosen(api, run, names)
    return api.clear(
        run.dag_id, run.run_id, tasks=tasks, only_failed=only_failed, downstream=downstream, dry_run=True
    )


def clear(
    api: AirflowApi,
    run: DagRun,
    cleared: tuple[TaskState, ...],
    *,
    patience: Patience,
    observer: Observer,
    timeout: float,
    wait: bool,
) -> ClearResult:
    """Let tasks of a run start again, and follow the run until it ends, unless its DAG is paused.

    Raises WaitTimeoutError when it has not ended after `timeout` seconds; it goes on.
    """
    dag = api.dag(run.dag_id)
    paused = bool(dag and dag.paused)
    tasks: tuple[TaskState, ...] = ()
    if cleared:
        earlier = api.tasks(run.dag_id, run.run_id)
        api.clear(run.dag_id, run.run_id, tasks=tuple((task.id, task.map_index) for task in cleared))
        # Of all this only the question above must not be repeated: what it starts would start anew.
        patient = patience.repeating(api)
        run = patient.run(run.dag_id, run.run_id)
        if wait and not paused:
            limit = dag.max_active_runs if dag else None
            run = follow(patient, run, limit, observer=observer, timeout=timeout, earlier=earlier, asides=api)
        tasks = patient.tasks(run.dag_id, run.run_id)
    return ClearResult(run.dag_id, run.run_id, run.state, run.seconds, cleared, tasks, paused)


def runs_to_cancel(
    api: AirflowApi, dag_id: str, run_id: str | None, *, everything: bool
) -> tuple[DagRun, ...]:
    """Return the runs that `cancel` is about: the one named, or the active ones.

    Raises UsageError if several are active and neither one nor everything is meant.
    """
    if run_id:
        return (find_run(api, dag_id, run_id),)
    active = api.active_runs(dag_id)
    if len(active) > 1 and not everything:
        raise UsageError(
            f"{dag_id} has {len(active)} active runs: {', '.join(run.run_id for run in active)}.",
            hint=f"Name one: pipectl cancel {dag_id} RUN_ID\nAll of them: pipectl cancel {dag_id} --all",
        )
    return active


def cancel(api: AirflowApi, dag_id: str, runs: tuple[DagRun, ...]) -> CancelResult:
    """End runs: what runs of them is stopped and fails, what has not begun is skipped."""
    cancelled = []
    for run in runs:
        now = run if run.finished else api.fail(dag_id, run.run_id)
        cancelled.append(CancelledRun(run.run_id, run.state, now.state, api.tasks(dag_id, run.run_id)))
    return CancelResult(dag_id, tuple(cancelled))


def _chosen(api: AirflowApi, run: DagRun, names: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """Return ids and map indexes as the API takes them: -1 for all instances of a task."""
    tasks = api.tasks(run.dag_id, run.run_id) if names else ()
    chosen = []
    for name in names:
        first = find_tasks(tasks, name)[0]
        chosen.append((first.id, first.map_index if name != first.id else -1))
    return tuple(chosen)
