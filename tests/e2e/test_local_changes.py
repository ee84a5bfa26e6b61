"""`up` on a running local stack: what changed is applied, is said, and nothing else is touched."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import tarfile
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import quote

import pytest

from pipectl.engines.changes import TASKS_FAIL
from pipectl.engines.local.airflow import LOCK_FILE
from pipectl.engines.local.airflow_install import environment_key
from pipectl.engines.local.supervisor.supervisor import Supervisor
from pipectl.engines.project import SECRETS
from pipectl.services import of_executor
from pipectl.settings import cache_dir
from support import damages
from support.changed_stack import append, replaced_by_up
from support.command_lines import command_lines
from support.project_copy import DAG_ID, Project, new_local_project
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

pytestmark = pytest.mark.e2e
SERVICES = {service.name for service in of_executor("LocalExecutor")}
AIRFLOW = {"webserver", "scheduler", "dag-processor", "triggerer"}
PACKAGES_DAG = """
import pandas
from airflow.providers.http.hooks.http import HttpHook
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, task

with DAG("packages"):
    @task
    def adds():
        assert pandas.DataFrame({"a": [1, 2]})["a"].sum() == 3 and HttpHook.conn_type == "http"

    adds() >> BashOperator(task_id="shell", bash_command="python -c 'import pandas'")
"""
SLOW_DAG = """
from datetime import timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("{name}"):
    BashOperator(
        task_id="waits",
        retries=1,
        retry_delay=timedelta(0),
        bash_command="echo >> '{folder}/begun'; until [ -e '{folder}/go' ]; do sleep 0.1; done; echo $COLOUR",
    )
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with new_local_project(tmp_path_factory.mktemp("a project")) as made:
        yield made


@pytest.fixture
def project(stack: Project) -> Project:
    """The stack, running with what the test before has left in its files."""
    stack.run("up")
    stack.settle()
    return stack


def pids(project: Project) -> dict[str, int]:
    return {found["name"]: found["pid"] for found in project.json("status")["services"]}


def restarted(project: Project, sentence: str) -> set[str]:
    """Run `up`, check what it says, and return the services whose process is another one."""
    return replaced_by_up(project, sentence, pids)


def own_setting(project: Project, text: str) -> None:
    append(project.folder / "stack" / "airflow" / "user.env", text)


def test_nothing_is_touched_by_a_comment_or_another_terminal(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pids(project)
    own_setting(project, "# nothing that counts")
    monkeypatch.setenv("LANG", "C")
    monkeypatch.setenv("PATH", f"/opt/another/bin:{os.environ['PATH']}")
    assert project.json("up")["started"] == []
    assert project.json("up")["restarted"] == {}
    assert pids(project) == before


def test_an_option_of_a_server_restarts_that_server_alone(project: Project) -> None:
    options = project.folder / "stack" / "mysql" / "server.cnf"
    options.write_text(options.read_text().replace("max_connections = 60", "max_connections = 77"))
    sentence = "Restarting airbyte-mysql: stack/mysql/server.cnf changed"
    assert restarted(project, sentence) == {"airbyte-mysql"}
    assert project.ask_mysql("SELECT @@max_connections") == [(77,)]
    append(project.folder / "stack" / "postgres" / "business.conf", "work_mem = 5MB")
    sentence = "Restarting airbyte-postgres: stack/postgres/business.conf changed"
    assert restarted(project, sentence) == {"airbyte-postgres"}
    assert project.ask_postgres("SHOW work_mem") == [("5MB",)]


def test_airflow_restarts_with_its_metadata_database(project: Project) -> None:
    append(project.folder / "stack" / "postgres" / "metadata.conf", "work_mem = 5MB")
    assert restarted(project, "Restarting postgres: stack/postgres/metadata.conf changed") == {
        "postgres",
        *AIRFLOW,
    }
    assert project.json("trigger")["state"] == "success"


def test_a_changed_password_is_applied_by_up_and_stops_no_command_before(project: Project) -> None:
    project.set_variable("AIRFLOW_ADMIN_PASSWORD", "another")
    status = project.json("status")
    assert {found["name"] for found in status["services"]} == set(SERVICES)
    assert {found["health"] for found in status["services"]} <= {"healthy", "waiting"}
    assert "error" not in status["airflow"]
    assert project.json("trigger")["state"] == "success"
    with pytest.raises(HTTPError, match="401"):
        project.client(password="another").call("/api/v2/dags")
    sentence = "Restarting webserver: AIRFLOW_ADMIN_PASSWORD changed"
    assert restarted(project, sentence) == {"webserver"}
    assert project.client(password="another").call("/api/v2/dags")["total_entries"]


@pytest.mark.slow
def test_another_lock_file_restarts_airflow_alone(project: Project) -> None:
    lock = project.folder / "stack" / "airflow-requirements.txt"
    before = lock.read_bytes()
    append(lock, "# what is installed stays the same")
    # So that it need not be installed once more.
    folder = cache_dir() / f"airflow-{environment_key(lock.read_bytes())}"
    folder.symlink_to(f"airflow-{environment_key(before)}")
    try:
        assert restarted(project, f"{LOCK_FILE} changed") == AIRFLOW
        assert project.json("trigger")["state"] == "success"
    finally:
        lock.write_bytes(before)
        project.run("up")
        folder.unlink()


def test_a_changed_port_is_used_or_the_next_one_if_another_program_has_it(project: Project) -> None:
    before = project.json("status")["databases"]["mysql"]["port"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1]
        project.set_variable("AIRBYTE_MYSQL_PORT", str(wanted))
        sentence = f"AIRBYTE_MYSQL_PORT ({before} → {wanted}) changed"
        assert {"airbyte-mysql", *AIRFLOW} == restarted(project, sentence)
        assert project.json("status")["databases"]["mysql"]["port"] not in {before, wanted}
    assert project.json("trigger")["state"] == "success"


@pytest.fixture
def slow(project: Project, tmp_path: Path) -> Iterator[Any]:
    """The id of a run that is in the middle of its task, and the folder of its flag, named as its DAG.

    Each test has its own DAG, since Airflow forgets some time later those whose files are gone.
    """
    path = project.dag(f"{tmp_path.name}.py", SLOW_DAG.format(folder=tmp_path, name=tmp_path.name))
    run_id = project.json("trigger", tmp_path.name, "--no-wait")["run_id"]
    until((tmp_path / "begun").exists, "a running task")
    yield run_id, tmp_path
    (tmp_path / "go").touch()
    path.unlink()


@pytest.mark.slow
def test_a_task_that_ends_soon_ends_before_the_restart(project: Project, slow: Any) -> None:
    run_id, folder = slow
    own_setting(project, "COLOUR=green")
    before = pids(project)
    up = project.start("up")
    # The scheduler has been asked to end: it takes no new tasks, and waits for this one.
    log = project.folder / ".pipectl" / "logs" / "scheduler.log"
    until(lambda: "Exiting gracefully" in log.read_text(errors="replace"), "a scheduler that ends")
    assert pids(project)["scheduler"] == before["scheduler"]
    (folder / "go").touch()
    _, err = up.communicate(timeout=120)
    assert up.returncode == 0, err
    assert "COLOUR of stack/airflow/user.env changed" in err
    assert TASKS_FAIL in err
    runs = {run["run_id"]: run["state"] for run in project.json("runs", folder.name)["runs"]}
    assert runs[run_id] == "success"
    assert len((folder / "begun").read_text()) == 1


def test_a_task_that_goes_on_is_tried_again_with_what_changed(project: Project, slow: Any) -> None:
    run_id, folder = slow
    own_setting(project, "COLOUR=yellow")
    assert restarted(project, "COLOUR of stack/airflow/user.env changed") == AIRFLOW
    until(lambda: len((folder / "begun").read_text()) == 2, "the task's second start")
    # The first one has ended with the scheduler that had started it.
    task = f"until [ -e '{folder}/go' ]"

    def waiting() -> list[int]:
        lines = command_lines(project.processes())
        return [pid for pid, words in lines.items() if task in " ".join(words)]

    # For a moment the shell's child, before it becomes `sleep`, looks like the shell.
    until(lambda: len(waiting()) == 1, "one process of the task alone")
    (folder / "go").touch()
    client = project.client()
    assert client.end_of(folder.name, run_id) == "success"
    tries = client.call(f"/api/v2/dags/{folder.name}/dagRuns/{run_id}/taskInstances")["task_instances"]
    log = client.call(
        f"/api/v2/dags/{folder.name}/dagRuns/{run_id}/taskInstances/waits/logs/{tries[0]['try_number']}"
    )
    assert "yellow" in str(log)


def test_the_pipelines_run_in_the_middle_of_a_restart_writes_nothing_twice(project: Project) -> None:
    run_id = project.json("trigger", "--no-wait")["run_id"]
    own_setting(project, "COLOUR=black")
    project.run("up")
    assert project.client().end_of(DAG_ID, run_id) == "success"
    [(batches, wanted)] = project.ask_postgres(
        f"SELECT count(*), sum(transactions) FROM sim.batches WHERE batch_id = '{run_id}'"
    )
    assert batches == 1
    assert wanted >= 50
    project.client().settle(DAG_ID)
    assert project.json("verify-db", "--expect", "reconciled")["ok"]


def test_a_package_arrives_everywhere_and_goes_with_its_line_and_a_conflict_changes_nothing(
    project: Project,
) -> None:
    requirements = project.folder / "requirements.txt"
    before, kept = pids(project), requirements.read_text()
    append(requirements, "sqlalchemy==1.3")
    told = " ".join(project.run("up", code=2).stderr.split())
    assert "requirements.txt asks for sqlalchemy==1.3 and Airflow " in told
    assert pids(project) == before
    requirements.write_text(kept)
    append(requirements, "apache-airflow-providers-http\npandas")
    assert any("requirements.txt has changed" in note for note in project.json("status")["notes"])
    assert restarted(project, "requirements.txt changed") == AIRFLOW
    assert not any("requirements.txt has changed" in note for note in project.json("status")["notes"])
    path = project.dag("packages.py", PACKAGES_DAG)
    try:
        assert project.json("trigger", "packages")["state"] == "success"
    finally:
        path.unlink()
    providers = project.client().call("/api/v2/providers?limit=100")["providers"]
    assert "apache-airflow-providers-http" in {provider["package_name"] for provider in providers}
    requirements.write_text(kept)
    assert restarted(project, "requirements.txt changed") == AIRFLOW
    providers = project.client().call("/api/v2/providers?limit=100")["providers"]
    assert "apache-airflow-providers-http" not in {provider["package_name"] for provider in providers}


def a_stopped_service(project: Project, _: ExitStack) -> str:
    Supervisor(project.folder / ".pipectl").stop(["dag-processor"])
    return "dag-processor is stopped"


def a_port_of_another_program(project: Project, end: ExitStack) -> str:
    Supervisor(project.folder / ".pipectl").stop(["airbyte-mysql"])
    return damages.a_taken_port(project, end, "airbyte-mysql", "AIRBYTE_MYSQL_PORT")


def a_killed_supervisor(project: Project, end: ExitStack) -> str:
    path = project.folder / "stack" / ".env"
    before = path.read_text()

    def assert_ports_are_kept() -> None:
        assert path.read_text() == before

    end.callback(assert_ports_are_kept)
    supervisor = Supervisor(project.folder / ".pipectl")
    os.kill(supervisor.pid(), signal.SIGKILL)
    until(lambda: not supervisor.pid(), "the end of supervisord")
    return "of an earlier start that no supervisord controls"


DAMAGES: dict[str, damages.Damage] = {
    "secrets": damages.another_secret,
    "env-volumes": damages.another_password,
    "env-running": damages.another_option,
    "env-modes": damages.others_may_read,
    "line-ends": damages.windows_line_ends,
    "leftovers": a_killed_supervisor,
    "services": a_stopped_service,
    "ports": a_port_of_another_program,
    "pools": damages.a_pool_without_slots,
    "label-lag": damages.labels_that_are_late,
}
# Whose remedies take longest.
LONG = {"ports", "services"}


@pytest.mark.parametrize(
    "check", [pytest.param(check, marks=pytest.mark.slow if check in LONG else ()) for check in DAMAGES]
)
def test_the_doctor_names_what_is_damaged_and_its_remedy_as_printed_mends_it(
    project: Project, tmp_path: Path, check: str
) -> None:
    project.populate()
    damages.assert_named_and_mended(project, check, DAMAGES[check], tmp_path)


def test_the_doctor_finds_nothing_wrong_with_a_stack_that_runs(project: Project) -> None:
    project.populate()
    project.run("connections", "--create-slot")
    found = {each["id"]: each for each in project.json("doctor")["checks"]}
    project.run("connections", "--drop-slot")
    assert [each for each in found.values() if each["ok"] is False] == []
    assert {name for name, each in found.items() if each["ok"] is None} == {"compose", "scaffold"}
    for part in ("scheduler", "dag-processor"):
        assert part in found["heartbeats"]["found"]


def test_the_bundle_of_a_stack_that_runs_has_no_secret_of_it(project: Project, tmp_path: Path) -> None:
    project.set_variable("PIPECTL_ALERT_WEBHOOK", "http://127.0.0.1:1/hook-sesame")
    own_setting(project, 'AIRFLOW_CONN_SHOP=\'{"conn_type": "http", "password": "s3same/&+"}\'')
    project.run("up")
    path = tmp_path / "help.tar.gz"
    project.run("doctor", "--bundle", str(path))
    secrets = [
        *(project.variable(name) for name in (*SECRETS, "AIRBYTE_POSTGRES_SUPERUSER_PASSWORD")),
        *("http://127.0.0.1:1/hook-sesame", "s3same/&+"),
    ]
    with tarfile.open(path) as archive:
        texts = {entry.name: archive.extractfile(entry) for entry in archive.getmembers()}
        whole = "\n".join(file.read().decode() for file in texts.values() if file)
    assert {f"pipectl-doctor/logs/{name}.log" for name in SERVICES} <= texts.keys()
    for secret in secrets:
        assert len(secret) > 8
        for spelling in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]):
            assert spelling not in whole
        assert base64.b64encode(f"airflow:{secret}".encode())[11:-4].decode() not in whole
