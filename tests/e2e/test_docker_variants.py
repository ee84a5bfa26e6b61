"""The Compose stack with another auth manager, and without what makes its start fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.docker_project import DockerProject, docker, new_docker_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.docker]
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


def test_without_the_launcher_airflows_own_commands_do_the_same(project: DockerProject) -> None:
    (project.folder / "stack" / "airflow" / "launcher.py").unlink()
    project.run("up")
    listed = {
        each["connection_id"]: each for each in project.client().call("/api/v2/connections")["connections"]
    }
    assert listed["airbyte_postgres"]["host"] == "airbyte-postgres"
    assert listed["airbyte_mysql"]["host"] == "airbyte-mysql"
    assert project.json("trigger")["state"] == "success"
    assert project.json("verify-db", "--expect", "reconciled")["ok"]
