"""Airflow's byte code, with which a project's first start goes on: compiling takes each service 10 s of CPU.

The first start on this machine that compiled an image's libraries leaves them in the user's cache. Nothing of
a project's is in it. Python compares time and size of each source, so byte code of another image is of no
use, and does no harm.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipectl.engines.project import write_private
from pipectl.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.engines.docker.api import DockerApi

# A volume, and where docker-compose.yml has it mounted.
VOLUME, FOLDER = "airflow_bytecode", PurePosixPath("/opt/airflow/bytecode")
# The project's own files, and what tasks make.
LEFT_OUT = ("/opt/airflow/", "/tmp/")  # noqa: S108  parts of names in an archive
LARGEST_BYTES = 200 << 20


def place(cache_dir: Path, image: str) -> Path:
    """Return where the byte code of an image, of which `image` is the id, is or belongs."""
    return cache_dir / f"bytecode-docker-{hashlib.sha256(image.encode()).hexdigest()[:16]}.tar"


def give(api: DockerApi, container: str, path: Path) -> None:
    """Fill the volume through a container that has not started, if there is byte code of the image."""
    with suppress(OSError, EngineError):
        api.put(container, str(FOLDER.parent), path.read_bytes())


def keep(api: DockerApi, container: str, path: Path) -> None:
    """Write the byte code of the image's own files that a container's volume holds.

    A failure costs the next first start its compiling, and nothing else.
    """
    with suppress(OSError, EngineError, tarfile.TarError):
        packed, kept = api.archive(container, str(FOLDER)), io.BytesIO()
        with (
            tarfile.open(fileobj=io.BytesIO(packed)) as source,
            tarfile.open(fileobj=kept, mode="w") as target,
        ):
            for entry in source:
                is_own = any(part in f"{entry.name}/" for part in LEFT_OUT)
                if not is_own and (entry.isdir() or entry.isreg()):
                    target.addfile(entry, source.extractfile(entry) if entry.isreg() else None)
        if kept.tell() <= LARGEST_BYTES:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_private(path, kept.getvalue())
