"""Volumes of databases as tar files and back, by containers of an image that the stack has anyway.

What is written passes through the docker command's pipes, so the engine need not see the project's folder.
"""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from pipectl import surroundings
from pipectl.engines.docker.connection import no_docker_command
from pipectl.errors import EngineError, UsageError
from pipectl.names import command

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

# Services and the volumes of their data, by the Compose file's names.
VOLUMES = {
    "postgres": "postgres_airflow_data",
    "airbyte-postgres": "airbyte_postgres_data",
    "airbyte-mysql": "airbyte_mysql_data",
}
# The part of the volumes' names that changes with a restore.
SUFFIX = "PIPECTL_DATA_SUFFIX"
SLOTS = PurePosixPath("pg_replslot")
# What a server makes anew; MySQL's image links its socket here.
LEFT_OUT = ("./*.sock", "./*.sock.lock", "./*.pid")
# Of a container's root: it reads and writes what other users own, and keeps the owners.
RIGHTS = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
DETAIL_LINES = 10


def pack(host: str, image: str, volume: str, path: Path) -> None:
    """Write a volume to a new file. Raises EngineError."""
    words = ["-C", "/data", *(f"--exclude={pattern}" for pattern in LEFT_OUT), "-cf", "-", "."]
    with path.open("xb") as file:
        _tar(host, image, f"{volume}:/data:ro", words, stdin=subprocess.DEVNULL, stdout=file)


def unpack(host: str, image: str, path: Path, volume: str) -> None:
    """Fill an empty volume from a file. Raises EngineError."""
    with path.open("rb") as file:
        _tar(host, image, f"{volume}:/data", ["-C", "/data", "-xpf", "-"], stdin=file, stdout=subprocess.PIPE)


def _tar(
    host: str,
    image: str,
    mount: str,
    words: Collection[str],
    *,
    stdin: IO[bytes] | int,
    stdout: IO[bytes] | int,
) -> None:
    rights = [f"--cap-add={name}" for name in RIGHTS]
    command = [
        *("docker", "--host", host, "run", "--rm", "--interactive", "--network", "none", "--user", "0:0"),
        *("--cap-drop", "ALL", *rights, "--security-opt", "no-new-privileges", "--pull", "never"),
        *("--log-driver", "none"),  # or the engine keeps a copy of all that passes
        *("--volume", mount, "--entrypoint", "tar", image, *words),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            check=False,
            env=surroundings.of_docker(),
        )
    except FileNotFoundError as error:
        raise no_docker_command() from error
    if done.returncode:
        detail = done.stderr.decode(errors="replace").strip()
        raise EngineError(
            f"The volume {mount.partition(':')[0]} could not be copied.",
            hint="The lines above are tar's, in a container. Mend what they name, then run it again.",
            detail="\n".join(detail.splitlines()[-DETAIL_LINES:]),
        )


def slots_in(folder: Path) -> tuple[str, ...]:
    """Return the replication slots in the files that `pack` has made.

    Raises UsageError for a file that is missing or is no such, and for one that holds links, devices or paths
    that lead out of a volume.
    """
    slots: set[str] = set()
    for service in VOLUMES:
        path = folder / f"{service}.tar"
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    place = PurePosixPath(member.name)
                    is_inside = not place.is_absolute() and ".." not in place.parts
                    if not is_inside or not (member.isdir() or member.isreg()):
                        raise _unusable(path, f"it holds {member.name}, which no data folder has")
                    if service == "airbyte-postgres" and place.parent == SLOTS:
                        slots.add(place.name)
        except (OSError, tarfile.TarError) as error:
            raise _unusable(path, str(error)) from error
    return tuple(sorted(slots))


def location(project_name: str, service: str, variables: Mapping[str, str]) -> str:
    """Return the name of the volume of a service's data, as the Compose file makes it."""
    return f"{project_name}_{VOLUMES[service]}{variables.get(SUFFIX) or ''}"


def next_suffix(suffix: str) -> str:
    """Return the suffix of the volumes that take the place of those with `suffix`."""
    number = suffix.removeprefix("_")
    return f"_{int(number) + 1 if number.isdecimal() else 2}"


def _unusable(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"{path} cannot be used: {reason}.",
        # In a snapshot's folder lies that of its data.
        hint=f"Delete the snapshot: {command('snapshot', 'rm', path.parent.parent.name)}",
    )
