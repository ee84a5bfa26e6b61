"""What holds for all messages: a hint has a line of its own, and one helper counts things."""

from __future__ import annotations

import ast
import itertools
import re
from typing import TYPE_CHECKING

import pytest

from pipectl.names import counted, listed
from support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCES = sorted((ROOT / "ops" / "pipectl").rglob("*.py"))
# What messages count, in the plural, after a number and at most one more word.
THINGS = """
    bytes columns customers DAGs days errors files findings frames frauds hours labels layers lines minutes
    packages problems rows senders slots tasks terminals times transactions tries volumes warnings
"""
PLURAL = re.compile(rf" (?:[a-z]+ )?(?:{'|'.join(THINGS.split())})\b(?!/)")
# "Its log: pipectl logs webserver": what for, and what to type.
HINT = re.compile(r"(?:^|(?<=[.;] ))[A-Z][^.:;\n]*: (?:pipectl\b|--|\{command|the same with)")


def texts(path: Path) -> Iterator[tuple[int, list[ast.expr]]]:
    """Yield the strings of a program in their parts, but not its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(part) for part in ast.walk(node) if part is not node}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in left_out:
            yield node.lineno, node.values if isinstance(node, ast.JoinedStr) else [node]


def written(parts: list[ast.expr]) -> str:
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else ast.unparse(part)[2:-1] for part in parts
    )


def test_one_helper_counts_things() -> None:
    """A number before a plural is wrong for one: 1 rows."""
    found = [
        f"{path.name}:{line}: {written([number, text])}"
        for path in SOURCES
        for line, parts in texts(path)
        for number, text in itertools.pairwise(parts)
        if isinstance(number, ast.FormattedValue)
        # A constant is more than one.
        and not re.fullmatch("[A-Z_]+", ast.unparse(number.value))
        and isinstance(text, ast.Constant)
        and PLURAL.match(str(text.value))
    ]
    assert not found


def test_each_hint_has_a_line_of_its_own() -> None:
    found = [
        f"{path.name}:{line}: {text}"
        for path in SOURCES
        for line, parts in texts(path)
        for text in written(parts).split("\n")
        if len(HINT.findall(text)) > 1
    ]
    assert not found


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 tries"), (1, "1 try"), (2, "2 tries"), (1_200, "1,200 tries")]
)
def test_a_number_of_things_is_said_in_words(number: int, words: str) -> None:
    assert counted(number, "try", "tries") == words


@pytest.mark.parametrize(
    ("names", "number", "words"),
    [([], 0, ""), (["a"], 1, "a"), (["a", "b"], 2, "a and b"), (["a", "b"], 4, "a, b and 2 more")],
)
def test_names_are_enumerated(names: list[str], number: int, words: str) -> None:
    assert listed(names, number) == words
