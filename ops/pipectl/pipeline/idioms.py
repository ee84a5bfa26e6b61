"""What is written for Airflow 2: ruff's rules for Airflow, and its fixes."""

from __future__ import annotations

import ast
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pipectl import ordinary, surroundings
from pipectl.engines.foreground import Command, outcome
from pipectl.errors import EngineError, UsageError
from pipectl.pipeline import removed_names

if TYPE_CHECKING:
    from collections.abc import Sequence

# What Airflow 3 has removed or moved, and the schedule whose default it has changed.
RULES = "AIR002,AIR3"
# Without the argument Airflow 2 ran a DAG daily, and Airflow 3 runs it if it is triggered.
NO_SCHEDULE, SCHEDULE = (
    "AIR002",
    'Write schedule=None for a DAG that runs only if triggered, or, say, schedule="@daily".',
)
# Those that still work in Airflow 3.
LATER = ("AIR002", "AIR31")
UNUSED, MOST_IMPORTS = "F401", 1000
_QUOTED = re.compile("`([^`]+)`")
# How ruff writes for GitHub, the one of its formats with its advice on what it cannot rewrite.
_ADVICE = re.compile(r"^::[^:]*,file=(.*),line=(\d+),col=(\d+),endLine.*%0A +help: (.*)$", re.MULTILINE)
UNKNOWN = "Airflow's notes on release 3.0.0 say what has become of it"


@dataclass(frozen=True)
class Idiom:
    """A line that ruff has found, and what to write; `rule` is empty for one that is no Python."""

    path: str
    line: int
    column: int
    rule: str
    message: str
    instead: str
    fixable: bool


def find(paths: Sequence[Path], python: str) -> tuple[Idiom, ...]:
    """Return what these files have of Airflow 2, and where they are no Python of version `python`."""
    entries = _ruff(paths, python, "--select", RULES)
    advice = _advice(paths, python) if any(not entry["fix"] for entry in entries) else {}
    return tuple(
        Idiom(
            path=str(entry["filename"]),
            line=int(entry["location"]["row"]),
            column=int(entry["location"]["column"]),
            rule=code if (code := str(entry["code"] or "")) != "invalid-syntax" else "",
            message=_message(str(entry["message"])),
            instead=_instead(entry, advice),
            fixable=bool(entry["fix"]),
        )
        for entry in entries
    )


def about_import(path: Path, line: int, python: str) -> str:
    """Return what to do about an import of Airflow 2 that fails."""
    try:
        tree = ast.parse(ordinary.read_text(path))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return f"{UNKNOWN}."
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and node.lineno <= line <= (node.end_lineno or 0):
            break
    else:
        return f"{UNKNOWN}."
    unused = [
        entry
        for entry in _ruff([path], python, "--select", UNUSED)
        if node.lineno <= entry["location"]["row"] <= (node.end_lineno or 0)
    ]
    if len(unused) == len(node.names):
        return "Nothing in the file uses it: take the import out."
    with tempfile.TemporaryDirectory() as folder:
        # ruff judges names by their uses.
        used = Path(folder, "used.py")
        names = [name.asname or name.name for name in node.names]
        used.write_text("\n".join([ast.unparse(node), *(f"{name}()" for name in names)]), encoding="utf-8")
        found = find([used], python)
    said = list(dict.fromkeys(f"{entry.instead.rstrip('.')}." for entry in found if entry.instead))
    fixes = ["pipectl check --fix rewrites it."] if any(entry.fixable for entry in found) else []
    return " ".join([*said, *fixes]) or f"{UNKNOWN}."


def fix(paths: Sequence[Path], python: str) -> tuple[int, tuple[Path, ...]]:
    """Rewrite what can be rewritten; return the number of lines that are mended, and the files.

    An import that a fix has left without a use is removed too: in Airflow 3 it would fail.
    """
    before, texts = len(find(paths, python)), [path.read_bytes() for path in paths]
    unused = {_unused(entry) for entry in _ruff(paths, python, "--select", UNUSED)}
    _ruff(paths, python, "--select", RULES, "--fix", "--unsafe-fixes")
    # One at a time: the edits for two names of one import overlap.
    for _ in range(MOST_IMPORTS):
        new = [entry for entry in _ruff(paths, python, "--select", UNUSED) if _unused(entry) not in unused]
        if not new or not _apply(new[0]):
            break
    changed = [path for path, text in zip(paths, texts, strict=True) if path.read_bytes() != text]
    return before - len(find(paths, python)), tuple(changed)


def _message(text: str) -> str:
    """Return ruff's sentence without its contradiction: "is removed; It still works"."""
    sentence, _, later = text.strip().rstrip(";.").partition(";")
    return (
        sentence.replace("is removed in Airflow 3.0", "is to be removed in Airflow 4") if later else sentence
    )


def _instead(entry: dict[str, Any], advice: dict[tuple[str, int, int], str]) -> str:
    """Return what to write instead, in ruff's words where pipectl has none."""
    if entry["code"] == NO_SCHEDULE:
        return SCHEDULE
    name = _QUOTED.search(str(entry["message"]))
    told = removed_names.instead(name[1].rpartition(".")[2]) if name else ""
    place = (str(entry["filename"]), int(entry["location"]["row"]), int(entry["location"]["column"]))
    known = told or str((entry["fix"] or {}).get("message") or "") or advice.get(place, "")
    return known or (UNKNOWN if entry["code"] != "invalid-syntax" else "")


def _advice(paths: Sequence[Path], python: str) -> dict[tuple[str, int, int], str]:
    """Return what ruff says to do at each place, which its JSON has only of what it can rewrite."""
    text = _ruff_text(paths, python, "github", "--select", RULES)
    return {
        (unquote(path), int(row), int(column)): unquote(words)
        for path, row, column, words in _ADVICE.findall(text)
    }


def _unused(entry: dict[str, Any]) -> tuple[str, str]:
    return str(entry["filename"]), str(entry["message"])


def _apply(entry: dict[str, Any]) -> bool:
    """Make the edits of a finding in its file; False if it has none."""
    edits = (entry["fix"] or {}).get("edits", ())
    path = str(entry["filename"])
    try:
        with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123  line ends as they are
            lines = file.readlines()
        for edit in reversed(edits):
            start, end = edit["location"], edit["end_location"]
            lines.append("")
            tail = lines[end["row"] - 1][end["column"] - 1 :]
            head = lines[start["row"] - 1][: start["column"] - 1]
            lines[start["row"] - 1 : end["row"]] = [head + edit["content"] + tail]
        if edits:
            with open(path, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123
                file.write("".join(lines))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.", hint="Make it writable.") from error
    return bool(edits)


def _ruff(paths: Sequence[Path], python: str, *options: str) -> list[dict[str, Any]]:
    """Run ruff without any settings but these, and return what it has found."""
    found: list[dict[str, Any]] = json.loads(_ruff_text(paths, python, "json", *options) or "[]")
    return found


def _ruff_text(paths: Sequence[Path], python: str, output: str, *options: str) -> str:
    from ruff import find_ruff_bin  # noqa: PLC0415  5 ms

    if not paths:
        return ""
    target = "py" + "".join(python.split(".")[:2])
    words = ("check", "--isolated", "--no-cache", "--exit-zero", "--output-format", output)
    files = (*options, "--", *map(str, paths))
    command = (find_ruff_bin(), *words, "--target-version", target, *files)
    done = outcome(Command(command, surroundings.environment(), Path("/")))
    if done.returncode != 0:
        raise EngineError(
            "ruff, which looks for Airflow 2, failed.", hint="Mend what its lines name.", detail=done.stderr
        )
    return done.stdout
