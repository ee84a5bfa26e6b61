"""Measure the docker engine against bare Compose and against Airflow's quick start, as ratios within one run.

usage: python tests/benchmarks/bench_docker.py [ROUNDS]

Needs a running engine and its images. Rounds alternate, so that other load on the machine meets all alike;
the smallest time of each variant counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from docker_project import DockerProject, new_project

if TYPE_CHECKING:
    from collections.abc import Callable

OFFICIAL = Path(__file__).with_name("official-compose.yml")
WAIT = ("up", "--detach", "--wait", "--wait-timeout", "280", "--quiet-pull")


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.monotonic()
    action()
    return time.monotonic() - started


def official(*arguments: str) -> None:
    """Run Compose on the file of the quick start."""
    command = ["docker", "compose", "-f", str(OFFICIAL), *arguments]
    subprocess.run(command, check=True, capture_output=True)


def main(rounds: int) -> None:
    """Print the times of every variant and their ratios as JSON."""
    times: dict[str, list[float]] = {}

    def note(name: str, action: Callable[[], object]) -> None:
        times.setdefault(name, []).append(round(timed(action), 2))

    with tempfile.TemporaryDirectory() as folder, new_project(Path(folder) / "project") as project:
        project.run("up")
        for _ in range(rounds):
            measure(project, note)
        trigger(project, times)
    best = {name: min(found) for name, found in times.items()}
    ratios = {
        "pipectl / compose, cold": best["pipectl cold"] / best["compose cold"],
        "pipectl / compose, warm": best["pipectl warm"] / best["compose warm"],
        "pipectl / compose, running": best["pipectl running"] / best["compose running"],
        "pipectl / official, cold": best["pipectl cold"] / best["official cold"],
        "pipectl / official, warm": best["pipectl warm"] / best["official warm"],
    }
    rounded = {name: round(ratio, 2) for name, ratio in ratios.items()}
    sys.stdout.write(json.dumps({"seconds": times, "ratios": rounded}, indent=2) + "\n")


def measure(project: DockerProject, note: Callable[[str, Callable[[], object]], None]) -> None:
    """Start everything once with new data (cold), once with data that is there (warm), once while it runs."""
    project.run("down", "--volumes", "--yes")
    note("pipectl cold", lambda: project.run("up"))
    note("pipectl running", lambda: project.run("up"))
    project.run("down")
    note("pipectl warm", lambda: project.run("up"))
    project.run("down", "--volumes", "--yes")
    note("compose cold", lambda: project.compose(*WAIT))
    note("compose running", lambda: project.compose(*WAIT))
    project.run("down")
    note("compose warm", lambda: project.compose(*WAIT))
    project.run("down")
    official("down", "--volumes")
    note("official cold", lambda: official(*WAIT))
    official("down")
    note("official warm", lambda: official(*WAIT))
    official("down", "--volumes")
    project.run("up")


def trigger(project: DockerProject, times: dict[str, list[float]]) -> None:
    """Note the time from command to end of three runs, and the time that Airflow gives for each."""
    for _ in range(3):
        started = time.monotonic()
        result = project.json("trigger")
        times.setdefault("trigger", []).append(round(time.monotonic() - started, 2))
        times.setdefault("run", []).append(round(result["seconds"], 2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
