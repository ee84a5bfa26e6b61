"""From evidence to a cause: functions that ask nobody, so that tests can give them any evidence.

Each rule returns an explanation, or None if the evidence does not show its cause; the first one counts. A
cause is named only if it is seen. What is not explained shows what was looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipectl.airflow_answers import cut_lines, import_reason, read_time
from pipectl.airflow_health import broken_dag
from pipectl.names import command, counted, duration, listed, moment
from pipectl.pipeline.causes import Cause, next_to_end, queued_behind, runs_ahead
from pipectl.pipeline.ended_tasks import cancelled_run, ended_task, error_facts, timed_out_run
from pipectl.pipeline.evidence import (
    ENDED,
    NAMED,
    PROCESSOR,
    SCHEDULER,
    Evidence,
    Explanation,
    Fact,
    Step,
    asset_update,
    because,
    beside,
    fresh,
    next_run,
    passed_end,
    sentence_end,
    service_of,
    service_steps,
    silence_of,
    state_of,
    subject_of,
    took,
    unpause,
    upstream_of,
)
from pipectl.pipeline.waiting_tasks import retry, waiting_task

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from pipectl.airflow_facts import Definition, Instance
    from pipectl.models import DagRun, ParsedDag

AT_WORK = {"running", "restarting"}
# What waits for the triggerer or a human, whatever the scheduler does.
ELSEWHERE = {"deferred", "awaiting_input"}
# What a paused DAG's tasks do not leave: the others have been started, or wait for something else.
HELD = {"none", "scheduled", "up_for_retry", "up_for_reschedule"}
# In which order the tasks of an unfinished run are looked at: what needs somebody comes first.
URGENCY = (
    "awaiting_input",
    "queued",
    "scheduled",
    "up_for_retry",
    "running",
    "restarting",
    "deferred",
    "up_for_reschedule",
    "none",
)


def explanation(evidence: Evidence) -> Explanation:
    """Return the first cause that the evidence shows."""
    rules = (_file, _dag, _finished_run, _held, _queued_run, _task)
    return next(found for rule in (*rules, _unknown) if (found := rule(evidence)))


def choose(
    instances: tuple[Instance, ...],
    run: DagRun,
    now: datetime,
    definitions: Mapping[str, Definition] | None = None,
) -> Instance | None:
    """Return the task instance of a run that says most about its state."""
    if run.finished:
        for state in ("failed", "upstream_failed", "skipped"):
            found = [each for each in instances if each.state == state]
            if found and run.state == "failed":
                # The first failure brings about the others.
                return min(found, key=lambda each: (each.task.end or now, each.task.id, each.task.map_index))
        return None

    def urgency(each: Instance) -> tuple[int, datetime]:
        since = _since(each) or now
        state = each.state
        if state in {"scheduled", "queued"} and (now - since).total_seconds() < 1:
            state = "running"  # it is about to be
        if state == "deferred" and not each.has_triggerer:
            state = "queued"
        return URGENCY.index(state) if state in URGENCY else len(URGENCY), since

    open_ones = [each for each in instances if each.state not in ENDED]
    left = {each.task.id for each in open_ones}
    # What waits for another task says less than that one.
    first = [each for each in open_ones if left.isdisjoint(upstream_of(each.task.id, definitions or {}))]
    open_ones = first if all(each.state == "none" for each in open_ones) and first else open_ones
    # All that is left may be failed tasks, for which the run has not been ended yet.
    return min(open_ones, key=urgency, default=None)


def _file(evidence: Evidence) -> Explanation | None:
    dag, dag_id, run = evidence.dag, evidence.dag_id, evidence.run
    if run is not None and (run.finished and evidence.is_run_given):
        return None
    is_missing = dag is None or dag.stale
    if evidence.failures and (is_missing or not evidence.is_run_given):
        message = broken_dag(dag_id, evidence.failures).message
        reason = import_reason(evidence.failures[0].stack_trace)
        return because(
            evidence,
            Cause.IMPORT_ERROR,
            f"{sentence_end(message)}: {sentence_end(reason)}.",
            Fact("import error", cut_lines(evidence.failures[0].stack_trace.strip())),
            Step("What to mend", "pipectl check"),
            Step("All import errors", "pipectl dags"),
            of_dag=True,
        )
    if not is_missing:
        return None
    if silence := silence_of(evidence, PROCESSOR):
        return because(
            evidence,
            Cause.NO_DAG_PROCESSOR,
            f"Airflow does not read DAG files, and does not know {dag_id}: {silence}.",
            *service_steps(evidence, PROCESSOR),
            of_dag=True,
        )
    if dag is not None:
        last = f", which it read last at {moment(dag.parsed)}" if dag.parsed else ""
        return because(
            evidence,
            Cause.DAG_STALE,
            f"Airflow no longer finds {dag_id} in {dag.file or 'its file'}{last}, and starts nothing of it.",
            *([] if run is None or run.finished else [_end_of(run)]),
            Step("What the files have", "pipectl check"),
            Step("The DAGs that there are", "pipectl dags"),
            of_dag=True,
        )
    files = listed(list(evidence.files[:NAMED]), len(evidence.files))
    mention = "mentions" if len(evidence.files) == 1 else "mention"
    return because(
        evidence,
        Cause.DAG_MISSING,
        f"Airflow has found no DAG {dag_id!r}, although {files} {mention} it.",
        Step("What the file has", "pipectl check"),
        Step("The DAGs that there are", "pipectl dags"),
        Step("What Airflow reads", command("logs", PROCESSOR)),
        of_dag=True,
    )


def _dag(evidence: Evidence) -> Explanation | None:
    """Say what keeps a DAG without active runs from getting one; None if a run is asked about."""
    dag, dag_id, run = evidence.dag, evidence.dag_id, evidence.run
    # Why a run failed does not depend on what Airflow would do next.
    if dag is None or evidence.is_run_given or (run is not None and run.state != "success"):
        return None
    if dag.paused:
        return _paused(evidence, dag)
    if silence := silence_of(evidence, SCHEDULER):
        return because(
            evidence,
            Cause.NO_SCHEDULER,
            f"Airflow starts nothing: {silence}.",
            *service_steps(evidence, SCHEDULER),
            of_dag=True,
        )
    is_newer = evidence.changed and dag.parsed and evidence.changed > dag.parsed
    if is_newer and (silence := silence_of(evidence, PROCESSOR)):
        return because(
            evidence,
            Cause.NO_DAG_PROCESSOR,
            f"Airflow has not read {dag.file} since it changed at {moment(evidence.changed)}: {silence}.",
            *service_steps(evidence, PROCESSOR),
            of_dag=True,
        )
    if run is None:
        due = read_time(dag.next_run)
        updates = asset_update(evidence)
        plan = f"its schedule ({dag.schedule}) plans none"
        if due or updates:
            dates = filter(None, [f"is due at {moment(due)}" if due else "", updates and f"starts {updates}"])
            plan = f"the first {', or '.join(dates)}"
        if not (due or updates) and (end := passed_end(evidence)):
            plan = f"its end_date has passed{end}"
        return because(
            evidence,
            Cause.NEVER_RAN,
            f"{dag_id} has never run: {plan if dag.schedule else 'only triggers start its runs'}.",
            Step("Start a run", command("trigger", dag_id)),
            of_dag=True,
        )
    return None


def _paused(evidence: Evidence, dag: ParsedDag) -> Explanation:
    dag_id, end = evidence.dag_id, passed_end(evidence)
    paused = "is paused, and its end_date has passed" if end else "is paused"
    is_early = dag.start is not None and dag.start > evidence.now
    begin = f", and none before {moment(dag.start)} (start_date) if it is on" if is_early else ""
    later = [Step("After a later end_date in its file", "pipectl check")] if end else []
    return because(
        evidence,
        Cause.PAUSED,
        f"{dag_id} {paused}{end}: Airflow starts no run of it{begin}.",
        *next_run(evidence),
        *later,
        *unpause(dag_id),
        of_dag=True,
    )


def _finished_run(evidence: Evidence) -> Explanation | None:
    run, chosen = evidence.run, evidence.chosen
    if run is None or not run.finished:
        return None
    if chosen is not None and evidence.is_task_given:
        return ended_task(evidence, chosen) or _unknown(evidence)
    if run.state == "success":
        return because(
            evidence,
            Cause.SUCCEEDED,
            f"{run.run_id} succeeded{took(run.seconds)}{beside(evidence, run.seconds)}.",
            *next_run(evidence),
            Step("Its tasks", command("runs", run.dag_id, run.run_id)),
            of_run=True,
        )
    if found := cancelled_run(evidence, run):
        return found
    if chosen is not None and chosen.state in {"failed", "upstream_failed"}:
        return ended_task(evidence, chosen)
    return timed_out_run(evidence, run) or _unknown(evidence)


def _held(evidence: Evidence) -> Explanation | None:
    run, dag, chosen = evidence.run, evidence.dag, evidence.chosen
    if run is None or run.finished or (chosen is not None and chosen.state in ENDED):
        return None
    is_held = run.state == "queued" or chosen is None or chosen.state in HELD
    if dag is not None and dag.paused and is_held:
        why = f"because {run.dag_id} is paused"
        if chosen is not None and chosen.state == "up_for_retry":
            return retry(evidence, chosen, Cause.PAUSED, f" waits, {why}", *unpause(run.dag_id))
        return because(evidence, Cause.PAUSED, f"{subject_of(evidence)} waits, {why}.", *unpause(run.dag_id))
    # What has its process goes on while the scheduler stands still; what the scheduler ran ends with it.
    scheduler = service_of(evidence, SCHEDULER)
    has_process = scheduler is not None and scheduler.state == "running"
    goes_on = chosen is not None and chosen.state in (AT_WORK | ELSEWHERE if has_process else ELSEWHERE)
    if not goes_on and (silence := silence_of(evidence, SCHEDULER)):
        return because(
            evidence,
            Cause.NO_SCHEDULER,
            f"{subject_of(evidence)} cannot go on: {silence}.",
            *service_steps(evidence, SCHEDULER),
        )
    return None


def _queued_run(evidence: Evidence) -> Explanation | None:
    run = evidence.run
    if run is None or run.state != "queued":
        return None
    if run.run_after and run.run_after > evidence.now:
        return because(
            evidence,
            Cause.NOT_DUE,
            f"{run.run_id} is not due before {moment(run.run_after)}, in"
            f" {duration((run.run_after - evidence.now).total_seconds())}.",
            Fact("run after", moment(run.run_after)),
            Step("To run now", command("trigger", run.dag_id)),
            of_run=True,
        )
    backfill = evidence.backfill if run.run_type == "backfill" else None
    if backfill is not None and backfill.paused:
        return because(
            evidence,
            Cause.BACKFILL_PAUSED,
            f"{run.run_id} waits, because its backfill is paused.",
            Step("To end the backfill", command("backfill", run.dag_id, "--cancel")),
            of_run=True,
        )
    if run.run_type == "backfill":
        limit, name = (backfill.max_active_runs if backfill else None), "runs at once of the backfill"
    else:
        limit, name = (evidence.dag.max_active_runs if evidence.dag else None), "max_active_runs"
    if behind := next_to_end(run, evidence.active, limit):
        ahead = runs_ahead(run, evidence.active)
        since = f" for {duration((evidence.now - run.queued_at).total_seconds())}" if run.queued_at else ""
        at_once = f"of {run.dag_id} at most {counted(limit or 0, 'run')} may be active ({name})"
        return because(
            evidence,
            Cause.BEHIND_RUN if limit == 1 else Cause.MAX_ACTIVE_RUNS,
            f"{run.run_id} has been {queued_behind(behind)}{since}: {at_once}.",
            Fact(name, str(limit)),
            Fact(
                "runs ahead", listed([f"{each.run_id} ({each.state})" for each in ahead[:NAMED]], len(ahead))
            ),
            Step("What that run does", command("explain", run.dag_id, behind.run_id)),
            _end_of(behind),
            of_run=True,
        )
    return fresh(evidence, run.queued_at, f"{run.run_id} was queued")


def _end_of(run: DagRun) -> Step:
    return Step(f"To end {run.run_id}", command("cancel", run.dag_id, run.run_id))


def _task(evidence: Evidence) -> Explanation | None:
    run, chosen = evidence.run, evidence.chosen
    if run is None:
        return None
    if chosen is None:
        ends = [each.task.end for each in evidence.instances if each.task.end]
        what = f"The last task of {run.run_id} ended" if ends else f"{run.run_id} began"
        return fresh(evidence, max(ends, default=run.start or run.queued_at), what)
    return waiting_task(evidence, chosen) or ended_task(evidence, chosen)


def _unknown(evidence: Evidence) -> Explanation:
    run = evidence.run
    of_run = run is not None and run.finished and not evidence.is_task_given
    chosen = None if of_run else evidence.chosen
    subject = chosen.task.name if chosen else subject_of(evidence)
    state = state_of(evidence, of_run=of_run)
    return because(
        evidence,
        Cause.UNKNOWN,
        f"Nothing that was looked at says why {subject} is {state or 'as it is'}.",
        *(Fact("Airflow's condition", blocker.reason) for blocker in evidence.blockers),
        *error_facts(evidence),
        Step("What the scheduler says", command("logs", SCHEDULER)),
        of_run=of_run,
    )


def _since(instance: Instance) -> datetime | None:
    times = {
        "scheduled": instance.scheduled,
        "queued": instance.queued,
    }
    return times.get(instance.state) or instance.task.start
