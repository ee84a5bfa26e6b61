"""The first answer of a server that is being started, for the benchmarks of both engines."""

from __future__ import annotations

import threading
import time

from support.rest_client import RestClient
from support.waiting import until


class FirstAnswer:
    """When a server that is being started answers for the first time."""

    def __init__(self, url: str, seconds: float) -> None:
        self._client, self._seconds, self._answered = RestClient(url), seconds, 0.0
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        until(self._client.answers, "a first answer", self._seconds)
        self._answered = time.monotonic()

    @property
    def answered(self) -> float:
        """The time by time.monotonic."""
        self._thread.join()
        return self._answered
