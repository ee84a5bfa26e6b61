"""The user's own programs in a stack of the docker engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.broken_dags import check_without_a_package
from support.docker_project import DockerProject, new_docker_project
from support.program_checks import ProgramChecks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.project_copy import Project

pytestmark = [pytest.mark.e2e, pytest.mark.docker]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerProject]:
    with new_docker_project(tmp_path_factory.mktemp("clone") / "project") as made:
        yield made


class TestPrograms(ProgramChecks):
    """In containers."""

    def test_a_package_that_cannot_be_had_hides_nothing_else(self, project: DockerProject) -> None:
        check_without_a_package(project)

    @pytest.mark.slow
    def test_a_dag_under_test_is_left_alone_by_the_scheduler(self, project: Project) -> None:
        super().test_a_dag_under_test_is_left_alone_by_the_scheduler(project)

    @pytest.mark.slow
    def test_a_dag_runs_the_checks_that_the_command_runs(self, populated: Project) -> None:
        super().test_a_dag_runs_the_checks_that_the_command_runs(populated)

    @pytest.mark.slow
    def test_a_shell_completes_ids_of_what_runs(self, project: Project) -> None:
        super().test_a_shell_completes_ids_of_what_runs(project)
