"""Names and ports that projects have chosen, kept from each other.

Two `up` that begin in the same second find the same port free, since its server listens seconds later. A
claim is a name that only one process of the machine can have (Linux), and a lock on a file in the per-user
cache: both end with the process at the latest, and none is stale. The port of a stack that runs stays claimed
while its supervisor lives, so that a service that is started again finds it free: the file then says who that
is.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LONGEST_CLAIM = 4096
NAMESPACE = "pipectl"


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
        self._held: dict[str, tuple[socket.socket, int | None]] = {}

    def take(self, what: str) -> bool:
        """Claim `what`; False if another process has it, or the stack of another project that runs.

        If the folder cannot be written, the name alone is claimed: a file is a precaution only.
        """
        if what in self._held:
            return True
        name = _name_on_this_machine(what)
        if name is None:
            return False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = lock_file(self._folder / what)
        except OSError:
            self._held[what] = name, None
            return True
        self._held[what] = name, descriptor
        if descriptor is None or self._is_kept(descriptor):
            self._release(what)
            return False
        return True

    def keep(self, names: Iterable[str], pid: int) -> None:
        """Let claims last while the process `pid` lives, beyond the end of this command."""
        from pipectl.engines.local.processes import started  # noqa: PLC0415  36 ms

        for what in names:
            if self.take(what) and (descriptor := self._held[what][1]) is not None:
                text = f"{pid} {started(pid)} {self._owner}".encode(errors="surrogateescape")
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, text[:LONGEST_CLAIM], 0)

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
        for what in list(self._held):
            self._release(what)

    def _release(self, what: str) -> None:
        name, descriptor = self._held.pop(what)
        name.close()
        if descriptor is not None:
            os.close(descriptor)


def _name_on_this_machine(what: str) -> socket.socket | None:
    """Return a socket with a name that no other process has, whoever's it is; None if one has it."""
    name = socket.socket(socket.AF_UNIX)
    if sys.platform == "linux":
        try:
            # Without a file: the name is that of this network, as ports are.
            name.bind(f"\0{NAMESPACE}-{what}")
        except OSError:
            name.close()
            return None
    return name
