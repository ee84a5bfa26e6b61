"""What programs say to --version, kept in the cache: each start asks for it, 10 to 30 ms of CPU a program.

An answer counts as long as the program is the same file, and so are the libraries that it is run with. Of a
script, which may say anything next time, and where the system does not tell that its libraries have changed
(macOS), none is kept. Nor is that of a program that does not run.
"""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl import json_text, surroundings

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

FILE = "versions.json"
# Made anew whenever a library of the system is installed or removed.
SYSTEM_LIBRARIES = Path("/etc/ld.so.cache")
BINARY = b"\x7fELF"
LIBRARIES = "LD_LIBRARY_PATH"
MOST_KEPT = 50
SECONDS = 20
_KEEPING = threading.Lock()


def version_of(
    binary: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    cache_dir: Path | None = None,
) -> str:
    """Return what a program says to --version, called after `options`; empty if it does not run.

    With `cache_dir` it may be what the program said before.
    """
    libraries = (environment or {}).get(LIBRARIES, "")
    mark = _mark(binary, libraries) if cache_dir else ""
    if not (cache_dir and mark):
        return _asked(binary, options, environment)
    name = "\n".join((str(binary), *options))
    known = json_text.read_object(cache_dir / FILE).get(name)
    match known:
        case [same, str(text)] if same == mark:
            return text
    text = _asked(binary, options, environment)
    if text:
        _keep(cache_dir / FILE, name, [mark, text])
    return text


def _asked(binary: Path, options: tuple[str, ...], environment: Mapping[str, str] | None) -> str:
    try:
        told = subprocess.run(
            (str(binary), *options, "--version"),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=SECONDS,
            env=surroundings.environment(**(environment or {})),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout if told.returncode == 0 else ""


def _mark(binary: Path, libraries: str) -> str:
    """Return what a program's answer depends on; empty if that is more than files."""
    try:
        with binary.open("rb") as file:
            if file.read(len(BINARY)) != BINARY:
                return ""
        # A folder's time tells that a file in it has come or gone.
        paths = (binary, SYSTEM_LIBRARIES, *(Path(part) for part in libraries.split(":") if part))
        return " ".join(_state(path.stat()) for path in paths)
    except OSError:
        return ""


def _state(status: os.stat_result) -> str:
    # The time of a change: that of the content can be set to an earlier one.
    return f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size}-{status.st_ctime_ns}"


def _keep(path: Path, name: str, answer: list[str]) -> None:
    with _KEEPING:
        known = json_text.read_object(path)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        json_text.note(path, {**(known if len(known) < MOST_KEPT else {}), name: answer})
