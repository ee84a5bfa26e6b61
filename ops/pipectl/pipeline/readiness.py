"""Wait until every service is healthy and the DAG is parsed, or say at once why that will not happen."""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipectl.airflow_answers import in_file, is_since
from pipectl.airflow_health import broken_dag, unknown_dag
from pipectl.errors import (
    AirflowError,
    DatabaseError,
    DatabaseRefusedError,
    EngineError,
    ForeignAirflowError,
    ForeignDatabaseError,
    WaitTimeoutError,
)
from pipectl.services import (
    AIRFLOW,
    ASKED,
    HEALTHY,
    METADATA,
    SERVICES,
    UNHEALTHY,
    WAITING,
    business_databases,
    databases,
    find,
)
from pipectl.wait import attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from pipectl.airflow_health import AirflowHealth
    from pipectl.databases import Databases
    from pipectl.engines.base import Engine
    from pipectl.models import ImportFailure, ParsedDag, Service
    from pipectl.observer import Observer

LOG_LINES = 15
PROCESSOR = "dag-processor"
# The first heartbeat comes within seconds, and on an overloaded machine within a minute or two.
START_SECONDS = 180
# A DAG file may make ids that stand nowhere: Airflow gives it 30 s to do so, and another one before it too.
# Any other such id is a typing error.
UNMENTIONED_SECONDS = 60
# Airflow looks for new files every 2 s, and its first pass over all of them takes seconds on a busy machine.
SUSPICION_SECONDS = 30
# A killed PostgreSQL's lock file may stop the first start after it; Airflow's programs wait by themselves.
TOLERATED_DATABASE_CRASHES = 2


def with_health(
    services: tuple[Service, ...],
    components: Mapping[str, str] | None,
    answered: Collection[str],
    usurped: Collection[str] = (),
) -> tuple[Service, ...]:
    """Return `services` with the health of what runs: healthy, starting, unhealthy, or unknown.

    Unhealthy is what Airflow calls so although its start was long ago; unknown is what nothing tells of.

    `components` is Airflow's own answer, None if there is none; `answered` names the databases that answer.
    A health that the engine has filled in stays. A service whose port another program has, which `usurped`
    names, cannot listen: it has crashed, whatever its process does.
    """

    def health_of(service: Service) -> str:
        definition = find(service.name)
        if definition is not None and definition.health == ASKED:
            return "healthy" if service.name in answered else "starting"
        if definition is not None and definition.health == AIRFLOW:
            if components is None:
                # The database that Airflow waits for may tell by itself.
                return "healthy" if service.name in answered else "starting"
            component = definition.component
            if not component or components.get(component) == HEALTHY:
                return HEALTHY
            now = datetime.now(UTC)
            is_late = service.started and (now - service.started).total_seconds() > START_SECONDS
            return UNHEALTHY if is_late and components.get(component) == UNHEALTHY else "starting"
        return "unknown"

    def seen(service: Service) -> Service:
        if service.name in usurped and service.state != "stopped":
            return replace(service, state="crashed", health="")
        is_open = service.state == "running" and not service.health
        return replace(service, health=health_of(service)) if is_open else service

    return tuple(seen(service) for service in services)


def component_starts(services: tuple[Service, ...]) -> dict[str, datetime]:
    """Return the start of the process of each of Airflow's components that gives heartbeats."""
    components = {service.name: service.component for service in SERVICES if not service.database}
    return {
        components[service.name]: service.started
        for service in services
        if service.started and components.get(service.name)
    }


class HealthProbe:
    """Fills in the health of services whose engine does not know it."""

    def __init__(
        self, databases: Databases, health: AirflowHealth, metadata_answers: Callable[[], bool]
    ) -> None:
        self._databases = databases
        self._health = health
        self._metadata_answers = metadata_answers
        # Databases that have answered, with their process: asked again only once that is another one.
        self._answered: dict[str, int | None] = {}

    def check(self, services: tuple[Service, ...]) -> tuple[Service, ...]:
        """Return `services` as `with_health` does.

        Raises DatabaseRefusedError if a database lets nobody in, ForeignAirflowError and
        ForeignDatabaseError if another program has the port: waiting does not help.
        """
        running = {service.name: service for service in services if service.state == "running"}
        components = self._components(services) if "webserver" in running else None
        asked = [running[database.name] for database in business_databases() if database.name in running]
        if components is None and (metadata := running.get(METADATA)):
            asked.append(metadata)
        answered = {service.name for service in asked if self._answers(service)}
        return with_health(services, components, answered)

    def _answers(self, service: Service) -> bool:
        if service.pid is None or self._answered.get(service.name) != service.pid:
            is_answer = self._metadata_answers() if service.name == METADATA else self._pings(service.name)
            if not is_answer:
                return False
            self._answered[service.name] = service.pid
        return True

    def _pings(self, name: str) -> bool:
        try:
            self._databases.ping(name)
        except (DatabaseRefusedError, ForeignDatabaseError):
            raise
        except DatabaseError:
            return False
        return True

    def _components(self, services: tuple[Service, ...]) -> dict[str, str] | None:
        try:
            return self._health.components(component_starts(services))
        except ForeignAirflowError:
            raise
        except AirflowError:
            return None


class CrashCounter:
    """How often each service has crashed, from one look at the services to the next."""

    def __init__(self) -> None:
        self._crashes: dict[str, int] = {}
        self._latest: dict[str, Service] = {}

    def first_too_many(self, services: tuple[Service, ...]) -> str | None:
        """Return the name of a service that has crashed more often than is tolerated."""
        for service in services:
            before = self._latest.get(service.name)
            self._latest[service.name] = service
            if _has_crashed(before, service):
                self._crashes[service.name] = self._crashes.get(service.name, 0) + 1
            tolerated = TOLERATED_DATABASE_CRASHES if service.name in databases() else 0
            if self._crashes.get(service.name, 0) > tolerated:
                return service.name
        return None


def _has_crashed(before: Service | None, now: Service) -> bool:
    if now.state == "crashed" and (before is None or before.state != "crashed"):
        return True
    if before is None or None in {before.pid, now.pid} or before.pid == now.pid:
        return False
    # A fork that takes the place of a process which was started for it is no other start.
    return before.started is None or before.started != now.started


def wait_until_healthy(
    engine: Engine,
    probe: HealthProbe,
    *,
    deadline: float,
    observer: Observer,
    only: Collection[str] | None = None,
) -> None:
    """Return when every service, or each of `only`, is healthy; `observer` sees every look at them.

    Raises EngineError with the last lines of the log as soon as a service has crashed, WaitTimeoutError at
    `deadline` (of time.monotonic).
    """
    crashes = CrashCounter()
    late: list[Service] = []
    for _ in attempts(deadline):
        services = probe.check(engine.services())
        if only is not None:
            services = tuple(service for service in services if service.name in only)
        observer.see_services(services)
        if crashed := crashes.first_too_many(services):
            raise _crash(engine, crashed)
        late = [service for service in services if service.health not in {HEALTHY, WAITING}]
        if services and not late:
            return
        observer.see_wait(engine.awaited or f"Waiting for health: {', '.join(each.name for each in late)}")
    unknown = [service.name for service in late if service.health == "unknown"]
    names = [service.name for service in late]
    raise WaitTimeoutError(
        f"Not healthy in time: {', '.join(names)}."
        + (f" Nothing tells the health of {', '.join(unknown)}." if unknown else ""),
        hint=f"See why: pipectl logs {names[0]}\nTo wait longer: pipectl up --timeout SECONDS",
        detail=_last_lines(engine, names[0]),
    )


def wait_until_parsed(
    engine: Engine,
    health: AirflowHealth,
    dag_id: str,
    *,
    dags_dir: Path,
    deadline: float,
    observer: Observer,
) -> None:
    """Return when the DAG processor that runs now has parsed the DAG: rows of an earlier one do not count.

    Raises DagError with the stack trace if its file cannot be imported, and for a DAG that no file mentions
    and that does not turn up, EngineError if a service crashes meanwhile, WaitTimeoutError at `deadline`.
    """
    observer.see_wait(f"Waiting until the DAG processor has parsed {dag_id}")
    crashes = CrashCounter()
    failures: tuple[ImportFailure, ...] = ()
    mentioned = bool(files_that_mention(dag_id, dags_dir))
    suspicion = Suspicion(dag_id, dags_dir, health.dags)
    end = deadline if mentioned else min(deadline, time.monotonic() + UNMENTIONED_SECONDS)
    for _ in attempts(end):
        services = engine.services()
        if crashed := crashes.first_too_many(services):
            raise _crash(engine, crashed)
        since = processor_start(services)
        dag = health.dag(dag_id)
        if dag is not None and not dag.has_import_errors and is_since(dag.parsed, since):
            return
        failures = health.import_failures(since)
        if own := suspicion.confirmed(dag, failures, since):
            raise broken_dag(dag_id, own)
    if own := failures_of(dag_id, None, failures, dags_dir):
        raise broken_dag(dag_id, own)
    unknown = unknown_dag(dag_id, tuple(dag.dag_id for dag in health.dags()), failures)
    if not mentioned:
        raise unknown
    raise WaitTimeoutError(
        f"Airflow has not parsed a DAG {dag_id!r} in time.",
        hint=f"{unknown.hint}\nWhat it did: pipectl logs {PROCESSOR}",
    )


def processor_start(services: tuple[Service, ...]) -> datetime | None:
    """Return the start of the DAG processor that runs now."""
    return next((service.started for service in services if service.name == PROCESSOR), None)


def failures_of(
    dag_id: str,
    dag: ParsedDag | None,
    failures: tuple[ImportFailure, ...],
    dags_dir: Path,
) -> tuple[ImportFailure, ...]:
    """Return the failures of the DAG's own file; of a DAG that was never parsed, of files that mention it."""
    return _in_files(failures, _suspected_files(dag_id, dag, failures, dags_dir))


def _suspected_files(
    dag_id: str, dag: ParsedDag | None, failures: tuple[ImportFailure, ...], dags_dir: Path
) -> tuple[str, ...]:
    """Return the DAG's own file; of a DAG that was never parsed, the files that mention it, if any failed."""
    if not failures:
        return ()
    if dag and dag.file:
        return (dag.file,)
    return tuple(path.relative_to(dags_dir).as_posix() for path in files_that_mention(dag_id, dags_dir))


def _in_files(failures: tuple[ImportFailure, ...], files: Iterable[str]) -> tuple[ImportFailure, ...]:
    return tuple(itertools.chain(*(in_file(failures, file) for file in files)))


class Suspicion:
    """Whether a DAG is missing because of the broken files that mention it, or may come from another file.

    `list_dags` tells which files Airflow has parsed.
    """

    def __init__(self, dag_id: str, dags_dir: Path, list_dags: Callable[[], tuple[ParsedDag, ...]]) -> None:
        self._dag_id = dag_id
        self._dags_dir = dags_dir
        self._list_dags = list_dags
        self._since = 0.0

    def confirmed(
        self, dag: ParsedDag | None, failures: tuple[ImportFailure, ...], since: datetime | None = None
    ) -> tuple[ImportFailure, ...]:
        """Return the failures because of which the DAG is missing; none while another file may bring it.

        What was parsed before `since` does not count.
        """
        # Read once a look: the wait looks ten times a second.
        files = _suspected_files(self._dag_id, dag, failures, self._dags_dir)
        own = _in_files(failures, files)
        if not own:
            return own
        self._since = self._since or time.monotonic()
        # Most modules of a DAG file's, and files that .airflowignore names, Airflow never parses.
        over = time.monotonic() - self._since > SUSPICION_SECONDS
        return own if over or not self._may_yet_be_parsed(files, failures, since) else ()

    def _may_yet_be_parsed(
        self, files: Iterable[str], failures: tuple[ImportFailure, ...], since: datetime | None
    ) -> bool:
        """Whether one of these files can be imported, and Airflow has not read what it is now."""
        left = [file for file in files if not in_file(failures, file)]
        if not left:
            return False
        read = {dag.file: dag.parsed for dag in self._list_dags() if is_since(dag.parsed, since)}
        return any(not _is_read(self._dags_dir / file, read.get(file)) for file in left)


def _is_read(path: Path, when: datetime | None) -> bool:
    try:
        return when is not None and when.timestamp() >= path.stat().st_mtime
    except OSError:  # deleted meanwhile
        return True


def files_that_mention(dag_id: str, dags_dir: Path) -> tuple[Path, ...]:
    """Return the DAG files that are called by the id, and those in which it stands.

    It stands there as a word of its own: cut short it is a typing error.
    """
    word = re.compile(rf"(?<![\w.-]){re.escape(dag_id)}(?![\w.-])".encode())

    def mentions(path: Path) -> bool:
        try:
            return path.stem == dag_id or word.search(path.read_bytes()) is not None
        except OSError:  # a folder, or a file that the user may not read
            return False

    return tuple(path for path in sorted(dags_dir.rglob("*.py")) if mentions(path))


def _crash(engine: Engine, service: str) -> EngineError:
    return EngineError(
        f"The service {service!r} ends as soon as it is started.",
        hint=f"All of its log: pipectl logs {service}\nTo stop what runs: pipectl down",
        detail=_last_lines(engine, service),
    )


def _last_lines(engine: Engine, service: str) -> str:
    return "\n".join(line.text for line in engine.logs((service,), tail=LOG_LINES, follow=False))
