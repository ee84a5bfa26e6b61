"""The servers' configuration files and SQL, which both engines take from the project's folder stack/."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipectl.engines.project import restoring
from pipectl.errors import EngineError


def copied_config(source: Path, data_dir: Path) -> Path:
    """Return where the copy of `source` lies, or will lie."""
    return data_dir.with_name(f"{data_dir.name}.config") / source.name


def copy_config(source: Path, data_dir: Path) -> Path:
    """Copy `source`, with what it may include, to a folder beside `data_dir`, and return the copy's path.

    The server may be unable to read the project's own file once it has dropped privileges, and MySQL and
    MariaDB ignore a file that others may write. Raises EngineError.
    """
    folder = copied_config(source, data_dir).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        for path in {source, *source.parent.glob(f"*{source.suffix}")}:
            text = path.read_bytes()
            # Replaced in one step: another server that starts may be reading it.
            copy = folder / f".{path.name}.{os.getpid()}"
            copy.write_bytes(text)
            copy.chmod(0o644)
            copy.replace(folder / path.name)
    except OSError as error:
        raise _unreadable(error) from error
    return folder / source.name


def read_statements(path: Path) -> list[str]:
    """Read the statements of an SQL file, each on one line without its semicolon. Raises EngineError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _unreadable(error) from error
    text = re.sub(r"^\s*--.*$", "", text, flags=re.MULTILINE)
    parts = (" ".join(part.split()) for part in re.split(r";\s*$", text, flags=re.MULTILINE))
    return [part for part in parts if part]


def _unreadable(error: OSError) -> EngineError:
    return EngineError(
        f"{error.filename}: {error.strerror}.",
        hint=f"If it is missing, get it back: {restoring(Path(error.filename))}",
    )
