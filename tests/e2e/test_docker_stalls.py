"""Faults of the docker engine: containers whose processes are stopped or killed, in the middle of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.docker_project import docker
from support.stacks import ALL, DockerStack, wait_until_the_scheduler_has_judged
from support.waiting import pass_time
from support.watched_run import WatchedRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.project_copy import Project

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.slow]
# Containers of every executor see it, and it ends with the project's data.
FOLDER = "/opt/airflow/logs/watched"
LOCAL, CELERY = "LocalExecutor", "CeleryExecutor"
WORKER = "what runs tasks"
# That, by executor.
WORKERS = {LOCAL: "scheduler", CELERY: "worker"}


@pytest.fixture(scope="module", params=WORKERS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerStack]:
    celery = request.param == CELERY
    with DockerStack.new(tmp_path_factory.mktemp("faults") / "project", celery=celery) as made:
        yield made


@pytest.fixture(scope="module")
def up_options(engine: DockerStack) -> tuple[str, ...]:
    return engine.up[1:]


@pytest.fixture(scope="module")
def stack(engine: DockerStack) -> Project:
    return engine.project


@pytest.fixture
def watched(engine: DockerStack, project: Project) -> Iterator[WatchedRun]:
    def shell(command: str) -> str:
        [webserver] = engine.containers("webserver")
        return docker("exec", webserver, "sh", "-c", command)

    run = WatchedRun(project, FOLDER, shell)
    yield run
    run.let_go()


def worker(engine: DockerStack) -> str:
    return WORKERS[CELERY if engine.name == "celery" else LOCAL]


@pytest.mark.parametrize(
    ("victim", "seconds"),
    [(WORKER, 15), (ALL, 60), (ALL, 300)],
)
def test_what_was_stopped_for_a_while_runs_no_task_twice(
    engine: DockerStack, watched: WatchedRun, victim: str, seconds: int
) -> None:
    with engine.stopped(worker(engine) if victim == WORKER else victim):
        pass_time(seconds)
    wait_until_the_scheduler_has_judged(engine)
    watched.assert_each_task_runs_once()


def test_a_task_whose_container_was_killed_is_tried_again_as_often_as_it_may(
    engine: DockerStack, watched: WatchedRun
) -> None:
    engine.kill(worker(engine))
    watched.assert_only_what_may_be_is_tried_again()
