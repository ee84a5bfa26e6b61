"""Bring the stack up, take it down, wipe its data."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipectl import json_text, seen
from pipectl.airflow_health import AirflowHealth
from pipectl.databases import Databases
from pipectl.errors import AirflowError, EngineError, PipectlError, UsageError, WaitTimeoutError
from pipectl.names import counted
from pipectl.observer import Observer
from pipectl.pipeline.access import own_databases, unknown_service
from pipectl.pipeline.readiness import HealthProbe, processor_start, wait_until_healthy, wait_until_parsed
from pipectl.pipeline.verification import wait_for_active_runs
from pipectl.services import find, runs_airflow
from pipectl.wait import Aside

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pipectl.engines.base import Engine
    from pipectl.models import DatabaseContent, ImportFailure, Service, Volume

DIAGNOSIS_SECONDS = 1.5
# In the project's state: when the processes started whose tasks have been seen to reach the API.
TASKS_API = "tasks-api.json"
FAILED_CHECKS = "Checks that fail now, whether they have to do with it or not (pipectl doctor):"


@dataclass(frozen=True)
class Phase:
    """A named part of a command and how long it took."""

    name: str
    seconds: float


@dataclass(frozen=True)
class MovedPort:
    """A port that was taken, and the one that is used instead."""

    wanted: int
    used: int


@dataclass(frozen=True)
class UpResult:
    """What `up` did.

    `restarted` has those of the `started` services that ran before, with what had changed; `moved_ports` has
    the services whose port was taken; `notes` are sentences. `import_failures` are DAG files, not the
    pipeline's, that Airflow has tried and cannot import; `removed` are services that ran before, and are no
    part of the stack any more.
    """

    engine: str
    url: str
    user: str
    password: str = field(repr=False)
    ports: dict[str, int]
    seconds: float
    phases: tuple[Phase, ...]
    started: tuple[str, ...]
    restarted: dict[str, str]
    moved_ports: dict[str, MovedPort]
    notes: tuple[str, ...] = ()
    import_failures: tuple[ImportFailure, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class RestartResult:
    """The services that `restart` started anew.

    `restarted` has the reason of those that restarted because another one did, empty for those that were
    asked for; `notes` are sentences.
    """

    engine: str
    restarted: dict[str, str]
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResetResult:
    """The volumes that `reset` deleted, and those of the new stack; `notes` are sentences."""

    deleted: tuple[Volume, ...]
    created: tuple[Volume, ...]
    up: UpResult | None
    notes: tuple[str, ...] = field(default=(), metadata={"optional": True})


@dataclass
class Stopwatch:
    """Times of the named phases of one command."""

    started: float = field(default_factory=time.monotonic)
    phases: list[Phase] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as `name`."""
        begun = time.monotonic()
        yield
        self.phases.append(Phase(name, round(time.monotonic() - begun, 3)))

    @property
    def seconds(self) -> float:
        """Seconds since the command started."""
        return round(time.monotonic() - self.started, 3)


def up(engine: Engine, dag_id: str, *, timeout: float, observer: Observer) -> UpResult:
    """Start what is missing and wait until all is healthy and the DAG is parsed.

    `timeout` (seconds) bounds the wait, not the first installation. Raises EngineError for a crash,
    DagError for a DAG that cannot be imported, WaitTimeoutError.
    """
    with _diagnosed(engine), engine.lock(), _naming_what_runs(engine):
        return up_locked(engine, dag_id, timeout=timeout, observer=observer)


def up_locked(engine: Engine, dag_id: str, *, timeout: float, observer: Observer) -> UpResult:
    """Do what `up` does, for a command that has the project's lock."""
    stopwatch = Stopwatch()
    with stopwatch.phase("install"):
        engine.install(observer)
    with stopwatch.phase("start"):
        started = engine.start(observer)
    deadline = time.monotonic() + timeout
    address = engine.airflow()
    health = AirflowHealth(address)
    with stopwatch.phase("healthy"):
        wait_until_healthy(engine, _probe(engine, health), deadline=deadline, observer=observer)
    # What a restore that was killed has kept, until the new data has proved to be usable.
    interrupted: tuple[str, ...] = ()
    with suppress(EngineError):
        left = engine.data.interrupted()
        engine.data.drop_beside()
        interrupted = left.after_up if left else ()
    with stopwatch.phase("dag parsed"):
        asking = Aside(lambda: _tasks_api_problem(engine))
        keeping = Aside(engine.keep_for_later)
        wait_until_parsed(
            engine, health, dag_id, dags_dir=engine.dags_dir, deadline=deadline, observer=observer
        )
        observer.see_wait("Waiting until a process of the stack has reached Airflow's API for tasks")
        if problem := asking.result():
            raise AirflowError(
                f"Airflow is healthy, but its tasks do not reach the API that they need: {problem}",
                hint="Look at the proxies that tasks get: from stack/airflow/user.env, from the shell that "
                "started the stack (local engine), from the docker client's config.json (docker engine).",
            )
        observer.see_wait("Keeping Airflow's empty metadata database for the next project's first start")
        keeping.result()
    return UpResult(
        engine=engine.name,
        url=address.url,
        user=address.user,
        password=address.password,
        ports=engine.ports(),
        seconds=stopwatch.seconds,
        phases=tuple(stopwatch.phases),
        started=started,
        restarted=engine.restarts(),
        moved_ports={name: MovedPort(*ports) for name, ports in engine.moved_ports().items()},
        notes=(*engine.notes(), *interrupted),
        removed=engine.removed(),
        import_failures=health.import_failures(processor_start(engine.services())),
    )


def _probe(engine: Engine, health: AirflowHealth) -> HealthProbe:
    return HealthProbe(Databases(*engine.databases()), health, engine.metadata_answers)


def _tasks_api_problem(engine: Engine) -> str:
    """Return why tasks do not reach the API that they need, empty if they do.

    Asking imports Airflow's client, half a second of CPU: once for each start of Airflow's processes.
    """
    path = engine.state_dir / TASKS_API
    starts = {
        service.name: service.started.isoformat()
        for service in engine.services()
        if service.started and runs_airflow(service.name)
    }
    if starts and json_text.read_object(path) == starts:
        return ""
    problem = engine.tasks_api_problem()
    if not problem:
        json_text.note(path, starts)
    return problem


@contextmanager
def _diagnosed(engine: Engine) -> Iterator[None]:
    """Add to an error of a start which checks of the doctor's fail; it stays the same error otherwise.

    They may have nothing to do with it. One that says the same is left out.
    """
    try:
        yield
    except UsageError:
        raise  # about what the user has typed or written
    except PipectlError as error:
        from pipectl.pipeline.doctor import examine_briefly  # noqa: PLC0415  80 ms, for an error alone

        failed = []
        # Whatever goes wrong there, the error of the start is the one to tell.
        with suppress(Exception):
            told = f"{error.message}\n{error.hint}\n{error.detail}"
            failed = [
                f"{finding.id}: {finding.found}\n  → {finding.remedy}"
                for finding in examine_briefly(engine, DIAGNOSIS_SECONDS)
                if finding.found not in told
            ]
        if failed:
            error.detail = "\n".join(filter(None, (error.detail, FAILED_CHECKS, *failed)))
        raise


@contextmanager
def _naming_what_runs(engine: Engine) -> Iterator[None]:
    """Add to an error of the block which services run, if only some do."""
    try:
        yield
    except PipectlError as error:
        with suppress(PipectlError):
            services = engine.services()
            running = [service.name for service in services if service.state in {"running", "starting"}]
            if 0 < len(running) < len(services):
                stop = "" if "pipectl down" in error.hint else " (to stop them: pipectl down)"
                error.hint = f"Still running: {', '.join(running)}{stop}.\n{error.hint}".rstrip()
        raise


def down(engine: Engine, *, delete_volumes: bool) -> tuple[tuple[str, ...], tuple[Volume, ...]]:
    """Stop everything; return the services that ran and the volumes that were deleted."""
    with engine.lock():
        stopped = engine.stop()
        seen.forget(engine.state_dir)
        volumes = engine.volumes() if delete_volumes else ()
        if delete_volumes:
            engine.delete_volumes()
    return stopped, volumes


def restart(engine: Engine, names: tuple[str, ...], *, timeout: float, observer: Observer) -> RestartResult:
    """Restart services by name, all without one, as they were started; wait until they are healthy again.

    Raises UsageError for a name that is none, EngineError if the stack does not run, and for a service that
    does not come back, WaitTimeoutError.
    """
    stopwatch = Stopwatch()
    with engine.lock():
        services = engine.services()
        elsewhere = {each.service for each in engine.databases()} - {service.name for service in services}
        for name in elsewhere.intersection(names):
            raise UsageError(
                f"{name} runs elsewhere (stack/.env), where pipectl restarts nothing.",
                hint="Restart it by its own means.",
            )
        chosen = _chosen(services, names)
        if not {service.state for service in services} - {"stopped"}:
            raise EngineError("The stack is not running.", hint="Start it: pipectl up")
        with _naming_what_runs(engine):
            restarted = engine.restart(chosen, observer)
            health = AirflowHealth(engine.airflow())
            deadline = time.monotonic() + timeout
            probe = _probe(engine, health)
            wait_until_healthy(engine, probe, deadline=deadline, observer=observer, only=restarted)
    notes = (*engine.notes(), *_not_applied(engine, restarted))
    return RestartResult(engine.name, restarted, stopwatch.seconds, notes)


def _chosen(services: tuple[Service, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the services that are meant: `worker` stands for each of Celery's workers."""
    kinds = {
        service.name: service.name if find(service.name) else service.name.rpartition("-")[0]
        for service in services
    }
    kinds = {name: kind for name, kind in kinds.items() if find(kind)}
    known = tuple(dict.fromkeys([*kinds, *kinds.values()]))
    for name in names:
        if name not in known:
            raise unknown_service(name, known)
    return tuple(name for name, kind in kinds.items() if not names or name in names or kind in names)


def _not_applied(engine: Engine, names: Collection[str]) -> tuple[str, ...]:
    """Say what a restart leaves as it was, and `up` would apply; the engine is of no other use afterwards."""
    with suppress(PipectlError):
        outdated = engine.plan(Observer(), executor=None, workers=None).restarts
        return tuple(
            f"{name} was started as before, and {change} since: pipectl up applies that."
            for name, change in outdated.items()
            if name in names
        )
    return ()


def reset(engine: Engine, dag_id: str, *, timeout: float, observer: Observer) -> ResetResult:
    """Stop, delete this project's volumes and no other, start again, and prove that the new ones are new.

    Raises EngineError if a volume of the new stack is older than the reset.
    """
    with _diagnosed(engine), engine.lock():
        observer.report("Stopping the stack")
        engine.stop()
        seen.forget(engine.state_dir)
        deleted = engine.volumes()
        observer.report(f"Deleting {counted(len(deleted), 'volume')}")
        engine.delete_volumes()
        if remaining := engine.volumes():
            raise EngineError(
                f"Not deleted: {', '.join(volume.location for volume in remaining)}.",
                hint="Run the command again; what is left then can be deleted by hand.",
            )
        with _naming_what_runs(engine):
            result = up_locked(engine, dag_id, timeout=timeout, observer=observer)
        created = engine.volumes()
        before = {volume.name: volume.created for volume in deleted}
        for volume in created:
            if volume.name in before and volume.created <= before[volume.name]:
                raise EngineError(f"The volume {volume.name!r} is older than the reset.")
    return ResetResult(deleted, created, result)


def empty_databases(
    engine: Engine, dag_id: str, *, propagate: bool, timeout: float, observer: Observer
) -> tuple[DatabaseContent, DatabaseContent]:
    """Delete every row of the two business databases and leave Airflow running; return what they held.

    With `propagate` they are deleted row by row, so that consumers of changes follow.

    An active run of the DAG would write into the emptied tables: it is waited for, at most `timeout`
    seconds. Raises WaitTimeoutError if it has not ended by then.
    """
    with engine.lock():
        databases = own_databases(engine)
        active = wait_for_active_runs(engine, dag_id, timeout=timeout, observer=observer)
        if active:
            raise WaitTimeoutError(
                f"The run {active[0]} of {dag_id} is active and would write into the emptied tables.",
                hint=f"Wait for its end (pipectl runs {dag_id}), or stop new ones: pipectl pause {dag_id}",
            )
        if propagate:
            observer.report("Deleting row by row")
        return databases.empty(propagate=propagate)
