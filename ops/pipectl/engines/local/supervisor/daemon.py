"""Run supervisord, with two changes: `python -m pipectl.engines.local.supervisor.daemon -c FILE`.

It has a poller that forgets, and adopts processes that another of its processes has forked.

supervisord 4.3.0 registers descriptors with poll() by number, and leaves them registered after they are
closed. If the number is used again in the same pass, for the standard input of a program that closes it,
poll() reports an error (POLLERR) that nobody handles, at once and for ever: supervisord then uses a whole
core until it ends. Its main loop registers every descriptor again in each pass, so nothing is lost by
forgetting them after it.

A program may end in favour of a fork of another one (start_program.py says how, and why). Such a fork has
lost its parent, so it becomes supervisord's child if supervisord asks Linux for that; it is then kept
running, stopped and logged as if supervisord had started it.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipectl import json_text
from pipectl.engines.local.supervisor.start_program import ADOPT, ADOPTS

SET_CHILD_SUBREAPER = 36


def use_forgetting_poller() -> None:
    """Replace the poller that supervisord uses on Linux; kqueue, on macOS, forgets closed descriptors."""
    poller: Any = importlib.import_module("supervisor.poller")
    if poller.Poller is poller.PollPoller:
        poller.Poller = forgetting_poller(poller.PollPoller)


def forgetting_poller(base: Any) -> Any:  # noqa: ANN401  supervisor has no types
    """Return a subclass of supervisor's PollPoller whose registrations end with each poll."""

    class ForgettingPoller(base):  # type: ignore[misc]
        def poll(self, timeout: float) -> tuple[list[int], list[int]]:
            try:
                readable, writable = super().poll(timeout)
            finally:
                self._poller = select.poll()
                self.readables.clear()
                self.writables.clear()
            return readable, writable

        def unregister_readable(self, descriptor: int) -> None:
            self.readables.discard(descriptor)

        def unregister_writable(self, descriptor: int) -> None:
            self.writables.discard(descriptor)

    return ForgettingPoller


def adopt_forks() -> None:
    """Let supervisord adopt what its programs have forked, on Linux."""
    process: Any = importlib.import_module("supervisor.process")
    if sys.platform == "linux":
        process.Subprocess = adopting(process.Subprocess)


def adopting(base: Any) -> Any:  # noqa: ANN401  supervisor has no types
    """Return a subclass of supervisor's Subprocess that goes on with the fork in whose favour it ends."""

    class Adopting(base):  # type: ignore[misc]
        def spawn(self) -> Any:  # noqa: ANN401  supervisor's own
            if become_parent_of_orphans():
                os.environ[ADOPTS] = "1"
            return super().spawn()

        def finish(self, pid: int, status: int) -> Any:  # noqa: ANN401  as above
            fork = self._fork(pid) if os.WIFEXITED(status) and os.WEXITSTATUS(status) == ADOPT else 0
            if not fork:
                return super().finish(pid, status)
            if self.killing:
                # It was told to end in the moment of the change.
                with suppress(OSError):
                    os.kill(fork, signal.SIGKILL)
                return super().finish(pid, status)
            sentence = f"adopted: {self.config.name!r} with pid {fork}"
            self.config.options.logger.info(sentence)
            self.config.options.pidhistory[fork] = self
            self.pid = fork
            return None

        def _fork(self, pid: int) -> int:
            """Return the process that start_program.py has noted in place of its own; 0 if it has ended."""
            known = json_text.read_object(Path(f"{self.config.name}.started")).get("pid")
            try:
                if isinstance(known, int) and known != pid and os.getsid(known) == os.getsid(0):
                    return known
            except OSError:
                pass
            return 0

    return Adopting


def become_parent_of_orphans() -> bool:
    """Get processes whose parent has ended, if this process or one that it started had started that."""
    import ctypes  # noqa: PLC0415  not where supervisord's poller alone is tested

    try:
        return bool(ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


if __name__ == "__main__":
    use_forgetting_poller()
    adopt_forks()
    importlib.import_module("supervisor.supervisord").main()
