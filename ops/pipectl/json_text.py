"""JSON from outside: files that a user may have edited, and what servers answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipectl import ordinary

if TYPE_CHECKING:
    from pathlib import Path


def parse(text: str | bytes) -> Any:  # noqa: ANN401  any JSON value
    """Return the value; ValueError also for text that is nested more deeply than Python follows."""
    import json  # noqa: PLC0415  5 ms that `--version` need not pay

    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a file; empty if the file is missing, cannot be read, or holds something else."""
    try:
        value = parse(ordinary.read_text(path))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
