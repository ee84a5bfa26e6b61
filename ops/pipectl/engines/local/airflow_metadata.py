"""Airflow's metadata database: cloned from a migrated template, since migrating takes 5 to 10 s."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipectl import surroundings
from pipectl.databases import metadata_version
from pipectl.engines.local import postgres
from pipectl.engines.local.airflow import (
    METADATA_DATABASE,
    METADATA_USER,
    AirflowSecrets,
    AirflowSite,
    environment,
)
from pipectl.engines.local.folders import atomic_folder, count_files
from pipectl.engines.local.install import install_lock, last_lines
from pipectl.errors import DatabaseError, EngineError, MigrationError
from pipectl.models import DatabaseAddress
from pipectl.wait import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipectl.engines.local.airflow_install import AirflowRuntime
    from pipectl.engines.local.binaries import PostgresBinaries
    from pipectl.engines.local.install import Report

MIGRATION_SECONDS = 300
START_SECONDS = 30
STOP_SECONDS = 20
POLL_SECONDS = 0.02
DETAIL_LINES = 15
DATA = "data"
# How many files the template's data folder has.
COUNT = "files"


def prepare_metadata(
    site: AirflowSite,
    runtime: AirflowRuntime,
    binaries: PostgresBinaries,
    data_dir: Path,
    cache_dir: Path,
    report: Report,
) -> bool:
    """Make the data folder of the metadata cluster where it is missing; return whether it was made.

    Cloned from the template in `cache_dir`, with the site's own password, whole or not at all. Start it with
    stack/postgres/metadata.conf. An existing cluster gets the password.

    Raises:
        EngineError: the template could not be made, or the folder cannot be written.

    """
    if postgres.data_version(data_dir) is not None:
        return postgres.prepare(binaries, data_dir, _accounts(site.metadata.password))
    template = ensure_template(cache_dir, runtime, binaries, report)
    with atomic_folder(data_dir) as folder:
        # A clone takes the place of an empty folder.
        postgres.clone(binaries, template, folder)
        postgres.set_password(binaries, folder, user=METADATA_USER, password=site.metadata.password)
    _accounts(site.metadata.password).note(data_dir)
    return True


def _accounts(password: str) -> postgres.Accounts:
    return postgres.Accounts(METADATA_USER, password, METADATA_DATABASE)


def ensure_template(
    cache_dir: Path, runtime: AirflowRuntime, binaries: PostgresBinaries, report: Report
) -> Path:
    """Return a stopped cluster with an empty, migrated metadata database, made at first use (5 to 10 s).

    One per lock file and version of PostgreSQL.

    Raises:
        EngineError: PostgreSQL did not start on it, or the migration failed.

    """
    home = cache_dir / f"metadata-{runtime.key}-postgres-{binaries.version[0]}"
    if not is_whole(home):
        with install_lock(cache_dir, home.name, report):
            if not is_whole(home):
                report("Making Airflow's empty metadata database, once for this user")
                shutil.rmtree(home, ignore_errors=True)
                with atomic_folder(home) as folder:
                    make_template(folder, runtime, binaries)
                    (folder / COUNT).write_text(str(count_files(folder / DATA)), encoding="ascii")
    return home / DATA


def is_whole(template: Path) -> bool:
    """Whether a template is there, and none of its files has been deleted since it was made."""
    try:
        count = int((template / COUNT).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False
    return count_files(template / DATA) >= count


def make_template(folder: Path, runtime: AirflowRuntime, binaries: PostgresBinaries) -> None:
    """Make a cluster in the empty `folder` and migrate it. Raises EngineError."""
    data_dir = folder / DATA
    metadata = DatabaseAddress(
        service="postgres",
        host="127.0.0.1",
        port=free_port(),
        database=METADATA_DATABASE,
        user=METADATA_USER,
        password=secrets.token_hex(16),
    )
    site = AirflowSite(
        project=folder,
        port=0,
        metadata=metadata,
        postgres=metadata,
        mysql=metadata,
        secrets=AirflowSecrets(secrets.token_hex(32), secrets.token_hex(32), fernet_key=""),
    )
    postgres.prepare(binaries, data_dir, _accounts(metadata.password))
    with running(binaries, data_dir, metadata):
        run_migration(environment(site, runtime), runtime)
    shutil.rmtree(site.home.parent, ignore_errors=True)


@contextmanager
def running(binaries: PostgresBinaries, data_dir: Path, address: DatabaseAddress) -> Iterator[None]:
    """Run the server of `data_dir` for the time of the block. Raises EngineError where it does not start."""
    program = postgres.program(binaries, "template", data_dir, address.port)
    log_path = data_dir.with_name("postgres.log")
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            program.command,
            cwd=program.directory,
            env=surroundings.environment(**program.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: server.poll() is not None or answers(address), START_SECONDS, POLL_SECONDS)
        if not answers(address):
            raise EngineError(
                "PostgreSQL did not start on Airflow's new metadata database.",
                hint="The lines above are PostgreSQL's. Mend what they name, then run the command again.",
                detail=last_lines(log_path.read_text(encoding="utf-8", errors="replace")),
            )
        yield
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log_path.unlink(missing_ok=True)


def answers(address: DatabaseAddress) -> bool:
    """Tell whether a metadata database can be reached."""
    try:
        metadata_version(address)
    except DatabaseError:
        return False
    return True


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def migrate_metadata(site: AirflowSite, runtime: AirflowRuntime, report: Report) -> bool:
    """Migrate the running metadata database where its version is not the runtime's; return whether it was.

    An up-to-date database costs one query (20 ms), so call it after every start of the cluster. Raises
    DatabaseError where the database cannot be reached, EngineError where the migration fails.
    """
    if metadata_version(site.metadata) == runtime.migration_head:
        return False
    report(f"Migrating Airflow's metadata database to Airflow {runtime.version}")
    run_migration(environment(site, runtime), runtime)
    return True


def run_migration(variables: dict[str, str], runtime: AirflowRuntime) -> None:
    """Run `airflow db migrate`, 5 to 10 s on an empty database; MigrationError with its last lines."""
    command = (str(runtime.python), "-m", "airflow", "db", "migrate")
    try:
        done = subprocess.run(
            command,
            # It imports for seconds within a transaction, which the server would end on a slow machine.
            env=surroundings.environment(
                **variables | {"PGOPTIONS": "-c idle_in_transaction_session_timeout=0"}
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=MIGRATION_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MigrationError(
            f"Airflow's metadata database was not migrated within {MIGRATION_SECONDS} s.",
            hint="Run the command again: it goes on with what is migrated.",
        ) from error
    if done.returncode:
        raise MigrationError(
            f"Airflow's metadata database could not be migrated to Airflow {runtime.version}.",
            hint="The lines above are Airflow's. Mend what they name, or start with new data: pipectl reset",
            detail=last_lines(done.stdout, DETAIL_LINES),
        )
