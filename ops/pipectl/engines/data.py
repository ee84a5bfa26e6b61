"""What snapshots need of an engine: the data of all databases is copied, and exchanged with a copy."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, NamedTuple

from pipectl.errors import EngineError, UsageError
from pipectl.wait import until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipectl.engines.base import Engine
    from pipectl.models import Volume

Beside = Literal["", "copy", "before"]
DROP_SECONDS = 10


class Interrupted(NamedTuple):
    """What is said of a restore that was killed: in short before `up`, and in sentences after it."""

    before_up: str
    after_up: tuple[str, ...]


def _interrupted(when: str, whose: str, until_up: str, after_up: str, *more: str) -> Interrupted:
    short = f"a restore was interrupted {when} its data was in place: all data is that of {whose}"
    return Interrupted(f"{short}{until_up}", (f"A{short[1:]}{after_up}.", *more))


# By what it has left beside the databases' data.
INTERRUPTED: dict[Beside, Interrupted] = {
    "copy": _interrupted("before", "before", "", ""),
    "before": _interrupted(
        "once",
        "the snapshot",
        ", and that of before is kept until the stack is healthy with it",
        ", and stays so",
        "Ids that were given after the snapshot may be given again, and its replication slots be there.",
    ),
}


class Data(ABC):
    """The data of all databases of a project. Every method may raise EngineError."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @abstractmethod
    def volumes(self) -> tuple[Volume, ...]:
        """Those of the engine's volumes that hold it."""

    @abstractmethod
    def copy_to(self, folder: Path) -> None:
        """Copy it to a new folder. No database may run."""

    @abstractmethod
    def slots_in(self, folder: Path) -> tuple[str, ...]:
        """Return the replication slots that are in a copy; UsageError if it is none of this engine's data."""

    @abstractmethod
    def lay_beside(self, folder: Path | None, settings: Mapping[str, str]) -> None:
        """Copy data from a folder beside that of the databases, which may run; None for new, empty databases.

        `settings` are those of stack/.env that it was made with.
        """

    @abstractmethod
    def exchange(self) -> None:
        """Exchange the databases' data and what lies beside it, with the settings of both, in one step.

        No database may run.
        """

    @abstractmethod
    def beside(self) -> Beside:
        """What a restore has left beside the databases' data: a copy, whole or not, or the data of before."""

    def drop_beside(self) -> None:
        """Delete what lies beside the databases' data.

        A copy that a killed command has begun may go on there until it finds its folder gone.
        """

        def is_dropped() -> bool:
            try:
                self._drop_beside()
            except EngineError:
                return False
            return True

        if not until(is_dropped, DROP_SECONDS):
            self._drop_beside()

    @abstractmethod
    def _drop_beside(self) -> None:
        """Delete it; EngineError if something is at work there."""

    def interrupted(self) -> Interrupted | None:
        """What is to say of a restore that was killed."""
        return INTERRUPTED.get(self.beside())

    def _changes_for(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return what must change in stack/.env so that data which was made with `settings` can be used.

        Raises UsageError for what only the user can change.
        """
        of_project = self._engine.settings
        now = of_project.of_data
        changes = {name: value for name, value in settings.items() if value and value != now.get(name)}
        for name, value in changes.items():
            if name in of_project.from_environment:
                raise UsageError(
                    f"The snapshot was made with another {name}, and the environment sets this one.",
                    hint=f"Remove it: unset {name}",
                )
            if not re.fullmatch(r"[^\s'\"$\\#`]+", value) or not value.isprintable():
                raise UsageError(
                    f"The snapshot was made with another {name}, which stack/.env must name again.",
                    hint=f"Set {name} to what settings.json in the snapshot's folder says.",
                )
        return changes
