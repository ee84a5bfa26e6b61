"""From an empty folder: the wheel and the sdist, and the project that an installed pipectl makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from pipectl.engines.project import RECORD
from pipectl.pipeline.scaffold import FIRST_RELEASE, RELEASES, todays
from support import ROOT
from support.needs import need_airflow
from support.wheels import build, install_wheel

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def pipectl(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_wheel(wheel, tmp_path_factory.mktemp("installed") / "an environment")


def run(pipectl: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [pipectl, *arguments],
        cwd=folder,
        env={
            name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PIPECTL_PROJECT"}
        },
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    for name in ("sdist", "source", "wheel"):
        (tmp_path / name).mkdir()
    with tarfile.open(build(tmp_path / "sdist", "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    [source] = (tmp_path / "source").iterdir()
    assert members(build(tmp_path / "wheel", "wheel", source)) == members(wheel)


def test_no_file_that_git_ignores_is_in_a_wheel(tmp_path: Path) -> None:
    """A clone has secrets in them."""
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(source)], check=True)
    for name in ("stack/.env", "stack/airflow/user.env", "dags/__pycache__/x.pyc"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("SECRET=sesame\n")
    (tmp_path / "wheel").mkdir()
    assert not [
        name
        for name, content in members(build(tmp_path / "wheel", "wheel", source)).items()
        if b"sesame" in content
    ]


def test_an_installed_pipectl_makes_a_project_that_its_commands_take(pipectl: Path, tmp_path: Path) -> None:
    need_airflow()
    project = tmp_path / "my pipeline"
    made = json.loads(run(pipectl, tmp_path, "init", "my pipeline", "--json"))
    assert made["folder"] == str(project)
    names = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    # Also those of a clone.
    assert names == {*todays().files, RECORD}
    assert made["files"] == len(names)
    assert os.access(project / "entrypoint.sh", os.X_OK)
    checked = json.loads(run(pipectl, project, "--engine", "local", "check", "--json"))
    assert [finding for finding in checked["findings"] if finding["severity"] == "error"] == []
    assert len(checked["files"]) >= 3
    assert "stopped" in run(pipectl, project, "--engine", "local", "status")
    assert "Nothing to change" in run(pipectl, project, "upgrade")
    assert "upgrade" in run(pipectl, project, "--help")


def test_a_project_of_the_first_release_is_brought_along(pipectl: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(RELEASES / f"{FIRST_RELEASE}.zip", tmp_path)
    (tmp_path / "stack" / ".env").write_text("AIRFLOW_PORT=8099\n", encoding="utf-8")
    dag = tmp_path / "dags" / "generate_data_dag.py"
    dag.write_text(dag.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    upgraded = json.loads(run(pipectl, tmp_path, "upgrade", "--json"))
    assert (upgraded["before"], {change["action"] for change in upgraded["changes"]}) == (
        FIRST_RELEASE,
        {"added", "updated", "merged", "deleted"},
    )
    assert dag.read_text(encoding="utf-8").endswith("# mine\n")
    assert (tmp_path / "stack" / ".env").read_text(encoding="utf-8") == "AIRFLOW_PORT=8099\n"
