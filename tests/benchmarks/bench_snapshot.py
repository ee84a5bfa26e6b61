"""How long `pipectl snapshot` takes, as a ratio to `cp -r` of the same volumes, on a stack of its own.

usage: .venv/bin/python tests/benchmarks/bench_snapshot.py [--rows 1000000] [--engine local] [--folder DIR]

`cp -r` copies the data of all three databases to the same disk, with the servers at rest, and `sync`
follows as in a save. Counted is how long the databases are away, and the whole command, which waits for
health. Both are taken in turn, and the best of each counts.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipectl.engines.local.folders import shares_blocks
from support.snapshot_checks import NO_HARM, counts
from support.stacks import DockerStack, LocalStack

if TYPE_CHECKING:
    from support.project_copy import Project

# Of the issue that asked for this; 0.1 if the file system shares blocks.
HIGHEST, HIGHEST_SHARED = 1.2, 0.1
ROUNDS = 3
RUNS = 3


def timed_copy(project: Project, target: Path) -> float:
    sources = [project.folder / ".pipectl" / "volumes"]
    if project.engine == "docker":
        listed = project.json("down", "--volumes", "--dry-run")["would_delete"]
        mount = ("docker", "volume", "inspect", "--format", "{{.Mountpoint}}")
        sources = [
            Path(
                subprocess.run(
                    (*mount, each["location"]), capture_output=True, text=True, check=True
                ).stdout.strip()
            )
            for each in listed
            if each["name"].endswith("_data")
        ]
    project.run("down")
    subprocess.run(("sync",), check=True)
    started = time.monotonic()
    for source in sources:
        subprocess.run(("cp", "-r", str(source), str(target)), check=True)
    subprocess.run(("sync",), check=True)
    seconds = time.monotonic() - started
    shutil.rmtree(target)
    target.mkdir()
    project.run("up")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--engine", choices=("local", "docker"), default="local")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    kind = LocalStack if arguments.engine == "local" else DockerStack
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        kind.new(Path(folder) / "project") as stack,
    ):
        project = stack.project
        project.run("up")
        # Of ten million rows it takes longer than any command of a test may.
        load = project.start("load", "--transactions", str(arguments.rows))
        _, errors = load.communicate()
        assert not load.returncode, errors
        copies, saves, away = [], [], []
        target = Path(folder) / "copy"
        target.mkdir()
        for number in range(arguments.rounds):
            copies.append(timed_copy(project, target))
            if number:
                project.run("snapshot", "rm", "mine", "--yes")
            saved = project.json("snapshot", "save", "mine")
            saves.append(saved["seconds"])
            away.append(saved["away_seconds"])
        before = counts(stack)
        for _ in range(RUNS):
            project.run("trigger")
        started = time.monotonic()
        project.run("snapshot", "restore", "mine", "--yes")
        restored = time.monotonic() - started
        assert counts(stack) == before
        project.run("trigger")
        project.settle()
        assert stack.harm() == NO_HARM
        size = saved["snapshot"]["bytes"] / 1e6
        highest = HIGHEST_SHARED if shares_blocks(project.folder, project.folder) else HIGHEST
    best = min(copies)
    sys.stdout.write(
        f"{before[0]:,} transactions, {size:,.0f} MB, cp -r and sync {best:.1f} s\n"
        f"databases away {min(away):.1f} s, {min(away) / best:.2f} of cp -r (at most {highest})\n"
        f"whole save     {min(saves):.1f} s, {min(saves) / best:.2f} of cp -r\n"
        f"restore        {restored:.1f} s, {restored / best:.2f} of cp -r; counts are those of before\n"
    )
    sys.exit(min(away) / best > highest)


if __name__ == "__main__":
    main()
