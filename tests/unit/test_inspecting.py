"""Runs looked at from near: which one is meant, every try of its tasks, and their logs."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from pipectl.airflow_health import unknown_dag
from pipectl.commands import runs
from pipectl.errors import AirflowMissingError, DagError, UsageError
from pipectl.models import DagRun, ParsedDag, TaskLogLine, TaskState, TaskTry
from pipectl.names import is_run_id
from pipectl.pipeline import inspecting
from pipectl.pipeline.inspecting import LogReader
from support.text import plain

START = datetime(2026, 1, 1, tzinfo=UTC)
RUN = DagRun("mine", "manual__2026-01-01T00:00:00+00:00", "manual", "success", START, START, START)


SHARED = "scheduled__2026-01-01T00:00:00+00:00"  # by all DAGs with this schedule


def task(name: str, state: str = "success", tries: int = 1, map_index: int = -1) -> TaskState:
    end = START + timedelta(seconds=2)
    return TaskState(name, state, tries, 2.0, map_index, START if tries else None, end if tries else None)


class FakeApi:
    """Two DAGs, the second with a run, and tasks whose state and log change with every look."""

    def __init__(self, *looks: tuple[TaskState, ...], ends_after: int = 0) -> None:
        self.looks = list(looks)
        self.logs: dict[tuple[str, int], list[str]] = {}
        self.asked: list[tuple[str, int]] = []
        self.until_end = ends_after

    def dag(self, dag_id: str) -> ParsedDag | None:
        known = dag_id in {"mine", "other"}
        return ParsedDag(False, has_import_errors=False, file="", next_run="") if known else None

    def dag_ids(self) -> tuple[str, ...]:
        return ("mine", "other")

    def missing_dag(self, dag_id: str) -> DagError:
        return unknown_dag(dag_id, self.dag_ids())

    def run(self, dag_id: str, run_id: str) -> DagRun:
        assert is_run_id(run_id)
        if dag_id == "pipeline":
            raise DagError("Airflow knows no DAG 'pipeline'.")
        if (dag_id, run_id) not in {("mine", RUN.run_id), ("mine", SHARED), ("other", SHARED)}:
            raise AirflowMissingError("Not found")
        self.until_end -= 1
        state = "success" if self.until_end < 0 else "running"
        return replace(RUN, dag_id=dag_id, run_id=run_id, state=state)

    def runs(self, dag_id: str, limit: int = 20) -> tuple[DagRun, ...]:
        return (RUN,)[:limit] if dag_id == "mine" else ()

    def tasks(self, *_: str) -> tuple[TaskState, ...]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def tries(self, dag_id: str, run_id: str, of: TaskState) -> tuple[TaskTry, ...]:
        assert (dag_id, run_id) == ("mine", RUN.run_id)
        return tuple(TaskTry(number, "failed", START, START) for number in range(1, of.tries + 1))

    def log(self, dag_id: str, run_id: str, of: TaskState, number: int) -> tuple[str, ...]:
        assert (dag_id, run_id) == ("mine", RUN.run_id)
        self.asked.append((of.name, number))
        if (of.name, number) not in self.logs:
            raise AirflowMissingError("TaskInstance not found")
        return tuple(self.logs[of.name, number])


def which(first: str | None, second: str | None = None, default: str = "mine") -> tuple[str, str | None]:
    return inspecting.which(cast("Any", FakeApi(())), default, first, second)


def test_one_word_is_a_dag_or_a_run_of_the_pipeline_or_of_any_dag() -> None:
    assert which(None) == ("mine", None)
    assert which("other") == ("other", None)
    assert which("other", "any") == ("other", "any")
    assert which(RUN.run_id) == ("mine", RUN.run_id)
    assert which(RUN.run_id, default="pipeline") == ("mine", RUN.run_id)
    assert which("latest") == ("mine", "latest")


def test_a_run_that_several_dags_have_is_the_pipelines_or_that_of_a_dag_that_is_named() -> None:
    assert which(SHARED) == ("mine", SHARED)
    assert which(SHARED, default="other") == ("other", SHARED)
    with pytest.raises(UsageError, match=f"mine and other have a run {re.escape(SHARED)}"):
        which(SHARED, default="pipeline")


def test_a_word_that_is_neither_names_what_may_be_meant() -> None:
    with pytest.raises(DagError, match="knows no DAG 'oter'") as caught:
        which("oter")
    assert "Did you mean other?" in caught.value.hint
    with pytest.raises(AirflowMissingError, match=r"No DAG has a run 'manual__2027:1'"):
        which("manual__2027:1")


def find(dag_id: str, run_id: str) -> DagRun:
    return inspecting.find_run(cast("Any", FakeApi(())), dag_id, run_id)


def test_a_run_is_found_by_its_id_or_as_the_latest() -> None:
    assert find("mine", RUN.run_id) == find("mine", "latest") == RUN
    with pytest.raises(AirflowMissingError, match="other has never run") as caught:
        find("other", "latest")
    assert caught.value.hint == "Start it: pipectl trigger other"


def test_a_mistyped_run_names_the_one_that_was_meant() -> None:
    with pytest.raises(AirflowMissingError, match=r"mine has no run 'manual__2026-01-01'") as caught:
        find("mine", "manual__2026-01-01")
    assert caught.value.hint == f"Did you mean {RUN.run_id}? Its runs: pipectl runs mine"


@pytest.mark.parametrize("typed", ["last", "latset", "newest"])
def test_who_means_the_latest_run_is_told_its_word(typed: str) -> None:
    with pytest.raises(AirflowMissingError, match=f"mine has no run '{typed}'") as caught:
        find("mine", typed)
    assert caught.value.hint.startswith("Did you mean latest?") == (typed != "newest")
    with pytest.raises(DagError) as unknown:
        which(typed)
    assert unknown.value.hint.startswith("Did you mean latest?") == (typed != "newest")


@pytest.mark.parametrize("run_id", ["", ".", "..", "a/b", "\udc80", "a\nb", "x" * 251])
def test_what_can_be_no_run_is_none_and_is_not_asked_for(run_id: str) -> None:
    with pytest.raises(AirflowMissingError, match="mine has no run"):
        find("mine", run_id)
    with pytest.raises((AirflowMissingError, DagError)):
        which(run_id)


TASKS = (task("extract"), task("load", map_index=0), task("load", map_index=1))


def test_a_task_is_named_with_its_index_and_all_instances_without() -> None:
    assert inspecting.find_tasks(TASKS, "load") == TASKS[1:]
    assert inspecting.find_tasks(TASKS, "load[1]") == TASKS[2:]
    assert inspecting.find_task(TASKS, "extract") == TASKS[0]
    with pytest.raises(UsageError, match="The task load is mapped") as caught:
        inspecting.find_task(TASKS, "load")
    assert caught.value.hint == "Name one instance: load[0], load[1]."


@pytest.mark.parametrize("name", ["extrat", "load[2]", "extract[0]"])
def test_a_task_that_there_is_not_names_those_that_there_are(name: str) -> None:
    with pytest.raises(AirflowMissingError, match="The run has no task") as caught:
        inspecting.find_task(TASKS, name)
    assert caught.value.hint.startswith("Did you mean ")
    assert caught.value.hint.endswith("It has: extract, load[0], load[1].")
    with pytest.raises(AirflowMissingError) as caught:
        inspecting.find_task((), name)
    assert caught.value.hint == "It has no tasks yet."


def test_every_try_is_shown_with_its_times() -> None:
    api = FakeApi((task("extract"), task("load", "up_for_retry", 2, 1), task("report", "none", 0)))
    found = inspecting.details(cast("Any", api), RUN)
    assert [(each.name, each.state, len(each.tries)) for each in found.tasks] == [
        ("extract", "success", 1),
        ("load[1]", "up_for_retry", 2),
        ("report", "none", 0),
    ]
    assert found.tasks[0].tries[0].seconds == 2.0
    text = plain(runs.details_text(found))
    assert f"mine {RUN.run_id}: success\n" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["extract", "1", "success"] in [row[:3] for row in rows]
    assert [row[1] for row in rows if row[:1] == ["load[1]"]] == ["1", "2"]
    assert ["report", "none"] in rows
    assert "task-log" not in text
    api = FakeApi((task("extract"), task("load", "failed", 1, 1)))
    text = plain(runs.details_text(inspecting.details(cast("Any", api), RUN)))
    # Unquoted, zsh takes it for a pattern of file names.
    assert f"Why load[1] failed: pipectl task-log mine {RUN.run_id} 'load[1]'\n" in text


@pytest.mark.parametrize(
    ("shown", "total", "told"),
    [
        (10, 10, ""),
        (10, 25, "… 15 more: pipectl runs mine --limit 25\n"),
        (10, 1_210, "… 1,200 more: pipectl runs mine --limit 100\n"),
        (100, 1_300, "… 1,200 more: pipectl open\n"),
    ],
)
def test_a_list_of_runs_says_how_many_more_there_are(shown: int, total: int, told: str) -> None:
    text = plain(runs.result_text(runs.Runs("mine", (RUN,) * shown, total)))
    assert text.endswith(told)
    assert ("more" in text) == bool(told)


def texts(lines: Any) -> list[str]:
    return [line.text for line in lines]


def test_each_line_is_read_once_and_a_try_that_has_ended_never_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inspecting, "LOG_SECONDS", 0)
    api = FakeApi(())
    reader = LogReader(cast("Any", api), RUN)
    log = api.logs["load", 1] = ["one"]
    assert list(reader.new_lines(task("load", "running"))) == [TaskLogLine("load", 1, "one")]
    assert texts(reader.new_lines(task("load", "running"))) == []
    log += ["two", "three"]
    assert texts(reader.new_lines(task("load", "deferred"))) == ["two", "three"]
    log.append("the reason")
    assert texts(reader.new_lines(task("load", "up_for_retry"))) == ["the reason"]
    api.logs["load", 2] = ["again"]
    assert texts(reader.new_lines(task("load", "queued", 2))) == []
    assert [(line.number, line.text) for line in reader.new_lines(task("load", tries=2))] == [(2, "again")]
    count = len(api.asked)
    assert texts(reader.new_lines(task("load", tries=2))) == []
    assert len(api.asked) == count


def test_a_line_that_comes_between_others_is_read_and_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow sorts what a task logs and prints by time, and notes the latter later."""
    monkeypatch.setattr(inspecting, "LOG_SECONDS", 0)
    api = FakeApi(())
    reader = LogReader(cast("Any", api), RUN)
    api.logs["load", 1] = ["same", "the end"]
    assert texts(reader.new_lines(task("load", "running"))) == ["same", "the end"]
    api.logs["load", 1] = ["same", "between", "same", "the end"]
    assert texts(reader.new_lines(task("load", "failed"))) == ["between", "same"]


def test_the_rest_of_a_try_is_read_although_the_next_one_has_begun() -> None:
    api = FakeApi(())
    reader = LogReader(cast("Any", api), RUN)
    api.logs["load", 1] = ["one"]
    assert texts(reader.new_lines(task("load", "running"))) == ["one"]
    api.logs = {("load", 1): ["one", "the reason"], ("load", 2): ["again"]}
    assert texts(reader.new_lines(task("load", "running", 2))) == ["the reason", "again"]


def test_what_is_being_written_is_read_once_a_second_at_most() -> None:
    api = FakeApi(())
    reader = LogReader(cast("Any", api), RUN)
    for _ in range(20):
        assert texts(reader.new_lines(task("load", "running"))) == []
    assert api.asked == [("load", 1)]


def logged(api: FakeApi, name: str = "load", **choice: Any) -> list[str]:
    options = {"number": None, "follow": False, **choice}
    return texts(inspecting.task_log(cast("Any", api), RUN, name, **options))


def test_the_log_of_the_latest_try_is_shown_or_that_of_another() -> None:
    api = FakeApi((task("load", "failed", 2),))
    api.logs = {("load", 1): ["first"], ("load", 2): ["second"]}
    assert logged(api) == ["second"]
    assert logged(api, number=1) == ["first"]
    with pytest.raises(AirflowMissingError, match="has had 2 tries, and no try 3") as caught:
        logged(api, number=3)
    assert caught.value.hint == f"All tries: pipectl runs mine {RUN.run_id}"


@pytest.mark.parametrize(("state", "tries"), [("none", 0), ("queued", 1)])
def test_a_task_that_has_not_begun_has_no_log_to_show(state: str, tries: int) -> None:
    with pytest.raises(AirflowMissingError, match=f"has not begun.* its state is {state}") as caught:
        logged(FakeApi((task("load", state, tries),)))
    assert caught.value.hint == "To wait for it: --follow"


@pytest.mark.parametrize("follow", [False, True])
def test_a_task_that_never_begins_is_not_waited_for(*, follow: bool) -> None:
    with pytest.raises(AirflowMissingError, match="its state is skipped") as caught:
        logged(FakeApi((task("load", "skipped", 0),)), follow=follow)
    assert caught.value.hint == ""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspecting, "LOG_SECONDS", 0)


@pytest.mark.usefixtures("quick")
def test_a_log_is_followed_through_later_tries_to_the_tasks_end() -> None:
    states = [("none", 0), ("none", 0), ("running", 1), ("up_for_retry", 1), ("queued", 2), ("success", 2)]
    api = FakeApi(*((task("load", *state),) for state in states), ends_after=100)
    api.logs = {("load", 1): ["first"], ("load", 2): ["second"]}
    assert logged(api, follow=True) == ["first", "second"]


@pytest.mark.usefixtures("quick")
def test_one_try_is_followed_to_its_own_end() -> None:
    states = [("running", 1), ("running", 1), ("queued", 2), ("running", 2)]
    api = FakeApi(*((task("load", *state),) for state in states), ends_after=100)
    api.logs = {("load", 1): ["first"], ("load", 2): ["second"]}
    assert logged(api, follow=True, number=1) == ["first"]


@pytest.mark.usefixtures("quick")
def test_following_ends_with_the_run_if_the_task_never_begins() -> None:
    assert logged(FakeApi((task("load", "none", 0),), ends_after=2), follow=True) == []
