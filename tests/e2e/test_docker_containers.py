"""How containers end, who runs in them, and what they keep for the next ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from pipectl.services import databases, of_executor
from support import ROOT
from support.docker_project import DockerProject, docker, new_docker_project
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.slow]
SERVICES = {service.name for service in of_executor("CeleryExecutor")}
BYTECODE = "/opt/airflow/bytecode"
DAG = "generate_transaction_and_labels"
START_ENGINE = ROOT / "tests" / "images" / "start-engine.sh"
# Where start-engine.sh lets it listen.
TESTS_OWN_ENGINE = "unix:///tmp/pipectl-engine/docker.sock"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerProject]:
    with new_docker_project(tmp_path_factory.mktemp("containers") / "project") as made:
        yield made


@pytest.fixture(scope="module")
def up_options() -> tuple[str, ...]:
    return ("--executor", "celery", "--workers", "1")


def compose(project: DockerProject, *arguments: str) -> None:
    files = (project.folder / "stack" / name for name in ("docker-compose.yml", "docker-compose.celery.yml"))
    docker("compose", *(word for file in files for word in ("-f", str(file))), *arguments)


def ends(project: DockerProject, since: float) -> dict[str, str]:
    """Return the exit code of every service that has ended since then."""
    label = f"label=org.pipectl.project={project.variable('PIPECTL_PROJECT_ID')}"
    lines = docker(
        *("events", "--since", f"{since:.6f}", "--until", f"{time.time():.6f}", "--format", "{{json .}}"),
        *("--filter", "event=die", "--filter", label),
    ).splitlines()
    found = [json.loads(line)["Actor"]["Attributes"] for line in lines]
    return {each["com.docker.compose.service"]: each["exitCode"] for each in found}


def log(project: DockerProject, service: str, since: float = 0) -> str:
    return docker("logs", "--since", f"{since:.3f}", project.containers()[f"{service}-1"]["Id"], errors=True)


def run_airflow(project: DockerProject, *command: str) -> str:
    return docker("exec", project.containers()["webserver-1"]["Id"], *command).strip()


# The same signal to the same processes.
@pytest.mark.parametrize("command", ["stop", "restart", "down"])
def test_every_container_ends_by_itself(project: DockerProject, command: str) -> None:
    until(lambda: "airflow-init" in project.compose("ps", "--all", "--status", "exited"), "the end of init")
    since = time.time()
    if command == "down":
        project.run("down")
    else:
        compose(project, command)

    def all_ends() -> dict[str, str]:
        # The engine tells of an end a moment after Compose has seen it.
        found = ends(project, since)
        return found if found.keys() >= SERVICES else {}

    found = until(all_ends, "the end of every container")
    assert found.keys() - {"airflow-init"} == SERVICES
    assert set(found.values()) == {"0"}, found
    if command == "stop":
        assert {service["state"] for service in project.json("status")["services"]} == {"stopped"}
        assert "database system is shut down" in log(project, "airbyte-postgres")
        assert "Shutdown complete" in log(project, "airbyte-mysql")
        assert "ready to exit" in log(project, "redis")
    project.run("up")
    for service in databases():
        assert "not properly shut down" not in log(project, service)
        assert "crash recovery" not in log(project, service)


def test_servers_end_by_themselves_with_the_engine(project: DockerProject) -> None:
    if os.environ.get("DOCKER_HOST") != TESTS_OWN_ENGINE:
        pytest.skip("the engine is not the tests' own, which they may stop")
    since = time.time()
    subprocess.run([START_ENGINE, "--stop"], check=True)
    subprocess.run([START_ENGINE], check=True, stdout=subprocess.DEVNULL)
    project.run("up")
    for service, words in {
        "airbyte-postgres": "database system is shut down",
        "airbyte-mysql": "Shutdown complete",
        "redis": "ready to exit",
    }.items():
        text = log(project, service, since)
        assert words in text
        assert "not properly shut down" not in text
        assert "crash recovery" not in text


def test_byte_code_is_kept_for_the_next_containers(
    project: DockerProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = project.containers()["webserver-1"]["Config"]["Image"]
    find = ("find", f"{BYTECODE}/{image}/home", "-path", "*/airflow/*.pyc", "-printf", "%p %T@\n")
    before = set(run_airflow(project, *find).splitlines())
    assert len(before) > 1000
    project.run("down")
    project.run("up")
    after = set(run_airflow(project, *find).splitlines())
    assert before <= after
    # Nothing was left half-written by those that wrote at once.
    assert run_airflow(project, "find", BYTECODE, "-name", "*.pyc.*") == ""

    # Another image has its own, and that of the image before is deleted.
    other = f"pipectl-test/other:{os.getpid()}"
    docker("tag", image, other)
    try:
        with monkeypatch.context() as patch:
            patch.setenv("AIRFLOW_IMAGE", other)
            project.run("up")
            assert run_airflow(project, "find", f"{BYTECODE}/{image}", "-type", "f") == ""
            assert len(run_airflow(project, "find", f"{BYTECODE}/{other}", "-name", "*.pyc").split()) > 1000
        project.run("up")
    finally:
        docker("rmi", other)


def test_a_dag_that_broke_while_the_stack_was_down_is_not_called_parsed(project: DockerProject) -> None:
    path = project.folder / "dags" / "generate_data_dag.py"
    text = path.read_text(encoding="utf-8")
    project.run("down")
    path.write_text(f"{text}\nraise RuntimeError('broken meanwhile')\n", encoding="utf-8")
    try:
        assert "broken meanwhile" in project.run("up", code=9).stderr
        project.run("down")
    finally:
        path.write_text(text, encoding="utf-8")
    # Nor does the error of the file that has been mended count.
    project.run("up")


def test_logs_are_quiet_at_rest(project: DockerProject) -> None:
    def parsed() -> str:
        return str(project.client().call(f"/api/v2/dags/{DAG}")["last_parsed_time"])

    first = parsed()
    until(lambda: parsed() != first, "the next look at the DAG")
    second, since = parsed(), time.time()
    until(lambda: parsed() != second, "one more look at the DAG")
    for service in ("scheduler", "dag-processor", *databases()):
        container = project.containers()[f"{service}-1"]["Id"]
        assert docker("logs", "--since", f"{since:.3f}", container, errors=True) == ""


def test_any_user_runs_airflow_on_new_and_existing_volumes(project: DockerProject) -> None:
    project.run("down", "--volumes", "--yes")
    subprocess.run(["chmod", "-R", "go=", project.folder], check=True)
    project.set_variable("AIRFLOW_UID", "12345")
    done = project.run("up", code=3)
    words = " ".join(done.stderr.split())
    assert re.search(r"may not read dags and \d+ more in", words)
    assert "chmod -R a+rX dags scripts" in words

    # Nobody but the owner can read it, and the owner's containers do.
    project.set_variable("AIRFLOW_UID", str(os.getuid()))
    project.run("up")
    assert run_airflow(project, "id", "-u") == str(os.getuid())
    assert project.json("trigger")["state"] == "success"
    project.settle()

    # Modes of a volume from before the containers' umask was that of the official image.
    container = project.containers()["webserver-1"]["Id"]
    chmod = ("chmod", "-R", "g-w", "/opt/airflow/logs", BYTECODE)
    docker("exec", "--user", "0", "--privileged", container, *chmod)
    subprocess.run(["chmod", "-R", "a+rX", project.folder], check=True)
    project.set_variable("AIRFLOW_UID", "12345")
    project.run("up")
    assert run_airflow(project, "id", "-u") == "12345"
    assert project.json("trigger")["state"] == "success"
    project.settle()
    assert run_airflow(project, "find", "/opt/airflow/logs", "!", "-type", "l", "!", "-perm", "-g=w") == ""
    project.set_variable("AIRFLOW_UID", "50000")
