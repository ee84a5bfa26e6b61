"""Why a task that has not ended does not start, or waits, or how long it has been at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipectl.airflow_answers import read_time
from pipectl.names import command, counted, duration, listed, moment
from pipectl.pipeline.causes import Cause, failed_try, waiting
from pipectl.pipeline.ended_tasks import (
    ancestors,
    error_facts,
    has_mismatch,
    loss_of,
    reason_of,
    tasks_api,
    timeout_of,
)
from pipectl.pipeline.evidence import (
    ENDED,
    NAMED,
    TRIGGERER,
    Evidence,
    Explanation,
    Fact,
    Step,
    because,
    beside,
    first_of,
    fresh,
    held_by,
    larger_pool,
    place_of,
    sentence_end,
    service_of,
    service_steps,
    silence_of,
    trigger_rule,
    trying,
    upstream_of,
    whole_log,
)
from pipectl.services import WAITING
from pipectl.task_logs import own_words

if TYPE_CHECKING:
    from datetime import datetime

    from pipectl.airflow_facts import Blocker, Instance

WORKER = "worker"
HOLDING_SLOTS = {"queued", "running"}  # of a run's max_active_tasks
# Airflow's names of conditions, and what they mean here. What is not scheduled yet never meets the first,
# and what the second say is told better by the facts.
ALWAYS_UNMET = {"Task Instance State", "Dag Not Paused", "Dagrun Running", "Task Instance Not Running"}
TOLD_OTHERWISE = {"Trigger Rule", "Pool Slots Available", "Task Instance Slots Available"}
TASK_LIMIT = "Task Concurrency"
KNOWN_BLOCKERS = {
    "Previous Dagrun State": Cause.DEPENDS_ON_PAST,
    TASK_LIMIT: Cause.TASK_CONCURRENCY,
    "Logical Date": Cause.NOT_DUE,
}


def waiting_task(evidence: Evidence, task: Instance) -> Explanation | None:
    """Say why a task that has not ended is where it is; None for one that has, and if nothing shows why."""
    rules = {
        "none": _unscheduled,
        "scheduled": _scheduled,
        "queued": _queued,
        "running": _running,
        "restarting": _running,
        "deferred": _deferred,
        "awaiting_input": _awaiting,
        "up_for_retry": retry,
        "up_for_reschedule": _rescheduled,
    }
    rule = rules.get(task.state)
    return rule(evidence, task) if rule else None


def _unscheduled(evidence: Evidence, task: Instance) -> Explanation | None:
    before = upstream_of(task.task.id, evidence.definitions)
    waited_for = [each for each in evidence.instances if each.task.id in before and each.state not in ENDED]
    if waited_for:
        root = _roots(evidence, task)[0]
        states = [f"{each.task.name} ({each.state})" for each in waited_for]
        via = f", behind {root.task.name} ({root.state})" if root not in waited_for else ""
        return because(
            evidence,
            Cause.UPSTREAM,
            f"{task.task.name} waits for {'the task' if len(states) == 1 else 'the tasks'} before it:"
            f" {listed(states[:NAMED], len(states))}{via}.",
            *trigger_rule(evidence, task),
            Step("Why that has not ended", command("explain", task.dag_id, task.run_id, root.task.name)),
        )
    for blocker in _unmet(evidence):
        cause = KNOWN_BLOCKERS.get(blocker.name, Cause.DEPENDENCY)
        return because(
            evidence,
            cause,
            f"{task.task.name} does not start: {sentence_end(blocker.reason)}.",
            Step("The runs before it", command("runs", task.dag_id)),
        )
    began = max(
        filter(
            None,
            [evidence.run.start if evidence.run else None, *(each.task.end for each in evidence.instances)],
        ),
        default=None,
    )
    return fresh(evidence, began, f"{task.task.name} may start")


def _scheduled(evidence: Evidence, task: Instance) -> Explanation | None:
    rules = (_pool, _active_tasks, _task_limit, _slots)
    found = next((found for rule in rules if (found := rule(evidence, task))), None)
    return (
        found
        or fresh(evidence, task.scheduled, f"{task.task.name} was scheduled")
        or fresh(evidence, _freed(evidence, task), f"Room for {task.task.name} came free")
    )


def _freed(evidence: Evidence, task: Instance) -> datetime | None:
    """Return when the end of other tasks made room for one; None if there was room before."""
    lately = [each for each in evidence.lately if each.task.tries]
    pool, limit = evidence.pool, evidence.dag.max_active_tasks if evidence.dag else None
    own = [each for each in lately if (each.dag_id, each.run_id) == (task.dag_id, task.run_id)]
    active = [each for each in evidence.instances if each.state in HOLDING_SLOTS]
    slots = sum(each.slots for each in lately if pool and each.pool == pool.name)
    was_full = (
        (evidence.parallelism is not None and evidence.busy_number + len(lately) >= evidence.parallelism)
        or (limit is not None and len(active) + len(own) >= limit)
        or (pool is not None and pool.slots >= 0 and pool.open - slots < task.slots)
    )
    return max((each.task.end for each in lately if each.task.end), default=None) if was_full else None


def _pool(evidence: Evidence, task: Instance) -> Explanation | None:
    pool = evidence.pool
    if pool is None:
        if not task.pool:
            return None
        return because(
            evidence,
            Cause.POOL_MISSING,
            f"{task.task.name} waits for the pool {task.pool}, and Airflow has no pool of that name.",
            Step("To make it", command("airflow", "pools", "set", task.pool, "1", "made by hand")),
        )
    if 0 <= pool.slots < task.slots:
        return because(
            evidence,
            Cause.POOL_TOO_SMALL,
            f"{task.task.name} needs {counted(task.slots, 'slot')} of the pool {pool.name}, which has"
            f" {pool.slots} in all.",
            larger_pool(pool, task.slots),
        )
    if pool.slots < 0 or pool.open >= task.slots:
        return None
    return _for_slots(
        evidence,
        task,
        Cause.POOL_FULL,
        f"the pool {pool.name}, of whose {counted(pool.slots, 'slot')} {max(pool.open, 0)}"
        f" {'is' if pool.open == 1 else 'are'} free",
        [each for each in evidence.rivals if each.pool == pool.name],
        [each for each in (*evidence.busy, *evidence.deferred) if each.pool == pool.name],
        larger_pool(pool, pool.slots + task.slots),
    )


def _active_tasks(evidence: Evidence, task: Instance) -> Explanation | None:
    limit = evidence.dag.max_active_tasks if evidence.dag else None
    active = [each for each in evidence.instances if each.state in HOLDING_SLOTS]
    if limit is None or len(active) < limit:
        return None
    names = listed([each.task.name for each in active[:NAMED]], len(active))
    return because(
        evidence,
        Cause.MAX_ACTIVE_TASKS,
        f"{task.task.name} waits for the end of {'another task' if limit == 1 else 'other tasks'} of its run:"
        f" of {task.dag_id} at most {counted(limit, 'task')} of a run may be at work (max_active_tasks).",
        Fact("max_active_tasks", str(limit)),
        Fact("at work", names),
        *first_of(active),
    )


def _task_limit(evidence: Evidence, task: Instance) -> Explanation | None:
    blocker = next((each for each in evidence.blockers if each.name == TASK_LIMIT), None)
    if blocker is None:
        return None
    same = [each for each in evidence.busy if (each.dag_id, each.task.id) == (task.dag_id, task.task.id)]
    which = "max_active_tis_per_dagrun" if "per run" in blocker.reason else "max_active_tis_per_dag"
    return because(
        evidence,
        Cause.TASK_CONCURRENCY,
        f"{task.task.name} waits until others of the task {task.task.id} have ended ({which}).",
        *held_by(same),
        *first_of(same),
        Step("The run's tasks", command("runs", task.dag_id, task.run_id)),
    )


def _slots(evidence: Evidence, task: Instance) -> Explanation | None:
    if evidence.parallelism is None or evidence.busy_number < evidence.parallelism:
        return None
    return _for_slots(
        evidence,
        task,
        Cause.NO_SLOTS,
        f"a place among the {counted(evidence.parallelism, 'task')} that may be at work at once"
        " (AIRFLOW_PARALLELISM)",
        list(evidence.rivals),
        list(evidence.busy),
        _more_at_once(evidence.parallelism),
    )


def _more_at_once(limit: int | None) -> Step:
    """Return what lets more tasks be at work at once."""
    now = f" (it is {limit})" if limit else ""
    return Step(f"To let more be at work, raise AIRFLOW_PARALLELISM in stack/.env{now}, then", "pipectl up")


def _for_slots(
    evidence: Evidence,
    task: Instance,
    cause: Cause,
    place: str,
    rivals: list[Instance],
    holders: list[Instance],
    *steps: Step,
) -> Explanation:
    """Say what is full, who has it, and who comes first once something is free."""
    first = listed([f"{place_of(each)} ({each.priority})" for each in rivals[:NAMED]], len(rivals))
    after = f", after {counted(len(rivals), 'scheduled task')} of higher priority" if rivals else ""
    return because(
        evidence,
        Cause.PRIORITY if rivals else cause,
        f"{task.task.name} waits for {place}{after}.",
        *([Fact("come first", f"{first}; this task's priority is {task.priority}")] if rivals else ()),
        *held_by(holders),
        *first_of(holders),
        *steps,
    )


def _queued(evidence: Evidence, task: Instance) -> Explanation | None:
    if evidence.executor == "CeleryExecutor":
        workers = [each for each in evidence.services if each.name.startswith(WORKER)]
        at_work = [each for each in workers if each.state == "running"]
        if not at_work:
            return because(
                evidence,
                Cause.NO_WORKER,
                f"{task.task.name} is queued, and no worker runs that could take it.",
                Step("To start the workers", "pipectl up"),
                Step("Their log", command("logs", WORKER)),
            )
        places = len(at_work) * evidence.concurrency if evidence.concurrency else None
        running = [each for each in evidence.busy if each.state == "running"]
        if places is not None and len(running) >= places:
            return because(
                evidence,
                Cause.NO_SLOTS,
                f"{task.task.name} waits for a place among the {counted(places, 'task')} that"
                f" {counted(len(at_work), 'worker')} may have at work at once (AIRFLOW_PARALLELISM).",
                *held_by(running),
                Step("More workers", command("scale", str(len(at_work) + 1))),
                _more_at_once(evidence.concurrency),
            )
    if found := tasks_api(evidence, f"{task.task.name} is queued and cannot start"):
        return found
    return fresh(evidence, task.queued, f"{task.task.name} was queued")


def _running(evidence: Evidence, task: Instance) -> Explanation | None:
    seconds = (evidence.now - task.task.start).total_seconds() if task.task.start else None
    lasting = f" for {duration(seconds)}" if seconds is not None else ""
    return because(
        evidence,
        Cause.RUNNING,
        f"{task.task.name} has been running{lasting}{beside(evidence, seconds)}.",
        *trying(task),
        Step("What it logs", f"{command('task-log', task.dag_id, task.run_id, task.task.name)} --follow"),
    )


def _deferred(evidence: Evidence, task: Instance) -> Explanation | None:
    waits = waiting(task.task).removeprefix("deferred, ")
    since = task.task.start
    lasting = f" for {duration((evidence.now - since).total_seconds())}" if since else ""
    silence = silence_of(evidence, TRIGGERER)
    service = service_of(evidence, TRIGGERER)
    if silence and service is not None and service.health == WAITING and not task.has_triggerer:
        silence = f"the service {TRIGGERER} has not started yet, which it does within seconds"
    if silence:
        return because(
            evidence,
            Cause.NO_TRIGGERER,
            f"{task.task.name} is deferred and {waits}: {silence}.",
            *service_steps(evidence, TRIGGERER),
        )
    return because(
        evidence,
        Cause.DEFERRED,
        f"{task.task.name} has been deferred{lasting} and {waits}.",
        Fact("triggerer", "has taken it" if task.has_triggerer else "has not taken it yet"),
        Step("What the trigger logs", command("logs", TRIGGERER)),
    )


def _awaiting(evidence: Evidence, task: Instance) -> Explanation | None:
    question = f": “{evidence.question}”" if evidence.question else ""
    since = task.task.start
    lasting = f" for {duration((evidence.now - since).total_seconds())}" if since else ""
    return because(
        evidence,
        Cause.AWAITING_INPUT,
        f"{task.task.name} has waited{lasting} for {task.task.waits_for or 'an answer'}{question}.",
        *([Fact("its page", evidence.page)] if evidence.page else []),
        Step("To answer there, once you are logged in", "pipectl open"),
    )


def retry(
    evidence: Evidence, task: Instance, cause: Cause | None = None, held: str = "", *steps: Step
) -> Explanation:
    """Say why a task is to be tried again, and when; of one that something else holds too, also what."""
    definition = evidence.definitions.get(task.task.id)
    delay = definition.delay if definition else None
    due = task.task.end + delay if task.task.end and delay is not None else None
    lost = loss_of(evidence, task)
    reason = lost or timeout_of(evidence, task) or reason_of(evidence)
    grows = bool(definition and definition.delay_grows)
    text = failed_try(task.task, reason, due, "due, at the earliest, at" if grows else "due at")
    api = tasks_api(evidence, f"{task.task.name}: {text}") if has_mismatch(evidence, task) else None
    return api or because(
        evidence,
        cause or (Cause.WORKER_LOST if lost else Cause.UP_FOR_RETRY),
        f"{task.task.name}{held}: {sentence_end(text)}.",
        *error_facts(evidence),
        Fact("tries", f"{task.task.tries} of {max(task.most_tries, task.task.tries)}"),
        *steps,
        whole_log(task),
    )


def _rescheduled(evidence: Evidence, task: Instance) -> Explanation | None:
    since = task.task.end
    looked = f", and looked last {duration((evidence.now - since).total_seconds())} ago" if since else ""
    at = _next_look(evidence)
    return because(
        evidence,
        Cause.UP_FOR_RESCHEDULE,
        f"{task.task.name} is a sensor that has not found what it waits for{looked}"
        f"{f'; it looks again at {moment(at)}' if at else ''}.",
        *error_facts(evidence),
        *([Fact("it logged last", said)] if (said := own_words(list(evidence.log))) else []),
        whole_log(task),
    )


def _next_look(evidence: Evidence) -> datetime | None:
    """When a sensor looks again, as the end of its log tells."""
    times = (read_time(entry.get("reschedule_date")) for entry in reversed(evidence.log))
    return next(filter(None, times), None)


def _unmet(evidence: Evidence) -> list[Blocker]:
    others = ALWAYS_UNMET | TOLD_OTHERWISE
    known = [blocker for blocker in evidence.blockers if blocker.name in KNOWN_BLOCKERS]
    return known or [blocker for blocker in evidence.blockers if blocker.name not in others]


def _roots(evidence: Evidence, task: Instance) -> list[Instance]:
    """Return what a task waits for in the end: unfinished ones before it that wait for no other."""
    open_ones = [each for each in ancestors(evidence, task) if each.state not in ENDED]
    begun = [each for each in open_ones if each.state != "none"]
    return begun or open_ones
