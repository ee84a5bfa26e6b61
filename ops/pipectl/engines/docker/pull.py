"""Pulling images: by the engine's API, which tells how far each layer is."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from pipectl.errors import EngineError
from pipectl.names import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pipectl.engines.docker.api import DockerApi
    from pipectl.engines.docker.compose import Compose
    from pipectl.observer import Show

MB = 1_000_000
IMAGE = re.compile(r"\$\{(\w+_IMAGE):-([^}]+)\}")
COMPLETE = {"Pull complete", "Already exists"}
DOWNLOADED = {"Verifying Checksum", "Download complete", "Extracting", *COMPLETE}
# What the engine says if the registry asks for a login, which the docker command knows and the API does not.
LOGIN_NEEDED = ("unauthorized", "denied", "authentication required", "no basic auth credentials")


def pull(api: DockerApi, compose: Compose, image: str, show: Show) -> None:
    """Pull an image and show how far it is. Raises EngineError, the engine's words as its detail."""
    progress = PullProgress()
    try:
        for event in api.pull(image):
            progress.see(event)
            show(image, progress.text, milestone=event.get("status") == "Pull complete")
    except EngineError as error:
        if not any(words in error.detail.lower() for words in LOGIN_NEEDED):
            raise
        show(image, "pulling with the logins of the docker command", milestone=True)
        compose.pull(image)
    show(image, f"pulled, {progress.megabytes:.0f} MB", milestone=True)


def pull_all(api: DockerApi, compose: Compose, images: Mapping[str, tuple[str, ...]], show: Show) -> None:
    """Pull images side by side; each comes with the variables of stack/.env that choose it.

    Raises the first one's EngineError, with the variables of all that failed, once all pulls have ended.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  10 ms

    with ThreadPoolExecutor(max_workers=len(images)) as pool:
        pulls = {image: pool.submit(pull, api, compose, image, show) for image in images}
    failures = {image: error for image, finished in pulls.items() if (error := finished.exception())}
    for error in failures.values():
        variables = dict.fromkeys(variable for image in failures for variable in images[image])
        if isinstance(error, EngineError) and variables:
            error.hint += f" Another image or a mirror's: {' and '.join(variables)} in stack/.env."
        raise error


def variables_of(image: str, files: Iterable[Path], variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables that, in these files of Compose, choose `image`."""
    found = [match for path in files for match in IMAGE.findall(path.read_text(encoding="utf-8"))]
    # Compose takes a variable of the environment before that of the file.
    return tuple(
        name
        for name, default in dict(found).items()
        if image == (os.environ.get(name) or variables.get(name) or default)
    )


class PullProgress:
    """How far the layers of an image are."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._bytes: dict[str, tuple[int, int]] = {}

    def see(self, event: dict[str, Any]) -> None:
        """Take in an event of the engine's stream; those that are about no layer say nothing new."""
        layer, state = str(event.get("id") or ""), str(event.get("status") or "")
        if not layer or state.startswith("Pulling from"):
            return
        self._states[layer] = state
        detail = event.get("progressDetail") or {}
        if state == "Downloading" and detail.get("total"):
            self._bytes[layer] = int(detail.get("current") or 0), int(detail["total"])
        elif state in DOWNLOADED and layer in self._bytes:
            total = self._bytes[layer][1]
            self._bytes[layer] = total, total

    @property
    def megabytes(self) -> float:
        """What has been downloaded."""
        return sum(current for current, _ in self._bytes.values()) / MB

    @property
    def text(self) -> str:
        """Layers, and the size of those whose download has begun."""
        complete = sum(state in COMPLETE for state in self._states.values())
        total = sum(size for _, size in self._bytes.values()) / MB
        layers = counted(len(self._states), "layer")
        return f"{complete} of {layers}, downloaded {self.megabytes:.0f} of {total:.0f} MB"
