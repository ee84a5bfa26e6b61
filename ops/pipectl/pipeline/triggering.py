"""Trigger exactly one run of a DAG and follow it to its end."""

from __future__ import annotations

import functools
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pipectl.airflow_health import broken_dag, unknown_dag
from pipectl.errors import (
    AirflowError,
    AirflowSilentError,
    DatabaseLockedError,
    DatabaseSilentError,
    EngineError,
    EngineSilentError,
    RunFailedError,
    WaitTimeoutError,
)
from pipectl.models import TaskState
from pipectl.names import command, counted, listed
from pipectl.pipeline.causes import next_to_end, queued_behind
from pipectl.pipeline.inspecting import LogReader
from pipectl.pipeline.readiness import Suspicion, failures_of, files_that_mention
from pipectl.published import LABELS
from pipectl.task_logs import fold_frames
from pipectl.wait import Aside, attempts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipectl.airflow_api import AirflowApi
    from pipectl.engines.base import Engine
    from pipectl.models import Counts, DagRun, ImportFailure, ParsedDag
    from pipectl.observer import Observer

# Airflow looks for new DAG files every 2 s and a parse takes about one; a busy machine takes longer.
PARSE_SECONDS = 30
# What no file in dags/ mentions is probably a typing error.
UNMENTIONED_SECONDS = 8
TASK_LOG_LINES = 20
# Of the tasks that failed in a run, so many are named, each with its log.
NAMED_TASKS = 3
SILENCE_POLL_SECONDS = 0.5
# Airflow's web server takes 10 s to come back, on a busy machine longer.
RESTART_SECONDS = 30
# A run of many mapped tasks may have as many failures.
MOST_FAILED_TRIES = 20

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class TriggerResult:
    """A run that `trigger` started.

    `delta` counts what the run's own batch has in the databases, and is null for a run without a batch.
    The run labels all transactions that wait, so it may have written `other_labels` of transactions that are
    not its batch's: older ones.
    `other_runs` are scheduled runs that began meanwhile, whether due before, as when unpausing a DAG makes
    Airflow start the latest, or by then.
    """

    dag_id: str
    run_id: str
    state: str
    seconds: float | None
    tasks: tuple[TaskState, ...]
    delta: Counts | None
    other_labels: int = 0
    unpaused: bool = False
    other_runs: tuple[DagRun, ...] = ()


class Patience:
    """Repeats a question while the service that it goes to restarts, until `deadline` (of time.monotonic).

    One who does not follow what is asked for waits for a restart at most.
    """

    def __init__(self, engine: Engine, observer: Observer, seconds: float, *, follows: bool = True) -> None:
        self._engine = engine
        self._observer = observer
        self.deadline = time.monotonic() + (seconds if follows else min(seconds, RESTART_SECONDS))

    def ask(self, question: Callable[..., Answer], *arguments: Any, **options: Any) -> Answer:  # noqa: ANN401
        """Return the answer. Raises what says that nothing answers (`…SilentError`) if there will be none."""
        told = False
        for _ in attempts(self.deadline, SILENCE_POLL_SECONDS):
            try:
                return question(*arguments, **options)
            except (AirflowSilentError, DatabaseSilentError, EngineSilentError) as error:
                if self._is_down():
                    raise
                if not told:
                    self._observer.report(f"{error.message} Waiting")
                    told = True
                silence = error
        raise silence

    def repeating(self, api: AirflowApi) -> AirflowApi:
        """Return an API each of whose questions is repeated so."""
        return cast("AirflowApi", _PatientApi(api, self))

    def _is_down(self) -> bool:
        """Whether a service is stopped, which nothing but `up` starts again."""
        try:
            return any(service.state == "stopped" for service in self._engine.services())
        except EngineError:
            return False


class _PatientApi:
    def __init__(self, api: AirflowApi, patience: Patience) -> None:
        self._api = api
        self._patience = patience

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever the API has
        attribute = getattr(self._api, name)
        return functools.partial(self._patience.ask, attribute) if callable(attribute) else attribute


class LogShow:
    """Shows an observer what the tasks of a run write."""

    def __init__(self, api: AirflowApi, run: DagRun, observer: Observer) -> None:
        self._reader = LogReader(api, run)
        self._observer = observer
        self._failures: set[str] = set()

    def look(self, tasks: tuple[TaskState, ...]) -> None:
        """Show what is new. A log that cannot be read now is tried again at the next look."""
        for task in tasks:
            try:
                for line in self._reader.new_lines(task):
                    self._observer.see_log(line)
            except AirflowError as error:
                if error.message not in self._failures:
                    self._observer.report(f"{error.message} The log of {task.name} is not shown.")
                self._failures.add(error.message)


def new_run_id() -> str:
    """Return a run id that no other run has, in the form of Airflow's own: kind, time, and a random end."""
    return f"pipectl__{datetime.now(UTC).isoformat(timespec='seconds')}_{secrets.token_hex(8)}"


def wait_until_parsed(api: AirflowApi, dag_id: str, *, dags_dir: Path, observer: Observer) -> ParsedDag:
    """Wait until Airflow knows the DAG, and return it with its details.

    Raises DagError for a DAG that cannot be imported, and for one that does not turn up.
    """
    seconds = PARSE_SECONDS if files_that_mention(dag_id, dags_dir) else UNMENTIONED_SECONDS
    failures: tuple[ImportFailure, ...] = ()
    suspicion = Suspicion(dag_id, dags_dir, api.dags)
    for attempt, _ in enumerate(attempts(time.monotonic() + seconds)):
        dag = api.dag(dag_id)
        failures = api.import_failures()
        if own := suspicion.confirmed(dag, failures):
            raise broken_dag(dag_id, own)
        if dag and not dag.stale:
            return dag
        if attempt == 0:
            observer.report(f"Waiting until Airflow has parsed {dag_id}")
    if own := failures_of(dag_id, None, failures, dags_dir):
        raise broken_dag(dag_id, own)
    raise unknown_dag(dag_id, api.dag_ids(), failures)


def trigger(
    api: AirflowApi,
    dag: ParsedDag,
    *,
    conf: dict[str, Any] | None,
    logical_date: datetime | None,
    batch: Callable[[str], Counts | None] | None,
    observer: Observer,
    timeout: float,
    wait: bool = True,
    logs: bool = False,
    asides: AirflowApi | None = None,
) -> TriggerResult:
    """Trigger one run, unpause the DAG if it is paused, and follow the run until it ends.

    In this order, so that a run that Airflow refuses changes nothing. With `logs` the observer sees what its
    tasks write. `batch` counts what the databases hold of the batch with a run's id, for the delta. `asides`
    is asked for what is only told, and should not wait for an answer as `api` may. Raises WaitTimeoutError
    when the run has not ended after `timeout` seconds; the run goes on.
    """
    dag_id = dag.dag_id
    known = {run.run_id for run in api.runs(dag_id)}
    run = api.trigger(dag_id, new_run_id(), conf, logical_date)
    if dag.paused:
        api.set_paused(dag_id, paused=False)
        observer.see_unpaused(dag)
    observer.see_triggered(run)
    shown = LogShow(asides or api, run, observer) if logs else None
    if wait:
        limit = dag.max_active_runs
        run = follow(api, run, limit, observer=observer, timeout=timeout, shown=shown, asides=asides)
    # Side by side: the user waits for the last of them.
    counting = Aside(functools.partial(batch, run.run_id)) if batch and wait else None
    listing = Aside(functools.partial(api.runs, dag_id))
    tasks = api.tasks(dag_id, run.run_id) if wait else ()
    delta = None
    if counting:
        try:
            delta = counting.result()
        except (DatabaseLockedError, DatabaseSilentError, EngineSilentError) as error:
            # The run has ended, and what it did to the data will show.
            observer.report(f"{error.message} The run's rows are not counted.")
    other_labels = labels_of_others(asides or api, (run,), delta)
    others = tuple(
        other
        for other in listing.result()
        if other.run_id not in known and other.run_id != run.run_id and other.run_type == "scheduled"
    )
    return TriggerResult(
        dag_id=dag_id,
        run_id=run.run_id,
        state=run.state,
        seconds=run.seconds,
        tasks=tasks,
        delta=delta,
        other_labels=other_labels,
        other_runs=others,
        unpaused=dag.paused,
    )


def labels_of_others(api: AirflowApi, runs: tuple[DagRun, ...], delta: Counts | None) -> int:
    """Return how many labels runs wrote of other transactions than their batches', which `delta` counts."""
    starts = [run.start for run in runs if run.start]
    if delta is None or not starts:
        return 0
    with suppress(AirflowError):  # what is only told fails no run
        run_ids = {run.run_id for run in runs}
        return max(api.rows_written(runs[0].dag_id, LABELS, run_ids, min(starts)) - delta.labels, 0)
    return 0


def follow(
    api: AirflowApi,
    run: DagRun,
    limit: int | None,
    *,
    observer: Observer,
    timeout: float,
    shown: LogShow | None = None,
    earlier: tuple[TaskState, ...] = (),
    asides: AirflowApi | None = None,
) -> DagRun:
    """Return the run once it has ended; `limit` is how many runs of its DAG run at once.

    Tries that failed are told, as far as `asides` answers, but for those that tasks had `earlier`. Raises
    WaitTimeoutError when the run has not ended after `timeout` seconds; it goes on.
    """
    behind = None
    failures = _FailedTries(asides or api, run, observer, earlier)
    for _ in attempts(time.monotonic() + timeout):
        try:
            run = api.run(run.dag_id, run.run_id)
            active = api.active_runs(run.dag_id) if run.state == "queued" else ()
            behind = next_to_end(run, active, limit)
            # Of a run that has ended too: tasks may have gone on since the last look.
            tasks = api.tasks(run.dag_id, run.run_id) if run.state != "queued" else ()
        except AirflowSilentError as error:
            raise WaitTimeoutError(
                f"The run {run.run_id} was {run.state} when Airflow last answered. {error.message}",
                hint=f"What runs: pipectl status\nThe run, once Airflow answers: pipectl runs {run.dag_id}",
            ) from error
        observer.see_run(run, tasks, behind)
        failures.tell(tasks)
        if shown:
            shown.look(tasks)
        if run.finished:
            return run
    state = queued_behind(behind) if behind else run.state
    raise WaitTimeoutError(
        f"The run {run.run_id} is still {state} after {timeout:g} s; it goes on.",
        hint=f"Why: {command('explain', run.dag_id, run.run_id)}\nTo wait longer: --timeout SECONDS",
    )


class _FailedTries:
    """Tells of each try that has failed and is followed by another, once: why, and when the next is due."""

    def __init__(
        self, api: AirflowApi, run: DagRun, observer: Observer, earlier: tuple[TaskState, ...]
    ) -> None:
        self._api = api
        self._run = run
        self._observer = observer
        self._told: set[TaskState] = set()
        self._earlier = {(task.id, task.map_index): task.tries for task in earlier}

    def tell(self, tasks: tuple[TaskState, ...]) -> None:
        for task in tasks:
            waits = task.state == "up_for_retry"
            failed = TaskState(
                task.id, "failed", task.tries if waits else task.tries - 1, None, task.map_index
            )
            earlier = self._earlier.get((task.id, task.map_index), 0)
            if failed.tries <= earlier or failed in self._told or len(self._told) >= MOST_FAILED_TRIES:
                continue
            self._told.add(failed)
            reason, due = "", None
            # What is only for information stops no trigger.
            with suppress(AirflowError):
                reason = self._api.last_error(self._run.dag_id, self._run.run_id, failed)
                if waits and task.end and (delay := self._api.retry_delay(self._run.dag_id, task.id)):
                    due = task.end + delay
            # A try that Airflow started anew has not failed.
            if waits or reason:
                self._observer.see_failed_try(failed, reason, due)


def failed_run(
    api: AirflowApi,
    dag_id: str,
    run_id: str,
    tasks: tuple[TaskState, ...],
    is_news: Callable[[TaskState], bool] = lambda _: True,
) -> RunFailedError:
    """Return the error for a run that failed, with the ends of the logs of failed tasks that are news."""
    failed = sorted((task for task in tasks if task.state == "failed"), key=lambda task: not is_news(task))
    named = failed[:NAMED_TASKS]
    names = listed([task.name for task in named], len(failed))
    subject = "task" if len(failed) == 1 else f"{counted(len(failed), 'task')}:"
    place = f" in {subject} {names}" if failed else ""
    logs = []
    for task in filter(is_news, named):
        text = fold_frames("\n".join(api.log(dag_id, run_id, task)[-TASK_LOG_LINES:]))
        logs.append(f"{task.name}:\n{text}" if len(failed) > 1 else text)
    hints = [f"In the browser: {api.address.url}/dags/{dag_id}/runs/{run_id}"]
    hints += [f"The whole log: {command('task-log', dag_id, run_id, task.name)}" for task in named]
    return RunFailedError(
        f"The run {run_id} of {dag_id} failed{place}.", hint="\n".join(hints), detail="\n".join(logs)
    )
