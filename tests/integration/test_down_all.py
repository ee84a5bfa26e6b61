"""`down --all` ends the processes of every project of this user, and of nobody else."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from pipectl import cli
from pipectl.engines.local.supervisor.program import Program
from pipectl.engines.local.supervisor.supervisor import Supervisor, running_projects
from pipectl.errors import ExitCode
from pipectl.pipeline import projects
from support.fake_docker import FakeApi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Three projects with a real supervisord each; of the machine's others this test may stop none."""
    folders = [tmp_path / name for name in ("a", "b", "c")]
    monkeypatch.setenv("PIPECTL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def own() -> list[tuple[int, Path]]:
        return [found for found in running_projects() if tmp_path in found[1].parents]

    monkeypatch.setattr(projects, "running_projects", own)
    monkeypatch.setattr(projects, "OneLook", FakeApi)
    for folder in folders:
        for name in ("dags", "stack", ".pipectl"):
            (folder / name).mkdir(parents=True)
        supervisor = Supervisor(folder / ".pipectl")
        supervisor.launch([Program("webserver", SLEEPER, folder, {}, stop_seconds=2)])
        supervisor.start("webserver")
    yield folders
    for _, folder in own():
        folder.mkdir(exist_ok=True)
        Supervisor(folder / ".pipectl").end_leftovers()


def left(three: list[Path]) -> list[Path]:
    """Those whose supervisord runs."""
    return [folder for _, folder in running_projects() if folder in three]


def down_all(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["down", "--all", *words])


def test_every_project_is_stopped_but_one_that_cannot_be(three: list[Path]) -> None:
    env = three[1] / "stack" / ".env"
    env.write_text("no assignment")
    assert {each.state for each in projects.listing("local").projects} == {"running"}
    assert down_all("--yes").exit_code == ExitCode.ENGINE
    assert left(three) == [three[1]]
    env.unlink()
    done = down_all("--yes")
    assert (done.exit_code, done.stdout) == (0, f"Stopped {three[1]} (local): webserver.\n")
    assert left(three) == []


def test_processes_of_a_folder_that_is_gone_are_named_and_ended(three: list[Path]) -> None:
    shutil.rmtree(three[0])
    gone, *_ = projects.listing("local").projects
    assert (gone.folder, gone.state) == (three[0], "gone")
    assert "supervisord, process " in gone.left[0]
    assert down_all("--yes").exit_code == 0
    assert left(three) == []
