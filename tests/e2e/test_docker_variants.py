"""The Compose stack with FAB, and its clean-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.docker_project import DockerProject, docker, new_docker_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.slow]
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[DockerProject]:
    with new_docker_project(tmp_path / "project") as found:
        yield found


def test_fab_logs_the_administrator_of_the_settings_in(project: DockerProject) -> None:
    project.set_variable("AIRFLOW_AUTH_MANAGER", FAB)
    project.set_variable("AIRFLOW_ADMIN_USER", "ada")
    project.set_variable("AIRFLOW_ADMIN_PASSWORD", "a pass/word")
    project.run("up")
    assert project.json("trigger")["state"] == "success"
    users = project.client("ada", "a pass/word").call("/auth/fab/v1/users")["users"]
    assert [(user["username"], user["roles"]) for user in users] == [("ada", [{"name": "Admin"}])]
    # The application waits for the migration, since FAB writes into it while the application is built.
    assert "pipectl launcher" not in docker("logs", project.containers()["webserver-1"]["Id"])


def test_old_logs_and_runs_are_deleted_and_new_ones_stay(project: DockerProject) -> None:
    project.run("up")
    old, new = (project.json("trigger")["run_id"] for _ in range(2))
    containers = project.containers()
    webserver, metadata = containers["webserver-1"]["Id"], containers["postgres-1"]["Id"]
    age = f"UPDATE dag_run SET start_date = now() - interval '31 days' WHERE run_id = '{old}'"
    docker("exec", metadata, "psql", "-U", "airflow", "-d", "airflow", "-c", age)
    dag = "/opt/airflow/logs/dag_id=generate_transaction_and_labels"

    def logs(run_id: str) -> list[str]:
        return docker("exec", webserver, "find", dag, "-type", "f", "-path", f"*/run_id={run_id}/*").split()

    assert len(logs(old)) == len(logs(new)) == 2
    docker("exec", webserver, "touch", "-d", "31 days ago", *logs(old))
    docker("exec", webserver, "python", "/opt/airflow/stack/cleanup.py")
    assert not logs(old)
    assert len(logs(new)) == 2
    runs = {run["run_id"] for run in project.json("runs")["runs"]}
    assert old not in runs
    assert new in runs
