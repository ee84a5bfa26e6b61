"""Read the logs that the supervisor writes and rotates."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pipectl import ordinary
from pipectl.engines.local.supervisor.supervisor import tail as end_of
from pipectl.models import LogLine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLL_SECONDS = 0.2


def read(paths: dict[str, Path], *, tail: int, follow: bool) -> Iterator[LogLine]:
    """Yield the last `tail` lines of each service's log, then new ones while `follow` is set."""
    followers = {service: Follower(path) for service, path in paths.items()} if follow else {}
    for service, path in paths.items():
        for text in end_of(path, tail).splitlines() if tail else ():
            yield LogLine(service, text)
    while follow:
        quiet = True
        for service, follower in followers.items():
            for text in follower.new_lines():
                quiet = False
                yield LogLine(service, text)
        if quiet:
            time.sleep(POLL_SECONDS)


class Follower:
    """What is appended to a log from now on, also across its rotation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest = b""
        self._inode, self._position = self._look()

    def _look(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_ino, status.st_size

    def new_lines(self) -> list[str]:
        """Return the whole lines that have come since the last call."""
        try:
            with ordinary.opened(self._path) as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._position:
                    self._inode, self._position = status.st_ino, 0
                file.seek(self._position)
                data = file.read()
        except OSError:
            return []
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]
