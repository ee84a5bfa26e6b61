"""What a shell may complete a command line with: commands, options, and values such as ids of DAGs and runs.

Typer's own way parses the line as the command would, which takes three times as long as `--version`. This
one reads commands' parameters, asks neither Airflow nor an engine, and says nothing if anything goes wrong.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipectl import completion_scripts, json_text, seen, services
from pipectl.commands import COMMANDS, RUN_PROGRAMS
from pipectl.engines.choice import AUTO, ENGINES
from pipectl.names import CHECK_IDS, EXPECTATIONS, EXPORT_FORMATS
from pipectl.surroundings import project_above

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

STATE = ".pipectl"
SNAPSHOTS = "snapshots"
LATEST = "latest"
# Answers that are older than this are asked for anew, behind the user's back, for the next completion.
FRESH_SECONDS = 10.0
SNAPSHOT_ACTIONS = ("save", "list", "restore", "rm")
EXECUTORS = ("local", "celery")
ENUMERATIONS = {"only"}  # options that take several values, with commas between them
# Of a command line before any command: those that work after its name too are in `Line.options`.
ROOT_OPTIONS = ("--help", "--version", *completion_scripts.OPTIONS)


class Option(NamedTuple):
    """An option: its parameter's name, its spellings, whether a value follows, and whether it may recur."""

    name: str
    spellings: tuple[str, ...]
    takes_value: bool
    is_multiple: bool = False


@dataclass
class Line:
    """A command line up to the word that is being completed."""

    options: tuple[Option, ...]
    command: str = ""
    arguments: tuple[Any, ...] = ()
    positionals: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)
    # The option whose value comes next, and whether all that follows is no option.
    waiting: Option | None = None
    is_literal: bool = False

    @cached_property
    def project(self) -> Path | None:
        """The project's folder; None outside of one."""
        chosen = self.given.get("project") or os.environ.get("PIPECTL_PROJECT")
        return project_above(Path(chosen or "").expanduser().resolve())

    @cached_property
    def seen(self) -> seen.Seen:
        """What commands have seen in Airflow's answers."""
        return seen.read(self.project / STATE) if self.project else seen.Seen()

    def value_of(self, name: str) -> str:
        """Return the word that is the argument of this name; empty if there is none yet."""
        names = [argument.name for argument in self.arguments]
        place = names.index(name) if name in names else len(self.positionals)
        return self.positionals[place] if place < len(self.positionals) else ""


def answer(shell: str) -> int:
    """Write the candidates in the form that a shell's script expects, and return the exit code.

    KeyError and ValueError for a shell that does not say what it completes.
    """
    words, incomplete = _read_bash() if shell == "bash" else _read_line()
    try:
        found = candidates(words, incomplete)
    except Exception:  # noqa: BLE001  a traceback would stand in the middle of what the user types
        found = []
    if shell == "bash":
        # The shell replaces only what comes after such a character.
        cut = max(incomplete.rfind(mark) for mark in _breaks()) + 1
        text = "\n".join(candidate[cut:] for candidate in found)
    elif shell == "zsh":
        text = f"compadd -- {shlex.join(found)}" if found else "_files"
    elif os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
        return 0 if found else 1
    else:
        text = "\n".join(found)
    sys.stdout.write(f"{text}\n")
    return 0


def candidates(words: list[str], incomplete: str) -> list[str]:
    """Return what the last word may become, after the words before it."""
    line = read(words)
    if line is None:
        return []
    prefix, start = "", incomplete
    found: Iterable[str] = COMMANDS
    option = line.waiting
    if not option and incomplete.startswith("-") and not line.is_literal:
        name, equals, value = incomplete.partition("=")
        found = () if equals else _spellings(line)
        if equals and (option := _find(line, name)):
            prefix, start = f"{name}=", value
    elif not option and line.command:
        found = _arguments(line)
    if option:
        found = values(line, option.name)
        if option.name in ENUMERATIONS and "," in start:
            given = start.split(",")[:-1]
            prefix, start = f"{prefix}{','.join(given)},", start.rpartition(",")[2]
            found = [candidate for candidate in found if candidate not in given]
    return [f"{prefix}{candidate}" for candidate in found if candidate.startswith(start)]


def _spellings(line: Line) -> Iterable[str]:
    """Return the options that have not been given yet."""
    found = [
        spelling
        for option in line.options
        if option.is_multiple or option.name not in line.given
        for spelling in option.spellings
    ]
    return [*found, *(() if line.command else ROOT_OPTIONS)]


def _arguments(line: Line) -> Iterable[str]:
    """Return the values of the command's next argument."""
    place = len(line.positionals)
    argument = None
    if place < len(line.arguments):
        argument = line.arguments[place]
    elif line.arguments and line.arguments[-1].nargs < 0:
        argument = line.arguments[-1]
    if argument is None or place >= RUN_PROGRAMS.get(line.command, place + 1):
        return ()
    return [name for name in values(line, argument.name) if name not in line.positionals]


def read(words: list[str]) -> Line | None:
    """Read the words before the one that is being completed; None if they are another program's."""
    shell = Option("shell", completion_scripts.OPTIONS, takes_value=True)
    line = Line((*_global_options(), shell))
    for word in words:
        if line.waiting:
            line.given[line.waiting.name], line.waiting = word, None
        elif word == "--":
            line.is_literal = True
        elif word.startswith("-") and word != "-" and not line.is_literal:
            name, equals, value = word.partition("=")
            if option := _find(line, name):
                line.given[option.name] = value
                line.waiting = option if option.takes_value and not equals else None
        elif line.command:
            line.positionals.append(word)
        elif word in COMMANDS:
            line.command = word
            _add_parameters(line)
        else:
            return None
        if line.command in RUN_PROGRAMS and (
            line.is_literal or len(line.positionals) > RUN_PROGRAMS[line.command]
        ):
            return None
    return line


def values(line: Line, name: str) -> Iterable[str]:
    """Return the values of a parameter, by its name; none for a file, a number and any other text."""
    return VALUES[name](line) if name in VALUES else ()


def _services(_: Line) -> Iterable[str]:
    return [service.name for service in services.SERVICES]


def _dags(line: Line) -> Iterable[str]:
    _refresh(line, "dags")
    return line.seen.dags


def _dags_and_runs(line: Line) -> Iterable[str]:
    dag_id = line.given.get("dag_id") or os.environ.get("PIPECTL_DAG_ID") or ""
    return [*_dags(line), LATEST, *line.seen.runs.get(dag_id, {})]


def _runs(line: Line) -> Iterable[str]:
    dag_id = line.value_of("dag_id") or line.value_of("dag_or_run")
    if dag_id in line.seen.dags:
        _refresh(line, "runs", "--limit=20", "--", dag_id, is_known=dag_id in line.seen.runs)
    return [LATEST, *line.seen.runs.get(dag_id, {})]


def _tasks(line: Line) -> Iterable[str]:
    dag_id, run_id = line.value_of("dag_id") or line.value_of("dag_or_run"), line.value_of("run_id")
    if dag_id in line.seen.dags:
        _refresh(line, "runs", "--", dag_id, run_id or LATEST, is_known=dag_id in line.seen.tasks)
    return line.seen.tasks.get(dag_id, {})


def _snapshots(line: Line) -> Iterable[str]:
    folder = line.project / STATE / SNAPSHOTS if line.project else None
    if not folder or not folder.is_dir() or line.positionals[:1] == ["save"]:
        return ()
    return sorted(path.name for path in folder.iterdir() if _is_snapshot(path))


def _is_snapshot(path: Path) -> bool:
    """Whether a folder looks like a snapshot: what is in it is not compared, which takes too long here."""
    if path.is_symlink() or path.name.startswith(".") or not (path / "data").is_dir():
        return False
    manifest = json_text.read_object(path / "snapshot.json")
    return (path / "settings.json").is_file() and manifest.get("program") == "pipectl snapshot"


# By the name of the parameter of a command's function.
VALUES: dict[str, Callable[[Line], Iterable[str]]] = {
    "action": lambda _: SNAPSHOT_ACTIONS,
    "dag_id": _dags,
    "dag_or_run": _dags_and_runs,
    "engine": lambda _: (AUTO, *ENGINES),
    "executor": lambda _: EXECUTORS,
    "expect": lambda _: EXPECTATIONS,
    "file_format": lambda _: EXPORT_FORMATS,
    "name": _snapshots,
    "only": lambda _: CHECK_IDS,
    "run_id": _runs,
    "service": _services,
    "services": _services,
    "shell": lambda _: completion_scripts.SHELLS,
    "task": _tasks,
    "tasks": _tasks,
}


def _refresh(line: Line, *words: str, is_known: bool = True) -> None:
    """Let a process of its own ask Airflow, if a command has seen the stack run, and not just now.

    Of what nothing is known yet it is asked whatever else was answered just now.
    """
    folder = line.project / STATE if line.project else None
    try:
        if not folder or not _is_due(folder / seen.FILE, folder / seen.ASKED, shlex.join(words), is_known):
            return
    except OSError:  # there is none, or it is another user's
        return
    subprocess.Popen(
        [sys.executable, "-m", "pipectl", f"--project={line.project}", "--quiet", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "_PIPECTL_COMPLETE"},
        start_new_session=True,
    )


def _is_due(answers: Path, asked: Path, question: str, is_known: bool) -> bool:  # noqa: FBT001  one caller
    """Whether to ask a question now, and note that it is asked."""
    oldest, answered = time.time() - FRESH_SECONDS, answers.stat().st_mtime
    if is_known:
        if answered > oldest:
            return False
        os.utime(answers)
    else:
        if asked.is_file() and asked.stat().st_mtime > oldest and asked.read_text("utf-8") == question:
            return False
        asked.write_text(question, "utf-8")
    return True


def _find(line: Line, spelling: str) -> Option | None:
    return next((option for option in line.options if spelling in option.spellings), None)


def _global_options() -> tuple[Option, ...]:
    from pipectl.cli import GLOBAL_OPTIONS  # noqa: PLC0415  it calls this module

    return tuple(
        Option(spelling.strip("-"), (spelling,), takes_value)
        for spelling, takes_value in GLOBAL_OPTIONS.items()
    )


def _add_parameters(line: Line) -> None:
    """Add the options and arguments of the command."""
    from pipectl.cli import import_command  # noqa: PLC0415  as above

    parameters = import_command(line.command).params
    line.arguments = tuple(parameter for parameter in parameters if parameter.param_type_name == "argument")
    line.options += (
        Option("help", ("--help",), takes_value=False),
        *(
            Option(
                parameter.name,
                (*parameter.opts, *parameter.secondary_opts),
                not (parameter.is_flag or parameter.count),
                parameter.multiple,
            )
            for parameter in parameters
            if parameter.param_type_name == "option" and not parameter.hidden
        ),
    )


def _breaks() -> str:
    """Return the characters at which bash breaks words, of those that values have."""
    return ":="


def _read_bash() -> tuple[list[str], str]:
    """Return the words before the one that is completed, and that one, from bash's own list of words.

    Bash breaks a word at `:` and `=`, so that a run's id is many.
    """
    text, place = os.environ["COMP_WORDS"], int(os.environ["COMP_CWORD"])
    pieces = text.split("\n") if "\n" in text else text.split(" ")
    pieces = [*pieces, ""][: place + 1]
    words: list[str] = []
    glued = False
    for piece in pieces:
        is_break = bool(re.fullmatch("[:=]+", piece))
        if words and (glued or is_break):
            words[-1] += piece
        else:
            words.append(piece)
        glued = is_break
    *before, last = words[1:] or [""]
    return [_unquoted(word) for word in before], _unquoted(last)


def _read_line() -> tuple[list[str], str]:
    """Return the same from the command line up to the cursor, as zsh and fish give it."""
    text = os.environ.get("_TYPER_COMPLETE_ARGS", "")
    words = [_unquoted(word) for word in re.findall(r"(?:\\.|'[^']*'?|\"[^\"]*\"?|[^\s'\"\\])+", text)]
    if not words or text[-1:].isspace():
        words.append("")
    *before, last = words[1:] or [""]
    return before, last


def _unquoted(word: str) -> str:
    """Return a word as the shell would, also if its last quotation mark is still missing."""
    for ending in ("", "'", '"'):
        try:
            parts = shlex.split(word + ending)
        except ValueError:
            continue
        return parts[0] if parts else ""
    return word
