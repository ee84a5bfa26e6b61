"""What is written for Airflow 2: ruff's rules for Airflow, and its fixes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipectl import surroundings
from pipectl.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# What Airflow 3 has removed or moved, and the schedule whose default it has changed.
RULES = "AIR002,AIR3"
# Those that still work in Airflow 3.
LATER = ("AIR002", "AIR31")
UNUSED, MOST_IMPORTS = "F401", 1000


@dataclass(frozen=True)
class Idiom:
    """A line that ruff has found; `rule` is empty for one that is no Python."""

    path: str
    line: int
    column: int
    rule: str
    message: str
    fixable: bool


def find(paths: Sequence[Path], python: str) -> tuple[Idiom, ...]:
    """Return what these files have of Airflow 2, and where they are no Python of version `python`."""
    return tuple(
        Idiom(
            path=str(entry["filename"]),
            line=int(entry["location"]["row"]),
            column=int(entry["location"]["column"]),
            rule=code if (code := str(entry["code"] or "")) != "invalid-syntax" else "",
            message=str(entry["message"]).strip().rstrip(";."),
            fixable=bool(entry["fix"]),
        )
        for entry in _ruff(paths, python, "--select", RULES)
    )


def fix(paths: Sequence[Path], python: str) -> int:
    """Rewrite what can be rewritten; return the number of lines that are mended.

    An import that a fix has left without a use is removed too: in Airflow 3 it would fail.
    """
    before = len(find(paths, python))
    unused = {_unused(entry) for entry in _ruff(paths, python, "--select", UNUSED)}
    _ruff(paths, python, "--select", RULES, "--fix", "--unsafe-fixes")
    # One at a time: the edits for two names of one import overlap.
    for _ in range(MOST_IMPORTS):
        new = [entry for entry in _ruff(paths, python, "--select", UNUSED) if _unused(entry) not in unused]
        if not new or not _apply(new[0]):
            break
    return before - len(find(paths, python))


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
    words = ("check", "--isolated", "--no-cache", "--exit-zero", "--output-format", "json")
    target = "py" + "".join(python.split(".")[:2])
    done = subprocess.run(
        (find_ruff_bin(), *words, "--target-version", target, *options, "--", *map(str, paths)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        env=surroundings.environment(),
    )
    if done.returncode != 0:
        raise EngineError(
            "ruff, which looks for Airflow 2, failed.", hint="Mend what its lines name.", detail=done.stderr
        )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
