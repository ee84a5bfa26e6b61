"""Small files that a user may have replaced: whatever stands in the place of one, reading it ends."""

from __future__ import annotations

import errno
import os
import stat
from io import TextIOWrapper
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

# python-dotenv takes seconds for as many short lines.
MOST_CHARACTERS = 2**18


def opened(path: Path) -> BinaryIO:
    """Open an ordinary file for reading; OSError also for a pipe, a device and a folder."""
    # A pipe is waited for otherwise until somebody opens its other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    return os.fdopen(descriptor, "rb")


def read_text(path: Path, encoding: str = "utf-8-sig", errors: str = "strict") -> str:
    """Return the text of an ordinary file; OSError also for one of more than MOST_CHARACTERS.

    A byte order mark, with which editors on Windows begin a file, is none of it.
    """
    with opened(path) as file:
        text = TextIOWrapper(file, encoding, errors).read(MOST_CHARACTERS + 1)
    if len(text) > MOST_CHARACTERS:
        raise OSError(errno.EFBIG, f"it has more than {MOST_CHARACTERS:,} characters", str(path))
    return text


def why_unreadable(path: Path, error: OSError | UnicodeDecodeError) -> str:
    """Return why the text of a file could not be read, with the line of what is no character."""
    if not isinstance(error, UnicodeDecodeError):
        return f"{path} cannot be read: {error}"
    # The error knows a part of the file alone.
    with opened(path) as file:
        content = file.read(MOST_CHARACTERS)
    try:
        content.decode()
    except UnicodeDecodeError as whole:
        line = content.count(b"\n", 0, whole.start) + 1
        byte = f"0x{content[whole.start]:02X}"
        return f"{path} cannot be read: line {line} has the byte {byte}, which is not UTF-8"
    return f"{path} cannot be read: it is not UTF-8"
