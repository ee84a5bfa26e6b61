"""Free ports of this machine's loopback address."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from pipectl.errors import EngineError
from pipectl.settings import PORT_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipectl.engines.claims import Claims
    from pipectl.settings import Settings

LARGEST_PORT = 65535
# How far from the wanted port another one is looked for.
REACH = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        # As servers do: connections of an earlier server that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def next_free(wanted: int, taken: set[int], claims: Claims) -> int:
    """Claim the first free port from `wanted` up that is not in `taken`; EngineError where none is."""
    for port in range(wanted, min(wanted + REACH, LARGEST_PORT) + 1):
        # Claimed before it is looked at: one that another command has just let go of is in use by now.
        if port not in taken and claims.take(f"port-{port}") and is_free(port):
            return port
    raise EngineError(
        f"No port from {wanted} to {wanted + REACH} is free on 127.0.0.1.",
        hint="Choose others in stack/.env (AIRFLOW_PORT, AIRBYTE_POSTGRES_PORT, AIRBYTE_MYSQL_PORT).",
    )


def choose(
    settings: Settings, names: tuple[str, ...], running: Collection[str], claims: Claims
) -> dict[str, tuple[int, int]]:
    """Find ports for those of the listening services `names` that do not run, where theirs are taken.

    Returns (wanted, free instead) for each that has to move; `claims` keeps all of them until their servers
    listen. Raises EngineError where no port is near.
    """
    taken = {settings.port(name) for name in names if name in running}
    moved = {}
    for name in names:
        if name in running:
            continue
        wanted = settings.port(name)
        port = next_free(wanted, taken, claims)
        taken.add(port)
        if port != wanted:
            moved[name] = (wanted, port)
    return moved


def changes(moved: dict[str, tuple[int, int]]) -> dict[str, str]:
    """The variables of stack/.env that remember moved ports."""
    return {PORT_VARIABLES[name][0]: str(port) for name, (_, port) in moved.items()}
