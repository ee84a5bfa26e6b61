"""The whole pipeline on the local engine: real servers, real Airflow, the databases asked directly.

The tests of this module share one running stack and stand in the order in which a user would do the same.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import psutil
import psycopg2
import pytest
from project_copy import COMMAND_SECONDS, Project, copy_project, until

from pipectl.services import of_executor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e
SERVICES = tuple(service.name for service in of_executor("LocalExecutor"))
FAILING_DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("failing"):
    BashOperator(task_id="breaks", bash_command="echo the last words; exit 3")
"""
SLOW_DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("slow"):
    BashOperator(task_id="sleeps", bash_command="sleep 300")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    found = copy_project(tmp_path_factory.mktemp("a project"))
    yield found
    found.run("down")
    assert not found.processes()


@pytest.fixture(scope="module")
def up(project: Project) -> Any:
    return project.json("up")


def service(project: Project, name: str) -> dict[str, Any]:
    return next(found for found in project.json("status")["services"] if found["name"] == name)


def api(project: Project, path: str) -> Any:
    """Ask Airflow's REST API without pipectl."""
    url = project.json("status")["airflow"]["url"]
    login = urllib.request.Request(  # noqa: S310  loopback
        f"{url}/auth/token",
        json.dumps({"username": "admin", "password": "admin"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(login, timeout=30) as answer:  # noqa: S310  loopback
        token = json.load(answer)["access_token"]
    request = urllib.request.Request(f"{url}{path}", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  loopback
        return json.load(answer)


def test_up_ends_with_everything_healthy(project: Project, up: Any) -> None:
    assert up["engine"] == "local"
    assert set(up["started"]) == set(SERVICES)
    assert [phase["name"] for phase in up["phases"]] == ["install", "start", "healthy", "dag parsed"]
    status = project.json("status")
    assert {found["name"]: found["health"] for found in status["services"]} == dict.fromkeys(
        SERVICES, "healthy"
    )
    assert status["airflow"]["executor"] == "LocalExecutor"
    assert status["airflow"]["version"].startswith("3.")
    assert status["dag"]["found"]
    assert status["dag"]["paused"]


def test_no_secret_is_shown_or_is_in_an_argument(project: Project, up: Any) -> None:
    written = (project.folder / "stack" / ".env").read_text()
    secrets = [line.split("=", 1)[1] for line in written.splitlines() if "SECRET" in line or "KEY" in line]
    assert len(secrets) >= 3
    assert (project.folder / "stack" / ".env").stat().st_mode & 0o777 == 0o600
    shown = json.dumps([up, project.json("status")]) + project.run("status").stdout
    arguments = " ".join(word for process in project.processes() for word in process.cmdline())
    logs = "".join(
        path.read_text(errors="replace") for path in (project.folder / ".pipectl/logs").glob("*.log")
    )
    for secret in secrets:
        assert secret not in shown
        assert secret not in arguments
        assert secret not in logs


@pytest.mark.usefixtures("up")
def test_every_port_is_bound_to_loopback_only(project: Project) -> None:
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in project.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {port for _, port in listening} == set(project.json("up")["ports"].values())
    assert {address for address, _ in listening} == {"127.0.0.1"}


@pytest.mark.usefixtures("up")
def test_a_second_up_changes_nothing(project: Project) -> None:
    before = {process.pid for process in project.processes()}
    again = project.json("up")
    assert again["started"] == []
    assert {service(project, name)["pid"] for name in SERVICES} <= before


@pytest.mark.usefixtures("up")
def test_new_databases_are_empty(project: Project) -> None:
    found = project.json("verify-db")
    assert found["ok"]
    assert found["expect"] == "empty"
    assert [database["name"] for database in found["databases"]] == ["airbyte-postgres", "airbyte-mysql"]
    project.run("verify-db", "--expect", "populated", code=6)


@pytest.mark.usefixtures("up")
def test_airflow_knows_both_connections(project: Project) -> None:
    found = {item["connection_id"]: item for item in api(project, "/api/v2/connections")["connections"]}
    assert found["airbyte_postgres"]["schema"] == "airbyte"
    assert found["airbyte_mysql"]["schema"] == "data"
    assert found["airbyte_mysql"]["port"] == project.json("status")["databases"]["mysql"]["port"]


@pytest.mark.usefixtures("up")
def test_trigger_follows_its_own_run_and_tells_what_it_did(project: Project) -> None:
    result = project.json("trigger")
    assert result["state"] == "success"
    assert [(task["id"], task["state"], task["try"]) for task in result["tasks"]] == [
        ("generate_transactions", "success", 1),
        ("generate_labels", "success", 1),
    ]
    [(transactions,)] = project.ask_postgres(
        f"SELECT transactions FROM sim.batches WHERE batch_id = '{result['run_id']}'"
    )
    assert 50 <= transactions <= 200
    assert result["delta"]["transactions"] == transactions
    assert result["delta"]["labels"] == transactions
    assert result["unpaused"]
    # The cron slot before now, which Airflow starts because the DAG was unpaused.
    assert [run["run_type"] for run in result["other_runs"]] == ["scheduled"]
    assert result["run_id"] not in {run["run_id"] for run in result["other_runs"]}


@pytest.mark.usefixtures("up")
def test_every_transaction_has_one_label(project: Project) -> None:
    found = project.json("verify-db", "--expect", "reconciled")
    assert (found["ok"], found["unlabelled"], found["orphans"]) == (True, 0, 0)
    transactions = {row[0] for row in project.ask_postgres("SELECT transaction_id FROM public.transactions")}
    labels = [row[0] for row in project.ask_mysql("SELECT transaction_id FROM fraud_labels")]
    assert len(transactions) >= 100
    assert sorted(transactions) == sorted(labels)
    project.run("verify-db", code=6)


@pytest.mark.usefixtures("up")
def test_runs_lists_the_run_that_was_triggered(project: Project) -> None:
    runs = project.json("runs")["runs"]
    assert {run["run_type"] for run in runs} == {"manual", "scheduled"}
    assert {run["state"] for run in runs} == {"success"}


@pytest.mark.usefixtures("up")
def test_pause_and_unpause_show_in_the_status(project: Project) -> None:
    project.run("pause")
    assert project.json("status")["dag"]["paused"]
    project.run("unpause")
    assert not project.json("status")["dag"]["paused"]
    project.run("pause")


@pytest.mark.usefixtures("up")
def test_a_failing_task_is_exit_7_with_the_end_of_its_log(project: Project) -> None:
    project.dag("failing.py", FAILING_DAG)
    done = project.run("trigger", "failing", code=7)
    assert "the last words" in done.stderr
    assert "failed in task breaks" in done.stderr


@pytest.mark.usefixtures("up")
def test_a_dag_that_cannot_be_imported_is_exit_9_with_the_error(project: Project) -> None:
    path = project.dag("broken.py", "from airflow.sdk import DAG\nimport nowhere_to_be_found\n")
    done = project.run("trigger", "broken", code=9)
    assert "nowhere_to_be_found" in done.stderr
    assert "broken.py" in done.stderr
    path.unlink()


@pytest.mark.usefixtures("up")
def test_an_unknown_dag_is_exit_9_and_names_those_that_exist(project: Project) -> None:
    until(lambda: not api(project, "/api/v2/importErrors")["import_errors"], "the import error to go")
    done = project.run("trigger", "generate_transaction_and_label", code=9)
    assert "Did you mean generate_transaction_and_labels?" in done.stderr


@pytest.mark.usefixtures("up")
def test_a_run_that_takes_too_long_is_exit_8_and_ctrl_c_is_130(project: Project) -> None:
    project.dag("slow.py", SLOW_DAG)
    done = project.run("trigger", "slow", "--timeout", "3", code=8)
    assert "it goes on" in done.stderr
    process = project.start("trigger", "slow")
    until(lambda: len(project.json("runs", "slow")["runs"]) == 2, "the second run")
    code, err = project.interrupt(process)
    assert code == 130
    assert "Interrupted" in err


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize("name", ["scheduler", "airbyte-mysql", "airbyte-postgres", "dag-processor"])
def test_a_killed_service_is_back_within_5_seconds(project: Project, name: str) -> None:
    before = service(project, name)["pid"]
    os.kill(before, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: service(project, name)["pid"] not in {None, before}, f"{name} to be back")
    assert time.monotonic() - killed < 5
    until(lambda: service(project, name)["health"] == "healthy", f"{name} to be healthy")


@pytest.mark.usefixtures("up")
def test_a_lock_that_a_dead_scheduler_left_behind_does_not_stop_the_next_run(project: Project) -> None:
    variables = dict(
        line.split("=", 1) for line in (project.folder / "stack/.env").read_text().splitlines() if "=" in line
    )
    left_behind = psycopg2.connect(
        host="127.0.0.1",
        port=service(project, "postgres")["port"],
        user="airflow",
        password=variables["AIRFLOW_POSTGRES_PASSWORD"],
        dbname="airflow",
    )
    left_behind.cursor().execute("SELECT * FROM slot_pool FOR UPDATE")
    assert project.json("trigger", "--timeout", "120")["state"] == "success"
    with pytest.raises(psycopg2.OperationalError):
        left_behind.cursor().execute("SELECT 1")


@pytest.mark.usefixtures("up")
def test_rows_survive_the_kill_of_their_servers(project: Project) -> None:
    assert project.json("verify-db", "--expect", "reconciled")["ok"]
    assert project.json("verify-db", "--expect", "populated")["ok"]


@pytest.mark.usefixtures("up")
def test_logs_show_every_service(project: Project) -> None:
    lines = [json.loads(line) for line in project.run("logs", "--tail", "1", "--json").stdout.splitlines()]
    assert {line["service"] for line in lines} == set(SERVICES)
    project.run("logs", "nobody", code=2)


@pytest.mark.usefixtures("up")
def test_open_prints_the_address(project: Project) -> None:
    assert project.run("open", "--url").stdout.strip() == project.json("status")["airflow"]["url"]


@pytest.mark.usefixtures("up")
def test_data_only_reset_empties_the_databases_and_leaves_airflow_alone(project: Project) -> None:
    webserver = service(project, "webserver")["pid"]
    emptied = project.json("reset", "--data-only", "--yes")["emptied"]
    assert sum(table["rows"] for database in emptied for table in database["tables"]) > 0
    assert project.json("verify-db")["ok"]
    assert service(project, "webserver")["pid"] == webserver
    assert project.json("trigger")["state"] == "success"
    assert project.json("verify-db", "--expect", "reconciled")["ok"]


@pytest.mark.usefixtures("up")
def test_a_second_project_gets_ports_of_its_own_and_says_so(project: Project, tmp_path: Path) -> None:
    other = copy_project(tmp_path)
    # Its own stack does not run, and the one that listens on its ports is not asked, let alone emptied.
    other.run("reset", "--data-only", "--yes", code=5)
    other.run("trigger", code=4)
    assert not other.json("status")["databases"]["postgres"]["rows"]
    try:
        done = other.run("up")
        assert "was taken, so it is" in done.stdout
        ports = (project.json("status")["databases"], other.json("status")["databases"])
        assert ports[0]["postgres"]["port"] != ports[1]["postgres"]["port"]
        assert other.json("verify-db")["ok"]
        assert project.json("verify-db", "--expect", "populated")["ok"]
    finally:
        other.run("down", "--volumes", "--yes")
    assert not other.processes()
    assert service(project, "webserver")["health"] == "healthy"


@pytest.mark.usefixtures("up")
def test_two_projects_that_start_in_the_same_second_do_not_meet(tmp_path: Path) -> None:
    projects = [copy_project(tmp_path / name) for name in ("left", "right")]
    try:
        commands = [each.start("up", "--json") for each in projects]
        ends = [command.communicate(timeout=COMMAND_SECONDS) for command in commands]
        assert [command.returncode for command in commands] == [0, 0], ends
        used = [set(json.loads(out)["ports"].values()) for out, _ in ends]
        assert not used[0] & used[1]
        assert projects[0].json("trigger")["state"] == "success"
        assert projects[0].json("verify-db", "--expect", "populated")["ok"]
        assert projects[1].json("verify-db", "--expect", "empty")["ok"]
    finally:
        for each in projects:
            each.run("down", "--volumes", "--yes")


@pytest.mark.usefixtures("up")
def test_reset_lists_deletes_and_proves(project: Project) -> None:
    listed = project.json("reset", "--dry-run")["would_delete"]
    assert {volume["name"] for volume in listed} == {
        "postgres",
        "airbyte-postgres",
        "airbyte-mysql",
        "airflow",
    }
    assert project.json("verify-db", "--expect", "populated")["ok"]
    project.run("reset", code=2)
    assert project.json("verify-db", "--expect", "populated")["ok"]
    result = project.json("reset", "--yes")
    assert {volume["name"] for volume in result["deleted"]} == {volume["name"] for volume in listed}
    before = {volume["name"]: volume["created"] for volume in result["deleted"]}
    assert all(volume["created"] > before[volume["name"]] for volume in result["created"])
    assert project.json("verify-db")["ok"]
    assert project.json("status")["dag"]["paused"]


@pytest.mark.usefixtures("up")
def test_a_changed_password_is_exit_5_and_names_the_variable(project: Project) -> None:
    path = project.folder / "stack" / ".env"
    before = path.read_text()
    path.write_text(before + "AIRBYTE_POSTGRES_PASSWORD=changed\n")
    try:
        done = project.run("verify-db", code=5)
        assert "AIRBYTE_POSTGRES_PASSWORD" in done.stderr
        project.run("up", code=5)
    finally:
        path.write_text(before)
    assert project.json("verify-db")["ok"]


@pytest.mark.usefixtures("up")
def test_down_leaves_no_process_and_keeps_the_data(project: Project) -> None:
    project.run("trigger")
    project.run("down")
    assert not project.processes()
    assert project.run("down").returncode == 0
    project.run("trigger", code=4)
    project.run("verify-db", code=5)
    project.run("up")
    assert project.json("verify-db", "--expect", "populated")["ok"]
    assert project.json("verify-db", "--expect", "reconciled")["ok"]
