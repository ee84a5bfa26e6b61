"""Containers as services: the names and states that pipectl shows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipectl.models import Service
from pipectl.services import ENGINE, HEALTHY, WAITING, find

if TYPE_CHECKING:
    from pipectl.engines.docker.api import Container

RESTARTING = "restarting"
STOPPED_CODES = {0, 130, 137, 143}  # ended by itself or by the signals of a stop


def service_of(container: Container, port: int | None) -> Service:
    """Return the service with the state and health that its container has."""
    state = container.state
    if state == RESTARTING or (state in {"exited", "dead"} and container.exit_code not in STOPPED_CODES):
        state = "crashed"
    elif state != "running":
        state = "stopped"
    definition = find(container.service)
    health = ""
    if state == "running" and definition and definition.health == ENGINE:
        health = HEALTHY if container.health == HEALTHY else "starting"
    if state == "running" and definition and definition.on_demand and container.health_output == WAITING:
        health = WAITING
    return Service(
        name=shown_name(container),
        state=state,
        health=health,
        port=port,
        pid=container.pid,
        container=container.name,
        restarts=container.restarts,
        started=container.started,
    )


def number(container: Container) -> int:
    """Return its number among those of its service, from 1."""
    return int(container.labels.get("com.docker.compose.container-number", "1"))


def shown_name(container: Container) -> str:
    """Return the name that pipectl shows: each of Celery's workers has one."""
    return f"worker-{number(container)}" if container.service == "worker" else container.service
