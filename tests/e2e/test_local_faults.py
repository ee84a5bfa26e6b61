"""Faults of the local engine: processes that are stopped for a while or killed, in the middle of a run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from support.project_copy import Project, new_local_project
from support.stacks import ALL, ALONE, TASKS, LocalStack, wait_until_the_scheduler_has_judged
from support.waiting import pass_time, until
from support.watched_run import WatchedRun

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e]


def some_now(values: Iterable[Any], *now: object) -> list[Any]:
    """Return all values as parameters of a test, those that are not `now` for the nightly run alone."""
    return [value if value in now else pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with LocalStack.new(tmp_path_factory.mktemp("faults") / "project") as made:
        yield made


@pytest.fixture(scope="module")
def stack(local: LocalStack) -> Project:
    return local.project


def shell(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def watched(project: Project, tmp_path: Path) -> Iterator[WatchedRun]:
    run = WatchedRun(project, str(tmp_path), shell)
    yield run
    # Nothing of a test that failed is left waiting.
    run.let_go()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        *((name, 15) for name in (ALONE, "scheduler", "postgres", "webserver")),
        *((ALL, seconds) for seconds in (15, 60)),
        *((name, 300) for name in (ALONE, "scheduler", ALL)),
    ],
)
def test_what_was_stopped_for_a_while_runs_no_task_twice(
    local: LocalStack, watched: WatchedRun, name: str, seconds: int
) -> None:
    with local.stopped(name):
        pass_time(seconds)
    wait_until_the_scheduler_has_judged(local)
    watched.assert_each_task_runs_once()


@pytest.mark.parametrize("name", some_now(LocalStack.services, "scheduler"))
def test_a_service_that_is_killed_takes_no_task_with_it(
    local: LocalStack, watched: WatchedRun, name: str
) -> None:
    local.kill_alone(name)
    wait_until_the_scheduler_has_judged(local)
    watched.assert_each_task_runs_once()


@pytest.mark.parametrize("name", [TASKS, "scheduler"])
def test_a_task_whose_process_was_killed_is_tried_again_as_often_as_it_may(
    local: LocalStack, watched: WatchedRun, name: str
) -> None:
    local.kill(name)
    watched.assert_only_what_may_be_is_tried_again()


@pytest.mark.slow
def test_a_machine_that_is_very_busy_runs_no_task_twice(local: LocalStack, watched: WatchedRun) -> None:
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(30)]
    try:
        wait_until_the_scheduler_has_judged(local)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    watched.assert_each_task_runs_once()


@pytest.mark.parametrize("name", some_now(LocalStack.services, "webserver", "airbyte-postgres"))
def test_trigger_follows_its_run_while_a_service_restarts(
    local: LocalStack, project: Project, tmp_path: Path, name: str
) -> None:
    run = WatchedRun(project, str(tmp_path), shell, by_command=True)
    local.kill_alone(name)
    run.let_go()
    out, said = run.command.communicate(timeout=300)
    assert run.command.returncode == 0, said
    result = json.loads(out)
    assert (result["run_id"], result["state"]) == (run.run_id, "success")
    assert [task["try"] for task in result["tasks"]] == [1, 1]


@pytest.mark.slow
def test_trigger_that_waits_less_than_a_silence_lasts_ends_with_what_it_knows(
    local: LocalStack, project: Project, tmp_path: Path
) -> None:
    run = WatchedRun(project, str(tmp_path), shell)
    command = project.start("trigger", run.dag_id, "--timeout", "5")
    runs = f"/api/v2/dags/{run.dag_id}/dagRuns"
    until(lambda: len(project.client().call(runs)["dag_runs"]) > 1, "the command's run")
    with local.stopped("webserver"):
        _, said = command.communicate(timeout=200)
    run.let_go()
    assert command.returncode == 8, said
    assert "when Airflow last answered" in said


@pytest.mark.parametrize(
    "number", some_now((signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGKILL), signal.SIGHUP)
)
def test_after_a_down_that_was_interrupted_the_next_up_works(
    local: LocalStack, project: Project, number: signal.Signals
) -> None:
    process = project.start("down")
    until(lambda: 0 in local.pids().values(), "a service that has stopped")
    process.send_signal(number)
    process.communicate()
    project.run("up")
    assert project.json("trigger")["state"] == "success"


@pytest.mark.slow
def test_a_project_that_is_moved_or_copied_writes_nothing_into_the_folder_where_it_was_made(
    tmp_path: Path,
) -> None:
    with new_local_project(tmp_path / "first") as first:
        first.run("up")
        first.run("down")
        copy = Project(tmp_path / "copy")
        shutil.copytree(first.folder, copy.folder, symlinks=True)
        moved = Project(tmp_path / "moved")
        first.folder.rename(moved.folder)
        try:
            for project in (copy, moved):
                project.run("up")
                assert project.json("trigger")["state"] == "success"
                project.run("down", "--volumes", "--yes")
                assert not first.folder.exists()
        finally:
            moved.folder.rename(first.folder)
