"""What is written for Airflow 2: ruff's rules for Airflow, and its fixes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipectl import surroundings
from pipectl.engines.foreground import Command, outcome
from pipectl.errors import EngineError, UsageError
from pipectl.pipeline import removed_names

if TYPE_CHECKING:
    from collections.abc import Sequence

# What Airflow 3 has removed or moved, and the schedule whose default it has changed.
RULES = "AIR002,AIR3"
# Those that still work in Airflow 3.
LATER = ("AIR002", "AIR31")
UNUSED, MOST_IMPORTS = "F401", 1000
_QUOTED = re.compile("`([^`]+)`")


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
    return tuple(
        Idiom(
            path=str(entry["filename"]),
            line=int(entry["location"]["row"]),
            column=int(entry["location"]["column"]),
            rule=code if (code := str(entry["code"] or "")) != "invalid-syntax" else "",
            message=_message(str(entry["message"])),
            instead=_instead(entry),
            fixable=bool(entry["fix"]),
        )
        for entry in _ruff(paths, python, "--select", RULES)
    )


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


def _instead(entry: dict[str, Any]) -> str:
    """Return what to write instead, in ruff's words where it has a fix."""
    name = _QUOTED.search(str(entry["message"]))
    told = removed_names.instead(name[1]) if name else ""
    return told or str((entry["fix"] or {}).get("message") or "")


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
    from ruff import find_ruff_bin  # noqa: PLC0415  5 ms

    if not paths:
        return []
    target = "py" + "".join(python.split(".")[:2])
    words = ("check", "--isolated", "--no-cache", "--exit-zero", "--output-format", "json")
    files = (*options, "--", *map(str, paths))
    command = (find_ruff_bin(), *words, "--target-version", target, *files)
    done = outcome(Command(command, surroundings.environment(), Path("/")))
    if done.returncode != 0:
        raise EngineError(
            "ruff, which looks for Airflow 2, failed.", hint="Mend what its lines name.", detail=done.stderr
        )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
