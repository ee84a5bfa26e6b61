"""The user's own programs in a stack of the local engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.program_checks import ProgramChecks
from support.project_copy import Project, new_local_project

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with new_local_project(tmp_path_factory.mktemp("a project")) as made:
        yield made


class TestPrograms(ProgramChecks):
    """On processes of this machine."""
