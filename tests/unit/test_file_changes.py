"""When a DAG processor at rest has work."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

import file_changes

if TYPE_CHECKING:
    from pathlib import Path


class Manager:
    """What the rest sees of Airflow's DAG processor; each heartbeat lets `happens` happen."""

    def __init__(self, folder: Path, happens: Any = None) -> None:
        self._dag_bundles = [SimpleNamespace(path=folder)]
        self._processors = self._file_queue = self._force_refresh_bundles = ()
        self._file_stats: dict[str, Any] = {}
        self._file_process_interval = 30
        self.happens = happens
        self.heartbeats = 0

    def heartbeat(self) -> None:
        self.heartbeats += 1
        if self.happens:
            self.happens()


class Database:
    """Nobody asks for a file to be parsed, or each answer of `answers` in turn."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def cursor(self) -> Database:
        return self

    def execute(self, statement: str) -> None:
        assert statement == file_changes.REQUESTED

    def fetchone(self) -> tuple[bool]:
        return (self.answers.pop(0) if self.answers else False,)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which only sleeping takes time."""
    now = [0.0]
    monkeypatch.setattr(
        file_changes,
        "time",
        SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds)),
    )


def test_it_rests_until_the_longest_time_is_over_and_beats(tmp_path: Path) -> None:
    rest, manager = file_changes.Rest(Database), Manager(tmp_path)
    assert rest.until_work(manager)  # what it sees is new
    assert not rest.until_work(manager)
    assert manager.heartbeats == file_changes.LONGEST_SECONDS


@pytest.mark.parametrize("change", ["new", "changed", "deleted", "ignored", "below"])
def test_a_change_ends_the_rest_at_the_next_look(tmp_path: Path, change: str) -> None:
    (tmp_path / "folder").mkdir()
    old = tmp_path / "old.py"
    old.write_text("1")
    changes = {
        "new": (tmp_path / "new.py").touch,
        "changed": lambda: old.write_text("22"),
        "deleted": old.unlink,
        "ignored": (tmp_path / ".airflowignore").touch,
        "below": (tmp_path / "folder" / "new.py").touch,
    }
    rest, manager = file_changes.Rest(Database), Manager(tmp_path, changes[change])
    rest.until_work(manager)
    assert rest.until_work(manager)
    assert manager.heartbeats == 1


@pytest.mark.parametrize(
    ("ages", "seconds"),
    [((), 30), ((1.0, 12.0, 29.0), 29), ((31.0, 40.0), 0), ((1.0, None), 0)],
    ids=["no file", "all at once", "due", "never parsed"],
)
def test_files_that_have_not_changed_are_parsed_together(
    tmp_path: Path, ages: tuple[float | None, ...], seconds: float
) -> None:
    manager, now = Manager(tmp_path), dt.datetime.now(dt.UTC)
    manager._file_stats = {
        str(age): SimpleNamespace(last_finish_time=age and now - dt.timedelta(seconds=age)) for age in ages
    }
    assert max(0, round(file_changes.seconds_to_the_next_parse(manager))) == seconds


def test_byte_code_is_no_change_and_links_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "again").symlink_to(tmp_path)
    before = set(file_changes.entries(iter([str(tmp_path)])))
    (tmp_path / "__pycache__" / "a.pyc").touch()
    assert set(file_changes.entries(iter([str(tmp_path)]))) == before
    assert len(before) == 1


def test_a_request_in_the_database_ends_the_rest(tmp_path: Path) -> None:
    database = Database(False, True)
    rest, manager = file_changes.Rest(lambda: database), Manager(tmp_path)
    rest.until_work(manager)
    assert not rest.until_work(manager)
    assert manager.heartbeats == 1


def test_a_database_that_cannot_be_asked_leaves_the_loop_to_airflow(tmp_path: Path) -> None:
    def connect() -> Database:
        raise OSError("away")

    rest, manager = file_changes.Rest(connect), Manager(tmp_path)
    rest.until_work(manager)
    assert not rest.until_work(manager)
    assert manager.heartbeats == 0
