"""Who lives, told by the metadata database: who holds a lock there for as long as it lives.

A killed process lets go of its connection at once, and a machine that is switched off within half a minute.
One that is stopped for a while, with its container or its machine, keeps it, however old its heartbeat is.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Connect = Callable[[], Any]

# A number that tells these locks from those of others.
KIND = 70_656
AGAIN_SECONDS = 1.0
# How soon the server believes that a silent machine is gone: 10 + 3 * 5 s.
KEEPALIVES = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
HOLD = "SELECT pg_advisory_lock(%s, hashtext(%s))"
TRY = "SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))"


def hold(connect: Connect, name: str) -> None:
    """Hold the lock `name` from now on, in a thread; anew after a restart of the database."""
    threading.Thread(target=_hold, args=(connect, name), daemon=True).start()


def _hold(connect: Connect, name: str) -> None:
    held: list[int] = []
    os.register_at_fork(after_in_child=lambda: _leave_to_the_parent(held))
    while True:
        # Any failure is one of the connection, and ends with a new one.
        with contextlib.suppress(Exception), contextlib.closing(connect()) as connection:
            connection.autocommit = True
            held.append(connection.fileno())
            try:
                with connection.cursor() as cursor:
                    cursor.execute(KEEPALIVES)
                    cursor.execute(HOLD, (KIND, name))
                # It can be read from once the server has closed it.
                select.select([connection], [], [])
            finally:
                held.clear()
        time.sleep(AGAIN_SECONDS)


def _leave_to_the_parent(held: list[int]) -> None:
    """Let go of the connection in a forked process, which may live longer."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in held:
        os.dup2(null, descriptor, inheritable=False)
    os.close(null)


def is_held(connect: Connect, name: str) -> bool:
    """Whether a living process holds the lock `name`. Raises what the driver raises."""
    with contextlib.closing(connect()) as connection, connection.cursor() as cursor:
        cursor.execute(TRY, (KIND, name))
        return not cursor.fetchone()[0]
