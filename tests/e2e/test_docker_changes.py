"""`up` on a running Compose stack: what changed is applied, is said, and nothing else is touched."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from urllib.error import HTTPError

import pytest

from pipectl.engines.changes import TASKS_FAIL
from support import damages, own_settings
from support.changed_stack import append, replaced_by_up
from support.docker_project import DockerProject, docker, new_docker_project
from support.needs import images, need_docker
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from support.project_copy import Project

pytestmark = [pytest.mark.e2e, pytest.mark.docker]
AIRFLOW = {"webserver-1", "scheduler-1", "dag-processor-1", "triggerer-1"}
# The flag is a file in the folder of DAGs, which containers see; no file is written there by a task.
SLOW_DAG = """
from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("slow"):
    BashOperator(
        task_id="waits",
        retries=1,
        retry_delay=timedelta(0),
        bash_command="until [ -e /opt/airflow/dags/go ]; do sleep 0.1; done; echo $COLOUR"
    )
"""
SEEN_DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("seen"):
    BashOperator(task_id="tells", bash_command="echo certificates: ${SSL_CERT_FILE:-none}")
"""


@pytest.fixture(scope="module")
def other_image() -> Iterator[str]:
    """The same server in another image: with a label more."""
    need_docker()
    name = "pipectl-test/postgres:other"
    container = docker("create", images()["POSTGRES_IMAGE"]).strip()
    docker("commit", "--change", "LABEL other=1", container, name)
    docker("rm", "--volumes", container)
    yield name
    docker("rmi", name)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, other_image: str) -> Iterator[DockerProject]:
    del other_image  # outlives the containers
    with new_docker_project(tmp_path_factory.mktemp("changes") / "project") as made:
        yield made


@pytest.fixture
def project(stack: DockerProject) -> DockerProject:
    """The stack, running with what the test before has left in its files."""
    stack.run("up")
    stack.settle()
    return stack


def started(project: DockerProject) -> dict[str, str]:
    """When each container, or the one that has replaced it, was started."""
    return {
        name: found["Id"] + found["State"]["StartedAt"]
        for name, found in project.containers().items()
        if name != "airflow-init-1"
    }


def restarted(project: DockerProject, sentence: str) -> set[str]:
    """Run `up`, check what it says, and return the containers that are others, or were started again."""
    return replaced_by_up(project, sentence, started)


def test_a_comment_replaces_nothing_and_neither_does_plain_compose(project: DockerProject) -> None:
    before = started(project)
    append(project.folder / "stack" / "airflow" / "user.env", "# nothing that counts")
    assert project.json("up")["restarted"] == {}
    project.compose("up", "--detach")
    assert started(project) == before


@pytest.mark.slow
def test_a_package_that_requirements_ask_for_arrives_behind_the_machines_proxy(
    project: DockerProject,
) -> None:
    settings = "# For this test\n" + project.ways_to_packages()
    (project.folder / "stack" / "airflow" / "install.env").write_text(settings, encoding="utf-8")
    unchanged = (project.folder / "requirements.txt").read_text()
    append(project.folder / "requirements.txt", "iniconfig==2.0.0")
    changed = "requirements.txt, stack/airflow/ca.crt, stack/airflow/install.env changed"
    assert restarted(project, changed) == AIRFLOW
    scheduler = project.containers()["scheduler-1"]["Id"]
    version = "import importlib.metadata as m; print(m.version('iniconfig'))"
    assert docker("exec", scheduler, "python", "-c", version).strip() == "2.0.0"
    before, kept = started(project), (project.folder / "requirements.txt").read_text()
    append(project.folder / "requirements.txt", "sqlalchemy==1.3")
    told = " ".join(project.run("up", code=2).stderr.split())
    assert "requirements.txt asks for sqlalchemy==1.3 and Airflow " in told
    assert started(project) == before
    (project.folder / "requirements.txt").write_text(kept)
    path = project.dag("seen.py", SEEN_DAG)
    run_id = project.json("trigger", "seen")["run_id"]
    log = f"/api/v2/dags/seen/dagRuns/{run_id}/taskInstances/tells/logs/1"
    assert "certificates: none" in str(project.client().call(log))
    path.unlink()
    (project.folder / "requirements.txt").write_text(unchanged)
    assert "Removed with requirements.txt's line: iniconfig" in project.run("up").stderr
    scheduler = project.containers()["scheduler-1"]["Id"]
    assert (
        docker(
            "exec", scheduler, "python", "-c", "import importlib.util as u; print(u.find_spec('iniconfig'))"
        )
        == "None\n"
    )


def test_a_broken_line_of_the_installers_settings_is_named(project: DockerProject) -> None:
    path = project.folder / "stack" / "airflow" / "install.env"
    before = path.read_text() if path.exists() else ""
    path.write_text("no assignment\n")
    requirements = project.folder / "requirements.txt"
    kept = requirements.read_text()
    append(requirements, "toolz==1.0.0")
    try:
        done = project.run("up", code=3)
        assert "install.env has a line that is not NAME=value" in " ".join(done.stderr.split())
    finally:
        requirements.write_text(kept)
        path.write_text(before)


def test_an_option_of_a_server_replaces_that_server_alone(project: DockerProject) -> None:
    options = project.folder / "stack" / "mysql" / "server.cnf"
    options.write_text(options.read_text().replace("max_connections = 60", "max_connections = 77"))
    sentence = "Restarting airbyte-mysql: stack/mysql/server.cnf changed"
    # Some versions of Compose restart what depends on it: the scheduler, so that its tasks end before.
    assert restarted(project, sentence) in ({"airbyte-mysql-1"}, {"airbyte-mysql-1", "scheduler-1"})
    assert project.mysql("SELECT @@max_connections") == "77"


@pytest.mark.slow
def test_airflow_restarts_with_its_metadata_database(project: DockerProject) -> None:
    append(project.folder / "stack" / "postgres" / "metadata.conf", "work_mem = 5MB")
    sentence = "Restarting postgres: stack/postgres/metadata.conf changed"
    assert restarted(project, sentence) == {"postgres-1", *AIRFLOW}
    assert project.json("trigger")["state"] == "success"


@pytest.mark.slow
def test_a_plugin_counts_from_the_next_up_on(project: DockerProject) -> None:
    plugins = project.folder / "stack" / "airflow" / "plugins"
    plugins.mkdir(exist_ok=True)
    (plugins / "own.py").write_text(own_settings.PLUGIN)
    assert restarted(project, "stack/airflow/plugins changed") == AIRFLOW
    found = project.client().call("/api/v2/plugins")["plugins"]
    assert "own_plugin" in {each["name"] for each in found}


@pytest.mark.slow
def test_the_users_settings_and_plugins_reach_airflow(project: DockerProject) -> None:
    own_settings.add(project.folder)
    project.set_variable("PIPECTL_SEED", "5")
    project.set_variable("COLOUR", "red")
    project.set_variable("MY_SECRET", "of no task")
    path = project.folder / "stack" / "airflow" / "user.env"
    assert restarted(project, "changed") == AIRFLOW
    until(lambda: project.client().sees("own_second"), "the second DAG of the file")
    run_id = project.json("trigger", "own_settings")["run_id"]
    seen = project.client().call(own_settings.XCOM.format(run_id=run_id))["value"]
    assert seen == own_settings.expected(seed="5", colour="red")
    assert project.client().call("/api/v2/importErrors")["import_errors"] == []
    assert "own_plugin" in {each["name"] for each in project.client().call("/api/v2/plugins")["plugins"]}
    # Other commands of Airflow take the same way into a container.
    shown = project.compose("run", "--rm", "--no-deps", "scheduler", "airflow", "variables", "get", "colour")
    assert shown.splitlines()[-1] == "ultramarine"

    text = path.read_text()
    path.write_text(f"{text}no assignment\n")
    done = project.run("up", code=2)
    path.write_text(text)
    assert "is not NAME=value" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_a_changed_password_is_applied_by_up_and_stops_no_command_before(project: DockerProject) -> None:
    project.set_variable("AIRFLOW_ADMIN_PASSWORD", "another")
    status = project.json("status")
    assert {found["health"] for found in status["services"]} <= {"healthy", "waiting"}
    assert "error" not in status["airflow"]
    assert project.json("trigger")["state"] == "success"
    with pytest.raises(HTTPError, match="401"):
        project.client(password="another").call("/api/v2/dags")
    assert restarted(project, "AIRFLOW_ADMIN_PASSWORD changed") <= AIRFLOW
    assert project.client(password="another").call("/api/v2/dags")["total_entries"]


@pytest.mark.slow
def test_another_image_is_taken(
    project: DockerProject, other_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_IMAGE", other_image)
    assert restarted(project, "its image changed") >= {"postgres-1", "airbyte-postgres-1"}


@pytest.mark.slow
def test_a_task_in_the_middle_of_a_restart_is_tried_again(project: DockerProject) -> None:
    path = project.dag("slow.py", SLOW_DAG)
    client = project.client()
    run_id = project.json("trigger", "slow", "--no-wait")["run_id"]
    tasks = f"/api/v2/dags/slow/dagRuns/{run_id}/taskInstances"
    until(lambda: client.call(tasks)["task_instances"][0]["state"] == "running", "a running task")
    append(project.folder / "stack" / "airflow" / "user.env", "COLOUR=yellow")
    before = started(project)
    done = project.run("up")
    assert "Restarting " in done.stderr
    assert "COLOUR of stack/airflow/user.env changed" in done.stderr
    assert TASKS_FAIL in done.stderr
    assert {name for name, start in started(project).items() if start != before[name]} == AIRFLOW
    flag = project.folder / "dags" / "go"
    flag.touch()
    try:
        client = project.client()
        assert client.end_of("slow", run_id) == "success"
        [task] = client.call(tasks)["task_instances"]
        assert "yellow" in str(client.call(f"{tasks}/waits/logs/{task['try_number']}"))
    finally:
        flag.unlink()
        path.unlink()


def a_stopped_container(project: Project, _: ExitStack) -> str:
    assert isinstance(project, DockerProject)
    docker("stop", project.containers()["dag-processor-1"]["Id"])
    return "dag-processor is stopped"


def another_secret_of_a_server(project: Project, _: ExitStack, variable: str) -> str:
    project.set_variable(variable, "not-the-one-of-before")
    return f"({variable})"


DAMAGES: list[tuple[str, damages.Damage]] = [
    ("secrets", damages.another_secret),
    ("env-volumes", damages.another_password),
    ("env-volumes", partial(another_secret_of_a_server, variable="AIRFLOW_POSTGRES_PASSWORD")),
    ("env-volumes", partial(another_secret_of_a_server, variable="AIRBYTE_MYSQL_ROOT_PASSWORD")),
    ("services", a_stopped_container),
]


@pytest.mark.slow
def test_the_doctor_names_what_is_damaged_in_turn_and_each_remedy_as_printed_mends_it(
    project: DockerProject, tmp_path: Path
) -> None:
    project.populate()
    for check, damage in DAMAGES:
        damages.assert_named_and_mended(project, check, damage, tmp_path)


def test_the_doctor_finds_nothing_wrong_with_a_stack_that_runs(project: DockerProject) -> None:
    project.populate()
    found = {each["id"]: each for each in project.json("doctor")["checks"]}
    assert [each for each in found.values() if each["ok"] is False] == []
    assert {name for name, each in found.items() if each["ok"] is None} == {"cache", "scaffold"}
