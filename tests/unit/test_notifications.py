"""When a scheduler at rest looks for work, and when it goes on looking."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

import notifications

ALL = len(notifications.TABLES) * len(notifications.EVENTS)


@dataclass
class Executor:
    queued_tasks: dict[str, str] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)


@dataclass
class LocalExecutor(Executor):
    ends: list[int] | None = None

    def sentinels(self) -> list[int] | None:
        return self.ends


class Log(list[str]):
    def warning(self, message: str, *arguments: object) -> None:
        self.append(message % arguments)


class Connection:
    """A connection to a server that has a notification once something is written to `server`."""

    def __init__(self, due: float | None = None, triggers: int = ALL) -> None:
        self.client, self.server = socket.socketpair()
        self.answer = due, triggers
        self.notifies: list[bytes] = []
        self.closed = False

    def fileno(self) -> int:
        return self.client.fileno()

    def poll(self) -> None:
        self.client.setblocking(False)
        try:
            self.notifies.append(self.client.recv(100))
        except BlockingIOError:
            return

    def cursor(self) -> Connection:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def execute(self, statement: str, values: object) -> None:
        assert (statement, set(values)) == (notifications.DUE, {"examined", "looked"})  # type: ignore[call-overload]

    def fetchone(self) -> tuple[float | None, int]:
        return self.answer

    def close(self) -> None:
        self.closed = True


class Waits:
    """In place of `select`: what was waited for, and how long at most."""

    def __init__(self) -> None:
        self.longest: list[float] = []

    def select(self, *lists_and_seconds: Any) -> None:
        self.longest.append(lists_and_seconds[-1])


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    noted = Waits()
    monkeypatch.setattr(notifications, "select", noted)
    monkeypatch.setattr(notifications, "listen", lambda _: None)
    return noted


def sleeper(connection: Connection, *executors: Executor) -> tuple[notifications.Sleeper, Log]:
    log = Log()
    made = notifications.Sleeper(lambda: connection, executors, log, 20)
    # The first time, it begins to listen.
    made.until_work(0)
    return made, log


def test_a_scheduler_at_rest_sleeps_as_long_as_it_may(waits: Waits) -> None:
    resting, _ = sleeper(Connection(), LocalExecutor())
    assert waits.longest == []
    resting.until_work(0)
    assert waits.longest == [notifications.LONGEST_SECONDS]


@pytest.mark.parametrize(
    ("due", "seconds"), [(0.25, 0.25), (-3.0, 0.0), (100.0, notifications.LONGEST_SECONDS)]
)
def test_it_looks_when_something_is_due(waits: Waits, due: float, seconds: float) -> None:
    resting, _ = sleeper(Connection(due))
    resting.until_work(0)
    assert waits.longest == [seconds]


def test_a_notification_that_came_with_the_answer_is_not_waited_for(waits: Waits) -> None:
    connection = Connection()
    resting, _ = sleeper(connection)
    connection.notifies.append(b"dag_run")
    resting.until_work(0)
    assert waits.longest == []


def test_what_was_told_before_a_loop_began_wakes_nobody_after_it(waits: Waits) -> None:
    connection = Connection()
    resting, _ = sleeper(connection)
    connection.notifies.append(b"dag_run")
    connection.server.send(b"task_instance")
    resting.note_beginning()
    resting.until_work(0)
    assert waits.longest == [notifications.LONGEST_SECONDS]


class Clock:
    """In place of `time`: one by which only sleeps take time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("loop", "due", "slept", "waited"),
    [
        (0.0, None, 0.0, notifications.LONGEST_SECONDS),
        (0.02, None, 0.02, notifications.LONGEST_SECONDS - 0.02),
        (0.02, -1.0, 0.02, 0.08),
        (5.0, -1.0, 0.1, 0.0),
        (5.0, None, 0.1, notifications.LONGEST_SECONDS - 0.1),
    ],
)
def test_work_that_is_told_of_waits_no_longer_than_the_loop_before_took(
    monkeypatch: pytest.MonkeyPatch, waits: Waits, loop: float, due: float | None, slept: float, waited: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(notifications, "time", clock)
    resting, _ = sleeper(Connection(due))
    resting.note_beginning()
    clock.now += loop
    begun = clock.now
    resting.until_work(0.1)
    assert [clock.now - begun, *waits.longest] == pytest.approx([slept, waited])


@pytest.mark.parametrize(
    ("connection", "executor"),
    [(Connection(), Executor(running={"elsewhere"})), (Connection(triggers=ALL - 1), Executor())],
)
def test_it_looks_as_often_as_airflows_own_if_nobody_tells_of_work(
    monkeypatch: pytest.MonkeyPatch, waits: Waits, connection: Connection, executor: Executor
) -> None:
    clock = Clock()
    monkeypatch.setattr(notifications, "time", clock)
    resting, _ = sleeper(connection, executor)
    resting.note_beginning()
    resting.until_work(0.1)
    assert [clock.now, *waits.longest] == pytest.approx([1000.1])


@pytest.mark.parametrize(
    "executor",
    [
        Executor(running={"elsewhere"}),
        LocalExecutor(queued_tasks={"no": "process"}),
        LocalExecutor(running={"adopted"}),
    ],
)
def test_it_goes_on_looking_while_an_end_has_to_be_looked_for(waits: Waits, executor: Executor) -> None:
    resting, log = sleeper(Connection(), executor)
    resting.until_work(0)
    assert (waits.longest, log) == ([], [])


def test_it_goes_on_looking_while_triggers_are_missing_and_makes_them_anew(waits: Waits) -> None:
    connection = Connection(triggers=ALL - 1)
    resting, log = sleeper(connection)
    resting.until_work(0)
    resting.until_work(0)
    assert (waits.longest, connection.closed, len(log)) == ([], True, 1)


@pytest.mark.parametrize("end", ["notification", "task"])
def test_a_notification_and_the_end_of_a_task_end_the_sleep(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(notifications, "listen", lambda _: None)
    monkeypatch.setattr(notifications, "LONGEST_SECONDS", 3600.0)
    connection = Connection()
    task, ended = os.pipe()
    resting, _ = sleeper(connection, LocalExecutor(running={"task"}, ends=[task]))
    if end == "task":
        os.close(ended)
    else:
        connection.server.send(b"dag_run")
    resting.until_work(0)
    os.close(task)
