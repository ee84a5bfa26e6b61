"""A stack per module that each test finds running and at rest, and its state in reports of failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.project_copy import DAG_ID, Project

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def up_options() -> tuple[str, ...]:
    """Options of `up` with which a module's stack runs."""
    return ()


@pytest.fixture(scope="module")
def first_up(stack: Project, up_options: tuple[str, ...]) -> Any:
    """What the first `up` of the module's `stack` says."""
    return stack.json("up", *up_options)


@pytest.fixture
def project(stack: Project, up_options: tuple[str, ...], first_up: Any) -> Iterator[Project]:
    """The module's stack: everything up, whatever the test before did, and the DAG paused and at rest."""
    del first_up
    stack.run("up", *up_options)
    stack.client().end_other_runs(DAG_ID)
    stack.settle()
    dags = stack.folder / "dags"
    before = set(dags.iterdir())
    yield stack
    for path in set(dags.iterdir()) - before:
        if path.is_file():
            path.unlink()


@pytest.fixture
def empty(project: Project) -> Project:
    """The stack with empty business databases."""
    project.run("reset", "--data-only", "--yes")
    return project


@pytest.fixture
def populated(project: Project) -> Project:
    """The stack with transactions and their labels."""
    project.populate()
    return project


EXPLAINED: set[Path] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the services and the last lines of their logs to the report of a test that failed.

    A stack that cannot be set up fails all tests of its module, and is explained in the first report.
    """
    report = yield
    if report.failed and call.when != "teardown" and isinstance(item, pytest.Function):
        projects = {value.folder: value for value in item.funcargs.values() if isinstance(value, Project)}
        for folder, project in projects.items():
            if call.when == "call" or folder not in EXPLAINED:
                report.sections.append((f"stack in {folder}", project.explain()))
                EXPLAINED.add(folder)
    return report
