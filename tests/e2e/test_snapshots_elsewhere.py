"""A portable snapshot of one engine is restored on the other, whose servers are others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.snapshot_checks import check_moving
from support.stacks import DockerStack, LocalStack

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_snapshot_goes_to_the_other_engine_and_another_one_back(tmp_path: Path) -> None:
    with (
        LocalStack.new(tmp_path / "local") as source,
        DockerStack.new(tmp_path / "docker") as target,
    ):
        for stack in (source, target):
            stack.project.run("up")
            stack.project.run("trigger")
            stack.project.settle()
        check_moving(source, target)
        check_moving(target, source)
