"""What `export` leaves when it is interrupted or killed, and that the next one makes good for it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from pipectl.errors import ExitCode
from pipectl.pipeline.exporting import MANIFEST
from support.elsewhere import pipectl, project_of
from support.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

PIPECTL = "from pipectl import cli; cli.main()"
# At the last moment: all is written, and nothing is in its place.
KILLED_BY_ITSELF = f"import os, signal; os.sync = lambda: os.kill(os.getpid(), signal.SIGKILL); {PIPECTL}"


@contextmanager
def exporting(project: Path, code: str = PIPECTL) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        (sys.executable, "-c", code, "--project", str(project), "--engine", "local", "export", "data"),
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def project(servers: Servers, tmp_path: Path) -> Path:
    assert servers.run("history_loader", "--transactions", "3000", "--days", "3")[0] == 0
    return project_of(servers, tmp_path)


def exported(project: Path) -> int:
    """How many transactions the next export has; all of the last one is gone."""
    done = pipectl(project, "--json", "export", str(project / "data"))
    assert done.returncode == 0, done.stderr
    assert not [*project.glob(".*"), *project.glob("data/.*")]
    assert json.loads((project / "data" / MANIFEST).read_text())["transactions"] == 3000
    return int(json.loads(done.stdout)["transactions"])


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_an_export_that_is_ended_in_its_middle_leaves_nothing_that_looks_whole(
    servers: Servers, project: Path, number: signal.Signals, code: int
) -> None:
    with closing(servers.mysql()) as holder, exporting(project) as process:
        holder.cursor().execute("LOCK TABLES fraud_labels WRITE")
        until(lambda: list(project.glob(".data.partial/transactions/day=*/*.parquet")), "the first files")
        process.send_signal(number)
        output, _ = process.communicate(timeout=WAIT_SECONDS)

    assert process.returncode == code, output
    assert not (project / "data").exists()
    assert not list(project.glob(f"**/{MANIFEST}"))
    if number != signal.SIGKILL:
        assert not list(project.glob(".data*"))
    assert exported(project) == 3000


def test_an_export_that_is_killed_just_before_its_end_is_made_anew(project: Path) -> None:
    with exporting(project, KILLED_BY_ITSELF) as process:
        process.communicate(timeout=WAIT_SECONDS)

    assert process.returncode == -signal.SIGKILL
    assert not (project / "data").exists()
    assert exported(project) == 3000
