"""reset --data-only --propagate: refused if a reader cannot follow, and asked for by its whole name."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from pipectl.commands import reset
from pipectl.console import Console
from pipectl.databases import Databases
from pipectl.errors import UsageError
from pipectl.invocation import Invocation
from pipectl.pipeline.consumers import (
    DELETE_BYTES,
    RESERVE_BYTES,
    VACUUM_BYTES,
    Consumers,
    Slot,
    require_following,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipectl.databases import Ask

ROWS, IDENTITIES, PAGES = 1_000_000, 32_000_000, 120_000_000
WRITTEN = ROWS * (DELETE_BYTES + 3 * VACUUM_BYTES) + IDENTITIES + PAGES


class OneTable:
    """A database that publishes one table, of ROWS rows."""

    @contextmanager
    def ask_postgres(self) -> Iterator[Ask]:
        def ask(statement: str, *_: object) -> list[tuple[Any, ...]]:
            if "pg_publication_tables" in statement:
                return [("transactions", PAGES, 3, "ROW(deleted.transaction_id)")]
            assert "pg_column_size(ROW(deleted.transaction_id))" in statement
            return [(ROWS, IDENTITIES)]

        yield ask


def slot(wal_status: str, room: int | None = None, name: str = "airbyte_slot") -> Slot:
    return Slot(name, False, wal_status, lag_bytes=20 << 20, limit_bytes=None, room_bytes=room)


def follow(*slots: Slot) -> None:
    database: Any = OneTable()
    require_following(Consumers(slots), database)


def test_a_reader_whose_slot_is_lost_cannot_follow() -> None:
    follow(slot("reserved"), slot("unreserved"))
    with pytest.raises(UsageError, match=r"airbyte_slot is lost.*nothing was deleted") as caught:
        follow(slot("reserved"), slot("lost"))
    assert "pipectl connections --drop-slot" in (caught.value.hint or "")


def test_a_slot_that_the_deletions_would_cut_off_is_named_with_figures_and_what_would_do() -> None:
    follow(slot("reserved", WRITTEN + RESERVE_BYTES))
    with pytest.raises(UsageError) as caught:
        follow(slot("reserved", WRITTEN + RESERVE_BYTES - 1), slot("unreserved", -5, "theirs"))
    assert caught.value.message == (
        "The deletions write 262.0 MB of PostgreSQL's log, more than it keeps for the replication slots "
        "airbyte_slot (329.1 MB left) and theirs (0 bytes left): their readers would lose changes. "
        "Nothing was deleted."
    )
    assert "max_slot_wal_keep_size = 334MB among the server's options" in caught.value.hint
    assert "without --propagate" in caught.value.hint


@pytest.mark.parametrize("dry_run", [False, True])
def test_it_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch, *, dry_run: bool) -> None:
    monkeypatch.setattr(reset, "_consumers", lambda *_: Consumers((slot("reserved", 1),)))
    monkeypatch.setattr("pipectl.pipeline.access.own_databases", lambda _: OneTable())
    with pytest.raises(UsageError, match=r"The deletions write 262\.0 MB"):
        reset._reset_data(Invocation(Console(), None, "local"), propagate=True, dry_run=dry_run, yes=True)


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
    monkeypatch.setattr("pipectl.pipeline.consumers.binlog_loss", lambda _: "")
    with pytest.raises(UsageError):
        reset._reset_data(Invocation(Console(), None, "local"), propagate=propagate, dry_run=False, yes=False)
    assert asked == ["reset --data-only --propagate" if propagate else "reset --data-only"]
