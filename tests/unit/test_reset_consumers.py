"""reset --data-only --propagate: refused if a reader cannot follow, and asked for by its whole name."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from pipectl.commands import reset
from pipectl.console import Console
from pipectl.databases import Databases
from pipectl.errors import UsageError
from pipectl.invocation import Invocation
from pipectl.pipeline.consumers import Consumers, Slot, require_following


def slot(wal_status: str) -> Slot:
    return Slot("airbyte_slot", active=False, wal_status=wal_status, lag_bytes=1, limit_bytes=2, room_bytes=1)


def test_a_reader_whose_slot_is_lost_cannot_follow() -> None:
    require_following(Consumers((slot("reserved"), slot("unreserved"))))
    with pytest.raises(UsageError, match=r"airbyte_slot is lost.*nothing was deleted") as caught:
        require_following(Consumers((slot("reserved"), slot("lost"))))
    assert "pipectl connections --drop-slot" in (caught.value.hint or "")


@pytest.mark.parametrize("propagate", [False, True])
def test_what_agrees_beforehand_is_the_command_that_was_typed(
    monkeypatch: pytest.MonkeyPatch, *, propagate: bool
) -> None:
    asked: list[str] = []
    databases = Databases(Mock(), Mock())

    def consumers(_: Invocation, looked_at: Databases) -> Consumers:
        assert looked_at is databases
        return Consumers()

    def confirm(_: object, __: str, command: str, *, yes: bool) -> None:
        assert not yes
        asked.append(command)
        raise UsageError("Nothing was deleted.")

    monkeypatch.setattr(reset, "confirm", confirm)
    monkeypatch.setattr(reset, "_consumers", consumers)
    monkeypatch.setattr("pipectl.pipeline.access.own_databases", lambda _: databases)
    with pytest.raises(UsageError):
        reset._reset_data(Invocation(Console(), None, "local"), propagate=propagate, dry_run=False, yes=False)
    assert asked == ["reset --data-only --propagate" if propagate else "reset --data-only"]
