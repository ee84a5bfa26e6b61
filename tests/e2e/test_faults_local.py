"""Faults of the local engine: processes that are stopped for a while or killed, in the middle of a run."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest

from pipectl.services import of_executor
from support.project_copy import Project, new_local_project
from support.server_process import free_port
from support.waiting import until
from support.watched_run import WatchedRun, pass_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SERVICES = tuple(service.name for service in of_executor("LocalExecutor"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with new_local_project(tmp_path_factory.mktemp("faults") / "project") as made:
        for service in of_executor("LocalExecutor"):
            if service.default_port:
                made.set_variable(service.port_variable, str(free_port()))
        yield made


def shell(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def watched(project: Project, tmp_path: Path) -> Iterator[WatchedRun]:
    run = WatchedRun(project, str(tmp_path), shell)
    yield run
    # Nothing of a test that failed is left waiting.
    run.let_go()


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
    project: Project, watched: WatchedRun, name: str, seconds: int
) -> None:
    with stopped(victims(project, name)):
        pass_time(seconds)
    wait_until_the_scheduler_has_judged(project)
    watched.assert_each_task_runs_once()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_is_killed_takes_no_task_with_it(
    project: Project, watched: WatchedRun, name: str
) -> None:
    before = pids(project)[name]
    os.kill(before, signal.SIGKILL)
    until(lambda: pids(project)[name] not in {None, before}, f"another {name}")
    wait_until_the_scheduler_has_judged(project)
    watched.assert_each_task_runs_once()


@pytest.mark.parametrize("name", ["tasks", "scheduler"])
def test_a_task_whose_process_was_killed_is_tried_again_as_often_as_it_may(
    project: Project, watched: WatchedRun, name: str
) -> None:
    for process in victims(project, name):
        process.kill()
    watched.assert_only_what_may_be_is_tried_again()
