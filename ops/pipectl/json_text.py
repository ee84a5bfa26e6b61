"""JSON from outside, as files that a user may have edited and servers' answers, and notes for later."""

from __future__ import annotations

import os
from contextlib import suppress
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


def note(path: Path, document: object) -> None:
    """Write what nothing depends on, whole or not at all: if that fails, the file is as it was."""
    import json  # noqa: PLC0415  as above

    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):
        try:
            draft.write_text(json.dumps(document), encoding="ascii")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
