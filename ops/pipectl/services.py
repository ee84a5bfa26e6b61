"""The stack's services, listed once: settings, engines, pipeline, commands and tests all read this list.

A new service is one entry here, and the way in which each engine starts it: a service in
stack/docker-compose.yml for the docker engine, a program for the local engine.
"""

from __future__ import annotations

from typing import NamedTuple

# Who knows whether a service that runs is healthy.
ASKED = "asked"  # pipectl logs in and runs a statement
AIRFLOW = "airflow"  # Airflow's health answer: `component`, or the answer as such
ENGINE = "engine"  # the engine's own health check
# The health of a service that is as it should be. One that is on demand waits until something needs it.
HEALTHY, WAITING = "healthy", "waiting"
# The health of one that runs, and does not do what it is there for.
UNHEALTHY = "unhealthy"


class Definition(NamedTuple):
    """What is known of a service before it runs.

    `health` is ASKED, AIRFLOW or ENGINE. The engine's own health check of any other service than those of
    ENGINE only decides when the engine starts what depends on it.
    `component` is the service's name in Airflow's answer to /api/v2/monitor/health.
    `prefix` begins the names of the service's variables in stack/.env.
    `default_port` is 0 for a service that does not listen on this machine; `published` tells whether the
    docker engine publishes the port too.
    `database` is the default name of a database's database; `business` marks a business database, which
    stack/.env may place elsewhere.
    `executor` is the only executor of Airflow that needs the service, empty if every executor does.
    `on_demand` marks a service whose process waits, nearly without memory, until something needs it,
    `runs_tasks` one in which tasks run.
    """

    name: str
    health: str
    component: str = ""
    prefix: str = ""
    default_port: int = 0
    published: bool = True
    database: str = ""
    business: bool = False
    executor: str = ""
    on_demand: bool = False
    runs_tasks: bool = False

    @property
    def port_variable(self) -> str:
        """The variable of stack/.env that holds the port."""
        return f"{self.prefix}_PORT"

    @property
    def password_variable(self) -> str:
        """The variable of stack/.env that holds the password of the database's owner."""
        return f"{self.prefix}_PASSWORD"


# In the order in which `status` shows them; `postgres` is Airflow's metadata database.
SERVICES = [
    Definition(
        "postgres", AIRFLOW, "metadatabase", "AIRFLOW_POSTGRES", 5433, published=False, database="airflow"
    ),
    Definition("airbyte-postgres", ASKED, "", "AIRBYTE_POSTGRES", 5432, database="airbyte", business=True),
    Definition("airbyte-mysql", ASKED, "", "AIRBYTE_MYSQL", 3306, database="data", business=True),
    Definition("webserver", AIRFLOW, "", "AIRFLOW", 8080),
    Definition("scheduler", AIRFLOW, "scheduler", runs_tasks=True),
    Definition("dag-processor", AIRFLOW, "dag_processor"),
    Definition("triggerer", AIRFLOW, "triggerer", on_demand=True),
    Definition("redis", ENGINE, executor="CeleryExecutor"),
    Definition("worker", ENGINE, executor="CeleryExecutor", runs_tasks=True),
]
# Airflow's own database.
METADATA = "postgres"


def find(name: str) -> Definition | None:
    """Return the service of this name; None if the list has none."""
    return next((service for service in SERVICES if service.name == name), None)


def get(name: str) -> Definition:
    """Return the service of this name; KeyError if the list has none."""
    service = find(name)
    if service is None:
        raise KeyError(name)
    return service


def of_executor(executor: str) -> tuple[Definition, ...]:
    """Return the services of a stack with this executor: LocalExecutor or CeleryExecutor."""
    return tuple(service for service in SERVICES if service.executor in {"", executor})


def databases() -> tuple[str, ...]:
    """Return the names of the services that keep data, and that the others wait for."""
    return tuple(service.name for service in SERVICES if service.database)


def business_databases() -> tuple[Definition, ...]:
    """Return the two business databases, PostgreSQL first."""
    return tuple(service for service in SERVICES if service.business)


def airflow_programs() -> tuple[str, ...]:
    """Return the names of Airflow's own processes, those of every executor."""
    return tuple(
        service.name
        for service in SERVICES
        if service.health == AIRFLOW and not (service.database or service.executor)
    )


def runs_tasks(name: str) -> bool:
    """Whether tasks run in the service, or in this one of its containers: `worker-2` is one of `worker`."""
    service = find(name) or find(name.rpartition("-")[0])
    return service is not None and service.runs_tasks


def runs_airflow(name: str) -> bool:
    """Whether Airflow runs in the service, or in this one of its containers."""
    return name in airflow_programs() or runs_tasks(name)


def components() -> tuple[str, ...]:
    """Return the parts of Airflow's health answer that services stand for."""
    return tuple(service.component for service in SERVICES if service.component)
