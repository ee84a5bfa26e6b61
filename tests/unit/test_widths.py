"""What every command shows, made long: no line is broken, so that what is copied from it is whole.

A terminal wraps what is longer than its lines by itself; tables and charts take no more room than it has.
"""

from __future__ import annotations

import io
import json
import re
import sys
import types
import typing
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console as RichConsole
from typer import rich_utils
from typer.testing import CliRunner

import schemas
from pipectl import cli
from pipectl.commands import COMMANDS, RUN_PROGRAMS
from pipectl.commands.shared import group
from pipectl.console import Console
from pipectl.errors import ExitCode, PipectlError
from pipectl.pipeline.causes import Cause

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

MODULES = sorted(
    {f"pipectl.commands.{name}" for name in COMMANDS.values()}
    | {"pipectl.commands.shared", "pipectl.commands.report.text"}
)
# A sentence, and a name that is longer than a narrow line.
LONG = f"some words that go on and on until no line holds all of them {'long-name/' * 13}end"
# They show lines as they are, or a single one.
WITHOUT = {"logs", "task-log", "open", "pause", "unpause", "scale"}
# What a value must be, whatever its type.
GIVEN = {"severity": "error", "witness": None, "action": "conflict"}
WIDEST = 100_000


def sample(kind: Any) -> Any:
    """Return a value of a type that takes much room."""
    known = {str: LONG, int: 1_234_567, float: 1234.5, bool: True, Path: Path(LONG)}
    known |= {datetime: datetime(2026, 5, 4, 22, tzinfo=UTC), Cause: Cause.UNKNOWN}
    if kind in known:
        return known[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {types.UnionType, typing.Union}:
        return sample(arguments[0])
    if origin in {tuple, list, set}:
        # As many as the percentiles of a report.
        return origin(sample(arguments[0]) for _ in range(101 if arguments[0] is float else 2))
    if origin is dict:
        return {sample(arguments[0]): sample(arguments[1])}
    assert is_dataclass(kind), kind
    hints = typing.get_type_hints(kind, schemas.names_of(kind.__module__))
    made: Any = kind
    return made(
        **{
            part.name: GIVEN[part.name] if part.name in GIVEN else sample(hints[part.name])
            for part in fields(kind)
            if part.init
        }
    )


def renderers() -> list[Any]:
    """Return every function of a command that draws documents, and the types that it takes."""
    found = []
    for module in MODULES:
        names = schemas.names_of(module)
        for name, function in vars(import_module(module)).items():
            if name.endswith("_text") and isinstance(function, types.FunctionType):
                hints = function.__annotations__
                if function.__module__ == module and hints["return"] != "str":
                    kinds = [eval(kind, names) for part, kind in hints.items() if part != "return"]  # noqa: S307
                    found.append(pytest.param(function, kinds, id=f"{module.split('.', 2)[2]}.{name}"))
    return found


def shown(function: Callable[..., Any], kinds: list[Any]) -> RenderableType:
    """Return what a function makes of such values."""
    made = function(*map(sample, kinds))
    return group(*made) if isinstance(made, tuple) else made


def drawn(content: RenderableType, width: int) -> str:
    """Return what a terminal of that width shows."""
    stream = io.StringIO()
    RichConsole(file=stream, width=width).print(content, soft_wrap=True)
    return stream.getvalue()


class Terminal(io.StringIO):
    """A terminal, of which all is kept that is written to it."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch, width: int, write: Callable[[Console], None]) -> str:
    """Return what is written to a terminal of that width, without its colours."""
    stream = Terminal()
    for name, value in {"COLUMNS": str(width), "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    write(Console())
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())


def words(text: str) -> set[str]:
    """Return what is said; charts and lines are no words."""
    return {word for word in text.split() if re.search(r"\w", word)}


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize(("function", "kinds"), renderers())
@pytest.mark.parametrize("width", [20, 60, 110])
def test_a_narrow_terminal_breaks_no_value_and_shows_all_of_it(
    function: Callable[..., Any], kinds: list[Any], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = shown(function, kinds)
    text = on_terminal(monkeypatch, width, lambda console: console.emit(None, lambda: content))
    assert text.count(LONG) == text.count(LONG[:12])
    whole = squeezed(text)
    assert [word for word in words(drawn(content, WIDEST)) if word not in whole] == []
    # Rules of tables, and charts.
    assert [line for line in text.splitlines() if len(line) > width and not words(line)] == []


@pytest.mark.parametrize("width", [20, 60, 110])
def test_what_is_said_and_hinted_stands_in_unbroken_lines(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(console: Console) -> None:
        console.say(LONG)
        console.show(LONG)
        console.error(PipectlError(f"message {LONG}", hint=f"To run it: {LONG}", detail=LONG))
        Console(json=True).error(PipectlError(f"message {LONG}"))

    text = on_terminal(monkeypatch, width, write)
    assert text.splitlines()[:5] == [LONG, LONG, f"  {LONG}", f"Error: message {LONG}", f"To run it: {LONG}"]
    assert json.loads(text.splitlines()[5])["error"]["message"] == f"message {LONG}"


@pytest.mark.parametrize(("function", "kinds"), renderers())
@pytest.mark.parametrize("columns", ["", "60", "80"])
def test_without_a_terminal_no_value_is_broken(
    function: Callable[..., Any],
    kinds: list[Any],
    columns: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    content = shown(function, kinds)
    Console().emit(None, lambda: content)
    text = capsys.readouterr().out
    whole = squeezed(text)
    assert [word for word in words(drawn(content, WIDEST)) if word not in whole] == []
    # Every piece of the sample, in whatever line it is, is in that line to its end.
    assert text.count(LONG) == text.count(LONG[:12])


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_names_each_option_whole(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(rich_utils), "Table", vars(rich_utils)["Table"])  # until the test ends
    cli.fold_help()
    shown = CliRunner().invoke(cli.app, [*command.split(), "--help"], env={"COLUMNS": "60"}).stdout
    assert "\u2026" not in shown
    text, _, examples = shown.partition("Examples:")
    assert max(map(len, text.splitlines())) <= 60
    # Each can be copied, however narrow the terminal is.
    given = cli.import_command(command).help.partition("Examples:")[2] if command else ""
    assert [line.strip() for line in examples.splitlines() if line] == re.findall("`([^`]+)`", given)


@pytest.mark.parametrize(
    "words", [["explain", "--nonsense"], ["snapshot"], ["nonsense"], ["logs", "--tail", "x"]]
)
def test_a_command_line_that_is_wrong_has_its_hint_in_one_line(words: list[str]) -> None:
    told = CliRunner().invoke(cli.app, words, env={"COLUMNS": "20"})
    command = words[0] if words[0] in COMMANDS else ""
    assert told.exit_code == ExitCode.USAGE
    assert told.stderr.startswith("Error: ")
    assert told.stderr.splitlines()[-1] == f"Look at: {' '.join(filter(None, ('pipectl', command)))} --help"


def test_each_command_that_draws_something_is_looked_at() -> None:
    looked_at = {parameters.id.split(".")[0] for parameters in renderers()}
    needed = {
        module.split(".")[0] for name, module in COMMANDS.items() if name not in {*RUN_PROGRAMS, *WITHOUT}
    }
    assert looked_at >= needed
