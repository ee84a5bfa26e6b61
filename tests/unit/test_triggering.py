"""Triggering one run: our own, told from others, followed to its end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from pipectl.commands.trigger import RunProgress
from pipectl.console import Console
from pipectl.errors import AirflowError, DagError, WaitTimeoutError
from pipectl.models import Counts, DagRun, ImportFailure, TaskState
from pipectl.observer import Observer
from pipectl.pipeline import triggering

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.airflow_api import AirflowApi

START = datetime(2026, 1, 1, tzinfo=UTC)


def run(run_id: str, state: str, run_type: str = "manual") -> DagRun:
    end = START + timedelta(seconds=3) if state in {"success", "failed"} else None
    return DagRun("mine", run_id, run_type, state, start=START, end=end)


class FakeApi:
    """An Airflow in which our run takes the states given, and unpausing starts a scheduled run first."""

    def __init__(self, *states: str, scheduled: bool = False, refuses: bool = False) -> None:
        self.states = list(states)
        self.scheduled = scheduled
        self.refuses = refuses
        self.calls: list[str] = []
        self.own = ""
        self.paused: bool | None = True
        self.failures: tuple[ImportFailure, ...] = ()

    def runs(self, dag_id: str) -> tuple[DagRun, ...]:
        assert dag_id == "mine"
        old = (run("old", "success", "scheduled"),)
        new = (run("slot", "success", "scheduled"),) if self.scheduled and not self.paused else ()
        return (*new, *old)

    def active_runs(self, dag_id: str) -> tuple[DagRun, ...]:
        assert dag_id == "mine"
        return (run("slot", "running", "scheduled"), run(self.own, "queued")) if self.scheduled else ()

    def set_paused(self, dag_id: str, *, paused: bool) -> None:
        assert dag_id == "mine"
        self.calls.append("pause" if paused else "unpause")
        self.paused = paused

    def trigger(self, dag_id: str, run_id: str, conf: dict[str, Any] | None) -> DagRun:
        assert dag_id == "mine"
        assert conf is None
        self.calls.append("trigger")
        if self.refuses:
            raise AirflowError("refused")
        self.own = run_id
        return run(run_id, "queued")

    def run(self, dag_id: str, run_id: str) -> DagRun:
        assert (dag_id, run_id) == ("mine", self.own)
        return run(run_id, self.states.pop(0) if len(self.states) > 1 else self.states[0])

    def tasks(self, dag_id: str, run_id: str) -> tuple[TaskState, ...]:
        assert (dag_id, run_id) == ("mine", self.own)
        return (TaskState("first", "success", 1, 1.0), TaskState("second", "failed", 2, 1.0))

    def log(self, dag_id: str, run_id: str, task: TaskState) -> tuple[str, ...]:
        assert (dag_id, run_id) == ("mine", self.own)
        return tuple(f"{task.id} line {number}" for number in range(100))

    def last_error(self, *_: object) -> str:
        return ""

    def is_paused(self, dag_id: str) -> bool | None:
        assert dag_id
        return self.paused

    def import_failures_of(self, dag_id: str) -> tuple[ImportFailure, ...]:
        assert dag_id
        return self.failures

    def dag_ids(self) -> tuple[str, ...]:
        return ("mine", "other")


def trigger(
    api: FakeApi, *, paused: bool = True, wait: bool = True, timeout: float = 5, batch: Any = None
) -> Any:
    return triggering.trigger(
        cast("AirflowApi", api),
        "mine",
        paused=paused,
        conf=None,
        batch=batch,
        observer=Observer(),
        timeout=timeout,
        wait=wait,
    )


def test_a_paused_dag_is_unpaused_before_its_run_is_triggered() -> None:
    api = FakeApi("running", "success")
    result = trigger(api)
    assert api.calls == ["unpause", "trigger"]
    assert (result.state, result.seconds, result.unpaused) == ("success", 3.0, True)


def test_a_dag_that_is_on_is_left_as_it_is() -> None:
    api = FakeApi("success")
    api.paused = False
    assert trigger(api, paused=False).unpaused is False
    assert api.calls == ["trigger"]


def test_a_refused_trigger_pauses_the_dag_again() -> None:
    api = FakeApi("success", refuses=True)
    with pytest.raises(AirflowError):
        trigger(api)
    assert api.calls == ["unpause", "trigger", "pause"]


def test_the_run_that_unpausing_creates_is_counted_apart() -> None:
    api = FakeApi("queued", "running", "success", scheduled=True)
    result = trigger(api)
    assert [other.run_id for other in result.other_runs] == ["slot"]


def test_the_delta_is_that_of_the_runs_own_batch() -> None:
    api = FakeApi("success")
    batches: dict[str, Counts] = {"slot": Counts(100, 100, 1)}

    def batch(run_id: str) -> Counts | None:
        return batches.get(run_id)

    assert trigger(api, batch=batch).delta is None
    api.set_paused("mine", paused=True)
    result = trigger(api, batch=lambda run_id: Counts(60, 58, 2) if run_id == api.own else None)
    assert result.delta == Counts(60, 58, 2)
    assert trigger(api, batch=batch, wait=False).delta is None


def test_every_run_has_an_id_of_its_own() -> None:
    assert len({triggering.new_run_id() for _ in range(20_000)}) == 20_000


def test_a_run_that_takes_too_long_says_that_it_goes_on() -> None:
    with pytest.raises(WaitTimeoutError, match=r"is still running after 0\.1 s; it goes on"):
        trigger(FakeApi("running"), timeout=0.1)


def test_a_run_that_waits_names_the_one_it_waits_for() -> None:
    with pytest.raises(WaitTimeoutError, match="is still queued behind slot"):
        trigger(FakeApi("queued", scheduled=True), timeout=0.1)


def test_without_waiting_nothing_is_followed() -> None:
    result = trigger(FakeApi("queued"), wait=False)
    assert (result.state, result.tasks, result.delta) == ("queued", (), None)


def test_the_end_of_the_failing_tasks_log_is_found() -> None:
    api = FakeApi("failed")
    task, log = triggering.failing_task_log(cast("AirflowApi", api), trigger(api))
    assert task is not None
    assert task.id == "second"
    assert log.splitlines()[-1] == "second line 99"
    assert len(log.splitlines()) == triggering.TASK_LOG_LINES


def parsed(api: FakeApi, dag_id: str, dags_dir: Path) -> bool:
    return triggering.wait_until_parsed(
        cast("AirflowApi", api), dag_id, dags_dir=dags_dir, observer=Observer()
    )


def test_an_import_error_is_shown_and_not_waited_out(tmp_path: Path) -> None:
    api = FakeApi("success")
    api.paused = None
    api.failures = (ImportFailure("mine.py", "SyntaxError: nonsense"),)
    with pytest.raises(DagError, match="cannot import") as caught:
        parsed(api, "mine", tmp_path)
    assert "nonsense" in caught.value.detail


def test_an_unknown_dag_names_the_one_that_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggering, "UNMENTIONED_SECONDS", 0.1)
    api = FakeApi("success")
    api.paused = None
    with pytest.raises(DagError, match="knows no DAG 'mien'") as caught:
        parsed(api, "mien", tmp_path)
    assert "Did you mean mine?" in caught.value.hint


def test_a_scheduled_run_is_announced_as_one_that_may_be_due(capsys: pytest.CaptureFixture[str]) -> None:
    RunProgress(Console()).see_triggered(run("ours", "queued"), unpaused=True)
    said = capsys.readouterr().err
    assert "Unpaused mine: Airflow starts its latest scheduled run too, if one is due.\n" in said


class RetryingApi(FakeApi):
    """Our run fails at its first try, waits, and succeeds at the next."""

    waits = TaskState("write", "up_for_retry", 1, 1.0, end=START)
    looks = ((waits,), (waits,), (TaskState("write", "running", 2, None),))

    def __init__(self) -> None:
        super().__init__(*("running",) * 3, "success")
        self._left = [*self.looks]

    def tasks(self, dag_id: str, run_id: str) -> tuple[TaskState, ...]:
        assert (dag_id, run_id) == ("mine", self.own)
        return self._left.pop(0) if self._left else ()

    def last_error(self, *asked: object) -> str:
        assert asked == ("mine", self.own, TaskState("write", "failed", 1, None))
        return "OSError: no table"

    def retry_delay(self, dag_id: str, task_id: str) -> timedelta:
        assert (dag_id, task_id) == ("mine", "write")
        return timedelta(minutes=2)


class ForgetfulApi(RetryingApi):
    """One whose first try was over between two looks."""

    looks = ((TaskState("write", "queued", 2, None),),) * 3


@pytest.mark.parametrize(("kind", "due"), [(RetryingApi, True), (ForgetfulApi, False)])
def test_a_try_that_failed_is_told_once_with_its_reason(
    kind: type[RetryingApi], capsys: pytest.CaptureFixture[str], *, due: bool
) -> None:
    triggering.trigger(
        cast("AirflowApi", kind()),
        "mine",
        paused=False,
        conf=None,
        batch=None,
        observer=RunProgress(Console()),
        timeout=20,
    )
    told = capsys.readouterr().err
    assert told.count("write: try 1 failed: OSError: no table") == 1
    assert ("try 2 is due at 20" in told) == due
