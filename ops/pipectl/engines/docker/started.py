"""What the latest start made its containers of: if that is the same now, Compose is not asked.

Each docker command takes 0.1 to 0.3 s, and python_on_whales as long again: an `up` of what runs already needs
none. What is compared is all that Compose reads, so a difference that matters to it or not asks it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl import json_text
from pipectl.engines.airflow_env import OWN, SHARED
from pipectl.engines.project import write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from pipectl.engines.docker.api import Container

FILE = "started.json"
VARIABLE = re.compile(rb"\$\{?([A-Za-z_][A-Za-z0-9_]*)")
# What the docker command and Compose read of the environment besides.
PREFIXES = ("COMPOSE_", "DOCKER_")


def digest(project: Path, files: Iterable[Path], env_path: Path) -> str:
    """Return the digest of what Compose reads: its files, their variables, the docker client's settings."""
    client = Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker"))  # noqa: PTH111  there may be no home
    found = hashlib.sha256()
    names: set[str] = {name for name in os.environ if name.startswith(PREFIXES)}
    for path in (*files, env_path, project / SHARED, project / OWN, client / "config.json"):
        content = b""
        with suppress(OSError):
            content = path.read_bytes()
        found.update(f"\0{path}\0{len(content)}\0".encode() + content)
        names |= {name.decode() for name in VARIABLE.findall(content)}
    for name in sorted(names & os.environ.keys()):
        found.update(f"\0{name}={os.environ[name]}".encode(errors="surrogateescape"))
    return found.hexdigest()


def note(folder: Path, made_of: str, containers: Collection[Container]) -> None:
    """Remember containers, and the digest of what they were made of."""
    content = {"made_of": made_of, "containers": sorted(each.id for each in containers)}
    # Without it, the next start asks Compose.
    with suppress(OSError):
        write_private(folder / FILE, json.dumps(content))


def all_run(folder: Path, containers: Collection[Container], one_shot: str) -> bool:
    """Whether the latest start's containers run, and there are no others; `one_shot` may have ended."""
    noted = json_text.read_object(folder / FILE).get("containers")
    return noted == sorted(each.id for each in containers) and all(
        each.state == "running" or (each.service == one_shot and not each.exit_code) for each in containers
    )


def is_same(
    folder: Path, made_of: str, containers: Collection[Container], image_id: Callable[[str], str]
) -> bool:
    """Whether they would be made of the same now; `image_id` finds the image that has a name."""
    if json_text.read_object(folder / FILE).get("made_of") != made_of:
        return False
    images = {each.image_name: each.image for each in containers}
    return all(image_id(name) == image for name, image in images.items())
