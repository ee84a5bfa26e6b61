"""Faults of the docker engine: containers that are paused or killed, in the middle of a run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pipectl.services import of_executor
from support.docker_project import DockerProject, docker, new_docker_project
from support.waiting import until
from support.watched_run import WatchedRun, pass_time

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.timeout(600)]
# Containers of every project see it, and it ends with the project's data.
FOLDER = "/opt/airflow/logs/watched"
EXECUTORS = {"local": "LocalExecutor", "celery": "CeleryExecutor"}
ALL = "all"


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def up_options(executor: str) -> tuple[str, ...]:
    return ("--executor", executor)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, executor: str) -> Iterator[DockerProject]:
    with new_docker_project(tmp_path_factory.mktemp(executor) / "project") as made:
        yield made


@pytest.fixture
def watched(project: DockerProject) -> Iterator[WatchedRun]:
    def shell(command: str) -> str:
        return docker("exec", project.containers()["webserver-1"]["Id"], "sh", "-c", command)

    run = WatchedRun(project, FOLDER, shell)
    yield run
    run.let_go()


def containers(project: DockerProject, name: str) -> list[str]:
    found = project.containers()
    running = [each for each, state in found.items() if state["State"]["Running"]]
    return [found[each]["Id"] for each in running if name in {ALL, each.rpartition("-")[0]}]


@contextmanager
def paused(ids: list[str]) -> Iterator[None]:
    docker("pause", *ids)
    try:
        yield
    finally:
        docker("unpause", *ids)


def scheduler_looks(project: DockerProject) -> int:
    """How often the scheduler has looked for tasks that nobody runs."""
    log = docker("logs", project.containers()["scheduler-1"]["Id"], errors=True)
    return log.count("Adopting or resetting orphaned tasks")


def wait_until_the_scheduler_has_judged(project: DockerProject) -> None:
    """Wait until the scheduler has looked three times: by then it has given up what it would give up."""
    before = scheduler_looks(project)
    until(lambda: scheduler_looks(project) >= before + 3, "the scheduler's look for lost tasks")


@pytest.mark.parametrize("name", [ALL, *(service.name for service in of_executor("CeleryExecutor"))])
@pytest.mark.parametrize("seconds", [15, 60, pytest.param(300, marks=pytest.mark.slow)])
def test_what_was_paused_for_a_while_runs_no_task_twice(
    project: DockerProject, watched: WatchedRun, name: str, seconds: int
) -> None:
    ids = containers(project, name)
    if not ids:
        pytest.skip(f"this executor needs no {name}")
    with paused(ids):
        pass_time(seconds)
    wait_until_the_scheduler_has_judged(project)
    watched.assert_each_task_runs_once()


def test_a_task_whose_container_was_killed_is_tried_again_as_often_as_it_may(
    project: DockerProject, executor: str, watched: WatchedRun
) -> None:
    [worker] = containers(project, "worker" if executor == "celery" else "scheduler")
    # From inside, as a fault does it: Docker restarts what was not killed through Docker.
    docker("exec", "--user", "root", "--privileged", worker, "sh", "-c", "kill -9 -1 2>/dev/null || true")
    watched.assert_only_what_may_be_is_tried_again()
