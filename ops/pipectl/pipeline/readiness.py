"""Wait until every service is healthy and the DAG is parsed, or say at once why that will not happen."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pipectl.errors import AirflowError, DagError, DatabaseError, EngineError, LoginError, WaitTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from pipectl.airflow_health import AirflowHealth
    from pipectl.databases import Databases
    from pipectl.engines.base import Engine
    from pipectl.models import Service

POLL_SECONDS = 0.1
LOG_LINES = 15
# A killed PostgreSQL's lock file may stop the first start after it; Airflow's programs wait by themselves.
TOLERATED_CRASHES = {"postgres": 2, "airbyte-postgres": 2, "airbyte-mysql": 2}
# They are asked themselves; of the others Airflow's health answer speaks, in these parts.
BUSINESS_DATABASES = ("airbyte-postgres", "airbyte-mysql")
COMPONENT_OF = {"postgres": "metadatabase", "scheduler": "scheduler", "dag-processor": "dag_processor"}


def judge(
    services: tuple[Service, ...], components: Mapping[str, str] | None, answered: Collection[str]
) -> tuple[Service, ...]:
    """Return `services` with health healthy or starting for what runs and whose engine does not know it.

    `components` is Airflow's own answer, None where there is none; `answered` names databases that did.
    """

    def health_of(service: Service) -> str:
        if service.name in BUSINESS_DATABASES:
            return "healthy" if service.name in answered else "starting"
        if components is None:
            return "starting"
        component = COMPONENT_OF.get(service.name)
        return "healthy" if component is None or components.get(component) == "healthy" else "starting"

    return tuple(
        replace(service, health=health_of(service))
        if service.state == "running" and not service.health
        else service
        for service in services
    )


class HealthProbe:
    """Fills in the health of services whose engine does not know it."""

    def __init__(self, databases: Databases, health: AirflowHealth) -> None:
        self._databases = databases
        self._health = health
        # Databases that have answered, with their process: asked again only once that is another one.
        self._answered: dict[str, int | None] = {}

    def check(self, services: tuple[Service, ...]) -> tuple[Service, ...]:
        """Return `services` with health healthy or starting for what runs.

        Raises LoginError where a database refuses the password: waiting does not help.
        """
        running = [service for service in services if service.state == "running"]
        components = self._components() if any(each.name == "webserver" for each in running) else None
        answered = {each.name for each in running if each.name in BUSINESS_DATABASES and self._answers(each)}
        return judge(services, components, answered)

    def _answers(self, service: Service) -> bool:
        if service.pid is None or self._answered.get(service.name) != service.pid:
            try:
                self._databases.ping(service.name)
            except LoginError:
                raise
            except DatabaseError:
                return False
            self._answered[service.name] = service.pid
        return True

    def _components(self) -> dict[str, str] | None:
        try:
            return self._health.components()
        except AirflowError:
            return None


def wait_until_healthy(
    engine: Engine,
    probe: HealthProbe,
    *,
    deadline: float,
    watch: Callable[[tuple[Service, ...]], None],
) -> None:
    """Return when every service is healthy; `watch` sees every look at them.

    Raises EngineError with the end of the log as soon as a service has crashed, WaitTimeoutError at
    `deadline` (of time.monotonic).
    """
    crashes: dict[str, int] = {}
    known: dict[str, Service] = {}
    while True:
        services = probe.check(engine.services())
        watch(services)
        for service in services:
            before = known.get(service.name)
            restarted = (
                before is not None and None not in {before.pid, service.pid} and before.pid != service.pid
            )
            fell = service.state == "crashed" and (before is None or before.state != "crashed")
            if restarted or fell:
                crashes[service.name] = crashes.get(service.name, 0) + 1
            if crashes.get(service.name, 0) > TOLERATED_CRASHES.get(service.name, 0):
                raise _crash(engine, service.name)
            known[service.name] = service
        if services and all(service.health == "healthy" for service in services):
            return
        if time.monotonic() > deadline:
            late = [service.name for service in services if service.health != "healthy"]
            raise WaitTimeoutError(
                f"Not healthy in time: {', '.join(late)}.",
                hint=f"See why: pipectl logs {late[0]}. To wait longer: pipectl up --timeout SECONDS",
                detail=_log_end(engine, late[0]),
            )
        time.sleep(POLL_SECONDS)


def wait_until_parsed(health: AirflowHealth, dag_id: str, *, deadline: float) -> None:
    """Return when Airflow has parsed the DAG.

    Raises DagError with the stack trace when its file cannot be imported, WaitTimeoutError at `deadline`.
    """
    while True:
        dag = health.dag(dag_id)
        if dag is not None and not dag.get("has_import_errors"):
            return
        failures = health.import_errors()
        own = (dag or {}).get("relative_fileloc")
        shown = {name: trace for name, trace in failures.items() if not own or name.endswith(str(own))}
        if shown:
            raise broken_dag(dag_id, shown)
        if time.monotonic() > deadline:
            raise WaitTimeoutError(
                f"Airflow has not parsed a DAG {dag_id!r} in time.",
                hint="See what it did: pipectl logs dag-processor",
            )
        time.sleep(POLL_SECONDS)


def broken_dag(dag_id: str, failures: dict[str, str]) -> DagError:
    """Return the error that shows the import errors, file by file."""
    return DagError(
        f"The DAG {dag_id!r} is not there, because Airflow cannot import {', '.join(failures)}.",
        hint="Mend the file: Airflow reads it anew within seconds. Then run the command again.",
        detail="\n".join(trace.strip() for trace in failures.values()),
    )


def _crash(engine: Engine, service: str) -> EngineError:
    return EngineError(
        f"The service {service!r} ends as soon as it is started.",
        hint=f"All of its log: pipectl logs {service}. To stop what runs: pipectl down",
        detail=_log_end(engine, service),
    )


def _log_end(engine: Engine, service: str) -> str:
    return "\n".join(line.text for line in engine.logs((service,), tail=LOG_LINES, follow=False))
