"""Tasks in Celery workers, of which one dies in the middle of its work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipectl.pipeline.lifecycle import TASKS_API
from support.docker_project import DockerProject, docker, new_docker_project
from support.looks import watching
from support.needs import need_docker, skip_on_podman
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.docker]
NO_PROXY = "http://127.0.0.1:9"
# Writes its batch, and is still at work when its worker dies: the second try must not write the batch again.
SLOW_DAG = """
from datetime import timedelta
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

options = {
    "env": {"PIPECTL_BATCH_ID": "{{ run_id }}"}, "append_env": True,
    "retries": 2, "retry_delay": timedelta(seconds=1),
}
with DAG("slow"):
    write = BashOperator(
        task_id="write",
        bash_command="python /opt/airflow/scripts/transaction_generator.py"
        " {{ '&& sleep 20' if ti.try_number == 1 else '' }}",
        **options,
    )
    label = BashOperator(
        task_id="label", bash_command="python /opt/airflow/scripts/detection_generator.py",
        **options,
    )
    write >> label
"""
# What is never tried again: it ends well, or fails.
PATIENT_DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("patient"):
    BashOperator(task_id="wait", bash_command="sleep 20", retries=0)
"""
# An address for documentation, at which nothing answers, not even with a refusal.
NOBODY = "192.0.2.1"
KILLED = 137


def configure_proxies(folder: Path) -> None:
    """Write the docker client's configuration anew, with proxies that it gives to each container."""
    before = Path(os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser()
    content = json.loads((before / "config.json").read_text()) if (before / "config.json").exists() else {}
    proxies = {"httpProxy": NO_PROXY, "httpsProxy": NO_PROXY, "noProxy": "intra.example,[::1]"}
    (folder / "config.json").write_text(json.dumps(content | {"proxies": {"default": proxies}}))
    for name in ("cli-plugins", "contexts"):
        if (before / name).exists():
            (folder / name).symlink_to(before / name)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerProject]:
    need_docker()
    skip_on_podman("runs health checks too seldom for Celery's services")
    folder = tmp_path_factory.mktemp("celery")
    configure_proxies(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_CONFIG", str(folder))
        with new_docker_project(folder / "project") as made:
            yield made


@pytest.fixture(scope="module")
def up_options() -> tuple[str, ...]:
    return ("--executor", "celery", "--workers", "2")


def running(project: DockerProject) -> set[str]:
    return {name for name, found in project.containers().items() if found["State"]["Running"]}


def busy_worker(project: DockerProject) -> str:
    """Return the container in which a task sleeps, empty while none does."""
    for name in ("worker-1", "worker-2"):
        found = project.containers()[name]
        if found["State"]["Running"] and "sleep 20" in docker("top", found["Id"], "-eo", "pid,args"):
            return str(found["Id"])
    return ""


def test_two_workers_run_beside_redis(project: DockerProject) -> None:
    assert {"worker-1", "worker-2", "redis-1"} <= running(project)
    assert project.json("status")["airflow"]["executor"] == "CeleryExecutor"


def test_the_docker_clients_proxies_are_there_but_not_for_the_stacks_own_services(
    project: DockerProject,
) -> None:
    worker = project.containers()["worker-1"]["Id"]
    code = "import json, os, sys; json.dump({n.lower(): v for n, v in os.environ.items()}, sys.stdout)"
    given, kept = (
        json.loads(docker("exec", worker, *program, "python", "-c", code))
        for program in ((), ("python", "/opt/airflow/stack/proxies.py"))
    )
    assert given["http_proxy"] == kept["http_proxy"] == NO_PROXY
    assert {"intra.example", "webserver", "airbyte-postgres", "redis"} <= set(kept["no_proxy"].split(","))


def test_up_proves_the_way_that_the_workers_have(project: DockerProject) -> None:
    """One on which the scheduler reaches the API and the worker does not."""
    worker = project.containers()["worker-1"]["Id"]
    hosts = docker("exec", worker, "cat", "/etc/hosts")

    def write(content: str) -> None:
        docker("exec", "--user", "0", worker, "sh", "-c", 'printf %s "$0" > /etc/hosts', content)

    # It has been asked since it started, which is often enough.
    (project.folder / ".pipectl" / TASKS_API).unlink()
    write(f"{hosts}127.0.0.1 webserver\n")
    try:
        said = project.run("up", code=4).stderr
    finally:
        write(hosts)
    assert "its tasks do not reach the API" in said
    project.run("up")


def test_privileges_are_those_that_have_a_reason(project: DockerProject) -> None:
    """Of the processes that go on, none has a capability."""
    for name, found in project.containers().items():
        if not found["State"]["Running"]:
            continue
        for pid in docker("top", found["Id"], "-eo", "pid").split()[1:]:
            status = Path("/proc", pid, "status")
            # A health check may have ended meanwhile.
            text = status.read_text(encoding="ascii") if status.exists() else ""
            assert "CapEff:\t0000000000000000" in text or not text, (name, text)


def test_redis_asks_for_its_password(project: DockerProject) -> None:
    redis = project.containers()["redis-1"]["Id"]
    assert "NOAUTH" in docker("exec", "--env", "REDISCLI_AUTH=", redis, "redis-cli", "ping")
    assert project.variable("AIRFLOW_REDIS_PASSWORD") not in docker("top", redis, "-eo", "pid,args")


def test_the_pipeline_runs_in_the_workers(project: DockerProject) -> None:
    assert project.json("trigger")["state"] == "success"
    project.settle()
    assert project.json("verify-db", "--expect", "reconciled")["ok"]


def test_a_run_survives_the_death_of_a_worker_in_the_middle_of_a_task(
    project: DockerProject,
) -> None:
    project.dag("slow.py", SLOW_DAG)
    following = project.start("trigger", "slow", "--json")
    until(lambda: bool(busy_worker(project)), "a worker at work")
    docker("kill", busy_worker(project))
    _, said = following.communicate(timeout=200)
    assert following.returncode == 0, said
    run = project.json("runs", "slow")["runs"][0]["run_id"]
    assert project.client().call(f"/api/v2/dags/slow/dagRuns/{run}/taskInstances/write")["try_number"] == 2
    assert project.psql(f"SELECT count(*) FROM sim.batches WHERE batch_id = '{run}'") == "1"
    assert project.json("verify-db", "--expect", "reconciled")["ok"]
    labels = int(project.mysql("SELECT COUNT(DISTINCT transaction_id) FROM fraud_labels"))
    assert labels == int(project.psql("SELECT count(*) FROM transactions"))
    assert labels == int(project.psql("SELECT sum(transactions) FROM sim.batches"))


@pytest.mark.slow
def test_a_worker_whose_redis_is_gone_ends_when_its_task_has_ended_well(project: DockerProject) -> None:
    project.dag("patient.py", PATIENT_DAG)
    following = project.start("trigger", "patient", "--json")
    until(lambda: bool(busy_worker(project)), "a worker at work")
    worker, redis = busy_worker(project), project.containers()["redis-1"]["Id"]
    try:
        docker("exec", "--user", "0", worker, "sh", "-c", f"echo {NOBODY} redis >> /etc/hosts")
        docker("stop", redis)
        docker("stop", worker)  # which kills it after 120 s
        assert json.loads(docker("inspect", worker))[0]["State"]["ExitCode"] != KILLED
    finally:
        project.run("up")
    _, said = following.communicate(timeout=200)
    assert following.returncode == 0, said


@pytest.mark.slow
def test_one_worker_or_all_are_restarted(project: DockerProject) -> None:
    started = {name: found["State"]["StartedAt"] for name, found in project.containers().items()}
    assert project.json("restart", "worker-2")["restarted"] == {"worker-2": ""}
    now = {name: found["State"]["StartedAt"] for name, found in project.containers().items()}
    assert {name for name, when in now.items() if when != started[name]} == {"worker-2"}
    assert set(project.json("restart", "worker", "redis")["restarted"]) == {"worker-1", "worker-2", "redis"}
    with watching(project) as looks:
        seen = looks.see(
            lambda look: look["services"] and look["services"][-1]["cpu_percent"] is not None, "a look"
        )
    assert {"worker-1", "worker-2", "redis"} <= {service["name"] for service in seen["services"]}


def test_scale_brings_workers_back_and_takes_them_away(project: DockerProject) -> None:
    docker("kill", project.containers()["worker-2"]["Id"])
    project.json("scale", "2")
    assert {"worker-1", "worker-2"} <= running(project)
    project.json("scale", "1")
    assert "worker-2" not in project.containers()


@pytest.mark.slow
def test_back_to_the_local_executor_takes_celery_away(project: DockerProject) -> None:
    databases = {"postgres-1", "airbyte-postgres-1", "airbyte-mysql-1"}
    before = {name: project.containers()[name]["Id"] for name in databases}
    restarted = project.json("up", "--executor", "local")["restarted"]
    assert set(restarted) == {"webserver", "scheduler", "dag-processor", "triggerer"}
    assert all("AIRFLOW__CORE__EXECUTOR" in cause for cause in restarted.values())
    assert not {"redis-1", "worker-1"} & set(project.containers())
    assert {name: project.containers()[name]["Id"] for name in databases} == before
    assert project.json("trigger")["state"] == "success"
