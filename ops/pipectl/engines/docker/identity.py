"""Names of one project on a machine that may hold others: its identity, containers and network.

The first project gets the plain names (`airbyte-postgres`, `airbyte-mysql`, `airbyte_net`); a second clone
gets the same with a number. The identity is random and labels volumes and containers, so that two projects
are never taken for one another, whatever they are called.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from pipectl.engines.airflow_env import SHARED_SECRETS
from pipectl.errors import EngineError
from pipectl.services import get

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipectl.engines.claims import Claims
    from pipectl.engines.docker.api import Container, DockerApi

PROJECT_ID = "PIPECTL_PROJECT_ID"
PROJECT_NAME = "COMPOSE_PROJECT_NAME"
PROJECT_LABEL = "org.pipectl.project"
COMPOSE_LABEL = "com.docker.compose.project"
VOLUME_LABEL = "com.docker.compose.volume"
CONTAINERS = {"AIRBYTE_POSTGRES_CONTAINER": "airbyte-postgres", "AIRBYTE_MYSQL_CONTAINER": "airbyte-mysql"}
NETWORK = "AIRBYTE_NETWORK"
DEFAULT_NAMES = {PROJECT_NAME: "pipectl", **CONTAINERS, NETWORK: "airbyte_net"}
MOST_PROJECTS = 100


def project_id(variables: Mapping[str, str]) -> str:
    """Return the project's identity; empty before its first start."""
    return variables.get(PROJECT_ID) or ""


def project_name(variables: Mapping[str, str]) -> str:
    """Return the project's name, as Compose has it."""
    return variables.get(PROJECT_NAME) or DEFAULT_NAMES[PROJECT_NAME]


def labels(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of what is the project's."""
    return {COMPOSE_LABEL: project_name(variables), PROJECT_LABEL: project_id(variables)}


def volumes(api: DockerApi, variables: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the engine's answers about the project's volumes; none before it has an identity."""
    own = project_id(variables)
    return api.volumes({PROJECT_LABEL: own}) if own else []


def choose(api: DockerApi, variables: Mapping[str, str], claims: Claims) -> tuple[dict[str, str], str]:
    """Claim names that nobody on this engine uses; return them, and those plain names that others use.

    Names that are set already stay. Raises EngineError if there is no free name.
    """
    identity = {PROJECT_ID: secrets.token_hex(8)}
    containers = api.container_names()
    projects = {labels.get(COMPOSE_LABEL) for labels in containers.values()} | {
        (volume.get("Labels") or {}).get(COMPOSE_LABEL) for volume in api.volumes()
    }
    others = ""
    for number in range(1, MOST_PROJECTS):
        names = {name: numbered(plain, number) for name, plain in DEFAULT_NAMES.items()}
        names |= {name: variables[name] for name in names if variables.get(name)}
        taken = [names[PROJECT_NAME]] if names[PROJECT_NAME] in projects else []
        taken += [names[name] for name in CONTAINERS if names[name] in containers]
        taken += [names[NETWORK]] if api.networks(names[NETWORK]) else []
        taken += [name for name in names.values() if not claims.take(f"docker-{name}")]
        if not taken:
            return {**identity, **names}, others
        others = others or ", ".join(taken)
    raise EngineError(
        f"The names of this project's containers and network are taken by others: {others}.",
        hint=f"Set {', '.join(DEFAULT_NAMES)} in stack/.env.",
    )


REPLICATION_PASSWORD = "AIRBYTE_REPLICATION_PASSWORD"  # noqa: S105  the name of a variable
# Variables of containers, and those of stack/.env that they were made of.
ENVIRONMENT = {
    **SHARED_SECRETS,
    "REDISCLI_AUTH": "AIRFLOW_REDIS_PASSWORD",
    "MYSQL_ROOT_PASSWORD": "AIRBYTE_MYSQL_ROOT_PASSWORD",
    REPLICATION_PASSWORD: REPLICATION_PASSWORD,
}


def recover(containers: Iterable[Container]) -> dict[str, str]:
    """Return what stack/.env has lost, from the containers that were made of it."""
    found: dict[str, str] = {}
    for container in containers:
        found |= {
            variable: container.environment[name]
            for name, variable in ENVIRONMENT.items()
            if container.environment.get(name)
        }
        if container.service == "postgres":
            found["AIRFLOW_POSTGRES_PASSWORD"] = container.environment.get("POSTGRES_PASSWORD", "")
        found |= {get(container.service).port_variable: str(port) for port in container.published.values()}
        found |= {name: container.name for name, plain in CONTAINERS.items() if container.service == plain}
        found |= {
            PROJECT_ID: container.labels.get(PROJECT_LABEL, ""),
            PROJECT_NAME: container.labels.get(COMPOSE_LABEL, ""),
            NETWORK: next(iter(container.networks), ""),
        }
    return {name: value for name, value in found.items() if value}


def numbered(name: str, number: int) -> str:
    """Return the plain name for the first project, the name with its number for others."""
    return name if number == 1 else f"{name}-{number}"
