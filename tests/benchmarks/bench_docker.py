"""Measure the docker engine against bare Compose, Airflow's own ways and the local engine, in one run.

usage: python tests/benchmarks/bench_docker.py [ROUNDS]

Needs a running engine and its images; 3 rounds by default, about 3 minutes each. What is compared runs one
after the other within a round, each first in turn, and the median of the rounds' ratios counts: other load on
the machine comes and goes over minutes. The quick start and `airflow standalone`, which runs on this machine
with the environment that the local engine has installed, are measured once, since they are far beyond their
bounds. Prints medians, ratios and limits; exits 1 where one is missed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from pipectl.engines.local.airflow_install import ensure_airflow
from pipectl.settings import cache_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.first_answer import FirstAnswer
from support.airflow_stack import interrupt_group
from support.docker_project import DockerProject, new_docker_project
from support.project_copy import Project, copy_project
from support.server_process import free_port

OFFICIAL = Path(__file__).with_name("official-compose.yml")
WAIT = ("up", "--detach", "--wait", "--wait-timeout", "280", "--quiet-pull")
LATER_RUNS = 3
# What is compared with what, and the highest ratio.
LIMITS = (
    ("pipectl cold", "compose cold", 0.9),
    ("pipectl warm", "compose warm", 0.8),
    ("up of what runs", "pipectl --version", 3),
    ("first answer", "standalone answer", 0.35),
    ("pipectl cold", "quick start cold", 0.6),
    ("pipectl warm", "quick start warm", 0.6),
    ("compose cold", "quick start cold", 0.6),
    ("compose warm", "quick start warm", 0.6),
    ("docker first trigger", "local first trigger", 1.1),
    ("docker later trigger", "local later trigger", 1.1),
)
IDLE = "docker idle"
# Two health checks of each container fall into it.
IDLE_SECONDS = 60
# Cores, of all containers and of the engine, which starts the health checks.
IDLE_LIMIT = 0.1
ENGINE = {"dockerd", "containerd", "containerd-shim-runc-v2"}
CGROUPS = Path("/sys/fs/cgroup")
# The highest number of seconds.
BOUNDS = {"up of what runs": 0.5, "down": 1.5}
ANSWER_SECONDS = 280

Figures = dict[str, list[float]]
Note = Callable[[str, Callable[[], object]], None]


def quick_start(*arguments: str) -> None:
    """Run Compose on the file of the quick start."""
    command = ["docker", "compose", "-f", str(OFFICIAL), *arguments]
    subprocess.run(command, check=True, capture_output=True)


def main(rounds: int) -> int:
    """Measure `rounds` times and print the table; 1 where a limit is missed."""
    figures: Figures = {}

    def note(name: str, action: Callable[[], object]) -> None:
        started = time.monotonic()
        action()
        figures.setdefault(name, []).append(time.monotonic() - started)

    with tempfile.TemporaryDirectory() as folder, new_docker_project(Path(folder) / "docker") as project:
        local = copy_project(Path(folder) / "local")
        # The first start after an installation reads files from disk: not what is compared.
        for each in (local, project):
            each.run("up")
            each.run("down", "--volumes", "--yes")
        quick_start("down", "--volumes")
        note("quick start cold", lambda: quick_start(*WAIT))
        quick_start("down")
        note("quick start warm", lambda: quick_start(*WAIT))
        quick_start("down", "--volumes")
        measure_standalone(local, figures)
        project.run("up")
        for number in range(rounds):
            measure(project, note, number)
            trigger(project, "docker", figures)
            project.settle()
            figures.setdefault(IDLE, []).append(idle_cores(project))
            note("pipectl --version", lambda: project.run("--version"))
            note("up of what runs", lambda: project.run("up"))
            note("down", lambda: project.run("down"))
            url, begun = f"http://127.0.0.1:{project.variable('AIRFLOW_PORT') or 8080}", time.monotonic()
            watch = FirstAnswer(url, ANSWER_SECONDS)
            project.run("up")
            figures.setdefault("first answer", []).append(watch.answered - begun)
            project.run("down")
            local.run("up")
            trigger(local, "local", figures)
            local.run("down", "--volumes", "--yes")
    return report(figures)


def measure(project: DockerProject, note: Note, number: int) -> None:
    """Start everything with new data (cold), then with data that is there (warm); it is up in the end."""
    starts: list[tuple[str, Callable[[], object]]] = [
        ("pipectl", lambda: project.run("up")),
        ("compose", lambda: project.compose(*WAIT)),
    ]
    for kind, stop in (("cold", ("down", "--volumes", "--yes")), ("warm", ("down",))):
        for name, start in starts if number % 2 else reversed(starts):
            project.run(*stop)
            note(f"{name} {kind}", start)


def measure_standalone(project: Project, figures: Figures) -> None:
    """Note the first answer of an `airflow standalone` whose database is there."""
    lock = project.folder / "stack" / "airflow-requirements.txt"
    runtime = ensure_airflow(cache_dir(), lock, lambda _: None)
    for name in ("standalone with a new database", "standalone answer"):
        port = free_port()
        environment = {
            "PATH": f"{runtime.venv / 'bin'}:{os.environ['PATH']}",
            "HOME": os.environ["HOME"],
            "AIRFLOW_HOME": str(project.folder / ".standalone"),
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        }
        command = [str(runtime.venv / "bin" / "airflow"), "standalone"]
        begun, watch = time.monotonic(), FirstAnswer(f"http://127.0.0.1:{port}", ANSWER_SECONDS)
        with Path(project.folder, "standalone.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        figures.setdefault(name, []).append(watch.answered - begun)
        interrupt_group(process)


def trigger(project: Project, name: str, figures: Figures) -> None:
    """Note the time from `pipectl trigger` to its end: of the first, which unpauses, and of later ones."""
    for kind in ("first trigger", *["later trigger"] * LATER_RUNS):
        started = time.monotonic()
        state = project.json("trigger")["state"]
        figures.setdefault(f"{name} {kind}", []).append(time.monotonic() - started)
        if state != "success":
            sys.exit(f"a run on {name} ended as {state}")


def idle_cores(project: DockerProject) -> float:
    """Cores that the containers and this machine's engine use while nothing is to be done."""
    pids = [found["State"]["Pid"] for found in project.containers().values() if found["State"]["Running"]]
    before = engine_seconds() + sum(map(container_seconds, pids))
    time.sleep(IDLE_SECONDS)
    return (engine_seconds() + sum(map(container_seconds, pids)) - before) / IDLE_SECONDS


def container_seconds(pid: int) -> float:
    """CPU time of all that ever ran in the container of a process, health checks included."""
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and (found := CGROUPS / path.lstrip("/") / "cpu.stat").exists():
            return int(found.read_text(encoding="ascii").split()[1]) / 1e6
        if "cpuacct" in controllers:
            return int((CGROUPS / "cpuacct" / path.lstrip("/") / "cpuacct.usage").read_text()) / 1e9
    sys.exit(f"no cgroup tells the CPU time of process {pid}")


def engine_seconds() -> float:
    """CPU time of the engine's programs and of what they started and saw end."""
    import psutil

    engine = [process for process in psutil.process_iter(["name"]) if process.info["name"] in ENGINE]
    return float(sum(sum(process.cpu_times()[:4]) for process in engine))


def report(figures: Figures) -> int:
    """Print times and ratios; 1 where a limit is missed."""
    idle = median(figures.pop(IDLE))
    sys.stdout.write(f"{IDLE:20}{idle:8.2f} cores   limit {IDLE_LIMIT}\n")
    for name, values in figures.items():
        sys.stdout.write(f"{name:20}{median(values):8.2f} s   of {' '.join(f'{v:.1f}' for v in values)}\n")
    missed = int(idle > IDLE_LIMIT)
    for ours, theirs, limit in LIMITS:
        # What was measured once stands for every round.
        peers = figures[theirs] if len(figures[theirs]) > 1 else figures[theirs] * len(figures[ours])
        ratio = median(here / there for here, there in zip(figures[ours], peers, strict=True))
        missed |= ratio > limit
        sys.stdout.write(f"{ours + ' / ' + theirs:42}{ratio:6.2f}   limit {limit}\n")
    for name, bound in BOUNDS.items():
        missed |= median(figures[name]) > bound
        sys.stdout.write(f"{name:42}{median(figures[name]):6.2f} s limit {bound}\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
