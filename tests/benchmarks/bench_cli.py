"""What the command line itself costs, against the least that Python can do. CPU in milliseconds, medians.

`python tests/benchmarks/bench_cli.py`, with a stack that is up. Exits 1 where a limit is missed.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

from pipectl import settings
from pipectl.engines.choice import choose

ROUNDS = 15
VERSION_LIMIT = 1.5
STATUS_LIMIT = 2.0
EXPLAIN_LIMIT = 1.3
CLIENT_LIMIT = 1.5
UP_LIMIT = 3.0
TRIGGERS = 5
AIRFLOW_LIMIT = 0.8
COMPLETION_LIMIT = 1.5
# What bash sets for `pipectl trigger`, a blank and Tab.
TAB = {"_PIPECTL_COMPLETE": "complete_bash", "COMP_WORDS": "pipectl\ntrigger\n", "COMP_CWORD": "2"}
PIPECTL = (sys.executable, "-m", "pipectl")


def cpu(command: tuple[str, ...]) -> float:
    """CPU of one call in milliseconds, children included; fails where the command does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    variables = TAB if command == PIPECTL else {}
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        env=os.environ | variables,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> int:
    """Measure in turn, so that noise meets all, and print the table."""
    engine = choose(settings.load())
    url = engine.airflow().url
    health = f"import urllib.request as r; r.urlopen({url!r} + '/api/v2/monitor/health').read()"
    commands = {
        "import typer": (sys.executable, "-c", "import typer"),
        "pipectl --version": (*PIPECTL, "--version"),
        "completion": PIPECTL,
        "health request": (sys.executable, "-c", health),
        "pipectl up": (*PIPECTL, "up"),
        "pipectl status": (*PIPECTL, "status", "--json"),
        "pipectl explain": (*PIPECTL, "explain", "--json"),
        "pipectl runs": (*PIPECTL, "runs", "--json"),
    }
    # What runs in a container is not this process's child.
    if engine.name == "local":
        dags = ("airflow", "dags", "list")
        commands |= {"pipectl": (*PIPECTL, *dags), "airflow": (*PIPECTL, "python", "-m", *dags)}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            times[name].append(cpu(command))
    typer, version, completion, request, up, status, explain, runs, *airflow = (
        median(values) for values in times.values()
    )
    # Last, since the runs take the processor from whatever is measured beside them.
    trigger = median(cpu((*PIPECTL, "trigger", "--no-wait", "--json")) for _ in range(TRIGGERS))
    ratios = [
        ("pipectl --version / import typer", version, version / typer, VERSION_LIMIT),
        ("completion of a DAG's id / --version", completion, completion / version, COMPLETION_LIMIT),
        ("pipectl up, all runs / --version", up, up / version, UP_LIMIT),
        ("pipectl status / (health request + --version)", status, status / (request + version), STATUS_LIMIT),
        ("pipectl explain / pipectl status", explain, explain / status, EXPLAIN_LIMIT),
        ("pipectl runs / pipectl status", runs, runs / status, CLIENT_LIMIT),
        ("pipectl trigger --no-wait / pipectl status", trigger, trigger / status, CLIENT_LIMIT),
    ]
    if airflow:
        quick, plain = airflow
        ratios.append(("pipectl airflow dags list / airflow dags list", quick, quick / plain, AIRFLOW_LIMIT))
    for name, milliseconds, ratio, limit in ratios:
        sys.stdout.write(f"{name:48}{milliseconds:8.0f} ms{ratio:8.2f}   limit {limit}\n")
    return int(any(ratio > limit for _, _, ratio, limit in ratios))


if __name__ == "__main__":
    sys.exit(main())
