"""Compare `pipectl up` on the local engine with `airflow standalone` of the same environment, in one run.

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
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pipectl.engines.local.airflow_install import ensure_airflow
from pipectl.settings import cache_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.first_answer import FirstAnswer
from support.airflow_stack import TWO_TASKS, interrupt_group
from support.project_copy import Project, copy_project
from support.rest_client import RestClient
from support.server_process import free_port
from support.waiting import until

if TYPE_CHECKING:
    from pipectl.engines.local.airflow_install import AirflowRuntime

DAG = "nothing_to_do"
LATER_RUNS = 3
IDLE_SECONDS = 10
UP_SECONDS = 180
BACK = "a killed scheduler is back"
BACK_SECONDS = 5  # the promise of docs/engines.md for a process that dies
IDLE = "idle CPU, cores"
RESTED = "run after rest"
FIRST_ANSWER = "first 200 of health, warm"
UP_AGAIN, VERSION, DOWN = "up on a running stack", "pipectl --version", "down"
MEMORY = "memory at rest, GB"
# Of the local engine's figures to standalone's.
LIMITS = {
    "cold up": 0.4,
    "warm up": 0.4,
    FIRST_ANSWER: 0.35,
    "first run": 0.25,
    "later run": 0.25,
    RESTED: 0.25,
    IDLE: 2,
}
# Seconds, and gigabytes.
ABSOLUTE_LIMITS = {UP_AGAIN: 0.5, DOWN: 1.5, MEMORY: 0.6}
UP_AGAIN_TO_VERSION = 3

Figures = dict[str, list[float]]


def main(rounds: int) -> int:
    """Measure `rounds` times and print the table; 1 where a limit is missed."""
    ours: Figures = {}
    standalone: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        project = copy_project(Path(folder) / "project")
        shutil.rmtree(project.folder / "dags")
        (project.folder / "dags").mkdir()
        project.dag("two_tasks.py", TWO_TASKS)
        (project.folder / "stack" / ".env").write_text(f"PIPECTL_DAG_ID={DAG}\n", encoding="utf-8")
        lock = project.folder / "stack" / "airflow-requirements.txt"
        runtime = ensure_airflow(cache_dir(), lock, lambda _: None)
        try:
            for number in range(rounds):
                # The first start after an installation reads files from disk: not what is compared.
                for kind in ("cold up", "warm up") if number else ("unmeasured", "cold up", "warm up"):
                    measure_ours(project, kind, ours)
                    measure_standalone(runtime, project.folder, kind, standalone)
        finally:
            project.run("down", "--volumes", "--yes")
    return report(ours, standalone)


def measure_ours(project: Project, kind: str, figures: Figures) -> None:
    """Bring the whole stack up with `pipectl up`, business databases included, run the DAG, and stop it."""
    if kind != "warm up":
        project.run("down", "--volumes", "--yes")
    warm = kind == "warm up"
    # The address of the start before; another one makes the wait for it end with `up`.
    watch = FirstAnswer(url_of(project), UP_SECONDS) if warm else None
    started = time.monotonic()
    url = project.json("up")["url"]
    up = time.monotonic() - started
    if watch:
        keep(figures, FIRST_ANSWER, watch.answered - started)
    client = RestClient(url)
    client.sees(DAG)  # which logs in
    follow(client, up, kind, figures)
    if kind == "warm up":
        leader = int((project.folder / ".pipectl/run/supervisord.pid").read_text())
        keep(figures, IDLE, idle_cpu([leader]))
        keep(figures, RESTED, seconds_of_a_run(client))
        keep(figures, MEMORY, memory([leader]))
        keep(figures, UP_AGAIN, seconds_of(project, "up"))
        keep(figures, VERSION, seconds_of(project, "--version"))
        keep(figures, DOWN, seconds_of(project, "down"))
        project.run("up")
        keep(figures, BACK, back_after_a_kill(project, "scheduler"))
    project.run("down")


def seconds_of(project: Project, *arguments: str) -> float:
    """Run a command to its end, and return how long it took."""
    started = time.monotonic()
    project.run(*arguments)
    return time.monotonic() - started


def url_of(project: Project) -> str:
    """Return where the API server answers, before it runs."""
    services = {service["name"]: service for service in project.json("status")["services"]}
    return f"http://127.0.0.1:{services['webserver']['port']}"


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
    watch = FirstAnswer(client.url, UP_SECONDS)
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
        until(client.healthy, "a healthy Airflow", UP_SECONDS)
        until(lambda: client.sees(DAG), "the DAG", UP_SECONDS)
        follow(client, time.monotonic() - started, kind, figures)
        if kind == "warm up":
            keep(figures, IDLE, idle_cpu([process.pid]))
            keep(figures, RESTED, seconds_of_a_run(client))
            keep(figures, MEMORY, memory([process.pid]))
            keep(figures, FIRST_ANSWER, watch.answered - started)
    finally:
        interrupt_group(process)


def follow(client: RestClient, up: float, kind: str, figures: Figures) -> None:
    """Keep the time to healthy with the DAG visible, and time runs from trigger to end."""
    runs = [seconds_of_a_run(client) for _ in range(1 + LATER_RUNS)]
    if kind != "unmeasured":
        keep(figures, kind, up)
        keep(figures, "first run", runs[0])
        for seconds in runs[1:]:
            keep(figures, "later run", seconds)


def seconds_of_a_run(client: RestClient) -> float:
    """How long a run takes, from trigger to end."""
    triggered = time.monotonic()
    if (state := client.run(DAG)) != "success":
        sys.exit(f"a run of {DAG} ended as {state}")
    return time.monotonic() - triggered


def back_after_a_kill(project: Project, name: str) -> float:
    """Return the seconds from a service's kill to its next process."""

    def pid() -> int | None:
        found: list[int | None] = [
            service["pid"] for service in project.json("status")["services"] if service["name"] == name
        ]
        return found[0]

    before = pid()
    assert before
    os.kill(before, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: pid() not in {None, before}, f"{name} to be back")
    return time.monotonic() - killed


def idle_cpu(pids: list[int]) -> float:
    """Cores that processes and their descendants use while nothing is to be done."""
    import psutil

    def seconds() -> dict[int, float]:
        found = {}
        for pid in pids:
            leader = psutil.Process(pid)
            for process in (leader, *leader.children(recursive=True)):
                # A child that parsed a file may have ended.
                with suppress(psutil.NoSuchProcess):
                    found[process.pid] = sum(process.cpu_times()[:2])
        return found

    before = seconds()
    time.sleep(IDLE_SECONDS)
    # Of processes that were there all the time: one that is listed once only would count with its whole life.
    return sum(after - before[pid] for pid, after in seconds().items() if pid in before) / IDLE_SECONDS


def memory(pids: list[int]) -> float:
    """Gigabytes that processes and their descendants hold, each shared page counted once."""
    import psutil

    leaders = [psutil.Process(pid) for pid in pids]
    processes = [process for leader in leaders for process in (leader, *leader.children(recursive=True))]
    total = 0
    for process in processes:
        # A child that parsed a file may have ended.
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 1e9


def keep(figures: Figures, name: str, value: float) -> None:
    """Add one measurement."""
    figures.setdefault(name, []).append(value)


def report(ours: Figures, standalone: Figures) -> int:
    """Print the table; 1 where a limit is missed."""
    missed = False
    lines = [f"{'':26}{'standalone':>12}{'local engine':>14}{'ratio':>8}{'limit':>8}"]
    back = max(ours.pop(BACK))
    for name, values in ours.items():
        here, limit = median(values), LIMITS.get(name)
        largest = ABSOLUTE_LIMITS.get(name)
        there = median(standalone[name]) if name in standalone else None
        ratio = here / there if there else None
        missed |= (limit is not None and (ratio or 0) > limit) or (largest is not None and here > largest)
        figures = ["" if figure is None else f"{figure:.2f}" for figure in (there, here, ratio)]
        columns = zip((*figures, limit or largest or ""), (12, 14, 8, 8), strict=True)
        lines.append(f"{name:26}" + "".join(f"{text:>{width}}" for text, width in columns))
    again = median(ours[UP_AGAIN]) / median(ours[VERSION])
    lines.append(f"{UP_AGAIN}, to {VERSION}: {again:.1f} (limit {UP_AGAIN_TO_VERSION})")
    lines.append(f"{BACK}, longest: {back:.1f} s (limit {BACK_SECONDS} s)")
    sys.stdout.write("\n".join(lines) + "\n")
    return int(missed or again > UP_AGAIN_TO_VERSION or back > BACK_SECONDS)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
