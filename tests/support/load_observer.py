"""What a load tells of its progress, kept for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipectl.observer import Observer

if TYPE_CHECKING:
    from pipectl.models import LoadProgress


class LoadObserver(Observer):
    """Keeps all progress in `seen`, and all sentences in `reports`, in order."""

    def __init__(self) -> None:
        self.seen: list[LoadProgress] = []
        self.reports: list[str] = []

    def see_load(self, progress: LoadProgress) -> None:
        self.seen.append(progress)

    def report(self, sentence: str) -> None:
        self.reports.append(sentence)
