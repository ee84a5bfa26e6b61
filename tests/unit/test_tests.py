"""Rules of the tests themselves: each can fail, and none depends on how fast the machine is."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import UnionType

TESTS = ROOT / "tests"
# They measure; what they find is no test.
MEASURING = (TESTS / "benchmarks", TESTS / "torture")
WAIT = TESTS / "support" / "waiting.py"
CLOCKS = {"monotonic", "perf_counter", "process_time", "times", "getrusage"}
Function = ast.FunctionDef


def files() -> list[Path]:
    return sorted(path for path in TESTS.rglob("*.py") if path.parent not in MEASURING)


def nodes(tree: ast.AST, kind: type[ast.AST] | UnionType) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if isinstance(node, kind))


def called(tree: ast.AST) -> set[str]:
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    attributes = {function.attr for function in functions if isinstance(function, ast.Attribute)}
    return attributes | {function.id for function in functions if isinstance(function, ast.Name)}


def always_true(test: ast.expr) -> bool:
    """Whether an assertion of this can hardly fail: a literal, or an `or` with what is no condition."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return not all(isinstance(part, ast.Compare | ast.Call | ast.UnaryOp) for part in test.values)
    return isinstance(test, ast.Constant | ast.JoinedStr | ast.Tuple | ast.List | ast.Dict | ast.Lambda)


def sleeps(tree: ast.AST) -> bool:
    imported = {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return "sleep" in called(tree) | imported


def reads_a_clock(tree: ast.AST) -> bool:
    """Whether an assertion compares with a clock, or a variable keeps it to be compared later."""
    return any(called(node) & CLOCKS for node in nodes(tree, ast.Assert | ast.Assign))


def checks(function: ast.AST, checking: Iterable[str]) -> bool:
    names = called(function)
    by_name = any(name.startswith(("assert_", "wait_until")) for name in names)
    return by_name or bool(list(nodes(function, ast.Assert)) or names & {"raises", "fail", *checking})


def test_no_two_files_have_one_name() -> None:
    """pytest imports a test's file by its name alone, and so fails where it collects two of one name."""
    names = [path.name for path in files() if path.name not in {"__init__.py", "conftest.py"}]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(TESTS)))
def test_nothing_sleeps_and_no_assertion_is_timed_or_always_true(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path != WAIT:
        assert not sleeps(tree)
        assert not reads_a_clock(tree)
    assert [
        node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert) and always_true(node.test)
    ] == []


def test_every_test_checks_something() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files()}
    functions = {
        (path, node): node.name
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, Function)
    }
    checking: set[str] = set()
    # A test may leave the assertions to a helper, and this one to another.
    while more := {name for (_, node), name in functions.items() if checks(node, checking)} - checking:
        checking |= more
    idle = [
        f"{path.relative_to(TESTS)}::{name}"
        for (path, node), name in functions.items()
        if name.startswith("test_") and not checks(node, checking)
    ]
    assert idle == []


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("assert line in log or line", True),
        ("assert 'text'", True),
        ("assert (found, 'message')", True),
        ("assert line in log or not log", False),
        ("assert found", False),
    ],
)
def test_assertions_that_cannot_fail_are_recognised(statement: str, expected: bool) -> None:  # noqa: FBT001
    [node] = nodes(ast.parse(statement), ast.Assert)
    assert isinstance(node, ast.Assert)
    assert always_true(node.test) == expected
