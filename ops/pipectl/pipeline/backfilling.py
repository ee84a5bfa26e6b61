"""Runs for the logical dates of the past that have none: a backfill of Airflow, followed to its end."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pipectl.errors import AirflowConflictError, AirflowSilentError, UsageError, WaitTimeoutError
from pipectl.names import counted
from pipectl.wait import attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pipectl.airflow_api import AirflowApi
    from pipectl.models import Backfill, Counts, DagRun, ParsedDag
    from pipectl.observer import Observer
    from pipectl.pipeline.triggering import Patience

BACKFILL = "backfill"
POLL_SECONDS = 1.0
# Airflow closes a backfill at its next look after the last run, every 30 s.
CLOSE_SECONDS = 90.0
# So often it is told how many runs have ended, and whenever one fails.
TOLD = 10
# Airflow makes them in one request, at 10 ms each and six times that on a busy machine, and closes a backfill
# that has none after 2 minutes.
MOST_RUNS = 1_000
# It computes slots at 0.5 ms each, also for who no longer waits: the part of the range that is asked about
# grows from here.
FIRST_PART, GROWTH = timedelta(days=1), 4
# Runs of these types have a slot of the schedule; another has one only if its logical date happens to be one.
OF_SLOTS = {"scheduled", BACKFILL}


@dataclass(frozen=True)
class BackfillPlan:
    """The logical dates for which a backfill would make runs, and the runs that are there already."""

    dag_id: str
    since: datetime
    until: datetime
    slots: tuple[datetime, ...]
    existing: tuple[DagRun, ...]


@dataclass(frozen=True)
class BackfillResult:
    """The runs that a backfill made, as they are now, and those that were there `existing` already.

    `delta` counts what the batches of its runs have in the databases, and is null for runs without batches;
    `other_labels` are those that they wrote of other transactions.
    """

    dag_id: str
    since: datetime
    until: datetime
    runs: tuple[DagRun, ...]
    existing: tuple[DagRun, ...]
    delta: Counts | None = None
    other_labels: int = 0
    unpaused: bool = False

    @property
    def failed(self) -> tuple[DagRun, ...]:
        """Its runs that failed, oldest first."""
        return tuple(run for run in self.runs if run.state == "failed")


@dataclass(frozen=True)
class BackfillCancelled:
    """Whether there was a backfill to end: its runs that had not begun `failed`, those `running` go on."""

    dag_id: str
    cancelled: bool
    failed: int
    running: tuple[str, ...]


def batch_of(run: DagRun) -> str:
    """Return the name of a run's batch: that of the schedule's run for the same slot, as dags/ says."""
    return run.run_id.replace(f"{BACKFILL}__", "scheduled__", 1)


def plan(
    api: AirflowApi, dag_id: str, since: datetime, until: datetime, *, failed: bool = False
) -> BackfillPlan:
    """Return what a backfill would do. UsageError for more runs than one backfill may make."""
    slots = _slots(api, dag_id, since, until, _reprocess(failed=failed))
    return BackfillPlan(dag_id, since, until, slots, _others(api, dag_id, since, until, slots))


def check_schedule(dag: ParsedDag) -> None:
    """Raise UsageError for a DAG whose schedule has no slots of the past."""
    if dag.periodic:
        return
    schedule = (
        f"the schedule {dag.schedule}, which has no slots"
        if dag.schedule
        else "no schedule, so it has no slots"
    )
    raise UsageError(
        f"{dag.dag_id} has {schedule} to backfill.",
        hint=f"To run it for one date: pipectl trigger {dag.dag_id} --logical-date 2026-01-31",
    )


def backfill(
    api: AirflowApi,
    dag: ParsedDag,
    since: datetime,
    until: datetime,
    *,
    max_active_runs: int,
    patience: Patience,
    observer: Observer,
    timeout: float,
    failed: bool = False,
    wait: bool = True,
) -> BackfillResult:
    """Make the runs that are missing, unpause the DAG if it is paused, and follow them until all have ended.

    With `failed` those that failed start again. A backfill of the same times that is under way is followed
    instead. Raises AirflowConflictError if one of other times is, and WaitTimeoutError if no run ends for
    `timeout` seconds; the runs go on. UsageError for what `check_schedule` and `plan` refuse.
    """
    check_schedule(dag)
    dag_id, api = dag.dag_id, patience.repeating(api)
    ours = _under_way(api, dag_id)
    if ours and (ours.since, ours.until) != (since, until):
        raise AirflowConflictError(
            f"{dag_id} has a backfill from {ours.since.isoformat()} to {ours.until.isoformat()} under way.",
            hint=f"Wait for its end, or end it: pipectl backfill {dag_id} --cancel",
        )
    if ours:
        observer.report("It is under way already")
        slots = {run.logical_date for run in _runs_of(api, ours)}
        existing = _others(api, dag_id, since, until, slots)
    else:
        planned = plan(api, dag_id, since, until, failed=failed)
        existing, slots = planned.existing, set(planned.slots)
        if not slots:
            return BackfillResult(dag_id, since, until, (), existing)
        _create(
            lambda: api.backfill(dag_id, since, until, max_active_runs, _reprocess(failed=failed)),
            lambda: api.active_backfill(dag_id),
            (since, until),
            observer,
            timeout,
        )
    if dag.paused:
        # Only now: what unpausing starts of the slots in question is the backfill's already.
        api.set_paused(dag_id, paused=False)
        observer.see_unpaused(dag)
    observer.report(f"{counted(len(slots), 'run')} of {dag_id}, {max_active_runs} at once")

    def look() -> tuple[DagRun, ...]:
        return tuple(run for run in api.runs_between(dag_id, since, until) if run.logical_date in slots)

    runs = _follow(look, dag_id, patience, observer, timeout) if wait else look()
    return BackfillResult(dag_id, since, until, runs, existing, unpaused=dag.paused)


def cancel(api: AirflowApi, dag_id: str) -> BackfillCancelled:
    """End the backfill of a DAG that is under way, if there is one: runs that have begun go on."""
    active = _under_way(api, dag_id)
    if not active:
        return BackfillCancelled(dag_id, cancelled=False, failed=0, running=())
    queued = {run.run_id for run in _runs_of(api, active) if run.state == "queued"}
    api.cancel_backfill(active)
    runs = _runs_of(api, active)
    return BackfillCancelled(
        dag_id,
        cancelled=True,
        failed=sum(run.state == "failed" and run.run_id in queued for run in runs),
        running=tuple(run.run_id for run in runs if run.state == "running"),
    )


def _under_way(api: AirflowApi, dag_id: str) -> Backfill | None:
    """Return the DAG's backfill of which not all runs have ended."""
    active = api.active_backfill(dag_id)
    return active if active and not all(run.finished for run in _runs_of(api, active)) else None


def _runs_of(api: AirflowApi, backfill: Backfill) -> list[DagRun]:
    """Return the runs of a backfill; those that ended before it was created are an earlier one's."""
    runs = api.runs_between(backfill.dag_id, backfill.since, backfill.until)
    return [run for run in runs if run.run_type == BACKFILL and not (run.end and run.end < backfill.created)]


def _others(
    api: AirflowApi, dag_id: str, since: datetime, until: datetime, slots: Collection[datetime | None]
) -> tuple[DagRun, ...]:
    """Return the runs that have other slots of these times."""
    taken = set(slots)
    runs = [run for run in api.runs_between(dag_id, since, until) if run.logical_date not in taken]
    if all(run.run_type in OF_SLOTS for run in runs):
        return tuple(runs)
    known = set(api.backfill_slots(dag_id, since, until, "completed"))
    return tuple(run for run in runs if run.run_type in OF_SLOTS or run.logical_date in known)


def _reprocess(*, failed: bool) -> str:
    return "failed" if failed else "none"


def _slots(
    api: AirflowApi, dag_id: str, since: datetime, until: datetime, reprocess: str
) -> tuple[datetime, ...]:
    part = FIRST_PART
    while True:
        end = since + part if part < until - since else until
        slots = api.backfill_slots(dag_id, since, end, reprocess)
        if len(slots) > MOST_RUNS:
            raise UsageError(
                f"{dag_id} has more than {MOST_RUNS:,} slots to run from {since.isoformat()} to"
                f" {until.isoformat()}, and one backfill makes {MOST_RUNS:,} runs at most.",
                hint=f"Take a smaller range: pipectl backfill {dag_id} --from {since.isoformat()}"
                f" --to {slots[MOST_RUNS - 1].isoformat()}",
            )
        if end == until:
            return slots
        part *= GROWTH


def _create(
    create: Callable[[], None],
    look: Callable[[], Backfill | None],
    times: tuple[datetime, datetime],
    observer: Observer,
    timeout: float,
) -> None:
    """Make the backfill, as soon as Airflow has closed the one before, whose runs have all ended."""
    told, began = False, datetime.now(UTC)
    for _ in attempts(time.monotonic() + min(CLOSE_SECONDS, timeout), POLL_SECONDS):
        try:
            create()
        except AirflowConflictError as error:
            active = look()
            if active and (active.since, active.until) == times and active.created >= began:
                # An earlier request got through, and its answer got lost.
                return
            refusal = error
            if not told:
                observer.report("Waiting until Airflow has closed the backfill before")
                told = True
        else:
            return
    raise refusal


def _follow(
    look: Callable[[], tuple[DagRun, ...]],
    dag_id: str,
    patience: Patience,
    observer: Observer,
    timeout: float,
) -> tuple[DagRun, ...]:
    ended, told = -1, (-1, 0)
    while True:
        patience.deadline = time.monotonic() + timeout
        for _ in attempts(patience.deadline, POLL_SECONDS):
            try:
                runs = look()
            except AirflowSilentError as error:
                raise WaitTimeoutError(
                    f"The backfill of {dag_id} had not ended when Airflow last answered. {error.message}",
                    hint=f"What runs: pipectl status\nThe runs, once Airflow answers: pipectl runs {dag_id}",
                ) from error
            states = Counter(run.state for run in runs)
            if states["success"] + states["failed"] > ended:
                break
        else:
            raise WaitTimeoutError(
                f"No run of the backfill of {dag_id} ended for {timeout:g} s, "
                f"{len(runs) - ended} of {len(runs)} are left; they go on.",
                hint=f"Look at them: pipectl runs {dag_id}\nTo wait longer: --timeout SECONDS",
            )
        ended = states["success"] + states["failed"]
        tenth = (ended * TOLD // max(len(runs), 1), states["failed"])
        if tenth != told:
            told = tenth
            failed = f", {states['failed']} failed" if states["failed"] else ""
            observer.report(f"  {ended} of {counted(len(runs), 'run')} ended{failed}")
        if ended == len(runs):
            return runs
