"""Data of the databases as volumes: a copy has a suffix of its own, and stack/.env names the one in use."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from pipectl.engines.data import Data
from pipectl.engines.docker import archives, identity
from pipectl.engines.project import keep_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pipectl.engines.base import Engine
    from pipectl.engines.data import Beside
    from pipectl.engines.docker.api import DockerApi
    from pipectl.engines.docker.compose import Compose
    from pipectl.models import Volume


class DockerData(Data):
    """Volumes with the project's label; tar files are their copies."""

    def __init__(
        self,
        engine: Engine,
        api: DockerApi,
        *,
        compose: Callable[[], Compose],
        image: Callable[[], str],
        require_identity: Callable[[], None],
    ) -> None:
        """Take what makes and removes volumes, an image with tar, and what gives the project its names."""
        super().__init__(engine)
        self._api = api
        self._compose = compose
        self._image = image
        self._require_identity = require_identity
        # What stack/.env would say of the data that lies beside.
        self._beside: dict[str, str] = {}

    def volumes(self) -> tuple[Volume, ...]:
        """The volumes of the databases that stack/.env names."""
        named = {self._location(service) for service in archives.VOLUMES}
        return tuple(volume for volume in self._engine.volumes() if volume.location in named)

    def copy_to(self, folder: Path) -> None:
        """Write a tar file for each volume of a database."""
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  10 ms

        folder.mkdir(mode=0o700)
        host, image = self._api.host, self._image()

        def pack(service: str) -> None:
            archives.pack(host, image, self._location(service), folder / f"{service}.tar")

        with ThreadPoolExecutor() as pool:
            list(pool.map(pack, archives.VOLUMES))

    def slots_in(self, folder: Path) -> tuple[str, ...]:
        """Look at what the tar files hold."""
        return archives.slots_in(folder)

    def lay_beside(self, folder: Path | None, settings: Mapping[str, str]) -> None:
        """Make volumes with the next suffix, and unpack the tar files there."""
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  10 ms

        self._require_identity()
        self.drop_beside()
        self._beside = {archives.SUFFIX: self._next_suffix, **self._changes_for(settings)}
        if folder is None:
            return  # Compose makes empty ones
        labels = identity.labels(self._engine.settings.variables)
        for service, name in archives.VOLUMES.items():
            location = self._location(service, self._beside)
            self._compose().make_volume(location, {**labels, identity.VOLUME_LABEL: name})
        host, image = self._api.host, self._image()

        def unpack(service: str) -> None:
            archives.unpack(host, image, folder / f"{service}.tar", self._location(service, self._beside))

        with ThreadPoolExecutor() as pool:
            list(pool.map(unpack, archives.VOLUMES))

    def exchange(self) -> None:
        """Name the other volumes, and the settings of their data, in stack/.env."""
        settings = self._engine.settings
        before = {archives.SUFFIX: "", **settings.variables, **settings.of_data}
        now, self._beside = self._beside, {name: before[name] for name in self._beside}
        self._engine.change_settings(now)
        keep_settings(self._engine.settings)

    def beside(self) -> Beside:
        """Look at the suffixes of the volumes: that of a copy is the next one."""
        others = self._others()
        if not others:
            return ""
        return "copy" if all(volume.endswith(self._next_suffix) for volume in others) else "before"

    def _drop_beside(self) -> None:
        """Delete volumes of databases that stack/.env does not name."""
        for volume in self._others():
            self._compose().remove_volume(volume)

    def _others(self) -> list[str]:
        """Names of the project's volumes of databases that stack/.env does not name."""
        named = {self._location(service) for service in archives.VOLUMES}
        return [
            answer["Name"]
            for answer in identity.volumes(self._api, self._engine.settings.variables)
            if (answer.get("Labels") or {}).get(identity.VOLUME_LABEL) in archives.VOLUMES.values()
            and answer["Name"] not in named
        ]

    def _location(self, service: str, changes: Mapping[str, str] = MappingProxyType({})) -> str:
        variables = {**self._engine.settings.variables, **changes}
        return archives.location(identity.project_name(variables), service, variables)

    @property
    def _next_suffix(self) -> str:
        return archives.next_suffix(self._engine.settings.variables.get(archives.SUFFIX) or "")
