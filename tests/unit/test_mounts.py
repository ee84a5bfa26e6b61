"""Who may read the project's files inside Airflow's containers, and the command that lets them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pipectl.engines.docker.mounts import require_readable, unreadable
from pipectl.errors import EngineError
from support.project_copy import copy_project

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="modes count on Linux alone")
STRANGER, OTHER_GROUP = os.getuid() + 50000, os.getgid() + 50000
ROOTLESS = {"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_project(tmp_path / "project").folder


@pytest.fixture
def private(project: Path) -> Path:
    """A project as `git clone` leaves it under umask 077, with secrets."""
    (project / "stack" / "airflow" / "user.env").write_text("A=secret\n")
    subprocess.run(["chmod", "-R", "go=", project], check=True)
    return project


def test_a_usual_checkout_can_be_read(project: Path) -> None:
    subprocess.run(["chmod", "-R", "go=rX", project], check=True)
    assert unreadable(project, STRANGER, OTHER_GROUP) == ()


def test_a_private_checkout_can_be_read_by_its_owner_alone(private: Path) -> None:
    assert {"dags", "entrypoint.sh", "stack/airflow/launcher.py"} <= set(
        map(str, unreadable(private, STRANGER, OTHER_GROUP))
    )
    assert unreadable(private, os.getuid(), OTHER_GROUP) == ()
    require_readable(private, 0, ROOTLESS)


@pytest.mark.parametrize(
    "where",
    ["dags", "scripts/fraud_pipeline", "stack/airflow", "stack/airflow/our.pem", "entrypoint.sh"],
)
def test_the_cure_lets_airflow_read_and_leaves_secrets_private(private: Path, where: str) -> None:
    subprocess.run(["chmod", "-R", "go=rX", private], check=True)
    (private / "stack" / "airflow" / "user.env").chmod(0o600)
    (private / "stack" / "airflow" / "our.pem").touch()
    (private / where).chmod(0o700)
    with pytest.raises(EngineError, match=re.escape(f"may not read {where}")) as caught:
        require_readable(private, STRANGER, {})
    command = caught.value.hint.removeprefix("Let them: ").split("\nOr ")[0]
    subprocess.run(["sh", "-c", command], cwd=private, check=True)
    require_readable(private, STRANGER, {})
    assert (private / "stack" / "airflow" / "user.env").stat().st_mode & 0o77 == 0


def test_a_private_checkout_is_cured_as_a_whole(private: Path) -> None:
    with pytest.raises(
        EngineError,
        match=r"may not read dags and \d+ more in .* mode 0700",
    ) as caught:
        require_readable(private, STRANGER, ROOTLESS)
    assert f"AIRFLOW_UID={os.getuid()}" in caught.value.hint
    command = caught.value.hint.removeprefix("Let them: ").split("\nOr ")[0]
    subprocess.run(["sh", "-c", command], cwd=private, check=True)
    require_readable(private, STRANGER, {})
    assert (private / "stack" / "airflow" / "user.env").stat().st_mode & 0o77 == 0


def test_a_link_to_nowhere_is_nobodys_problem(project: Path) -> None:
    (project / "dags" / "gone.py").symlink_to("nowhere.py")
    assert unreadable(project, os.getuid(), OTHER_GROUP) == ()


def test_engines_that_show_other_owners_are_not_judged(private: Path) -> None:
    with pytest.raises(EngineError):
        require_readable(private, STRANGER, {})
    require_readable(private, STRANGER, {"OperatingSystem": "Docker Desktop"})
    require_readable(private, STRANGER, {"SecurityOptions": ["name=userns"]})
