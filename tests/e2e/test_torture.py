"""The short form of `make torture`: faults harm no row, run no task twice, and are recovered from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.stacks import DockerStack, LocalStack
from torture.faults import faults
from torture.judging import Torture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Torture]:
    with LocalStack.new(tmp_path_factory.mktemp("torture") / "project") as stack:
        yield Torture(stack)


def assert_all_is_well_after(torture: Torture, name: str, situation: str) -> None:
    [fault] = [fault for fault in faults(torture.stack) if fault.name == name]
    result = torture.inflict(fault, situation)
    assert result.is_well, result


@pytest.mark.parametrize(
    ("name", "situation"),
    [
        ("kill -9 everything", "load"),
        ("SIGSTOP scheduler, 15 s", "trigger"),
    ],
)
def test_faults_of_the_local_engine(local: Torture, name: str, situation: str) -> None:
    assert_all_is_well_after(local, name, situation)


@pytest.mark.docker
def test_a_fault_of_the_docker_engine(tmp_path: Path) -> None:
    with DockerStack.new(tmp_path / "project") as stack:
        assert_all_is_well_after(Torture(stack), "kill -9 everything", "trigger")
