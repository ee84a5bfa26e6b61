"""Tasks of a run that start again, and runs that are ended before their time."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import pytest

from pipectl.commands import cancel, clear
from pipectl.errors import AirflowMissingError, AirflowSilentError, UsageError
from pipectl.models import AirflowAddress, DagRun, ParsedDag, TaskState
from pipectl.observer import Observer
from pipectl.pipeline import steering, triggering
from pipectl.pipeline.triggering import Patience
from support.text import plain

FAILED = DagRun("mine", "run", "manual", "failed")
TASKS = (TaskState("extract", "success", 1, 1.0), TaskState("load", "failed", 2, 1.0))


class FakeApi:
    """A failed run, whose tasks succeed when they start again, and runs that can be ended. An engine too."""

    def __init__(self, *active: str, paused: bool = False) -> None:
        self.active = active
        self.paused = paused
        self.calls: list[Any] = []
        self.states = ["queued", "running", "success"]
        self.silent = 0

    def dag(self, dag_id: str) -> ParsedDag:
        return ParsedDag(self.paused, has_import_errors=False, file="", next_run="", dag_id=dag_id)

    def tasks(self, *_: str) -> tuple[TaskState, ...]:
        return TASKS

    def clear(self, dag_id: str, run_id: str, **choice: Any) -> tuple[TaskState, ...]:
        assert (dag_id, run_id) == ("mine", "run")
        self.calls.append(choice)
        return TASKS[1:]

    def last_error(self, *_: object) -> str:
        return "OSError: no"

    def services(self) -> tuple[()]:
        return ()

    def run(self, dag_id: str, run_id: str) -> DagRun:
        if self.silent:
            self.silent -= 1
            raise AirflowSilentError("Airflow does not answer.")
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return DagRun(dag_id, run_id, "manual", state)

    def active_runs(self, dag_id: str) -> tuple[DagRun, ...]:
        return tuple(DagRun(dag_id, run_id, "manual", "running") for run_id in self.active)

    def fail(self, dag_id: str, run_id: str) -> DagRun:
        self.calls.append(run_id)
        return DagRun(dag_id, run_id, "manual", "failed")


def cleared(
    api: FakeApi,
    tasks: tuple[TaskState, ...] = TASKS[1:],
    *,
    wait: bool = True,
    observer: Observer | None = None,
) -> Any:
    return steering.clear(
        cast("Any", api),
        FAILED,
        tasks,
        patience=Patience(cast("Any", api), Observer(), 5),
        observer=observer or Observer(),
        timeout=5,
        wait=wait,
    )


def test_what_would_start_again_is_asked_of_airflow_and_nothing_starts() -> None:
    api = FakeApi()
    choice = {"only_failed": True, "downstream": True}
    names = ("load", "extract")
    assert steering.tasks_to_clear(cast("Any", api), FAILED, names, **choice) == TASKS[1:]
    assert api.calls == [{"tasks": (("load", -1), ("extract", -1)), **choice, "dry_run": True}]
    with pytest.raises(AirflowMissingError, match="The run has no task 'lod'"):
        steering.tasks_to_clear(cast("Any", api), FAILED, ("lod",), **choice)


def test_a_mapped_task_is_cleared_by_its_index_or_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi()
    mapped = tuple(TaskState("load", "failed", 1, 1.0, index) for index in range(3))
    monkeypatch.setattr(api, "tasks", lambda *_: mapped)
    for name, expected in (("load", -1), ("load[2]", 2)):
        steering.tasks_to_clear(cast("Any", api), FAILED, (name,), only_failed=False, downstream=False)
        assert api.calls[-1]["tasks"] == (("load", expected),)


def test_cleared_tasks_are_followed_to_the_end_of_their_run() -> None:
    api = FakeApi()
    result = cleared(api)
    assert api.calls == [{"tasks": (("load", -1),)}]
    assert (result.state, result.tasks, result.paused) == ("success", TASKS, False)
    text = plain(clear.result_text(result))
    assert "run: success\n" in text
    assert "Started again: load\n" in text


def test_of_a_run_that_fails_again_the_logs_of_what_started_again_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error of before says nothing of what was cleared."""
    before, after = TaskState("extract", "failed", 1, 1.0), TaskState("load", "failed", 3, 1.0)
    mapped = TaskState("load", "failed", 1, 1.0, 2)
    api = FakeApi()
    api.states = ["failed"]
    monkeypatch.setattr(api, "tasks", lambda *_: (before, after, mapped))
    monkeypatch.setattr(api, "log", lambda _dag, _run, task: (f"{task.name} failed",), raising=False)
    monkeypatch.setattr(api, "address", AirflowAddress("http://127.0.0.1:1", "", ""), raising=False)
    result = cleared(api)
    error = triggering.failed_run(cast("Any", api), "mine", "run", result.tasks, result.started)
    assert error.message == "The run run of mine failed in 3 tasks: load, load[2] and extract."
    assert error.detail == "load:\nload failed\nload[2]:\nload[2] failed"


def test_only_tries_that_fail_after_the_clearing_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Told(Observer):
        tries: ClassVar[list[int]] = []

        def see_failed_try(self, task: TaskState, reason: str, due: object) -> None:
            assert (task.name, reason, due) == ("load", "OSError: no", None)
            self.tries.append(task.tries)

    api = FakeApi()
    api.states = ["running", "running", "running", "success"]
    before = TaskState("extract", "failed", 2, 1.0)  # not cleared, so its tries are all of before
    tries = (("failed", 2), ("running", 3), ("queued", 4))
    looks = [(before, TaskState("load", *state, None)) for state in tries]
    monkeypatch.setattr(api, "tasks", lambda *_: looks.pop(0) if len(looks) > 1 else looks[0])
    assert cleared(api, observer=Told()).state == "success"
    assert Told.tries == [3]


def test_a_run_is_followed_while_airflow_restarts_and_cleared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggering, "SILENCE_POLL_SECONDS", 0)
    api = FakeApi()
    api.silent = 3
    assert cleared(api).state == "success"
    assert len(api.calls) == 1


def test_nothing_is_waited_for_that_cannot_start() -> None:
    """The runs of a paused DAG stay queued."""
    result = cleared(FakeApi(paused=True))
    assert (result.state, result.paused) == ("queued", True)
    assert "mine is paused, so nothing starts yet: pipectl unpause mine" in plain(clear.result_text(result))
    assert cleared(FakeApi(), wait=False).state == "queued"


def test_a_run_without_such_tasks_stays_as_it_is() -> None:
    api = FakeApi()
    result = cleared(api, ())
    assert (api.calls, result.state) == ([], "failed")
    assert "run: no task to start again, the run stays failed." in plain(clear.result_text(result))


def cancelled(api: FakeApi, run_id: str | None = None, *, everything: bool = False) -> Any:
    runs = steering.runs_to_cancel(cast("Any", api), "mine", run_id, everything=everything)
    return steering.cancel(cast("Any", api), "mine", runs)


def test_the_one_active_run_is_ended() -> None:
    api = FakeApi("one")
    result = cancelled(api)
    assert api.calls == ["one"]
    text = plain(cancel.result_text(result))
    assert text == "one: running before, cancelled now. Failed: load.\n"


def test_a_run_with_teardown_tasks_ends_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi("one")
    monkeypatch.setattr(api, "fail", lambda *_: DagRun("mine", "one", "manual", "running"))
    text = plain(cancel.result_text(cancelled(api)))
    assert text.startswith("one: running before, running now.")
    assert text.endswith("Its teardown tasks run to their end.\n")


def test_of_several_active_runs_none_is_chosen() -> None:
    with pytest.raises(UsageError, match="mine has 2 active runs: one, two") as caught:
        cancelled(FakeApi("one", "two"))
    assert "pipectl cancel mine --all" in caught.value.hint
    api = FakeApi("one", "two")
    cancelled(api, everything=True)
    assert api.calls == ["one", "two"]


def test_a_run_that_has_ended_is_left_as_it_is() -> None:
    api = FakeApi()
    api.states = ["success"]
    result = cancelled(api, "run")
    assert api.calls == []
    assert plain(cancel.result_text(result)) == "run had ended already: success.\n"
    assert plain(cancel.result_text(cancelled(api))) == "mine has no active run.\n"
