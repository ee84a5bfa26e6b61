"""The example of docs/training.md on an export of a small history."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pipectl.databases import Databases
from pipectl.observer import Observer
from pipectl.pipeline import exporting
from pipectl.pipeline.exporting import ExportRequest
from support import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration


def test_the_example_learns_from_an_export(servers: Servers, tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL)
    assert servers.run("history_loader", "--transactions", "80000", "--days", "35")[0] == 0
    data = tmp_path / "data"
    exporting.export(Databases(*servers.addresses), ExportRequest(data, "parquet"), Observer())

    done = subprocess.run(
        (sys.executable, "-c", code, str(data)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**servers.environment, "OMP_NUM_THREADS": "1"},  # its threads spin where others work too
    )

    assert done.returncode == 0, done.stderr
    figures = dict(re.findall(r"^([a-zA-Z0 1]+?) +([0-9.]+)$", done.stdout, re.MULTILINE))
    assert set(figures) == {"ROC AUC", "average precision", "card precision at 10"}
    # Wide: some 200 frauds are tested, others every day, since the history ends now.
    assert 0.9 < float(figures["ROC AUC"]) < 1
    assert 0.2 < float(figures["average precision"]) < 1
    assert 0.2 < float(figures["card precision at 10"]) < 1
