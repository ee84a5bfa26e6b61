"""A file that a command writes at its end, and is judged at its beginning: minutes may lie between."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipectl.errors import UsageError, remedy

if TYPE_CHECKING:
    from pathlib import Path

OTHERS_MAY_READ = 0o666  # as far as the umask lets them


@dataclass(frozen=True)
class OutputFile:
    """The file that the option `option` names."""

    path: Path
    option: str

    def check(self) -> None:
        """Raise UsageError if nothing may or can be written there."""
        try:
            self._check()
        except (OSError, ValueError, RuntimeError) as error:  # too long, no text, links in a ring
            raise UsageError(f"{self.path} can be no file: {error}.", hint="Name another file.") from error

    def _check(self) -> None:
        example = f"Name a file: {self.option}"
        if str(self.path) == "-":
            raise UsageError(f"{self.option} writes a file, and nothing to stdout.", hint=f"{example} FILE")
        folder = self.path.resolve().parent
        if not folder.is_dir():
            raise UsageError(f"There is no folder {folder}.", hint="Make it, or name another file.")
        if self.path.exists() and not self.path.is_file():
            raise UsageError(f"{self.path} is no ordinary file.", hint=f"{example} FILE")
        if not os.access(folder, os.W_OK):
            raise UsageError(f"{folder} cannot be written.", hint="Name a file in another folder.")

    def write(self, text: str) -> None:
        """Write the file atomically. Raises UsageError."""
        self._write(text.encode(errors="replace"), OTHERS_MAY_READ)

    def write_private(self, content: bytes) -> None:
        """Write the file atomically, for this user alone. Raises UsageError."""
        self._write(content, 0o600)

    def _write(self, content: bytes, mode: int) -> None:
        path = self.path.resolve()
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
                file.write(content)
            draft.replace(path)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise UsageError(
                f"{self.path} cannot be written: {error.strerror}.",
                hint=f"{remedy(error, path.parent)} Or name another file.",
            ) from error
