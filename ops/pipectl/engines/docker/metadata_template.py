"""An empty, migrated metadata database as SQL, from which a first start goes on: migrating takes 5 to 10 s.

The first start that migrated one leaves it in the user's cache: all tables, and of their rows only what every
migration makes. No account, no password and nothing of a project's is in it. initialise.py runs it in one
transaction in an empty database, and migrates if it cannot.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from contextlib import suppress
from typing import TYPE_CHECKING

from pipectl import ordinary
from pipectl.engines import airflow_env
from pipectl.engines.foreground import outcome
from pipectl.engines.project import write_private
from pipectl.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pipectl.engines.docker.api import DockerApi
    from pipectl.engines.foreground import Command
    from pipectl.settings import Settings

# Where initialise.py looks for it, and its last line, by which it knows that nothing is missing.
FOLDER, NAME = "/tmp", "pipectl-metadata.sql"  # noqa: S108  in a container of its own
END = "-- pipectl: the end"
# What a migration writes rows into; of another Airflow nobody has looked.
KNOWN_AIRFLOW = "3.3."
FILLED = ("alembic_version", "log_template", "slot_pool")
SEQUENCES = ("log_template_id_seq", "slot_pool_id_seq")
POOL = "INSERT INTO public.slot_pool "
# What a migration reads of Airflow's settings.
READ_BY_MIGRATIONS = tuple(
    f"AIRFLOW__{section}__" for section in ("CORE", "DATABASE", "ELASTICSEARCH", "LOGGING", "OPENSEARCH")
)
AUTH_MANAGER = "AIRFLOW__CORE__AUTH_MANAGER"
DUMP = ("pg_dump", "--no-owner", "--no-privileges")
DUMPS = (
    (*DUMP, "--schema-only"),
    (*DUMP, "--data-only", "--inserts", *(f"--table=public.{name}" for name in (*FILLED, *SEQUENCES))),
)


def place(settings: Settings, images: Iterable[str], airflow: str) -> Path | None:
    """Return where the template is or belongs; None if a migration of this project may write something else.

    `images` are the ids of Airflow's and PostgreSQL's, `airflow` is the version of the first.
    """
    chosen = airflow_env.read(settings.project, settings.variables)
    own = airflow_env.user_settings(settings.project)
    is_usual = chosen.get(AUTH_MANAGER, "").endswith(".SimpleAuthManager")
    if not is_usual or not airflow.startswith(KNOWN_AIRFLOW) or any(map(_is_read, own)):
        return None
    digest = hashlib.sha256("\0".join(images).encode())
    for name in ("airflow.env", "initialise.py"):
        digest.update((settings.project / "stack" / "airflow" / name).read_bytes())
    return settings.cache_dir / f"metadata-docker-{digest.hexdigest()[:16]}.sql"


def _is_read(name: str) -> bool:
    return name.startswith(READ_BY_MIGRATIONS)


def give(api: DockerApi, container: str, path: Path) -> None:
    """Put the template into a container that has not started, if there is one."""
    with suppress(OSError, EngineError, UnicodeDecodeError):
        content = ordinary.read_text(path).encode()
        entry = tarfile.TarInfo(NAME)
        entry.size, entry.mode = len(content), 0o444
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as file:
            file.addfile(entry, io.BytesIO(content))
        api.put(container, FOLDER, archive.getvalue())


def keep(tool: Callable[[tuple[str, ...]], Command], path: Path) -> None:
    """Write the template of a metadata database that is new; `tool` runs a program beside its server.

    A failure costs the next first start its migration, and nothing else.
    """
    with suppress(OSError, EngineError):
        dumps = [outcome(tool(words)) for words in DUMPS]
        # psql's own commands are left out: psycopg2 runs the rest.
        lines = [line for dump in dumps for line in dump.stdout.splitlines() if not line.startswith("\\")]
        # A pool of the user's belongs to this project alone.
        if not any(dump.returncode for dump in dumps) and sum(line.startswith(POOL) for line in lines) == 1:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_private(path, "\n".join([*lines, END]))
