"""Command lines of processes, some of which may end while they are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable


def command_lines(processes: Iterable[psutil.Process]) -> dict[int, list[str]]:
    """Return the words of each process that is still there, by its id."""
    found = {}
    for process in processes:
        try:
            found[process.pid] = process.cmdline()
        except psutil.Error:
            continue
    return found
