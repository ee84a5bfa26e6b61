"""Runs looked at from near: which one is meant, its tasks with every try, and the tasks' logs."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipectl.airflow_health import did_you_mean
from pipectl.errors import AirflowMissingError, DagError, UsageError
from pipectl.models import TaskLogLine, TaskTry, instance_name
from pipectl.names import command, counted, is_dag_id, is_run_id
from pipectl.wait import attempts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipectl.airflow_api import AirflowApi
    from pipectl.models import DagRun, ParsedDag, TaskState

LATEST = "latest"  # in the place of a run's id
LOG_SECONDS = 1.0
# In these states a task's latest try has not begun yet, or goes on.
NOT_BEGUN = {"scheduled", "queued"}
GOES_ON = {"running", "restarting", "deferred", "up_for_reschedule", "awaiting_input"}
TO_COME = NOT_BEGUN | GOES_ON | {"none", "up_for_retry"}


@dataclass(frozen=True)
class TaskHistory:
    """A task instance of a run, its state, and every try, the first one first."""

    id: str
    state: str
    tries: tuple[TaskTry, ...]
    map_index: int = field(default=-1, metadata={"optional": True})

    @property
    def name(self) -> str:
        """What users call the task instance."""
        return instance_name(self.id, self.map_index)


@dataclass(frozen=True)
class RunDetails:
    """A run with its tasks, in order of start."""

    run: DagRun
    tasks: tuple[TaskHistory, ...]


class RunSource(Protocol):
    """What knows DAGs and runs: AirflowApi, and AirflowFacts."""

    def dag(self, dag_id: str) -> ParsedDag | None:
        """Return a DAG, None if Airflow has not parsed one of that id."""

    def dag_ids(self) -> tuple[str, ...]:
        """Ids of the DAGs that Airflow has parsed."""

    def missing_dag(self, dag_id: str) -> DagError:
        """Return the error for a DAG that Airflow has not parsed."""

    def run(self, dag_id: str, run_id: str) -> DagRun:
        """Return a run; AirflowMissingError if there is none."""

    def runs(self, dag_id: str, limit: int = 20) -> tuple[DagRun, ...]:
        """Return the runs that were made last, the newest first."""


def which(api: RunSource, default: str, first: str | None, second: str | None) -> tuple[str, str | None]:
    """Return the DAG and the run that one or two arguments mean; None for the run if they name none.

    One alone is a DAG's id, or that of a run: of the DAG `default`, or else of the only other one that has
    it. Raises DagError and AirflowMissingError for what there is not, UsageError for what may mean several.
    """
    if first is None or second is not None:
        return first or default, second
    if is_dag_id(first) and api.dag(first):
        return first, None
    if first == LATEST:
        return default, first
    ids = api.dag_ids()
    found = []
    for dag_id in dict.fromkeys((default, *ids)) if is_run_id(first) else ():
        with contextlib.suppress(AirflowMissingError, DagError):
            found.append(api.run(dag_id, first).dag_id)
            if found == [default]:
                break
    if len(found) > 1:
        raise UsageError(f"{' and '.join(found)} have a run {first}.", hint="Name the DAG before the run.")
    if found:
        return found[0], first
    if is_dag_id(first):
        error = api.missing_dag(first)
        error.hint = did_you_mean(first, [LATEST]) + error.hint
        raise error
    raise AirflowMissingError(f"No DAG has a run {first!r}.", hint=f"Those of a DAG: pipectl runs {default}")


def find_run(api: RunSource, dag_id: str, run_id: str) -> DagRun:
    """Return a run. AirflowMissingError with the one that may be meant if there is none of that id."""
    if run_id == LATEST:
        if runs := api.runs(dag_id, 1):
            return runs[0]
        raise AirflowMissingError(f"{dag_id} has never run.", hint=f"Start it: pipectl trigger {dag_id}")
    if is_run_id(run_id):
        with contextlib.suppress(AirflowMissingError):
            return api.run(dag_id, run_id)
    meant = did_you_mean(run_id, [LATEST, *(run.run_id for run in api.runs(dag_id))])
    raise AirflowMissingError(
        f"{dag_id} has no run {run_id!r}.", hint=f"{meant}Its runs: pipectl runs {dag_id}"
    )


def details(api: AirflowApi, run: DagRun) -> RunDetails:
    """Return a run with every try of its tasks."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  10 ms

    def tries(task: TaskState) -> tuple[TaskTry, ...]:
        if task.tries > 1:
            return api.tries(run.dag_id, run.run_id, task)
        return (TaskTry(task.tries, task.state, task.start, task.end),) if task.start else ()

    tasks = api.tasks(run.dag_id, run.run_id)
    with ThreadPoolExecutor(max_workers=8) as pool:
        return RunDetails(
            run,
            tuple(
                TaskHistory(task.id, task.state, found, task.map_index)
                for task, found in zip(tasks, pool.map(tries, tasks), strict=True)
            ),
        )


def find_tasks(tasks: tuple[TaskState, ...], name: str) -> tuple[TaskState, ...]:
    """Return the task instances that a name means: one with an index, all of a task without.

    Raises AirflowMissingError with the name that may be meant if the run has none.
    """
    named = re.fullmatch(r"(.+)\[(\d+)\]", name)
    wanted, index = (named[1], int(named[2])) if named else (name, None)
    found = tuple(task for task in tasks if task.id == wanted and index in {None, task.map_index})
    if not found:
        names = dict.fromkeys(task.name for task in tasks)
        raise AirflowMissingError(
            f"The run has no task {name!r}.",
            hint=f"{did_you_mean(name, names)}It has: {', '.join(names)}."
            if names
            else "It has no tasks yet.",
        )
    return found


def find_task(tasks: tuple[TaskState, ...], name: str) -> TaskState:
    """Return the one task instance that a name means; UsageError for several, else as `find_tasks`."""
    task, *others = find_tasks(tasks, name)
    if others:
        names = [found.name for found in (task, *others)]
        raise UsageError(f"The task {name} is mapped.", hint=f"Name one instance: {', '.join(names)}.")
    return task


class LogReader:
    """Reads the logs of a run's tasks while they grow: each line once."""

    def __init__(self, api: AirflowApi, run: DagRun) -> None:
        self._api = api
        self._run = run
        # By task, map index and try: lines read, when to read again, and whether the try has ended.
        self._read: dict[tuple[str, int, int], Counter[str]] = {}
        self._due: dict[tuple[str, int, int], float] = {}
        self._ended: set[tuple[str, int, int]] = set()

    def new_lines(self, task: TaskState, first: int = 1, last: int | None = None) -> Iterator[TaskLogLine]:
        """Yield what has been written since the last look, of the tries from `first` to `last`.

        What is still being written is read once a second at most.
        """
        begun = _begun(task)
        for number in range(first, min(begun, last or begun) + 1):
            key = (task.id, task.map_index, number)
            goes_on = number == task.tries and task.state in GOES_ON
            if key in self._ended or (goes_on and time.monotonic() < self._due.get(key, 0)):
                continue
            self._due[key] = time.monotonic() + LOG_SECONDS
            try:
                lines = self._api.log(self._run.dag_id, self._run.run_id, task, number)
            except AirflowMissingError:
                lines = ()
            # Airflow sorts by time, so what is new may stand between lines that were read before.
            read = self._read.setdefault(key, Counter())
            left = Counter(read)
            for text in lines:
                left[text] -= 1
                if left[text] < 0:
                    read[text] += 1
                    yield TaskLogLine(task.id, number, text, task.map_index)
            if not goes_on:
                self._ended.add(key)


def task_log(
    api: AirflowApi, run: DagRun, name: str, *, number: int | None, follow: bool
) -> Iterator[TaskLogLine]:
    """Yield the log of a task's try, of the latest one without a number.

    With `follow` go on until that try has ended; without a number, until the task has. Raises
    AirflowMissingError for a task or a try that there is not, and for a task that has not begun and is not
    followed.
    """
    task = find_task(api.tasks(run.dag_id, run.run_id), name)
    if number and number > task.tries:
        raise AirflowMissingError(
            f"The task {name} has had {counted(task.tries, 'try', 'tries')}, and no try {number}.",
            hint=f"All tries: {command('runs', run.dag_id, run.run_id)}",
        )
    comes = task.state in TO_COME
    if not _begun(task) and not (follow and comes):
        raise AirflowMissingError(
            f"The task {name} has not begun, so it has no log: its state is {task.state}.",
            hint="To wait for it: --follow" if comes else "",
        )
    reader = LogReader(api, run)
    first = number or max(1, _begun(task))
    for _ in attempts(float("inf"), LOG_SECONDS):
        # Asked first: what a task of a run that has ended wrote is there.
        ended = not follow or api.run(run.dag_id, run.run_id).finished
        task = find_task(api.tasks(run.dag_id, run.run_id), name)
        yield from reader.new_lines(task, first, number)
        if ended or task.state not in TO_COME or (number or task.tries) < task.tries:
            return


def _begun(task: TaskState) -> int:
    """Return how many tries of a task have begun."""
    return task.tries - (task.state in NOT_BEGUN)
