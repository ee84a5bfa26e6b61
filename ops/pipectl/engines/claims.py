"""Names and ports that a command has chosen and nothing uses yet, kept from other projects of this user.

Two `up` that begin in the same second find the same port free, since its server listens seconds later. A
claim is a lock on a file in the per-user cache, so it ends with the process at the latest and none is stale.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


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
    """What one command has claimed; released at the end of the block."""

    def __init__(self, cache_dir: Path) -> None:
        self._folder = cache_dir / "claims"
        self._held: dict[str, int] = {}

    def take(self, what: str) -> bool:
        """Claim `what`; False if another process has it.

        If the folder cannot be written, nothing is claimed and the answer is True: a precaution only.
        """
        if what in self._held:
            return True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = lock_file(self._folder / what)
        except OSError:
            return True
        if descriptor is not None:
            self._held[what] = descriptor
        return descriptor is not None

    def __exit__(self, *_: object) -> None:
        """Release everything."""
        while self._held:
            os.close(self._held.popitem()[1])
