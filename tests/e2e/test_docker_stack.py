"""The whole pipeline on a real Docker engine: containers, volumes and databases are asked directly.

The tests share one running stack and stand in the order in which a user would do the same.
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest
from docker_project import DockerProject, docker, new_project
from project_copy import until

from pipectl.services import of_executor

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.docker]
SERVICES = tuple(service.name for service in of_executor("LocalExecutor"))
RUNNING = {f"{name}-1" for name in SERVICES}
BROKEN_DAG = "from airflow.sdk import no_such_name  # in a DAG file\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerProject]:
    with new_project(tmp_path_factory.mktemp("first clone")) as found:
        yield found


@pytest.fixture(scope="module")
def up(project: DockerProject) -> Any:
    return project.json("up")


def ids(project: DockerProject) -> dict[str, str]:
    return {name: found["Id"] for name, found in project.containers().items()}


def test_up_ends_with_every_container_running(project: DockerProject, up: Any) -> None:
    running = {name for name, found in project.containers().items() if found["State"]["Running"]}
    assert running == RUNNING
    assert set(up["started"]) == set(SERVICES)
    assert up["engine"] == "docker"


def test_every_published_port_is_bound_to_loopback(project: DockerProject, up: Any) -> None:
    del up
    bindings = [
        binding["HostIp"]
        for found in project.containers().values()
        for ports in found["NetworkSettings"]["Ports"].values()
        for binding in ports or ()
    ]
    assert len(bindings) == 3
    assert set(bindings) == {"127.0.0.1"}


def test_no_container_can_gain_privileges(project: DockerProject, up: Any) -> None:
    del up
    for found in project.containers().values():
        assert "no-new-privileges:true" in found["HostConfig"]["SecurityOpt"]
        assert found["HostConfig"]["CapDrop"] == ["ALL"]
        assert found["HostConfig"]["Memory"] > 0
        assert found["HostConfig"]["LogConfig"]["Config"]["max-size"] == "10m"


def test_airflow_runs_as_an_ordinary_user(project: DockerProject, up: Any) -> None:
    del up
    assert docker("exec", project.containers()["scheduler-1"]["Id"], "id", "-u").strip() == "50000"


def test_secrets_are_readable_by_their_owner_alone(project: DockerProject, up: Any) -> None:
    path = project.folder / "stack" / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = project.variable("AIRFLOW_POSTGRES_PASSWORD")
    assert len(secret) > 20
    assert secret not in json.dumps(up)
    assert secret not in docker("top", project.containers()["webserver-1"]["Id"], "-eo", "pid,args")


def test_health_checks_of_the_shipped_file_pass(project: DockerProject, up: Any) -> None:
    del up

    def all_healthy() -> bool:
        found = project.containers()
        return all(found[name]["State"]["Health"]["Status"] == "healthy" for name in RUNNING)

    until(all_healthy, "healthy containers")


def test_databases_are_ready_for_change_data_capture(project: DockerProject, up: Any) -> None:
    del up
    assert project.psql("SHOW wal_level") == "logical"
    assert project.mysql("SELECT @@log_bin, @@binlog_format, @@binlog_row_image").split() == [
        "1",
        "ROW",
        "FULL",
    ]
    assert "REPLICATION SLAVE" in project.mysql("SHOW GRANTS")


def test_new_databases_are_verified_as_empty(project: DockerProject, up: Any) -> None:
    del up
    assert project.json("verify-db")["ok"]


def test_a_triggered_run_writes_the_rows_that_it_reports(project: DockerProject, up: Any) -> None:
    del up
    result = project.json("trigger")
    assert result["state"] == "success"
    transactions = int(project.psql("SELECT count(*) FROM transactions"))
    assert transactions >= result["delta"]["transactions"] >= 50
    assert result["delta"]["labels"] >= result["delta"]["transactions"]
    assert int(project.mysql("SELECT COUNT(*) FROM fraud_labels")) == transactions


def test_each_transaction_has_exactly_one_label(project: DockerProject, up: Any) -> None:
    del up
    assert project.json("verify-db", "--expect", "reconciled")["ok"]
    ids_in_postgres = project.psql("SELECT transaction_id FROM transactions ORDER BY 1").split()
    assert project.mysql("SELECT transaction_id FROM fraud_labels ORDER BY 1").split() == ids_in_postgres


def test_both_connections_are_listed_in_airflow(project: DockerProject, up: Any) -> None:
    del up
    found = {each["connection_id"]: each for each in project.api("/api/v2/connections")["connections"]}
    assert found["airbyte_postgres"]["host"] == "airbyte-postgres"
    assert found["airbyte_mysql"]["host"] == "airbyte-mysql"


def test_a_tasks_log_can_be_read(project: DockerProject, up: Any) -> None:
    del up
    run = project.json("runs")["runs"][0]["run_id"]
    path = f"/api/v2/dags/generate_transaction_and_labels/dagRuns/{run}/taskInstances/generate_labels/logs/1"
    assert "labels" in json.dumps(project.api(path)["content"])


def test_status_names_the_containers(project: DockerProject, up: Any) -> None:
    del up
    found = project.json("status")
    shown = {service["name"]: service["container"] for service in found["services"]}
    assert shown == {
        name.removesuffix("-1"): each["Name"].lstrip("/")
        for name, each in project.containers().items()
        if name in RUNNING
    }
    assert {service["health"] for service in found["services"]} == {"healthy"}


def test_logs_are_those_of_the_container(project: DockerProject, up: Any) -> None:
    del up
    shown = project.run("logs", "airbyte-postgres", "--tail", "5").stdout.splitlines()
    container = project.variable("AIRBYTE_POSTGRES_CONTAINER")
    assert "database system is ready" in "\n".join(shown)
    assert len(shown) == 5
    assert shown[0] in docker("logs", container, "--tail", "50") or shown[0]


def test_up_again_leaves_everything_alone(project: DockerProject, up: Any) -> None:
    del up
    before = ids(project)
    assert project.json("up")["started"] == []
    assert ids(project) == before


def test_plain_compose_finds_nothing_to_change(project: DockerProject, up: Any) -> None:
    del up
    before = ids(project)
    project.compose("up", "--detach", "--wait", "--wait-timeout", "100")
    assert ids(project) == before


def test_a_stopped_container_is_started_and_the_others_stay(project: DockerProject, up: Any) -> None:
    del up
    before = ids(project)
    docker("stop", "--time", "1", before["dag-processor-1"])
    assert project.json("up")["started"] == ["dag-processor"]
    assert ids(project) == before


def test_a_killed_scheduler_comes_back_by_itself(project: DockerProject, up: Any) -> None:
    del up
    scheduler = project.containers()["scheduler-1"]
    os.kill(scheduler["State"]["Pid"], 9)
    until(
        lambda: (
            (found := project.containers()["scheduler-1"])["State"]["Running"]
            and found["RestartCount"] > scheduler["RestartCount"]
        ),
        "a restart",
    )
    assert project.json("trigger")["state"] == "success"


def test_dry_run_lists_volumes_and_commands_and_deletes_nothing(project: DockerProject, up: Any) -> None:
    del up
    before = project.volumes()
    found = project.json("reset", "--dry-run")
    assert {volume["location"] for volume in found["would_delete"]} == set(before)
    assert found["would_run"][0] == "docker compose -f stack/docker-compose.yml down --remove-orphans"
    assert project.volumes() == before


def test_reset_deletes_this_projects_volumes_and_no_others(project: DockerProject, up: Any) -> None:
    del up
    before = project.volumes()
    data, other = f"someone-elses-data-{os.getpid()}", f"someone-else-{os.getpid()}"
    docker("volume", "create", data)
    docker("run", "--detach", "--name", other, "-v", f"{data}:/data", "redis:7")
    try:
        result = project.json("reset", "--yes")
        after = project.volumes()
        assert docker("inspect", "-f", "{{.State.Running}}", other).strip() == "true"
        assert docker("volume", "inspect", data)
    finally:
        docker("rm", "--force", "--volumes", other)
        docker("volume", "rm", "--force", data)
    assert {volume["location"] for volume in result["deleted"]} == set(before)
    assert set(after) == set(before)
    assert all(after[name] > before[name] for name in before)


def test_after_a_reset_the_databases_are_empty(project: DockerProject, up: Any) -> None:
    del up
    assert project.psql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"
    assert project.mysql("SHOW TABLES") == ""
    assert project.json("verify-db", "--expect", "empty")["ok"]


def test_a_broken_dag_ends_with_its_code_and_the_trace(project: DockerProject, up: Any) -> None:
    del up
    path = project.dag("broken.py", BROKEN_DAG)
    try:
        done = project.run("trigger", "broken", code=9)
    finally:
        path.unlink()
    assert "no_such_name" in done.stderr


def test_down_removes_containers_and_keeps_the_data(project: DockerProject, up: Any) -> None:
    del up
    before = project.volumes()
    assert set(project.json("down")["stopped"]) == set(SERVICES)
    assert project.containers() == {}
    assert project.volumes() == before


def test_what_is_stopped_is_shown_as_stopped(project: DockerProject, up: Any) -> None:
    del up
    found = project.json("status")
    assert {service["state"] for service in found["services"]} == {"stopped"}
    assert not found["airflow"]["reachable"]
