"""What a load tells of its progress, kept for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipectl.observer import Observer

if TYPE_CHECKING:
    from pipectl.models import LoadProgress


class LoadObserver(Observer):
    """Keeps all progress in `seen` and all sentences in `said`, in order."""

    def __init__(self) -> None:
        self.seen: list[LoadProgress] = []
        self.said: list[str] = []

    def report(self, sentence: str) -> None:
        self.said.append(sentence)

    def see_load(self, progress: LoadProgress) -> None:
        self.seen.append(progress)
