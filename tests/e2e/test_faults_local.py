"""Faults of the local engine: processes that are stopped for a while or killed, in the middle of a run."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import psutil
import pytest

from pipectl.services import of_executor
from support.project_copy import Project, new_local_project
from support.server_process import free_port
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SERVICES = tuple(service.name for service in of_executor("LocalExecutor"))
WATCHED_DAG = """
from datetime import timedelta
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

command = '''
echo started >>"{folder}/$task"
until [ -e "{folder}/go" ]; do sleep 0.1; done
echo ended >>"{folder}/$task"
'''
with DAG("{dag_id}"):
    for task_id, retries in (("once", 0), ("repeatable", 3)):
        BashOperator(
            task_id=task_id,
            bash_command=command,
            env={{"task": task_id}},
            append_env=True,
            retries=retries,
            retry_delay=timedelta(seconds=1),
        )
"""
TASKS = ("once", "repeatable")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with new_local_project(tmp_path_factory.mktemp("faults") / "project") as made:
        for service in of_executor("LocalExecutor"):
            if service.default_port:
                made.set_variable(service.port_variable, str(free_port()))
        yield made


class Watched:
    """A run of two tasks that wait for a file, and write down what they do."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.folder = folder
        # An id of its own: Airflow takes a while to forget a DAG whose file is gone.
        self.dag_id = f"watched_{uuid4().hex}"
        project.dag("watched.py", WATCHED_DAG.format(folder=folder, dag_id=self.dag_id))
        self.client = project.client()
        until(lambda: self.client.sees(self.dag_id), "the DAG")
        self.run_id = self.client.trigger(self.dag_id)
        until(lambda: all(self.lines(task) == ["started"] for task in TASKS), "both tasks at work")

    def lines(self, task: str) -> list[str]:
        """What a task has written so far."""
        path = self.folder / task
        return path.read_text().splitlines() if path.exists() else []

    def tries(self, task: str) -> int:
        path = f"/api/v2/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{task}"
        return int(self.client.call(path)["try_number"])

    def end(self) -> str:
        """Let the tasks end, and return the state of the run."""
        (self.folder / "go").touch()
        return self.client.end_of(self.dag_id, self.run_id)

    def assert_each_task_runs_once(self) -> None:
        assert self.end() == "success"
        assert [self.lines(task) for task in TASKS] == [["started", "ended"]] * len(TASKS)
        assert [self.tries(task) for task in TASKS] == [1] * len(TASKS)


@pytest.fixture
def watched(project: Project, tmp_path: Path) -> Iterator[Watched]:
    made = Watched(project, tmp_path)
    yield made
    # Nothing of a test that failed is left waiting.
    (tmp_path / "go").touch()


def pids(project: Project) -> dict[str, int]:
    return {service["name"]: service["pid"] for service in project.json("status")["services"]}


def family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def victims(project: Project, name: str) -> list[psutil.Process]:
    """Return the processes of a service, `scheduler alone`, the `tasks`, or `all` with supervisord."""
    if name == "all":
        return family(int((project.folder / ".pipectl/run/supervisord.pid").read_text()))
    if name in {"scheduler alone", "tasks"}:
        scheduler, *tasks = family(pids(project)["scheduler"])
        return [scheduler] if name == "scheduler alone" else tasks
    return family(pids(project)[name])


@contextmanager
def stopped(processes: list[psutil.Process]) -> Iterator[None]:
    """Stop processes as a suspended machine does, for the time of a block."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in reversed(processes):
            process.resume()


def pass_time(seconds: float) -> None:
    """Let time pass: a fault that lasts is what these tests are about."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end, "the time", seconds + 60)


def scheduler_looks(project: Project) -> int:
    """How often the scheduler has looked for tasks that nobody runs."""
    logs = (project.folder / ".pipectl/logs").glob("scheduler.log*")
    return sum(
        path.read_text(errors="replace").count("Adopting or resetting orphaned tasks") for path in logs
    )


def wait_until_the_scheduler_has_judged(project: Project) -> None:
    """Wait until the scheduler has looked three times: by then it has given up what it would give up."""
    before = scheduler_looks(project)
    until(lambda: scheduler_looks(project) >= before + 3, "the scheduler's look for lost tasks")


@pytest.mark.parametrize("name", ["scheduler alone", "tasks", "all", *SERVICES])
@pytest.mark.parametrize("seconds", [15, 60, pytest.param(300, marks=pytest.mark.slow)])
def test_what_was_stopped_for_a_while_runs_no_task_twice(
    project: Project, watched: Watched, name: str, seconds: int
) -> None:
    with stopped(victims(project, name)):
        pass_time(seconds)
    wait_until_the_scheduler_has_judged(project)
    watched.assert_each_task_runs_once()


def test_a_killed_scheduler_leaves_its_tasks_at_work_and_the_next_one_adopts_them(
    project: Project, watched: Watched
) -> None:
    scheduler = pids(project)["scheduler"]
    os.kill(scheduler, signal.SIGKILL)
    until(lambda: pids(project)["scheduler"] not in {None, scheduler}, "another scheduler")
    wait_until_the_scheduler_has_judged(project)
    watched.assert_each_task_runs_once()


@pytest.mark.parametrize("name", ["tasks", "scheduler"])
def test_a_task_whose_process_was_killed_is_tried_again_as_often_as_it_may(
    project: Project, watched: Watched, name: str
) -> None:
    for process in victims(project, name):
        process.kill()
    until(lambda: watched.lines("repeatable") == ["started", "started"], "the second try")
    assert watched.end() == "failed"
    assert watched.lines("once") == ["started"]
    assert watched.lines("repeatable") == ["started", "started", "ended"]
    assert watched.tries("repeatable") == 2
