"""The documentation, typed: every command of the tutorial and the guides, in order, on one fresh project."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from support.docker_project import DockerProject, new_docker_project
from support.pages import GUIDES, script
from support.project_copy import Project, new_local_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(5400)]
GUIDE_SECONDS = 1800


def programs(folder: Path) -> str:
    """Make the commands that a reader has: pipectl of this repository, and its Python."""
    folder.mkdir()
    for name, words in (("pipectl", "-I -m pipectl "), ("python", "")):
        (folder / name).write_text(f"#!/bin/sh\nexec '{sys.executable}' {words}\"$@\"\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@contextmanager
def others_ended(project: Project) -> Iterator[None]:
    """End the projects that a guide makes beside this one, if it fails before it ends them itself."""
    try:
        yield
    finally:
        for stack in project.folder.parent.glob("*/stack"):
            if stack.parent != project.folder:
                replace(project, folder=stack.parent).run("down", "--volumes", "--yes")


def follow(project: Project, path: str) -> None:
    """Type what the guides say, one after the other, from the folder above the project's on."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIPECTL_")}
    kept = {name: os.environ[name] for name in ("PIPECTL_CACHE_DIR",) if name in os.environ}
    for guide in GUIDES:
        folder = project.folder.parent if guide == "tutorial" else project.folder
        process = subprocess.Popen(
            ["bash", "-euxo", "pipefail", "-c", script(guide, project.engine)],
            cwd=folder,
            env={**environment, **kept, "PATH": path, "PIPECTL_ENGINE": project.engine},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=GUIDE_SECONDS)
        except BaseException:
            # What the shell started would keep the project's lock.
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        assert process.returncode == 0, f"{guide}: exit {process.returncode}\n{said[-6000:]}"


def test_every_command_of_the_guides_works_on_the_local_engine(tmp_path: Path) -> None:
    with new_local_project(tmp_path / "fraud") as project, others_ended(project):
        shutil.rmtree(project.folder)  # the tutorial makes it
        follow(project, programs(tmp_path / "programs"))


@pytest.mark.docker
def test_every_command_of_the_guides_works_on_docker(tmp_path: Path) -> None:
    with new_docker_project(tmp_path / "fraud") as project, others_ended(project):
        assert isinstance(project, DockerProject)
        shutil.rmtree(project.folder)
        # What `pipectl init` leaves as it is.
        (project.folder / "stack" / "airflow").mkdir(parents=True)
        (project.folder / "stack" / "airflow" / "install.env").write_text(project.ways_to_packages())
        follow(project, programs(tmp_path / "programs"))
