"""Running stacks as faults meet them: their processes or containers, their health, and the data in them."""

from __future__ import annotations

import json
import os
import signal
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psutil

from pipectl.engines.local.supervisor.supervisor import Supervisor
from pipectl.services import of_executor
from support.docker_project import DockerProject, docker, new_docker_project
from support.needs import missing
from support.project_copy import DAG_ID, Project, new_local_project
from support.server_process import free_port
from support.waiting import pass_time, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALONE = "scheduler alone"
TASKS = "tasks"
ALL = "everything"
SUPERVISOR = "supervisord"
# What a false alarm is labelled as: fraud, though it is none.
FALSE_ALARM = "unconfirmed"
# In which the scheduler looks three times for tasks that nobody runs: every 5 s by stack/airflow/airflow.env,
# and late by the longest sleep of notifications.py, 2 s.
JUDGED_AFTER = timedelta(seconds=22)
# How often a service's processes may wake up per second while nothing is to be done. A scheduler that looks
# for work ten times a second asks its database some ten questions each time.
WAKES_AT_REST = {"scheduler": 30, "dag-processor": 20, "webserver": 30}
REST_SECONDS = 8
# What `docker stats` takes to measure.
DOCKER_STATS_SECONDS = 2
# What has ended by itself since it was listed, as the `sleep` of a task's loop does, is as good as hit.
ENDED = suppress(psutil.NoSuchProcess)
PENDING = "load that is not finished"


class Stack(ABC):
    """What both engines share. `up` are the words that start it, `victims` what a fault can be about."""

    name: str
    project: Project
    up: tuple[str, ...] = ("up",)
    victims: tuple[str, ...]

    @abstractmethod
    def processes(self, name: str) -> list[psutil.Process]:
        """Return the processes of a service or of another victim, parents first."""

    def kill(self, name: str) -> None:
        """Kill it; what comes back does so as other processes."""
        for process in self.processes(name):
            with ENDED:
                process.kill()

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Stop it as a suspended machine does, for the time of a block."""
        processes = self.processes(name)
        for process in processes:
            with ENDED:
                process.suspend()
        try:
            yield
        finally:
            for process in reversed(processes):
                with ENDED:
                    process.resume()

    @abstractmethod
    def cpu(self, seconds: float) -> dict[str, float]:
        """Share of a core that each service uses, measured for so long."""

    def scheduler_heartbeat(self) -> datetime | None:
        """When the scheduler has last gone through its loop; None while Airflow does not say."""
        try:
            health = self.project.client().call("/api/v2/monitor/health")
        except OSError:
            return None
        text = health["scheduler"]["latest_scheduler_heartbeat"]
        return datetime.fromisoformat(text) if text else None

    def postgres(self, statement: str) -> list[tuple[str, ...]]:
        """Rows of airbyte-postgres, all values as text."""
        return [tuple(map(str, row)) for row in self.project.ask_postgres(statement)]

    def mysql(self, statement: str) -> list[tuple[str, ...]]:
        """Rows of airbyte-mysql, all values as text."""
        return [tuple(map(str, row)) for row in self.project.ask_mysql(statement)]

    def is_healthy(self) -> bool:
        """Whether `status` calls every service healthy."""
        return all(service["health"] in {"healthy", "waiting"} for service in self._services())

    def is_stopped(self) -> bool:
        """Whether `status` calls a service stopped, which nothing but a command starts again."""
        return any(service["state"] == "stopped" for service in self._services())

    def _services(self) -> list[dict[str, str]]:
        asked = self.project.start("status", "--json")
        said, errors = asked.communicate()
        assert asked.returncode in {0, 3, 4, 5}, errors
        return list(json.loads(said)["services"]) if said else [{"health": "", "state": "unknown"}]

    def transactions(self) -> int:
        """How many there are."""
        return int(self.postgres("SELECT count(*) FROM public.transactions")[0][0])

    def runs(self) -> int:
        """How many runs the pipeline has had."""
        return int(self.project.client().call(f"/api/v2/dags/{DAG_ID}/dagRuns?limit=1")["total_entries"])

    def retried(self) -> int:
        """How often tasks of the pipeline were tried again."""
        path = f"/api/v2/dags/{DAG_ID}/dagRuns/~/taskInstances?limit=1000"
        tasks = self.project.client().call(path)["task_instances"]
        return sum(max(int(task["try_number"]) - 1, 0) for task in tasks)

    def harm(self) -> dict[str, int]:
        """Count rows that are lost, doubled or mislabelled, when nothing writes and no load is unfinished."""
        assert self.postgres("SELECT count(*) FROM sim.loads WHERE finished_at IS NULL") == [("0",)], PENDING
        [(planned, written)] = self.postgres(
            "SELECT (SELECT COALESCE(sum(transactions), 0) FROM sim.batches WHERE NOT EXISTS"
            " (SELECT FROM sim.loads WHERE starts_with(batch_id, load_id || '/')))"
            " + (SELECT COALESCE(sum(transactions), 0) FROM sim.loads),"
            " (SELECT count(*) FROM public.transactions)"
        )
        asked = self.project.start("verify-db", "--expect", "reconciled", "--json")
        said, _ = asked.communicate()
        labels = json.loads(said)
        surplus = int(written) - int(planned)
        return {
            "lost": max(-surplus, 0) + labels["unlabelled"] + labels["dangling"],
            "doubled": max(surplus, 0) + labels["orphans"],
            "mislabelled": self._mislabelled(),
        }

    def _mislabelled(self) -> int:
        [(until_when,)] = self.mysql("SELECT MIN(reported_until) FROM label_progress")
        truth = pairs(self.postgres("SELECT transaction_id, scenario FROM sim.ground_truth"))
        due = pairs(
            self.postgres(
                "SELECT transaction_id, scenario FROM sim.ground_truth "
                f"WHERE reported_at <= '{until_when}+00'"
            )
        )
        labels = pairs(self.mysql("SELECT transaction_id, fraud_type FROM fraud_labels WHERE is_fraud = 1"))
        wrong = {
            label
            for label, kind in labels.items()
            if kind not in {FALSE_ALARM, truth.get(label, FALSE_ALARM)}
        }
        return len(wrong | {label for label, scenario in due.items() if labels.get(label) != scenario})


class LocalStack(Stack):
    """The local engine's processes."""

    name = "local"
    services = tuple(service.name for service in of_executor("LocalExecutor"))
    victims = (ALL, SUPERVISOR, ALONE, TASKS, *services)

    def __init__(self, project: Project) -> None:
        self.project = project

    @classmethod
    @contextmanager
    def new(cls, folder: Path, *, celery: bool = False) -> Iterator[LocalStack]:
        """Copy the project to `folder` for the time of a block, on ports of its own."""
        assert not celery
        with new_local_project(folder) as project:
            for service in of_executor("LocalExecutor"):
                if service.default_port:
                    project.set_variable(service.port_variable, str(free_port()))
            yield cls(project)

    def pids(self) -> dict[str, int]:
        """The process of each service, from the supervisor itself: a fault's moment is short."""
        processes = Supervisor(self.project.folder / ".pipectl").processes()
        return {process.name: process.pid or 0 for process in processes}

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the processes of a service or of another victim, parents first."""
        if name in {SUPERVISOR, ALL}:
            all_of_them = family(int((self.project.folder / ".pipectl/run/supervisord.pid").read_text()))
            return all_of_them if name == ALL else all_of_them[:1]
        if name in {ALONE, TASKS}:
            scheduler = family(self.pids()["scheduler"])
            if name == ALONE:
                return scheduler[:1]
            return until(lambda: family(scheduler[0].pid)[1:], "a task at work")
        return family(self.pids()[name])

    def kill_alone(self, name: str) -> None:
        """Kill the first process of a service, none of its children, and wait until another one is there."""
        before = self.pids()[name]
        os.kill(before, signal.SIGKILL)
        until(lambda: self.pids()[name] not in {0, before}, f"another {name}")

    def cpu(self, seconds: float) -> dict[str, float]:
        """Share of a core that each service uses, supervisord and what has no service included."""
        services = {process.pid: name for name in self.services for process in self.processes(name)}
        watched = {process: _cpu_time(process) for process in self.project.processes()}
        pass_time(seconds)
        shares: dict[str, float] = {}
        for process, before in watched.items():
            name = services.get(process.pid, SUPERVISOR)
            used = max(_cpu_time(process) - before, 0.0)
            shares[name] = shares.get(name, 0.0) + used / seconds
        return shares


class DockerStack(Stack):
    """The docker engine's containers."""

    project: DockerProject

    def __init__(self, project: DockerProject, *, celery: bool) -> None:
        self.project = project
        self.name = "celery" if celery else "docker"
        self.up = ("up", "--executor", "celery" if celery else "local")
        services = of_executor("CeleryExecutor" if celery else "LocalExecutor")
        self.victims = (ALL, *(service.name for service in services))

    @classmethod
    @contextmanager
    def new(cls, folder: Path, *, celery: bool = False) -> Iterator[DockerStack]:
        """Copy the project to `folder` for the time of a block."""
        if os.geteuid() != 0:
            missing("docker", "only root may stop the processes of containers")
        with new_docker_project(folder) as project:
            yield cls(project, celery=celery)

    def postgres(self, statement: str) -> list[tuple[str, ...]]:
        """Rows of airbyte-postgres, all values as text."""
        return [tuple(line.split("|")) for line in self.project.psql(statement).splitlines()]

    def mysql(self, statement: str) -> list[tuple[str, ...]]:
        """Rows of airbyte-mysql, all values as text."""
        return [tuple(line.split("\t")) for line in self.project.mysql(statement).splitlines()]

    def containers(self, name: str) -> list[str]:
        """Return the running containers of a service, or everything."""
        return [container["Id"] for container in self._running(name)]

    def _running(self, name: str) -> list[dict[str, Any]]:
        return [
            container
            for service, container in self.project.containers().items()
            if container["State"]["Running"] and name in {ALL, service.rpartition("-")[0]}
        ]

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the processes in the containers of a service, or in all, as the machine sees them."""
        return [process for container in self._running(name) for process in family(container["State"]["Pid"])]

    def cpu(self, seconds: float) -> dict[str, float]:
        """Share of a core that each service uses, from the engine's own measurements."""
        shares: dict[str, list[float]] = {}
        for _ in range(max(int(seconds / DOCKER_STATS_SECONDS), 1)):
            listed = docker("stats", "--no-stream", "--format", "{{.ID}} {{.CPUPerc}}", *self.containers(ALL))
            for line in listed.splitlines():
                container, share = line.split()
                shares.setdefault(container, []).append(float(share.rstrip("%")) / 100)
        services = {found["Id"][:12]: name for name, found in self.project.containers().items()}
        return {services[container]: sum(each) / len(each) for container, each in shares.items()}


def pairs(rows: list[tuple[str, ...]]) -> dict[str, str]:
    """Return rows of two columns by the first one."""
    return {row[0]: row[1] for row in rows}


def wait_until_the_scheduler_has_judged(stack: Stack) -> None:
    """Wait until the scheduler has worked for a while: by then it has given up what it would give up."""
    begin = datetime.now(UTC)

    def has_judged() -> bool:
        heartbeat = stack.scheduler_heartbeat()
        return heartbeat is not None and heartbeat - begin > JUDGED_AFTER

    until(has_judged, "the scheduler's look for lost tasks")


def check_rest(stack: Stack) -> None:
    """Wait until Airflow's processes do as little as they may while nothing is to be done."""

    woken: dict[str, float] = {}

    def is_at_rest() -> bool:
        woken.update(wakes(stack, REST_SECONDS))
        return all(woken[name] <= most for name, most in WAKES_AT_REST.items())

    try:
        until(is_at_rest, "rest")
    except AssertionError as error:
        raise AssertionError(f"Airflow's services wake up so often per second: {woken}") from error


def wakes(stack: Stack, seconds: float) -> dict[str, float]:
    """How often the processes of a service went on after a wait, per second."""
    watched = {name: stack.processes(name) for name in WAKES_AT_REST}
    before = {name: sum(map(_waits, processes)) for name, processes in watched.items()}
    pass_time(seconds)
    return {
        name: (sum(map(_waits, processes)) - before[name]) / seconds for name, processes in watched.items()
    }


def _waits(process: psutil.Process) -> int:
    try:
        return int(process.num_ctx_switches().voluntary)
    except psutil.Error:
        return 0


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all below it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _cpu_time(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
