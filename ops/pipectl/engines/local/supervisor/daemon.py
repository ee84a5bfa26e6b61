"""Run supervisord with a poller that forgets: `python -m pipectl.engines.local.supervisor.daemon -c FILE`.

supervisord 4.3.0 registers descriptors with poll() by number, and leaves them registered after they are
closed. If the number is used again in the same pass, for the standard input of a program that closes it,
poll() reports an error (POLLERR) that nobody handles, at once and for ever: supervisord then uses a whole
core until it ends. Its main loop registers every descriptor again in each pass, so nothing is lost by
forgetting them after it.
"""

from __future__ import annotations

import importlib
import select
from typing import Any


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


if __name__ == "__main__":
    use_forgetting_poller()
    importlib.import_module("supervisor.supervisord").main()
