"""The whole pipeline on a real Docker engine: containers, volumes and databases are asked directly."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from pipectl.engines.project import SECRETS
from pipectl.services import of_executor
from support import asset_events, broken_dags
from support.damages import restart_in_vain
from support.deferral import check_triggerer
from support.docker_project import DockerProject, docker, new_docker_project
from support.example_dags import check_sample
from support.explained import Explained
from support.looks import check_watch
from support.needs import images, skip_on_podman
from support.project_copy import COMMAND_SECONDS
from support.snapshot_checks import check_killing, check_saving_and_restoring
from support.stacks import DockerStack, check_rest
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.docker]
SERVICES = tuple(service.name for service in of_executor("LocalExecutor"))
RUNNING = {f"{name}-1" for name in SERVICES}
VOLUMES = 6
SLOW_DAG = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("slow"):
    BashOperator(task_id="sleeps", bash_command="echo begun; exec sleep 599")
"""
BROKEN_DAG = "from airflow.sdk import no_such_name  # in a DAG file\n"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerProject]:
    with new_docker_project(tmp_path_factory.mktemp("first clone") / "project") as made:
        yield made


def ids(project: DockerProject) -> dict[str, str]:
    return {name: found["Id"] for name, found in project.containers().items()}


def starts(project: DockerProject) -> dict[str, str]:
    return {name: found["State"]["StartedAt"] for name, found in project.containers().items()}


def test_up_ends_with_every_container_running(project: DockerProject, first_up: Any) -> None:
    running = {name for name, found in project.containers().items() if found["State"]["Running"]}
    assert running == RUNNING
    assert set(first_up["started"]) == set(SERVICES)
    assert first_up["engine"] == "docker"


def test_containers_run_on_the_images_that_the_tests_are_about(project: DockerProject) -> None:
    wanted = {docker("image", "inspect", "-f", "{{.Id}}", name).strip() for name in images().values()}
    assert {found["Image"] for found in project.containers().values()} <= wanted


def test_every_published_port_is_bound_to_loopback(project: DockerProject) -> None:
    bindings = [
        binding["HostIp"]
        for found in project.containers().values()
        for ports in found["NetworkSettings"]["Ports"].values()
        for binding in ports or ()
    ]
    assert len(bindings) == 3
    assert set(bindings) == {"127.0.0.1"}


def test_no_container_can_gain_privileges(project: DockerProject) -> None:
    skip_on_podman("describes limits and capabilities in words of its own")
    for found in project.containers().values():
        assert "no-new-privileges:true" in found["HostConfig"]["SecurityOpt"]
        assert found["HostConfig"]["CapDrop"] == ["ALL"]
        assert found["HostConfig"]["Memory"] > 0
        assert found["HostConfig"]["LogConfig"]["Config"]["max-size"] == "10m"


def test_airflow_runs_as_an_ordinary_user(project: DockerProject) -> None:
    assert docker("exec", project.containers()["scheduler-1"]["Id"], "id", "-u").strip() == "50000"


def test_secrets_are_readable_by_their_owner_alone(project: DockerProject, first_up: Any) -> None:
    path = project.folder / "stack" / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = project.variable("AIRFLOW_POSTGRES_PASSWORD")
    assert len(secret) > 20
    assert secret not in json.dumps(first_up)
    assert secret not in docker("top", project.containers()["webserver-1"]["Id"], "-eo", "pid,args")


def test_health_checks_of_the_shipped_file_pass(project: DockerProject) -> None:
    skip_on_podman("leaves health checks to systemd, which a test cannot count on")

    def all_healthy() -> bool:
        found = project.containers()
        return all(found[name]["State"]["Health"]["Status"] == "healthy" for name in RUNNING)

    until(all_healthy, "healthy containers")


def test_databases_are_ready_for_change_data_capture(project: DockerProject) -> None:
    assert project.psql("SHOW wal_level") == "logical"
    assert project.mysql("SELECT @@log_bin, @@binlog_format, @@binlog_row_image").split() == [
        "1",
        "ROW",
        "FULL",
    ]
    assert "REPLICATION SLAVE" in project.mysql("SHOW GRANTS")


def test_empty_databases_are_verified_as_empty(empty: DockerProject) -> None:
    assert empty.json("verify-db")["ok"]


def test_a_triggered_run_writes_the_rows_that_it_reports(project: DockerProject) -> None:
    result = project.json("trigger")
    assert result["state"] == "success"
    batch = f"SELECT transactions FROM sim.batches WHERE batch_id = '{result['run_id']}'"
    assert int(project.psql(batch)) == result["delta"]["transactions"]
    assert 50 <= result["delta"]["transactions"] <= 200
    assert result["delta"]["labels"] == result["delta"]["transactions"]


def test_each_transaction_has_exactly_one_label(populated: DockerProject) -> None:
    project = populated
    assert project.json("verify-db", "--expect", "reconciled")["ok"]
    ids_in_postgres = project.psql("SELECT transaction_id FROM transactions ORDER BY 1").split()
    assert project.mysql("SELECT transaction_id FROM fraud_labels ORDER BY 1").split() == ids_in_postgres


def test_both_connections_are_listed_in_airflow(project: DockerProject) -> None:
    found = {
        each["connection_id"]: each for each in project.client().call("/api/v2/connections")["connections"]
    }
    assert found["airbyte_postgres"]["host"] == "airbyte-postgres"
    assert found["airbyte_mysql"]["host"] == "airbyte-mysql"


def test_a_tasks_log_can_be_read(project: DockerProject) -> None:
    run = project.json("trigger")["run_id"]
    path = f"/api/v2/dags/generate_transaction_and_labels/dagRuns/{run}/taskInstances/generate_labels/logs/1"
    assert "labels" in json.dumps(project.client().call(path)["content"])


def test_status_names_the_containers(project: DockerProject) -> None:
    found = project.json("status")
    shown = {service["name"]: service["container"] for service in found["services"]}
    assert shown == {
        name.removesuffix("-1"): each["Name"].lstrip("/")
        for name, each in project.containers().items()
        if name in RUNNING
    }
    assert {service["health"] for service in found["services"]} <= {"healthy", "waiting"}


def test_logs_are_those_of_the_container(project: DockerProject) -> None:
    shown = project.run("logs", "airbyte-postgres", "--tail", "5").stdout.splitlines()
    container = project.variable("AIRBYTE_POSTGRES_CONTAINER")
    written = docker("logs", container, errors=True)
    assert len(shown) == 5
    for line in shown:
        assert line.split("| ", 1)[-1] in written


def test_up_again_leaves_everything_alone(project: DockerProject) -> None:
    before = ids(project)
    assert project.json("up")["started"] == []
    assert ids(project) == before


def test_plain_compose_finds_nothing_to_change(project: DockerProject) -> None:
    skip_on_podman("leaves the health checks that Compose waits for to systemd")
    before = ids(project)
    project.compose("up", "--detach", "--wait", "--wait-timeout", "100")
    assert ids(project) == before


def test_a_stopped_container_is_started_and_the_others_stay(project: DockerProject) -> None:
    before = ids(project)
    docker("stop", "--time", "1", before["dag-processor-1"])
    assert project.json("up")["started"] == ["dag-processor"]
    assert ids(project) == before


def test_a_killed_scheduler_comes_back_by_itself(project: DockerProject) -> None:
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


@pytest.mark.slow
def test_a_restart_starts_containers_anew_and_keeps_them(project: DockerProject) -> None:
    before, started = ids(project), starts(project)
    told = project.json("restart", "postgres")["restarted"]
    airflow = {"webserver", "scheduler", "dag-processor", "triggerer"}
    assert told == {"postgres": "", **dict.fromkeys(airflow, "postgres restarts")}
    assert ids(project) == before
    again = {name for name, when in starts(project).items() if when != started[name]}
    assert again == {f"{name}-1" for name in {"postgres", *airflow}}
    assert project.json("trigger")["state"] == "success"


@pytest.mark.slow
def test_a_service_that_does_not_come_back_ends_a_restart_with_its_log(project: DockerProject) -> None:
    restart_in_vain(project)
    project.run("restart", "dag-processor")


def test_a_watch_sees_runs_and_measures_containers(populated: DockerProject) -> None:
    check_watch(populated, goes_down=False)


def test_a_project_is_listed_with_what_it_has(project: DockerProject) -> None:
    [found] = [each for each in project.json("projects")["projects"] if each["folder"] == str(project.folder)]
    assert (found["engine"], found["state"], found["services"]) == ("docker", "running", len(SERVICES))
    assert found["ports"] == project.json("up")["ports"]
    assert found["bytes"] > 1_000_000


def test_dry_run_lists_volumes_and_commands_and_deletes_nothing(project: DockerProject) -> None:
    before = project.volumes()
    found = project.json("reset", "--dry-run")
    assert {volume["location"] for volume in found["would_delete"]} == set(before)
    files = " ".join(f"-f {name}" for name in project.compose_files)
    assert found["would_run"][0] == f"docker compose {files} down --remove-orphans"
    assert project.volumes() == before


def test_reset_deletes_this_projects_volumes_and_no_others(populated: DockerProject) -> None:
    project = populated
    before = project.volumes()
    data, other = f"someone-elses-data-{os.getpid()}", f"someone-else-{os.getpid()}"
    docker("volume", "create", data)
    docker("run", "--detach", "--name", other, "-v", f"{data}:/data", images()["REDIS_IMAGE"])
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
    assert project.psql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"
    assert project.mysql("SHOW TABLES") == ""
    assert project.json("verify-db", "--expect", "empty")["ok"]


@pytest.mark.slow
def test_a_snapshot_is_gone_back_to_and_the_next_run_doubles_nothing(populated: DockerProject) -> None:
    check_saving_and_restoring(DockerStack(populated, celery=False))
    assert len(populated.volumes()) == VOLUMES
    before = ids(populated)
    populated.compose("create")
    assert ids(populated) == before


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_snapshots_that_are_killed_leave_the_old_or_the_new(populated: DockerProject) -> None:
    check_killing(DockerStack(populated, celery=False), kills=6, seconds=30)
    assert len(populated.volumes()) == VOLUMES


def test_a_broken_dag_ends_with_its_code_and_the_trace(project: DockerProject) -> None:
    project.dag("broken.py", BROKEN_DAG)
    done = project.run("trigger", "broken", code=9)
    assert "no_such_name" in done.stderr


def test_both_tables_are_assets_whose_events_start_the_example(project: DockerProject) -> None:
    asset_events.compare_events_with_a_run(project)


@pytest.mark.slow
def test_check_says_of_broken_files_what_the_dag_processor_says(project: DockerProject) -> None:
    broken_dags.compare_with_the_processor(project)


def test_a_run_that_is_cancelled_stops_and_its_log_is_followed_to_the_end(project: DockerProject) -> None:
    project.dag("slow.py", SLOW_DAG)
    run_id = project.json("trigger", "slow", "--no-wait")["run_id"]
    following = project.start("task-log", "slow", run_id, "sleeps", "--follow")
    out = following.stdout
    assert out
    scheduler = project.containers()["scheduler-1"]["Id"]
    until(lambda: "begun" in out.readline(), "the first words of the task")
    until(lambda: "sleep 599" in docker("top", scheduler), "the task's process")
    [run] = project.json("cancel", "slow")["runs"]
    assert (run["run_id"], run["before"], run["state"]) == (run_id, "running", "failed")
    until(lambda: "sleep 599" not in docker("top", scheduler), "the end of the task's process")
    assert following.wait(COMMAND_SECONDS) == 0


@pytest.mark.slow
@pytest.mark.timeout(900)  # Two first starts, the first of which migrates.
def test_a_first_start_from_the_template_has_what_a_migration_makes(
    project: DockerProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPECTL_CACHE_DIR", str(tmp_path))
    tables = []
    for _ in ("migrates", "has a template"):
        project.run("reset", "--yes")
        container = project.containers()["postgres-1"]["Id"]
        dump = docker("exec", container, "pg_dump", "-U", "airflow", "--schema-only", "airflow")
        tables.append([line for line in dump.splitlines() if not line.startswith("\\")])
        [template] = tmp_path.glob("metadata-docker-*.sql")
        assert not any(project.variable(name) in template.read_text() for name in SECRETS)
    assert tables[0] == tables[1]
    log = docker("logs", project.containers()["airflow-init-1"]["Id"], errors=True)
    assert "Performing upgrade" not in log
    assert "the metadata database is at migration" in log
    assert project.json("trigger")["state"] == "success"


def test_down_removes_containers_and_keeps_the_data(project: DockerProject) -> None:
    before = project.volumes()
    assert set(project.json("down")["stopped"]) == set(SERVICES)
    assert project.containers() == {}
    assert project.volumes() == before
    status = project.json("status")
    assert {service["state"] for service in status["services"]} == {"stopped"}
    assert not status["airflow"]["reachable"]


@pytest.mark.slow
def test_the_triggerer_starts_with_the_first_deferred_task_and_comes_back(project: DockerProject) -> None:
    check_triggerer(project, lambda: os.kill(project.containers()["triggerer-1"]["State"]["Pid"], 9))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at the processes of containers")
def test_at_rest_little_is_done(project: DockerProject) -> None:
    check_rest(DockerStack(project, celery=False))


@pytest.mark.slow
def test_a_sample_of_airflows_own_examples_ends_as_its_authors_meant(project: DockerProject) -> None:
    check_sample(project)


@pytest.mark.slow
def test_each_cause_of_a_wait_or_a_failure_is_explained(project: DockerProject) -> None:
    explained = Explained(project)
    explained.begin()
    explained.settle()
    explained.fill()
    stopped = ("scheduler", "dag-processor", "triggerer")
    docker("stop", *(ids(project)[f"{name}-1"] for name in stopped))
    project.dag("why_unread.py", "# The DAG why_unread is to come.\n")
    explained.explain("why_behind", cause="no_scheduler", said="the service scheduler is stopped")
    explained.explain("why_unread", cause="no_dag_processor", said="the service dag-processor is stopped")
    explained.explain("why_deferred", cause="no_triggerer", said="the service triggerer is stopped")
    with pytest.MonkeyPatch.context() as shell:
        shell.setenv("AIRFLOW_JWT_SECRET", "another" * 9)
        project.compose("up", "--detach", "--no-deps", "scheduler")
    assert explained.client.end_of("why_late", explained.latest("why_late")) == "failed"
    explained.explain("why_late", cause="tasks_api", said="different values of AIRFLOW_JWT_SECRET")
    project.run("up")
    explained.cancel()
    explained.break_file()
