"""Whether this machine has more to do than it can: what is late then need not be broken."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from pipectl.names import counted

# Heartbeats came 10 s and more late at 15 to 30 on 2 cores.
MOST_PER_CORE = 4
# So old a heartbeat may be there: at loads of 27 to 34 those of a process that was well were 11 to 37 s old.
LATE_SECONDS = 60


def overload() -> str:
    """Return the machine's load of the last minute in words; empty if it is not overloaded."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return (
        f"this machine has a load of {load:.0f} on {counted(cores, 'core')}"
        if load > MOST_PER_CORE * cores
        else ""
    )


def is_merely_late(beat: datetime) -> bool:
    """Whether a heartbeat that is missed is late because of the machine's load."""
    return (datetime.now(UTC) - beat).total_seconds() < LATE_SECONDS and bool(overload())
