"""Why a task ended as it did."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from pipectl.airflow_answers import RUN_CHANGED, cut_lines, one_line
from pipectl.airflow_facts import MISMATCH, NO_HEARTBEAT, TASK_CHANGED
from pipectl.names import command, duration, listed, moment
from pipectl.pipeline.causes import Cause, blamed_database, failed_try
from pipectl.pipeline.evidence import (
    NAMED,
    SCHEDULER,
    Evidence,
    Explanation,
    Fact,
    Step,
    again,
    because,
    beside,
    event_fact,
    sentence_end,
    service_fact,
    took,
    trigger_rule,
    trying,
    upstream_of,
    whole_log,
)
from pipectl.task_logs import ENDS, first_error, last_error, last_output, log_lines, raised_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipectl.airflow_facts import Event, Instance
    from pipectl.models import DagRun

# A shell's command, whose own output says more than its exit code.
EXIT_CODE = re.compile(r"(?:exit|return) code", re.IGNORECASE)
KILLED, EXITED = "Process terminated by signal", "Process exited abnormally"
# Its exception for a try that took longer than it may.
TOO_LONG = "AirflowTaskTimeout:"
EXITED_WITH = re.compile(r"exit code (-?\d+)\b")
# What shells add to the number of the signal that ended a program; Python takes it from 0.
SHELLS_SIGNALS = 128
# Airflow's answer to a process whose task it has put into another state.
SERVER_ENDED = "Server indicated the task shouldn't be running anymore"
# After it, the executor's own words stand in the note of a mismatch (stack/airflow/task_processes.py).
EXTRA = "Extra info: "
# Between the note that somebody marked a task, and the end of the task by that.
MARK_SECONDS = 5


def cancelled_run(evidence: Evidence, run: DagRun) -> Explanation | None:
    """Say who ended a run by hand; None if it ended by itself."""
    if not run.cancelled:
        return None
    event = _stop(evidence, run)
    who = f" by {event.owner}" if event and event.owner else ""
    when = f" at {moment(event.when)}" if event else (f" at {moment(run.end)}" if run.end else "")
    before = "while it ran" if run.start else "before it began"
    return because(
        evidence,
        Cause.CANCELLED,
        f"{run.run_id} was ended by hand{who}{when}, {before}.",
        *(event_fact(event) if event else ()),
        Step("To run it again", command("clear", run.dag_id, run.run_id)),
        of_run=True,
    )


def _stop(evidence: Evidence, run: DagRun) -> Event | None:
    return next(
        (
            event
            for event in evidence.events
            if event.name == RUN_CHANGED and event.when is not None and event.when == run.stopped
        ),
        None,
    )


def tasks_api(evidence: Evidence, what: str) -> Explanation | None:
    """Say why tasks cannot reach or open Airflow's API for them; None if nothing shows that they cannot."""
    if evidence.disagreeing:
        names = listed(list(evidence.disagreeing), len(evidence.disagreeing))
        return because(
            evidence,
            Cause.TASKS_API,
            f"{what}: Airflow's services were started with different values of {names},"
            " so that one refuses what another signs.",
            Step("To start them with the same", "pipectl up"),
        )
    if not evidence.tasks_api:
        return None
    return because(
        evidence,
        Cause.TASKS_API,
        f"{what}: tasks cannot reach Airflow's API for them ({one_line(evidence.tasks_api)}).",
        Fact("API for tasks", cut_lines(evidence.tasks_api)),
        Step("To apply settings, once stack/airflow/user.env is right", "pipectl up"),
    )


def ended_task(evidence: Evidence, task: Instance) -> Explanation | None:
    """Say why a task that has ended did so; None for any other, and if nothing shows why."""
    rules = {
        "success": _task_succeeded,
        "failed": _task_failed,
        "upstream_failed": _upstream_failed,
        "skipped": _skipped,
        "removed": _removed,
    }
    rule = rules.get(task.state)
    return rule(evidence, task) if rule else None


def _task_succeeded(evidence: Evidence, task: Instance) -> Explanation | None:
    return because(
        evidence,
        Cause.SUCCEEDED,
        f"{task.task.name} succeeded{took(task.task.seconds)}{beside(evidence, task.task.seconds)}.",
        *trying(task),
        whole_log(task),
    )


def _task_failed(evidence: Evidence, task: Instance) -> Explanation | None:
    event = _marked(evidence, task)
    if event is not None:
        by = f" by {event.owner}" if event.owner else ""
        return because(
            evidence,
            Cause.CANCELLED,
            f"{task.task.name} was marked as failed{by} at {moment(event.when)}.",
            *event_fact(event),
            again(task),
        )
    run = evidence.run
    if run is not None and run.stopped and task.task.end and task.task.end >= run.stopped:
        return cancelled_run(evidence, run)
    if has_mismatch(evidence, task) and (
        found := tasks_api(evidence, f"{task.task.name} failed at its start")
    ):
        return found
    if lost := loss_of(evidence, task):
        note = _noted(evidence, task, NO_HEARTBEAT) or _noted(evidence, task, MISMATCH)
        return because(
            evidence,
            Cause.WORKER_LOST,
            f"{_failed(task, lost)}.",
            *(event_fact(note) if note else ()),
            *error_facts(evidence),
            again(task),
            whole_log(task),
            Step("What the scheduler says", command("logs", SCHEDULER)),
        )
    return _failed_by_itself(evidence, task)


def _failed_by_itself(evidence: Evidence, task: Instance) -> Explanation:
    if too_long := timeout_of(evidence, task):
        return because(
            evidence,
            Cause.TASK_TIMED_OUT,
            f"{_failed(task, too_long)}.",
            *error_facts(evidence),
            whole_log(task),
            again(task),
        )
    reason = reason_of(evidence)
    blamed = (blamed_database(each, evidence.databases) for each in (reason, *raised_from([*evidence.log])))
    service, product = next((found for found in blamed if found[1]), ("", ""))
    if product:
        name = service or f"a database ({product})"
        return because(
            evidence,
            Cause.DATABASE,
            f"{_failed(task, reason, name)}.",
            *([service_fact(evidence, service)] if service else ()),
            *error_facts(evidence),
            whole_log(task),
            again(task),
        )
    silent = "" if reason else _without_error(evidence)
    return because(
        evidence,
        Cause.TASK_FAILED,
        f"{_failed(task, reason)}{silent}.",
        *error_facts(evidence),
        whole_log(task),
        again(task),
    )


def _failed(task: Instance, reason: str, database: str = "") -> str:
    """Say why the latest try failed, and on which database, without a full stop."""
    on = f", on {database}" if database else ""
    return f"{task.task.name}{on}: {sentence_end(failed_try(task.task, reason, None))}"


def _without_error(evidence: Evidence) -> str:
    """Say why nothing tells the reason of a failure."""
    if evidence.unread_log:
        return ", and its log cannot be read"
    return ", and its log has no error" if evidence.log else ", and Airflow has no log of it"


def _upstream_failed(evidence: Evidence, task: Instance) -> Explanation | None:
    failed = [each for each in ancestors(evidence, task) if each.state == "failed"]
    failed = failed or [each for each in evidence.instances if each.state == "failed"]
    if not failed:
        return None
    names = listed([each.task.name for each in failed[:NAMED]], len(failed))
    return because(
        evidence,
        Cause.UPSTREAM_FAILED,
        f"{task.task.name} did not start, because {names} failed before it.",
        *trigger_rule(evidence, task),
        Step("Why that failed", command("explain", task.dag_id, task.run_id, failed[0].task.name)),
    )


def timed_out_run(evidence: Evidence, run: DagRun, told: str = "") -> Explanation | None:
    """Say that a run took longer than it may; None if it did not. `told` is what that did to a task."""
    limit = evidence.dag.timeout if evidence.dag else None
    if run.state != "failed" or limit is None or run.seconds is None or run.seconds < limit.total_seconds():
        return None
    return because(
        evidence,
        Cause.RUN_TIMED_OUT,
        f"{told}Airflow ended {run.run_id} after {duration(run.seconds)}: its DAG gives a run"
        f" {duration(limit.total_seconds())} (dagrun_timeout).",
        Fact("dagrun_timeout", duration(limit.total_seconds())),
        Step("What took the time", command("runs", run.dag_id, run.run_id)),
        of_run=not told,
    )


def _skipped(evidence: Evidence, task: Instance) -> Explanation | None:
    rules = (_skipped_with_run, _left_out, _skipped_at_work, _mapped_over_nothing, _skipped_after)
    return next((found for rule in rules if (found := rule(evidence, task))), None)


def _has_begun(task: Instance) -> bool:
    """Whether a skipped task had a process: Airflow gives one that it skips a time of start as well."""
    return bool(task.task.start and task.task.tries)


def _skipped_with_run(evidence: Evidence, task: Instance) -> Explanation | None:
    run = evidence.run
    if run is None or run.cancelled:
        return cancelled_run(evidence, run) if run else None
    # Airflow notes no end of a task that it skips because its run has timed out.
    if task.task.end:
        return None
    what = "was ended while it ran" if _has_begun(task) else "was skipped before it began"
    return timed_out_run(evidence, run, f"{task.task.name} {what}: ")


def _left_out(evidence: Evidence, task: Instance) -> Explanation | None:
    if not evidence.left_out_by:
        return None
    return because(
        evidence,
        Cause.SKIPPED,
        f"{task.task.name} was skipped, because {evidence.left_out_by} chose to leave it out.",
        Step("What that logged", command("task-log", task.dag_id, task.run_id, evidence.left_out_by)),
    )


def _skipped_at_work(evidence: Evidence, task: Instance) -> Explanation | None:
    if not _has_begun(task) or not evidence.log:
        return None
    told = (
        f"{task.task.name} was ended while it ran: Airflow told its process that it should not run any more."
    )
    if not any(str(entry.get("event") or "").startswith(SERVER_ENDED) for entry in evidence.log):
        skips = [entry for entry in evidence.log if "kip" in str(entry.get("event"))]
        line = str(skips[-1].get("reason") or next(log_lines(skips[-1:]), "")) if skips else ""
        told = f"{task.task.name} skipped itself{f': {sentence_end(one_line(line))}' if line else ''}."
    return because(evidence, Cause.SKIPPED, told, whole_log(task))


def _mapped_over_nothing(evidence: Evidence, task: Instance) -> Explanation | None:
    if not evidence.mapped_over_nothing or _not_succeeded_before(evidence, task):
        return None
    run = evidence.run
    if run and run.state == "failed" and not any(each.state == "failed" for each in evidence.instances):
        return None  # its end may have come before the task was expanded
    return because(
        evidence,
        Cause.SKIPPED,
        f"{task.task.name} was skipped, because what it expands over was empty.",
        Fact("mapped instances", "0"),
        Step("The run's tasks", command("runs", task.dag_id, task.run_id)),
    )


def _skipped_after(evidence: Evidence, task: Instance) -> Explanation | None:
    states = [f"{each.task.name} ({each.state})" for each in _not_succeeded_before(evidence, task)]
    if not states:
        return None
    return because(
        evidence,
        Cause.SKIPPED,
        f"{task.task.name} was skipped after {listed(states[:NAMED], len(states))}.",
        *trigger_rule(evidence, task),
        Step("The run's tasks", command("runs", task.dag_id, task.run_id)),
    )


def _not_succeeded_before(evidence: Evidence, task: Instance) -> list[Instance]:
    before = upstream_of(task.task.id, evidence.definitions)
    return [each for each in evidence.instances if each.task.id in before and each.state != "success"]


def _removed(evidence: Evidence, task: Instance) -> Explanation | None:
    return because(
        evidence,
        Cause.REMOVED,
        f"{task.task.name} does not run any more: it was taken out of the DAG after {task.run_id} was made.",
        Step("The run's tasks", command("runs", task.dag_id, task.run_id)),
    )


def loss_of(evidence: Evidence, task: Instance) -> str:
    """Say how the process of a task's latest try was lost; empty if nothing shows that it was."""
    if _noted(evidence, task, NO_HEARTBEAT):
        return "its process gave no heartbeat any more, as one that was killed, or whose machine stood still"
    for entry in evidence.log:
        if str(entry.get("event") or "").startswith(KILLED):
            return f"its process was ended by {entry.get('signal_name') or 'a signal'}"
        if str(entry.get("event") or "").startswith(EXITED):
            return f"its process ended with exit code {entry.get('exit_code')}, without a word to Airflow"
    if mismatch := _noted(evidence, task, MISMATCH):
        _, _, told = mismatch.extra.partition(EXTRA)
        return sentence_end(one_line(told)) or "its process ended without a word to Airflow"
    return ""


def timeout_of(evidence: Evidence, task: Instance) -> str:
    """Say that a try took longer than it may; empty if it did not."""
    definition = evidence.definitions.get(task.task.id)
    limit = definition.timeout if definition else None
    if limit is None or not last_error(list(evidence.log)).startswith(TOO_LONG):
        return ""
    return f"it took longer than {duration(limit.total_seconds())} (execution_timeout)"


def _signal(last: str) -> Iterator[Fact]:
    """Yield which signal ended a program, by its exit code."""
    found = EXITED_WITH.search(last)
    code = int(found[1]) if found else 0
    with suppress(ValueError):
        name = signal.Signals(-code if code < 0 else code - SHELLS_SIGNALS).name
        memory = ", as the system ends one when memory runs out" if name == "SIGKILL" else ""
        yield Fact("its program", f"was ended by {name}{memory}")


def _noted(evidence: Evidence, task: Instance, name: str) -> Event | None:
    """Return what Airflow noted of the latest try under a name."""
    number = task.task.tries
    return next(
        (
            event
            for event in evidence.events
            if event.name == name
            and (event.task_id, event.map_index, event.number) == (task.task.id, task.task.map_index, number)
        ),
        None,
    )


def has_mismatch(evidence: Evidence, task: Instance) -> bool:
    """Whether the process of the latest try ended without a word to Airflow of its state."""
    return _noted(evidence, task, MISMATCH) is not None


def _marked(evidence: Evidence, task: Instance) -> Event | None:
    """Return the note that somebody marked a task as failed, if that is its end."""
    end = task.task.end
    for event in evidence.events:
        is_own = event.task_id == task.task.id and event.map_index in {-1, task.task.map_index}
        if event.name == TASK_CHANGED and is_own and '"failed"' in event.extra and event.when and end:
            return event if abs(event.when - end) < timedelta(seconds=MARK_SECONDS) else None
    return None


def reason_of(evidence: Evidence) -> str:
    """Return why a try failed: its error, or what its program printed if the error is an exit code alone."""
    first, last = first_error(list(evidence.log)), last_error(list(evidence.log))
    return first if first and (not last or EXIT_CODE.search(last)) else last


def error_facts(evidence: Evidence) -> Iterator[Fact]:
    """Yield the first error in the log of a try, and the one that ended the task."""
    log = list(evidence.log)
    if evidence.unread_log:
        yield Fact("its log", evidence.unread_log)
    first = first_error(log)
    last = last_error([entry for entry in log if entry.get("event") in ENDS])
    if first:
        yield Fact("first error in the log", first)
    if last and last != first:
        yield Fact("the task's end", last)
    for cause in raised_from(log):
        yield Fact("raised from", cause)
    yield from _signal(last)
    if EXIT_CODE.search(last) and not first and (printed := last_output(log)):
        yield Fact("its last output", printed)


def ancestors(evidence: Evidence, task: Instance) -> list[Instance]:
    """Return all task instances before one, the nearest first."""
    seen: list[str] = []
    left = list(upstream_of(task.task.id, evidence.definitions))
    while left:
        name = left.pop(0)
        if name not in seen:
            seen.append(name)
            left += upstream_of(name, evidence.definitions)
    return [each for name in seen for each in evidence.instances if each.task.id == name]
