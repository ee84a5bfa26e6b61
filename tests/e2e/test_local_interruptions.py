"""`up` that is interrupted, or finds something broken: said in words, and the next `up` works."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from support.project_copy import Project, new_local_project
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with new_local_project(tmp_path / "project") as made:
        yield made


def test_an_interrupted_up_leaves_nothing_that_down_does_not_end_and_the_next_up_works(
    project: Project,
) -> None:
    for step in ("run/supervisord.pid", "volumes/airbyte-postgres/data/PG_VERSION"):
        process = project.start("up")
        until((project.folder / ".pipectl" / step).exists, step)
        code, err = project.interrupt(process)
        assert code == 130, err
        project.run("down", "--volumes", "--yes")
        assert not project.processes()
    project.run("up")
    assert project.json("trigger")["state"] == "success"


@pytest.mark.slow
def test_an_interrupted_reset_leaves_a_stack_that_the_next_up_completes(project: Project) -> None:
    project.run("up")
    made = project.folder / ".pipectl/volumes/airbyte-postgres/created"
    before = made.read_text()
    process = project.start("reset", "--yes")
    until(lambda: made.exists() and made.read_text() not in {"", before}, "the new volume")
    code, err = project.interrupt(process)
    assert code == 130, err
    project.run("up")
    assert project.json("verify-db")["ok"]


def test_a_command_that_changes_the_stack_keeps_a_second_one_out(project: Project) -> None:
    process = project.start("up")
    until((project.folder / ".pipectl/run/supervisord.pid").exists, "the supervisor")
    done = project.run("down", code=3)
    assert "Another pipectl command is changing the stack" in done.stderr
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err


def test_an_up_that_was_killed_can_be_run_again_at_once(project: Project) -> None:
    process = project.start("up")
    until((project.folder / ".pipectl/run/supervisord.pid").exists, "the supervisor")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    project.run("up")
    assert project.json("verify-db")["ok"]


def test_a_dag_that_is_broken_from_the_start_is_exit_9_and_mending_it_is_enough(project: Project) -> None:
    path = project.folder / "dags" / "generate_data_dag.py"
    source = path.read_text()
    path.write_text(source + "\nimport nowhere_to_be_found\n")
    done = project.run("up", code=9)
    assert "nowhere_to_be_found" in done.stderr
    path.write_text(source)
    until(lambda: project.json("status")["dag"]["found"], "the mended DAG")
    project.run("up")


def test_a_server_that_cannot_start_fails_up_at_once_with_its_log(project: Project) -> None:
    project.run("up")
    project.run("down")
    data = project.folder / ".pipectl/volumes/airbyte-mysql/data"
    (data / "ibdata1").write_bytes(b"this is no table space")
    done = project.run("up", code=3)
    assert "'airbyte-mysql' ends as soon as it is started" in done.stderr
    assert "InnoDB" in done.stderr
