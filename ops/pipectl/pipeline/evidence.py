"""What `explain` has looked at, what it says, and the pieces that several causes are told with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from pipectl.airflow_answers import one_line, read_time
from pipectl.airflow_health import LATE
from pipectl.names import MINUTE, command, duration, listed, moment
from pipectl.pipeline.causes import Cause
from pipectl.services import HEALTHY, get

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from pipectl.airflow_facts import Blocker, Definition, Event, Instance, Pool
    from pipectl.models import Backfill, DagRun, DatabaseAddress, ImportFailure, ParsedDag, Service

SCHEDULER, PROCESSOR, TRIGGERER = "scheduler", "dag-processor", "triggerer"
# What the scheduler does within a second on a quiet machine; what takes longer has another cause.
PATIENCE_SECONDS = 10
NAMED = 3
ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}


@dataclass(frozen=True)
class Fact:
    """Something that was looked at, and what was found."""

    name: str
    value: str


@dataclass(frozen=True)
class Step:
    """A command to type next, and what it is for."""

    purpose: str
    command: str


@dataclass(frozen=True)
class Explanation:
    """Why a DAG, a run or a task is in its state: one sentence, what was looked at, what to type next.

    `run_id` and `task` are empty if the cause concerns the DAG, or the run, as a whole; `task` names a
    mapped instance with its index.
    """

    dag_id: str
    run_id: str
    task: str
    state: str
    cause: Cause
    sentence: str
    evidence: tuple[Fact, ...]
    next: tuple[Step, ...]


@dataclass(frozen=True)
class Evidence:
    """All that was looked at. What was not needed is empty.

    `page` is the address at which a human answers a task's `question`.

    `health` and `heartbeats` are Airflow's, by component. `files` are DAG files in which the DAG's id stands,
    and `changed` the time of the DAG's own. `tasks_api` says what went wrong when the API for tasks was
    asked, `unread_log` why a try's log could not be read, and `disagreeing` names secrets that services do
    not share. `awaited_assets` have not been updated for the next run. `deferred` are tasks that may keep
    their slots of a pool, and `lately` those that have ended within the last seconds. `heard` is when Airflow
    told of heartbeats, and `overload` the machine's load, if it is too high.
    """

    dag_id: str
    now: datetime
    services: tuple[Service, ...] = ()
    health: Mapping[str, str] = field(default_factory=dict)
    heartbeats: Mapping[str, datetime | None] = field(default_factory=dict)
    heard: datetime | None = None
    overload: str = ""
    executor: str = ""
    dag: ParsedDag | None = None
    failures: tuple[ImportFailure, ...] = ()
    files: tuple[str, ...] = ()
    changed: datetime | None = None
    run: DagRun | None = None
    is_run_given: bool = False
    active: tuple[DagRun, ...] = ()
    awaited_assets: tuple[str, ...] = ()
    backfill: Backfill | None = None
    instances: tuple[Instance, ...] = ()
    chosen: Instance | None = None
    is_task_given: bool = False
    definitions: Mapping[str, Definition] = field(default_factory=dict)
    blockers: tuple[Blocker, ...] = ()
    pool: Pool | None = None
    busy: tuple[Instance, ...] = ()
    busy_number: int = 0
    deferred: tuple[Instance, ...] = ()
    lately: tuple[Instance, ...] = ()
    rivals: tuple[Instance, ...] = ()
    parallelism: int | None = None
    concurrency: int | None = None
    events: tuple[Event, ...] = ()
    log: tuple[dict[str, Any], ...] = ()
    unread_log: str = ""
    earlier: tuple[float, ...] = ()
    question: str = ""
    page: str = ""
    left_out_by: str = ""
    mapped_over_nothing: bool = False
    tasks_api: str = ""
    disagreeing: tuple[str, ...] = ()
    databases: tuple[DatabaseAddress, ...] = ()


def upstream_of(task_id: str, definitions: Mapping[str, Definition]) -> tuple[str, ...]:
    """Return the ids of the tasks directly before one."""
    return tuple(each.id for each in definitions.values() if task_id in each.downstream)


def is_among(task: Instance, instances: tuple[Instance, ...]) -> bool:
    """Whether one of the instances is this one, in whatever state."""
    key = (task.dag_id, task.run_id, task.task.name)
    return any(key == (each.dag_id, each.run_id, each.task.name) for each in instances)


def service_of(evidence: Evidence, name: str) -> Service | None:
    """Return a service as the engine sees it."""
    return next((service for service in evidence.services if service.name == name), None)


def silence_of(evidence: Evidence, name: str) -> str:
    """Say that a service of Airflow's gives no heartbeat, and how its process is; empty if it gives one.

    One that is merely late on a machine with too much to do counts as given.
    """
    component = get(name).component
    service = service_of(evidence, name)
    heartbeat = evidence.heartbeats.get(component)
    if service is not None and service.state in {"stopped", "crashed"}:
        last = f" and gave its last heartbeat at {moment(heartbeat)}" if heartbeat else ""
        return f"the service {name} {'has' if service.state == 'crashed' else 'is'} {service.state}{last}"
    if evidence.health.get(component, HEALTHY) in {HEALTHY, LATE}:
        return ""
    started = service.started if service else None
    if started and (heartbeat is None or heartbeat < started):
        lasting = duration((evidence.now - started).total_seconds())
        return f"the service {name} was started {lasting} ago and has given no heartbeat yet"
    lasting = f" for {duration(_age(evidence, heartbeat))}" if heartbeat else ""
    busy = f", and {evidence.overload}" if evidence.overload else ""
    return f"the service {name} runs and has given no heartbeat{lasting}{busy}"


def _age(evidence: Evidence, heartbeat: datetime) -> float:
    """How old (seconds) a heartbeat was when Airflow told of it: what is asked afterwards may take long."""
    return ((evidence.heard or evidence.now) - heartbeat).total_seconds()


def service_steps(evidence: Evidence, name: str) -> list[Step]:
    """Return what to type about a service that gives no heartbeat."""
    service = service_of(evidence, name)
    log = Step("Its log", command("logs", name))
    if service is not None and service.state in {"stopped", "crashed"}:
        return [Step("To start it", "pipectl up"), log]
    return [Step("What keeps the machine busy", "top"), log] if evidence.overload else [log]


def service_fact(evidence: Evidence, name: str) -> Fact:
    """Return the state of a service."""
    service = service_of(evidence, name)
    return Fact(name, f"{service.state} now" if service else "runs elsewhere (stack/.env)")


def unpause(dag_id: str) -> list[Step]:
    """Return what to type about a DAG that is paused."""
    return [
        Step("To switch it on", command("unpause", dag_id)),
        Step("To run it now as well", command("trigger", dag_id)),
    ]


def larger_pool(pool: Pool, slots: int) -> Step:
    """Return what gives a pool more slots."""
    words = ("airflow", "pools", "set", pool.name, str(slots), "made larger by hand")
    return Step("To make the pool larger", command(*words))


def whole_log(task: Instance) -> Step:
    """Return what shows the log of a task's latest try."""
    return Step("The whole log", command("task-log", task.dag_id, task.run_id, task.task.name))


def again(task: Instance) -> Step:
    """Return what lets a task start again."""
    return Step("To run it again", command("clear", task.dag_id, task.run_id, task.task.name))


def first_of(holders: list[Instance]) -> list[Step]:
    """Return what tells of the first task of those that are in the way."""
    if not holders:
        return []
    first = holders[0]
    words = (first.dag_id, first.run_id, first.task.name)
    return [Step(f"What {first.task.name} does", command("explain", *words))]


def held_by(holders: list[Instance]) -> Iterator[Fact]:
    """Yield which tasks are in the way."""
    if holders:
        names = [f"{place_of(each)} ({each.state})" for each in holders[:NAMED]]
        yield Fact("at work", listed(names, len(holders)))


def place_of(instance: Instance) -> str:
    """Return DAG, run and task of an instance."""
    return f"{instance.dag_id} {instance.run_id} {instance.task.name}"


def trigger_rule(evidence: Evidence, task: Instance) -> Iterator[Fact]:
    """Yield the trigger rule of a task."""
    definition = evidence.definitions.get(task.task.id)
    if definition and definition.trigger_rule:
        yield Fact("trigger rule", definition.trigger_rule)


def trying(task: Instance) -> Iterator[Fact]:
    """Yield which try it is, of one that is not the first."""
    if task.task.tries > 1:
        yield Fact("try", f"{task.task.tries} of {max(task.most_tries, task.task.tries)}")


def event_fact(event: Event) -> Iterator[Fact]:
    """Yield what Airflow has noted."""
    words = (moment(event.when), event.owner, one_line(event.extra))
    yield Fact(f"Airflow's note “{event.name}”", " ".join(filter(None, words)))


def next_run(evidence: Evidence) -> Iterator[Fact]:
    """Yield when the next run is due, or why none is."""
    due = read_time(evidence.dag.next_run) if evidence.dag else None
    when = ", or ".join(filter(None, [moment(due), asset_update(evidence)]))
    if not when and (end := passed_end(evidence)):
        when = f"none, for its end_date has passed{end}"
    if when:
        yield Fact("next run", when)


def passed_end(evidence: Evidence) -> str:
    """Return the DAG's end_date in brackets if it has passed."""
    end = evidence.dag.end if evidence.dag else None
    return f" ({moment(end)})" if end is not None and end < evidence.now else ""


def asset_update(evidence: Evidence) -> str:
    """Say after which updates of assets the next run starts; empty if it waits for none."""
    names = evidence.awaited_assets
    if not names or evidence.dag is None:
        return ""
    if len(names) == 1:
        return f"after an update of the asset {names[0]}"
    told = listed(list(names[:NAMED]), len(names))
    return f"after an update of {'one' if evidence.dag.asset_rule == 'any' else 'each'} of the assets {told}"


def took(seconds: float | None) -> str:
    """Return how long something took, as the end of a sentence."""
    if seconds is None:
        return ""
    return f" in {seconds:.1f} s" if seconds < MINUTE else f" in {duration(seconds)}"


def beside(evidence: Evidence, seconds: float | None) -> str:
    """Compare a duration with those of earlier runs."""
    if seconds is None or not evidence.earlier:
        return ""
    usual = median(evidence.earlier)
    number = len(evidence.earlier)
    return f"; {'the run' if number == 1 else f'{number} runs'} before took {usual:.1f} s" + (
        " (median)" if number > 1 else ""
    )


def sentence_end(text: str) -> str:
    """Return a text to which a full stop can be added."""
    return text.strip().rstrip(".")


def fresh(evidence: Evidence, since: datetime | None, what: str) -> Explanation | None:
    """What has become so a moment ago, and is about to go on."""
    if since is None:
        return None
    seconds = (evidence.now - since).total_seconds()
    if seconds > PATIENCE_SECONDS:
        return None
    return because(
        evidence,
        Cause.STARTING,
        f"{what} {duration(max(seconds, 0))} ago: the scheduler takes it up within seconds.",
        Step("To look again", _self(evidence)),
    )


def _self(evidence: Evidence) -> str:
    run, chosen = evidence.run, evidence.chosen if evidence.is_task_given else None
    words = [evidence.dag_id, *([run.run_id] if run else []), *([chosen.task.name] if chosen else [])]
    return command("explain", *words)


def subject_of(evidence: Evidence) -> str:
    """Return the name of what is asked about."""
    if evidence.chosen is not None and evidence.is_task_given:
        return evidence.chosen.task.name
    return evidence.run.run_id if evidence.run else evidence.dag_id


def state_of(evidence: Evidence, *, of_run: bool = False) -> str:
    """Return the state of the task that is explained, or of the run."""
    if evidence.chosen is not None and not of_run:
        return evidence.chosen.state
    return evidence.run.outcome if evidence.run else ""


def because(
    evidence: Evidence,
    cause: Cause,
    sentence: str,
    *parts: Fact | Step,
    of_dag: bool = False,
    of_run: bool = False,
) -> Explanation:
    """Return an explanation with its own facts, those of every explanation after them, and its steps."""
    chosen = None if of_dag or of_run else evidence.chosen
    # One that was cut has its own end.
    sentence = sentence.replace("….", "…")
    facts = [told for part in parts if isinstance(part, Fact) and (told := _unsaid(part, sentence))]
    return Explanation(
        dag_id=evidence.dag_id,
        run_id="" if of_dag or evidence.run is None else evidence.run.run_id,
        task=chosen.task.name if chosen else "",
        state="" if of_dag else state_of(evidence, of_run=chosen is None),
        cause=cause,
        sentence=sentence,
        evidence=(*facts, *_common_facts(evidence)),
        next=tuple(part for part in parts if isinstance(part, Step)),
    )


def _unsaid(fact: Fact, sentence: str) -> Fact | None:
    """Return a fact without lines that are so long that they were cut, and that the sentence has already."""
    lines = [
        line for line in fact.value.splitlines() if not (line.endswith("…") and line.strip() in sentence)
    ]
    return Fact(fact.name, "\n".join(lines)) if lines else None


def _common_facts(evidence: Evidence) -> Iterator[Fact]:
    dag, run = evidence.dag, evidence.run
    if dag is not None:
        switch = "paused" if dag.paused else "on"
        yield Fact("DAG", f"{switch}, {dag.file}" if dag.file else switch)
    if run is not None:
        since = run.end or run.start or run.queued_at
        yield Fact("run", f"{run.outcome}{f' since {moment(since)}' if since else ''}")
    if evidence.chosen is not None:
        chosen = evidence.chosen
        tries = f", try {chosen.task.tries}" if chosen.task.tries else ""
        yield Fact("task", f"{chosen.task.name}: {chosen.state}{tries}")
    if evidence.instances:
        states = Counter(each.state for each in evidence.instances)
        yield Fact("tasks", ", ".join(f"{number} {state}" for state, number in sorted(states.items())))
    for name in (SCHEDULER, PROCESSOR):
        component = get(name).component
        heartbeat = evidence.heartbeats.get(component)
        if component in evidence.health:
            ago = f", heartbeat {duration(_age(evidence, heartbeat))} ago" if heartbeat else ""
            yield Fact(name, silence_of(evidence, name) or f"{evidence.health[component]}{ago}")
