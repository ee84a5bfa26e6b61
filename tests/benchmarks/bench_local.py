"""Compare the local engine's Airflow with `airflow standalone` of the same environment, in one run.

`python tests/benchmarks/bench_local.py [rounds]`, 3 rounds by default, about 2 minutes each. They alternate,
so that noise of the machine meets both. Prints medians, ratios and limits; exits 1 where one is missed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from airflow_stack import TWO_TASKS, AirflowStack, RestClient, free_port, signal_group, wait_for

if TYPE_CHECKING:
    from pipectl.engines.local.airflow_runtime import AirflowRuntime

DAG = "nothing_to_do"
LATER_RUNS = 3
IDLE_SECONDS = 10
UP_SECONDS = 180
LIMITS = {"cold up": 0.7, "warm up": 0.6, "first run": 0.25, "later run": 0.25}

Figures = dict[str, list[float]]


def main(rounds: int) -> int:
    """Measure `rounds` times and print the table; 1 where a limit is missed."""
    ours: Figures = {}
    standalone: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        (project / "dags").mkdir(parents=True)
        (project / "dags" / "two_tasks.py").write_text(TWO_TASKS, encoding="utf-8")
        stack = AirflowStack(project)
        for number in range(rounds):
            # The first start after an installation or a pause reads files from disk: not what is compared.
            for kind in ("cold up", "warm up") if number else ("unmeasured", "cold up", "warm up"):
                measure_ours(stack, kind, ours)
                measure_standalone(stack.runtime, project, kind, standalone)
    return report(ours, standalone)


def measure_ours(stack: AirflowStack, kind: str, figures: Figures) -> None:
    """Start Airflow as the local engine does, run the DAG, and stop it."""
    if kind != "warm up":
        shutil.rmtree(stack.project / ".pipectl", ignore_errors=True)
    started = time.monotonic()
    stack.site.home.mkdir(parents=True, exist_ok=True)
    try:
        stack.start("webserver", "scheduler", "dag-processor")
        stack.prepare()
        stack.start("postgres")
        follow(stack.client, started, kind, figures)
        if kind == "warm up":
            pids = [process.pid for process in stack.processes.values()]
            keep(figures, "idle CPU, cores", idle_cpu(pids))
    finally:
        stack.stop()


def measure_standalone(runtime: AirflowRuntime, project: Path, kind: str, figures: Figures) -> None:
    """Start `airflow standalone` with SQLite and its default settings, run the DAG, and stop it."""
    home = project / ".standalone"
    if kind != "warm up":
        shutil.rmtree(home, ignore_errors=True)
    port = free_port()
    client = RestClient(
        f"http://127.0.0.1:{port}",
        lambda: str(json.loads((home / "simple_auth_manager_passwords.json.generated").read_text())["admin"]),
    )
    environment = {
        "PATH": f"{runtime.venv / 'bin'}:{os.environ['PATH']}",
        "HOME": os.environ["HOME"],
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": client.url,
        "AIRFLOW__CORE__DAGS_FOLDER": str(project / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        "SHLVL": "1",
    }
    started = time.monotonic()
    with (project / "standalone.log").open("wb") as log:
        process = subprocess.Popen(
            [runtime.venv / "bin" / "airflow", "standalone"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )
    try:
        follow(client, started, kind, figures)
        if kind == "warm up":
            keep(figures, "idle CPU, cores", idle_cpu([process.pid]))
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        signal_group(process.pid, signal.SIGKILL)


def follow(client: RestClient, started: float, kind: str, figures: Figures) -> None:
    """Wait until all is healthy and the DAG visible, then time runs from trigger to end."""
    wait_for(client.healthy, UP_SECONDS, "Airflow is healthy")
    wait_for(lambda: client.sees(DAG), UP_SECONDS, "the DAG is visible")
    up = time.monotonic() - started
    runs = []
    for _ in range(1 + LATER_RUNS):
        triggered = time.monotonic()
        state = client.run(DAG)
        runs.append(time.monotonic() - triggered)
        if state != "success":
            sys.exit(f"a run of {DAG} ended as {state}")
    if kind != "unmeasured":
        keep(figures, kind, up)
        keep(figures, "first run", runs[0])
        for seconds in runs[1:]:
            keep(figures, "later run", seconds)


def idle_cpu(pids: list[int]) -> float:
    """Cores that processes and their descendants use while nothing is to be done."""
    import psutil

    def seconds() -> float:
        total = 0.0
        for pid in pids:
            leader = psutil.Process(pid)
            for process in (leader, *leader.children(recursive=True)):
                total += sum(process.cpu_times()[:2])
        return total

    before = seconds()
    time.sleep(IDLE_SECONDS)
    return (seconds() - before) / IDLE_SECONDS


def keep(figures: Figures, name: str, value: float) -> None:
    """Add one measurement."""
    figures.setdefault(name, []).append(value)


def report(ours: Figures, standalone: Figures) -> int:
    """Print the table; 1 where a limit is missed."""
    missed = 0
    lines = [f"{'':18}{'standalone':>12}{'local engine':>14}{'ratio':>8}{'limit':>8}"]
    for name, values in ours.items():
        there, here = median(standalone[name]), median(values)
        limit = LIMITS.get(name)
        ratio = here / there
        missed |= limit is not None and ratio > limit
        lines.append(f"{name:18}{there:12.2f}{here:14.2f}{ratio:8.2f}{limit or '':>8}")
    sys.stdout.write("\n".join(lines) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
