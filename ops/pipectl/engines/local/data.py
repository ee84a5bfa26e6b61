"""Data of the databases as folders, which are copied by cp and exchanged by renaming."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from pipectl import json_text
from pipectl.engines.data import Data
from pipectl.engines.local.folders import (
    DATA,
    VolumeFolder,
    copy_contents,
    database_volume,
    exchange,
    restore_exchanged,
    spare_of,
)
from pipectl.engines.project import write_private
from pipectl.errors import UsageError
from pipectl.names import command
from pipectl.services import databases

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from pipectl.engines.data import Beside
    from pipectl.models import Volume

# Of the data that it lies beside, until stack/.env has them.
SETTINGS = "settings.json"
OF_BEFORE = "is_of_before"


class LocalData(Data):
    """Folders of the project's state, and one more beside them."""

    def volumes(self) -> tuple[Volume, ...]:
        """The folders of the databases."""
        folders = (database_volume(self._state_dir, name) for name in databases())
        return tuple(volume for folder in folders if (volume := folder.describe()))

    def copy_to(self, folder: Path) -> None:
        """Copy the folders of data side by side, with cp: blocks are shared if the file system can."""
        self._copy([database_volume(self._state_dir, name).path for name in databases()], folder)

    def _copy(self, sources: Collection[Path], folder: Path) -> None:
        folder.mkdir(mode=0o700)
        targets = [folder / source.name for source in sources]
        for target in targets:
            target.mkdir()
        copy_contents(*zip(sources, targets, strict=True))

    def slots_in(self, folder: Path) -> tuple[str, ...]:
        """Look into PostgreSQL's folder of slots."""
        for name in databases():
            if not (folder / name / DATA).is_dir():
                raise UsageError(
                    f"{folder} has no data of {name}.",
                    # In a snapshot's folder lies that of its data.
                    hint=f"Delete the snapshot: {command('snapshot', 'rm', folder.parent.name)}",
                )
        slots = folder / "airbyte-postgres" / DATA / "pg_replslot"
        return tuple(sorted(path.name for path in slots.iterdir())) if slots.is_dir() else ()

    def lay_beside(self, folder: Path | None, settings: Mapping[str, str]) -> None:
        """Copy the folders of data, and note their settings there."""
        self._changes_for(settings)
        self.drop_beside()
        self._copy([folder / name for name in databases()] if folder else [], self._beside)
        self._note_settings(self._beside, settings, is_of_before=False)
        os.sync()

    def exchange(self) -> None:
        """Exchange the two folders, each with its settings in it, then take over those."""
        self._folder.mkdir(parents=True, exist_ok=True)
        of_now = self._engine.settings.of_data
        self._note_settings(self._folder, of_now, is_of_before=self.beside() == "copy")
        exchange(self._folder, self._beside)
        self._adopt_settings()

    def finish_exchange(self) -> None:
        """Do what a command that was killed has left undone of an exchange."""
        restore_exchanged(self._folder, self._beside)
        self._adopt_settings()

    @staticmethod
    def _note_settings(folder: Path, settings: Mapping[str, str], *, is_of_before: bool) -> None:
        write_private(folder / SETTINGS, json.dumps({"settings": dict(settings), OF_BEFORE: is_of_before}))

    def _adopt_settings(self) -> None:
        """Write the settings of exchanged data to stack/.env."""
        path = self._folder / SETTINGS
        if noted := json_text.read_object(path):
            self._engine.change_settings(self._changes_for(noted.get("settings", {})))
            path.unlink()

    def beside(self) -> Beside:
        """What the other folder says of itself; one that says nothing is half of a copy."""
        for folder in (self._beside, spare_of(self._folder)):
            if folder.exists():
                return "before" if json_text.read_object(folder / SETTINGS).get(OF_BEFORE) else "copy"
        return ""

    def _drop_beside(self) -> None:
        """Delete the other folder."""
        if self._beside.exists():
            self.folder_beside.delete()

    @property
    def folder_beside(self) -> VolumeFolder:
        """The folder of what lies beside the data."""
        return VolumeFolder(self._beside.name, self._beside)

    @property
    def _state_dir(self) -> Path:
        return self._engine.state_dir

    @property
    def _folder(self) -> Path:
        return self._state_dir / "volumes"

    @property
    def _beside(self) -> Path:
        return self._state_dir / "volumes.beside"
