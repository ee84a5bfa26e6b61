"""Free ports of this machine's loopback address."""

from __future__ import annotations

import errno
import socket
import time
from typing import TYPE_CHECKING

from pipectl import services
from pipectl.errors import EngineError
from pipectl.wait import attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pipectl.engines.claims import Claims
    from pipectl.settings import Settings

LARGEST_PORT = 65535
# How far from the wanted port another one is looked for.
REACH = 200
# How long a service that is told to end may keep its port.
OWN_PORT_SECONDS = 10


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        # Servers set this too: connections of an earlier server in TIME_WAIT do not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def next_free(wanted: int, taken: set[int], claims: Claims, freed: Collection[int] = ()) -> int:
    """Claim the first free port from `wanted` up that is not in `taken`; EngineError if there is none.

    Those in `freed` count as free.
    """
    for port in range(wanted, min(wanted + REACH, LARGEST_PORT) + 1):
        # Claimed first, then looked at: if another command has just released it, its server listens by now.
        if port not in taken and claims.take(f"port-{port}") and (port in freed or is_free(port)):
            return port
    variables = [service.port_variable for service in services.SERVICES if service.default_port]
    raise EngineError(
        f"No port from {wanted} to {wanted + REACH} is free on 127.0.0.1.",
        hint=f"Choose others in stack/.env ({', '.join(variables)}).",
    )


def _comes_free(
    port: int,
    claims: Claims,
    freed: Collection[int],
    is_anothers: Callable[[int], bool | None],
    *,
    is_own: bool,
) -> bool:
    """Claim a port that this project had, as soon as its own process lets it go; False for another's.

    One that never lets it go keeps it: the service that needs it then says what is wrong.
    """
    is_ours = False
    for _ in attempts(time.monotonic() + OWN_PORT_SECONDS):
        is_claimed = claims.take(f"port-{port}")
        if is_claimed and (port in freed or is_free(port)):
            return True
        whose = is_anothers(port) if is_claimed else None
        is_ours = whose is False
        if whose or not (is_ours or is_own):
            return False
    return is_ours


def choose(
    settings: Settings,
    names: tuple[str, ...],
    running: Collection[str],
    claims: Claims,
    reserved: Collection[int] = (),
    freed: Collection[int] = (),
    is_anothers: Callable[[int], bool | None] = lambda _: True,
    restarting: Collection[str] = (),
) -> dict[str, tuple[int, int]]:
    """Claim a port for each of the listening services `names` that does not run.

    Those of containers, which `reserved` holds, are left to them even while they restart; `freed` are those
    that this project's services would give back. A service whose port this project's own process still has
    waits for it; one of `restarting`, which ran a moment ago, also unless the port `is_anothers`, None for
    nobody seen. Returns (wanted, free instead) for each service whose
    wanted port is taken; `claims` keeps all ports until their servers listen. Raises EngineError
    if no port is near.
    """
    taken = {settings.port(name) for name in names if name in running} | set(reserved)
    moved = {}
    for name in names:
        wanted = settings.port(name)
        if name in running:
            # Kept from others while it is started again: nobody listens then.
            claims.take(f"port-{wanted}")
            continue
        if wanted not in taken and _comes_free(wanted, claims, freed, is_anothers, is_own=name in restarting):
            port = wanted
        else:
            port = next_free(wanted, taken, claims, freed)
        taken.add(port)
        if port != wanted:
            moved[name] = (wanted, port)
    return moved


def changes(moved: dict[str, tuple[int, int]]) -> dict[str, str]:
    """The variables of stack/.env that remember moved ports."""
    return {services.get(name).port_variable: str(port) for name, (_, port) in moved.items()}
