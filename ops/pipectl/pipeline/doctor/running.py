"""Checks of the engine, its ports and its services."""

from __future__ import annotations

from contextlib import suppress

from pipectl.engines.ports import is_free
from pipectl.errors import PipectlError
from pipectl.names import counted
from pipectl.pipeline.access import DOWN, LEFT
from pipectl.pipeline.doctor.checks import UP, Desk, Finding, NotNowError, bad, check, fine, of_error
from pipectl.services import HEALTHY, WAITING


@check("engine", brief=True)
def engine(desk: Desk) -> Finding:
    """The engine answers, and its version is one that the stack runs on."""
    try:
        return fine(desk.engine.about())
    except PipectlError as error:
        return of_error(error)


@check("compose", brief=True)
def compose(desk: Desk) -> Finding:
    """The docker command has a Compose plugin of a version that the stack needs."""
    try:
        version = desk.engine.compose_version()
    except PipectlError as error:
        # Of an engine that does not answer its own check tells.
        with suppress(PipectlError):
            desk.engine.about()
            return of_error(error)
        raise NotNowError("it cannot be asked: see engine") from error
    if not version:
        raise NotNowError(f"the {desk.engine.name} engine does without it")
    return fine(version)


@check("ports", brief=True)
def ports(desk: Desk) -> Finding:
    """Each service has its port, or could have it."""
    running = {service.name for service in desk.services if service.state == "running"}
    numbers, held, own = desk.engine.ports(), [], []
    for service, port in numbers.items():
        if service not in running and is_free(port):
            continue
        if desk.engine.holds(service, port):
            if service not in running:
                own.append(f"port {port} of {service} is held by a process {LEFT}")
        # A server that has just been started listens soon.
        elif who := desk.engine.stranger(port):
            held.append(f"port {port} of {service} is held by {who}")
    if held and not own and not desk.is_running and not desk.engine.volumes():
        return fine(f"{'; '.join(held)}: the first pipectl up takes the next one that is free")
    if held or own:
        return bad("; ".join(held + own), UP)
    differing = desk.engine.differing_ports()
    for service, (named, used) in differing.items():
        return bad(f"{service} runs on port {used}, and the settings name {named}", UP)
    return fine(", ".join(f"{service} {port}" for service, port in numbers.items()))


@check("services")
def services(desk: Desk) -> Finding:
    """Every service runs."""
    desk.require()
    down = [service for service in desk.services if service.state in DOWN]
    if down:
        return bad(", ".join(f"{service.name} is {service.state}" for service in down), UP)
    late = [service for service in desk.services if service.health not in {"", HEALTHY, WAITING}]
    found = f"{counted(len(desk.services), 'service')} run"
    return fine(found + (f"; starting: {', '.join(service.name for service in late)}" if late else ""))
