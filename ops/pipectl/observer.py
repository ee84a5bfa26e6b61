"""Who is told what a command is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Protocol

    from pipectl.models import DagRun, LoadProgress, ParsedDag, Service, TaskLogLine, TaskState

    class Show(Protocol):
        """Observer.see_progress."""

        def __call__(self, subject: str, progress: str, *, milestone: bool) -> None:
            """Show how far a step is."""


class Observer:
    """Is told what engines and pipeline do, and shows nothing of it; commands override what they show."""

    def report(self, sentence: str) -> None:
        """A step begins."""

    def see_wait(self, sentence: str) -> None:
        """What the command waits for from now on: to be told if it lasts."""

    def see_progress(self, subject: str, progress: str, *, milestone: bool) -> None:
        """How far a step is: `progress` replaces what was said of `subject` before; milestones are few."""

    def see_services(self, services: tuple[Service, ...]) -> None:
        """The services as they are now, at every look at them."""

    def see_unpaused(self, dag: ParsedDag) -> None:
        """A DAG has been unpaused; `dag` is as it was before."""

    def see_triggered(self, run: DagRun) -> None:
        """A run has been triggered."""

    def see_run(self, run: DagRun, tasks: tuple[TaskState, ...], behind: DagRun | None) -> None:
        """A run and its tasks as they are now; `behind` is the run that must end before it starts."""

    def see_log(self, line: TaskLogLine) -> None:
        """A line that a task has written."""

    def see_failed_try(self, task: TaskState, reason: str, due: datetime | None) -> None:
        """A try has failed, and another follows, not before `due`; `reason` may be empty."""

    def see_load(self, progress: LoadProgress) -> None:
        """How far a phase of a load is."""
