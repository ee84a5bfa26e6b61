"""Whether this machine has more to do than it can: what is late then need not be broken."""

from __future__ import annotations

import os

from pipectl.names import counted

# Heartbeats came 10 s and more late at 15 to 30 on 2 cores.
MOST_PER_CORE = 4
# So old a heartbeat may be there: at a load of 27, a process that was well gave them 11 to 40 s apart.
LATE_SECONDS = 60


def overload() -> str:
    """Return the machine's load of the last minute in words; empty if it is not overloaded."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return (
        f"this machine has a load of {load:.0f} on {counted(cores, 'core')}"
        if load > MOST_PER_CORE * cores
        else ""
    )
