"""Give each transaction exactly one label, whatever happened to either, by detection_generator.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipectl.pipeline.loading import HistoryLoader

if TYPE_CHECKING:
    from pipectl.models import Reconciliation
    from pipectl.pipeline.verification import Verification


@dataclass(frozen=True)
class RepairPlan:
    """What `verify-db --repair` would do: to labels that are missing, orphaned, or of an earlier transaction.

    `set_aside` are transactions with an id below 0, which no label can have; `dangling` ones name a customer
    or terminal without a row, which is written if the seed's world has it.
    """

    would_write: int
    would_remove: int
    would_replace: int
    set_aside: int
    dangling: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be repaired."""
        return not (self.would_write or self.deletes or self.dangling)

    @property
    def deletes(self) -> bool:
        """Whether labels are deleted."""
        return bool(self.would_remove or self.would_replace)


@dataclass(frozen=True)
class Repair:
    """What `verify-db --repair` did, in labels, and how the data is now.

    `dimensions` are rows of customers and terminals that were written.
    """

    written: int
    removed: int
    replaced: int
    verification: Verification
    dimensions: int = 0


@dataclass(frozen=True)
class Repaired:
    """Labels that were written, removed and replaced, and customers and terminals that were written."""

    written: int = 0
    removed: int = 0
    replaced: int = 0
    dimensions: int = 0


def plan(found: Verification | Reconciliation) -> RepairPlan:
    """Return what is to be repaired."""
    set_aside = found.causes.set_aside
    return RepairPlan(found.unlabelled - set_aside, found.orphans, found.older, set_aside, found.dangling)


class Repairer(HistoryLoader):
    """Runs the script against two databases. Raises DatabaseError, UsageError and PipectlError."""

    script = "scripts/detection_generator.py"

    def repair(self) -> Repaired:
        """Compare all ids, write what is missing, and remove and replace labels of other transactions."""
        [done] = self._run(("--repair",))
        return Repaired(*(int(done[name]) for name in ("missing", "orphans", "older", "dimensions")))
