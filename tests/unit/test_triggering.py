"""Triggering one run: our own, told from others, followed to its end."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from typer.testing import CliRunner

from pipectl import cli
from pipectl.airflow_health import unknown_dag
from pipectl.commands.trigger import RunProgress, result_text, results_text
from pipectl.console import Console
from pipectl.errors import AirflowError, AirflowSilentError, DagError, ExitCode, WaitTimeoutError
from pipectl.models import AirflowAddress, Counts, DagRun, ImportFailure, ParsedDag, TaskLogLine, TaskState
from pipectl.observer import Observer
from pipectl.pipeline import causes, triggering
from support.text import plain

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.airflow_api import AirflowApi

START = datetime(2026, 1, 1, tzinfo=UTC)


def run(run_id: str, state: str, run_type: str = "manual") -> DagRun:
    end = START + timedelta(seconds=3) if state in {"success", "failed"} else None
    return DagRun("mine", run_id, run_type, state, start=START, end=end)


def parsed_dag(dag_id: str, *, paused: bool, limit: int | None = 1, **more: Any) -> ParsedDag:
    return ParsedDag(
        paused,
        has_import_errors=False,
        file="mine.py",
        next_run=more.pop("next_run", ""),
        dag_id=dag_id,
        max_active_runs=limit,
        **more,
    )


class FakeApi:
    """An Airflow in which our run takes the states given, and unpausing starts a scheduled run first."""

    def __init__(
        self, *states: str, scheduled: bool = False, refuses: bool = False, limit: int | None = 1
    ) -> None:
        self.states = list(states)
        self.limit = limit
        self.scheduled = scheduled
        self.refuses = refuses
        self.calls: list[str] = []
        self.own = ""
        self.written = 0
        self.paused: bool | None = True
        self.failures: tuple[ImportFailure, ...] = ()

    def runs(self, dag_id: str) -> tuple[DagRun, ...]:
        assert dag_id == "mine"
        old = (run("old", "success", "scheduled"),)
        new = (run("slot", "success", "scheduled"),) if self.scheduled and not self.paused else ()
        return (*new, *old)

    def active_runs(self, dag_id: str) -> tuple[DagRun, ...]:
        assert dag_id == "mine"
        others = (run("slot", "running", "scheduled"),) if self.scheduled else ()
        return (*others, run(self.own, "queued"), run("later", "queued"))

    def set_paused(self, dag_id: str, *, paused: bool) -> None:
        assert dag_id == "mine"
        self.calls.append("pause" if paused else "unpause")
        self.paused = paused

    def trigger(
        self, dag_id: str, run_id: str, conf: dict[str, Any] | None, logical_date: datetime | None
    ) -> DagRun:
        assert dag_id == "mine"
        assert conf is None
        assert logical_date == START
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

    address = AirflowAddress("http://127.0.0.1:1", "admin", "admin")

    def log(self, dag_id: str, run_id: str, task: TaskState, number: int = 0) -> tuple[str, ...]:
        del number
        assert (dag_id, run_id) == ("mine", self.own)
        return tuple(f"{task.id} line {number}" for number in range(100))

    def rows_written(self, dag_id: str, asset: str, run_ids: set[str], since: datetime) -> int:
        assert (dag_id, asset, run_ids, since) == ("mine", "fraud_labels", {self.own}, START)
        return self.written

    def last_error(self, *_: object) -> str:
        return ""

    def dag(self, dag_id: str) -> ParsedDag | None:
        return None if self.paused is None else parsed_dag(dag_id, paused=self.paused, limit=self.limit)

    def import_failures(self) -> tuple[ImportFailure, ...]:
        return self.failures

    def dag_ids(self) -> tuple[str, ...]:
        return ("mine", "other")

    def dags(self) -> tuple[ParsedDag, ...]:
        return (parsed_dag("mine", paused=True), parsed_dag("other", paused=True))


def trigger(
    api: FakeApi,
    *,
    paused: bool = True,
    wait: bool = True,
    timeout: float = 5,
    batch: Any = None,
    observer: Observer | None = None,
    asides: FakeApi | None = None,
) -> Any:
    return triggering.trigger(
        cast("AirflowApi", api),
        parsed_dag("mine", paused=paused, limit=api.limit),
        conf=None,
        logical_date=START,
        batch=batch,
        observer=observer or Observer(),
        timeout=timeout,
        wait=wait,
        logs=observer is not None and asides is None,
        asides=cast("AirflowApi", asides),
    )


def test_a_paused_dag_is_unpaused_once_its_run_is_triggered() -> None:
    api = FakeApi("running", "success")
    result = trigger(api)
    assert api.calls == ["trigger", "unpause"]
    assert (result.state, result.seconds, result.unpaused) == ("success", 3.0, True)


def test_a_dag_that_is_on_is_left_as_it_is() -> None:
    api = FakeApi("success")
    api.paused = False
    assert trigger(api, paused=False).unpaused is False
    assert api.calls == ["trigger"]


def test_a_refused_trigger_leaves_the_dag_paused() -> None:
    api = FakeApi("success", refuses=True)
    with pytest.raises(AirflowError):
        trigger(api)
    assert api.calls == ["trigger"]


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


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (0, "58 labels, 2 of them fraud\n"),
        (58, "58 labels, 2 of them fraud\n"),
        (59, "2 of them fraud, and 1 label of older transactions\n"),
        (1_258, "2 of them fraud, and 1,200 labels of older transactions\n"),
    ],
)
def test_labels_that_a_run_wrote_of_older_transactions_are_told_apart(written: int, told: str) -> None:
    api = FakeApi("success")
    api.written = written
    result = trigger(api, batch=lambda _: Counts(60, 58, 2))
    assert result.other_labels == max(written - 58, 0)
    assert told in plain(result_text(result))
    assert told in plain(results_text([result], 1))


def test_an_airflow_that_does_not_tell_what_was_written_fails_nothing() -> None:
    class Silent(FakeApi):
        def rows_written(self, *_: Any) -> int:
            raise AirflowError("refused")

    assert trigger(Silent("success"), batch=lambda _: Counts(60, 58, 2)).other_labels == 0


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
    result = trigger(api)
    error = triggering.failed_run(cast("AirflowApi", api), "mine", result.run_id, result.tasks)
    assert error.message == f"The run {result.run_id} of mine failed in task second."
    assert error.hint.endswith(f"The whole log: pipectl task-log mine {result.run_id} second")
    assert error.detail.splitlines()[-1] == "second line 99"
    assert len(error.detail.splitlines()) == triggering.TASK_LOG_LINES


def test_all_tasks_that_failed_are_named_each_with_its_log() -> None:
    api = FakeApi("failed")
    result = trigger(api)
    failed = tuple(TaskState(name, "failed", 1, 1.0) for name in "abcde")

    def error(*tasks: TaskState) -> Any:
        return triggering.failed_run(cast("AirflowApi", api), "mine", result.run_id, tasks)

    assert error(*failed[:2]).message.endswith(" of mine failed in 2 tasks: a and b.")
    assert error(*failed).message.endswith(" of mine failed in 5 tasks: a, b, c and 2 more.")
    two = error(*failed[:2])
    assert [line.partition(":")[0] for line in two.hint.splitlines()] == [
        "In the browser",
        "The whole log",
        "The whole log",
    ]
    assert "a line 99\nb:\nb line 80\n" in two.detail


def typed(words: str, *states: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`trigger` with these words, whose runs end so, in task second if they fail."""
    for name in ("dags", "stack"):
        (project / name).mkdir()
    monkeypatch.chdir(project)
    api, left = FakeApi(), [*states]
    api.own = "ours"
    monkeypatch.setattr("pipectl.commands.trigger.airflow_api", lambda _: api)

    def once(*_: object, **__: object) -> triggering.TriggerResult:
        state = left.pop(0)
        return triggering.TriggerResult("mine", "ours", state, 1.0, api.tasks("mine", "ours"), None)

    monkeypatch.setattr("pipectl.commands.trigger._trigger_once", once)
    return CliRunner().invoke(cli.app, ["--engine", "local", *words.split()])


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("trigger mine", True),
        ("trigger mine --follow", False),
        ("--quiet trigger mine --follow", True),
        ("--json trigger mine --follow", True),
    ],
)
def test_a_log_that_was_followed_is_not_shown_once_more(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, shown: bool
) -> None:
    done = typed(words, "failed", project=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == ExitCode.RUN_FAILED
    assert ("second line 99" in done.stderr) == shown
    assert "pipectl task-log mine ours second" in done.stderr


def test_runs_that_are_not_started_because_one_failed_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "trigger mine --repeat 4"
    done = typed(words, "success", "failed", project=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == ExitCode.RUN_FAILED
    assert "\n1 success, 1 failed, 2 not started\n" in done.stdout

    def late(*_: object, **__: object) -> None:
        raise WaitTimeoutError("It is still running.", hint="Look at it.")

    monkeypatch.setattr("pipectl.commands.trigger._trigger_once", late)
    done = CliRunner().invoke(cli.app, ["--engine", "local", *words.split()])
    assert done.exit_code == ExitCode.TIMED_OUT
    assert done.stderr.endswith("Look at it.\nNot started then: 3 runs of --repeat.\n")


@pytest.mark.parametrize(("scheduled", "limit"), [(False, 1), (True, 2), (True, 16), (True, None)], ids=str)
def test_a_run_that_waits_for_no_other_names_none(*, scheduled: bool, limit: int | None) -> None:
    """Such a run is queued for a moment only; runs that come after it never keep it waiting."""
    with pytest.raises(WaitTimeoutError, match=r"is still queued after 0\.1 s"):
        trigger(FakeApi("queued", scheduled=scheduled, limit=limit), timeout=0.1)


def test_queued_runs_that_come_first_count_and_those_of_a_backfill_do_not() -> None:
    ours, before = run("ours", "queued"), run("before", "queued")
    running = run("running", "running")
    backfill = run("backfill", "running", "backfill")

    def behind(limit: int, *active: DagRun) -> DagRun | None:
        return causes.next_to_end(ours, active, limit)

    assert behind(1, before, ours) == before
    assert behind(2, before, ours) is None
    assert behind(2, before, ours, running) == running
    assert behind(1, backfill, ours) is None
    assert behind(1, ours, before) is None


def test_a_run_that_has_begun_meanwhile_is_queued_behind_none_and_never_behind_itself() -> None:
    """Airflow says which runs are active after it said that ours is queued."""
    ours, other = run("ours", "queued"), run("other", "running")
    for active in ((run("ours", "running"),), (run("ours", "running"), other), (other,), ()):
        assert causes.next_to_end(ours, active, 1) is None


def parsed(api: FakeApi, dag_id: str, dags_dir: Path) -> ParsedDag:
    return triggering.wait_until_parsed(
        cast("AirflowApi", api), dag_id, dags_dir=dags_dir, observer=Observer()
    )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggering, "UNMENTIONED_SECONDS", 0.1)


@pytest.mark.parametrize("named", ["mine.py", "/opt/airflow/dags/mine.py"])
@pytest.mark.parametrize("content", ["with DAG('mine'): nonsense", "nonsense", "@dag\ndef mine(: nonsense"])
def test_an_import_error_is_shown_and_not_waited_out(tmp_path: Path, named: str, content: str) -> None:
    (tmp_path / "mine.py").write_text(content)
    api = FakeApi("success")
    api.paused = None
    api.failures = (ImportFailure("other.py", "Not ours."), ImportFailure(named, "SyntaxError: nonsense"))
    with pytest.raises(DagError, match=f"cannot import {named}\\.") as caught:
        parsed(api, "mine", tmp_path)
    assert caught.value.detail == "SyntaxError: nonsense"


def test_a_dag_that_was_parsed_before_is_blamed_on_its_own_file_alone(tmp_path: Path) -> None:
    (tmp_path / "not_mine.py").write_text("'mine' stands here too")
    api = FakeApi("success")
    api.failures = (ImportFailure("not_mine.py", "Not ours."),)
    assert parsed(api, "mine", tmp_path).dag_id == "mine"
    api.failures += (ImportFailure("mine.py", "Ours."),)
    with pytest.raises(DagError) as caught:
        parsed(api, "mine", tmp_path)
    assert caught.value.detail == "Ours."


def test_a_broken_file_that_only_mentions_the_dag_is_not_blamed_while_another_may_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggering, "PARSE_SECONDS", 0.3)
    (tmp_path / "mine.py").write_text("with DAG('mine'): ...")
    (tmp_path / "other.py").write_text("TriggerDagRunOperator(trigger_dag_id='mine')")
    api = FakeApi("success")
    api.failures = (ImportFailure("other.py", "Not ours."),)
    answers = [None, None, parsed_dag("mine", paused=False)]
    monkeypatch.setattr(api, "dag", lambda _: answers.pop(0))
    assert parsed(api, "mine", tmp_path).dag_id == "mine"
    monkeypatch.setattr(api, "dag", lambda _: None)
    with pytest.raises(DagError, match=r"cannot import other\.py"):
        parsed(api, "mine", tmp_path)


@pytest.mark.usefixtures("impatient")
def test_an_unknown_dag_names_the_one_that_was_meant(tmp_path: Path) -> None:
    api = FakeApi("success")
    api.paused = None
    with pytest.raises(DagError, match="knows no DAG 'mien'") as caught:
        parsed(api, "mien", tmp_path)
    assert caught.value.hint == "Did you mean mine? There are: mine, other."


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("typed", ["mien", "min"])
def test_a_mistyped_id_is_not_blamed_on_the_import_error_of_a_file(tmp_path: Path, typed: str) -> None:
    (tmp_path / "broken.py").write_text("with DAG('minor'): nonsense")
    api = FakeApi("success")
    api.paused = None
    api.failures = (ImportFailure("broken.py", "SyntaxError: nonsense"),)
    with pytest.raises(DagError, match=f"knows no DAG '{typed}'") as caught:
        parsed(api, typed, tmp_path)
    assert "Did you mean mine?" in caught.value.hint
    assert "Not imported: broken.py; why: pipectl dags" in caught.value.hint
    assert not caught.value.detail


def test_of_many_dags_only_some_are_listed() -> None:
    names = tuple(f"dag_{number:03}" for number in range(300))
    hint = unknown_dag("dag_01", names).hint
    assert "dag_009 and 290 more (pipectl dags)." in hint
    assert "dag_010" not in hint


def announced(capsys: pytest.CaptureFixture[str], *, paused: bool = True, **more: Any) -> list[str]:
    dag = parsed_dag("mine", paused=paused, **more)
    progress = RunProgress(Console())
    if paused:
        progress.see_unpaused(dag)
    progress.see_triggered(run("ours", "queued"))
    return capsys.readouterr().err.splitlines()


def test_only_a_scheduled_run_that_is_due_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    assert announced(capsys, paused=False) == ["Triggered ours"]
    for next_run in ("", "2126-01-01T00:00:00Z"):
        assert announced(capsys, next_run=next_run) == ["Unpaused mine.", "Triggered ours"]
    [due, _] = announced(capsys, next_run=START.isoformat())
    assert due.startswith("Unpaused mine: a scheduled run is due since 20")
    assert due.endswith(", and Airflow starts that run too.")
    [missed, _] = announced(capsys, next_run=START.isoformat(), catchup=True)
    assert missed.endswith(", and Airflow starts the runs that it has missed too, one by one.")


def test_what_tasks_log_is_shown_with_their_name_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    trigger(FakeApi("running", "running", "success"), observer=RunProgress(Console()))
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if " | " in line] == [
        *(f"  first | first line {number}" for number in range(100)),
        *(f"  second | second line {number}" for number in range(100)),
        *(f"  second | second line {number}" for number in range(100)),  # of its second try
    ]


def test_a_log_that_cannot_be_read_is_told_once_and_is_no_reason_to_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise AirflowSilentError("Airflow refused the request: Internal Server Error.")

    api = FakeApi("running", "running", "success")
    monkeypatch.setattr(api, "log", refused)
    assert trigger(api, observer=RunProgress(Console())).state == "success"
    said = capsys.readouterr().err
    assert said.count("Internal Server Error. The log of first is not shown.") == 1
    assert said.count("is not shown") == 1


def test_what_is_only_told_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The one API repeats a question until there is an answer; the other one gives up."""

    class Silent(RetryingApi):
        def last_error(self, *_: object) -> str:
            raise AirflowSilentError("Airflow refused the request: Internal Server Error.")

    class Patient(RetryingApi):
        def last_error(self, *_: object) -> str:
            raise AssertionError("It was asked with patience.")

    trigger(Patient(), observer=RunProgress(Console()), asides=Silent())
    assert "write: try 1 failed\n" in capsys.readouterr().err


def test_lines_of_one_entry_each_have_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    RunProgress(Console()).see_log(TaskLogLine("load", 1, "It failed\nValueError: no", 3))
    assert capsys.readouterr().err == "  load[3] | It failed\n  load[3] | ValueError: no\n"


def result(run_id: str, state: str = "success", delta: Counts | None = None, **more: Any) -> Any:
    return triggering.TriggerResult("mine", run_id, state, 1.5, (), delta, **more)


def test_several_runs_are_a_table_with_their_sums() -> None:
    other = run("slot", "success", "scheduled")
    text = plain(
        results_text(
            [
                result("one", delta=Counts(60, 58, 2), other_runs=(other,)),
                result("two", delta=Counts(1_000, 1_000, 3)),
            ],
            2,
        )
    )
    rows = [line.split() for line in text.splitlines() if line.strip()]
    assert rows[0] == ["run", "state", "took", "transactions", "labels", "frauds"]
    assert ["one", "success", "1.5", "s", "60", "58", "2"] in rows
    assert ["two", "success", "1.5", "s", "1,000", "1,000", "3"] in rows
    assert "2 success\n  + 1,060 transactions, 1,058 labels, 5 of them fraud\n" in text
    assert "\n  Why labels are missing: pipectl verify-db --expect reconciled\n" in text
    assert "Apart from it: Airflow's schedule started the run slot" in text


def test_a_table_of_runs_without_batches_has_no_columns_for_them() -> None:
    failed = TaskState("load", "failed", 2, 1.0)
    runs = [result("one"), replace(result("two", "failed"), tasks=(failed,))]
    text = plain(results_text(runs, 5))
    assert "transactions" not in text
    assert "1 success, 1 failed, 3 not started\n" in text
    assert ["load", "failed", "2", "1.0", "s"] in [line.split() for line in text.splitlines()]


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


def test_what_tasks_have_become_at_the_end_of_their_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A deferred task may go on, end, and end its run between two looks."""
    looks = [("queued", "running"), ("success", "success")]

    class Deferring(FakeApi):
        def run(self, *_: str) -> DagRun:
            self.task, state = looks.pop(0)
            return run(self.own, state)

        def tasks(self, *_: str) -> tuple[TaskState, ...]:
            return (TaskState("wait", self.task, 1, 1.0),)

    trigger(Deferring(), observer=RunProgress(Console()), asides=FakeApi())
    assert capsys.readouterr().err.endswith("  wait: queued\n  wait: success\n")


class ForgetfulApi(RetryingApi):
    """One whose first try was over between two looks."""

    looks = ((TaskState("write", "queued", 2, None),),) * 3


@pytest.mark.parametrize(("kind", "due"), [(RetryingApi, True), (ForgetfulApi, False)])
def test_a_try_that_failed_is_told_once_with_its_reason(
    kind: type[RetryingApi], capsys: pytest.CaptureFixture[str], *, due: bool
) -> None:
    trigger(kind(), observer=RunProgress(Console()))
    told = capsys.readouterr().err
    assert told.count("write: try 1 failed: OSError: no table") == 1
    assert ("try 2 is due at 20" in told) == due
