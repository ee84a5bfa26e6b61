"""Which health checks of containers end in a shell, and which go on in Python."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

import triggers
from support import ROOT

SCRIPT = ROOT / "stack" / "airflow" / "healthcheck.sh"
NEEDED = Path("logs", triggers.NEEDED.name)


def check(home: Path, service: str) -> str:
    """What a health check prints, or "Python" if the shell does not answer by itself."""
    programs = home / "bin"
    programs.mkdir()
    (programs / "python").write_text(
        f'#!/bin/sh\n[ "$*" = "{SCRIPT.with_suffix(".py")} {service}" ] && echo Python\n'
    )
    (programs / "python").chmod(0o755)
    done = subprocess.run(
        ["bash", SCRIPT, service],
        env=os.environ | {"AIRFLOW_HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    said = done.stdout.strip()
    assert done.returncode == ("starting" in said)
    return said


@pytest.mark.parametrize(
    ("age", "answer"), [(0, ""), (25, ""), (35, "Python"), (-60, "Python"), (None, "Python")]
)
@pytest.mark.parametrize("service", ["scheduler", "dag-processor", "triggerer"])
def test_a_fresh_heartbeat_is_enough(tmp_path: Path, service: str, age: int | None, answer: str) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / NEEDED).touch()
    heartbeat = "" if age is None else f"{int(time.time()) - age}\n"
    (tmp_path / "heartbeat").write_text(heartbeat, encoding="ascii")
    assert check(tmp_path, service) == answer


@pytest.mark.parametrize(
    ("age", "answer"), [(0, "{}: starting"), (50, "{}: starting"), (70, "Python"), (-60, "Python")]
)
@pytest.mark.parametrize("service", ["scheduler", "dag-processor", "triggerer"])
def test_a_start_of_less_than_a_minute_ago_needs_no_explanation(
    tmp_path: Path, service: str, age: int, answer: str
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / NEEDED).touch()
    (tmp_path / "heartbeat").write_text(f"0 {int(time.time()) - age}\n", encoding="ascii")
    assert check(tmp_path, service) == answer.format(service)


def test_without_a_file_of_heartbeats_the_database_is_asked(tmp_path: Path) -> None:
    assert check(tmp_path, "scheduler") == "Python"


def test_a_triggerer_that_nothing_needs_is_waiting(tmp_path: Path) -> None:
    assert check(tmp_path, "triggerer") == "waiting"
    assert triggers.NEEDED.parts[-2:] == NEEDED.parts
