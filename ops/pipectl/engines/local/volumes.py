"""The folders that hold a project's data: one per service that keeps any, so that each can be wiped alone."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipectl.errors import EngineError
from pipectl.models import Volume

if TYPE_CHECKING:
    from pathlib import Path

CREATED = "created"


@dataclass(frozen=True)
class VolumeFolder:
    """A volume as a folder. Its file `created` says since when it exists: a folder's own times change."""

    name: str
    path: Path

    def ensure(self) -> None:
        """Make the folder and note the time, where there is none; EngineError where that is not allowed."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            marker = self.path / CREATED
            if not marker.exists():
                marker.write_text(datetime.now(UTC).isoformat(), encoding="ascii")
        except OSError as error:
            raise EngineError(
                f"{self.path} cannot be written: {error.strerror}.",
                hint="Check who owns the project's folder and the space on its disk.",
            ) from error

    def describe(self) -> Volume | None:
        """Return the volume, None where the folder does not exist."""
        if not self.path.is_dir():
            return None
        try:
            created = datetime.fromisoformat((self.path / CREATED).read_text(encoding="ascii"))
        except (OSError, ValueError):
            created = datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
        return Volume(self.name, str(self.path), created, _disk_usage(self.path))

    def delete(self) -> None:
        """Delete the folder with all in it; EngineError where that is not allowed."""
        try:
            shutil.rmtree(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise EngineError(
                f"{error.filename or self.path} cannot be deleted: {error.strerror}.",
                hint="Check who owns the project's .pipectl folder, then run the command again.",
            ) from error


def _disk_usage(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118  os.walk's strings
            except FileNotFoundError:
                continue
    return total
