"""Names and ports that projects of this user have chosen, kept from each other.

Two `up` that begin in the same second find the same port free, since its server listens seconds later. A
claim is a lock on a file in the per-user cache, so it ends with the process at the latest and none is stale.
The port of a stack that runs stays claimed while its supervisor lives, so that a service that is started
again finds it free: the file then says who that is.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LONGEST_CLAIM = 4096


def lock_file(path: Path) -> int | None:
    """Lock a file, made if it is missing, until the returned descriptor is closed.

    None if another process holds it. Raises OSError if the file cannot be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


class Claims(AbstractContextManager["Claims"]):
    """What one command has claimed for the stack of `owner`; released at the end of the block."""

    def __init__(self, cache_dir: Path, owner: str = "") -> None:
        self._folder = cache_dir / "claims"
        self._owner = owner
        self._held: dict[str, int] = {}

    def take(self, what: str) -> bool:
        """Claim `what`; False if another process has it, or the stack of another project that runs.

        If the folder cannot be written, nothing is claimed and the answer is True: a precaution only.
        """
        if what in self._held:
            return True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = lock_file(self._folder / what)
        except OSError:
            return True
        if descriptor is None:
            return False
        if self._is_kept(descriptor):
            os.close(descriptor)
            return False
        self._held[what] = descriptor
        return True

    def keep(self, names: Iterable[str], pid: int) -> None:
        """Let claims last while the process `pid` lives, beyond the end of this command."""
        from pipectl.engines.local.processes import started  # noqa: PLC0415  36 ms

        for what in names:
            if self.take(what):
                text = f"{pid} {started(pid)} {self._owner}".encode(errors="surrogateescape")
                os.ftruncate(self._held[what], 0)
                os.pwrite(self._held[what], text[:LONGEST_CLAIM], 0)

    def _is_kept(self, descriptor: int) -> bool:
        """Whether the stack of another project keeps what this file stands for."""
        text = os.pread(descriptor, LONGEST_CLAIM, 0).decode(errors="surrogateescape")
        pid, _, rest = text.partition(" ")
        start, _, owner = rest.partition(" ")
        if not pid.isdecimal() or owner == self._owner:
            return False
        from pipectl.engines.local.processes import started  # noqa: PLC0415  36 ms

        return bool(start) and start == started(int(pid))

    def __exit__(self, *_: object) -> None:
        """Release everything."""
        while self._held:
            os.close(self._held.popitem()[1])
