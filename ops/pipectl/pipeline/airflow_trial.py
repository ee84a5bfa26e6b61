"""Another version of Airflow tried beside the project: on a copy of its files and of the metadata database.

The copy is a project of its own on the local engine, with new, empty business databases, whichever engine
runs the original. Of Airflow no service runs there, so no schedule begins a run.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl.engines import pytest_layer
from pipectl.engines.foreground import outcome
from pipectl.engines.local import airflow_lock
from pipectl.engines.local.airflow_install import airflow_version, environment_key, read_lock
from pipectl.engines.local.engine import LocalEngine
from pipectl.engines.local.install import last_lines
from pipectl.engines.local.start import airflow_command
from pipectl.errors import EngineError, MigrationError, UsageError
from pipectl.names import counted
from pipectl.observer import Observer
from pipectl.pipeline import checking
from pipectl.pipeline.access import HINT, down_services
from pipectl.pipeline.portable import dump, load, pg_restore_for
from pipectl.services import SERVICES, databases
from pipectl.settings import IDENTITY, OF_DATA, Settings
from pipectl.wait import interrupts_held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipectl.engines.base import Engine
    from pipectl.engines.foreground import Command
    from pipectl.engines.local.airflow_lock import PackageChange
    from pipectl.pipeline.checking import Check

METADATA = ("postgres",)
FOLDERS = ("dags", "scripts", "stack")
# requirements.txt, what it may include, and entrypoint.sh; beside them may lie gigabytes.
SUFFIXES = (".txt", ".sh")
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
NO_TESTS = 5  # pytest's exit code
DETAIL_LINES = 15
# What encrypts the connections that were entered in Airflow.
KEY = "AIRFLOW_FERNET_KEY"
# Beside names, ports and logins: whoever is alerted is not to hear of a trial.
LEFT_OUT = {*IDENTITY, *OF_DATA, *(each.port_variable for each in SERVICES), "PIPECTL_ALERT_WEBHOOK"} - {KEY}


@dataclass(frozen=True)
class TrialStep:
    """How a step ended: passed, failed or skipped, and the last lines of one that failed."""

    outcome: str
    seconds: float
    message: str
    detail: str = field(default="", metadata={"optional": True})


@dataclass(frozen=True)
class Trial:
    """What was found with Airflow `after` instead of `before`; `lock` is a file that pins its packages.

    `tests` are the project's own, `migration` is that of a copy of the metadata database, `run` one of the
    pipeline's DAG on that copy and on empty business databases.
    """

    project: Path
    engine: str
    before: str
    after: str
    lock: Path
    packages: tuple[PackageChange, ...]
    check: Check
    tests: TrialStep
    migration: TrialStep
    run: TrialStep


def try_airflow(engine: Engine, settings: Settings, version: str, observer: Observer) -> Trial:
    """Try a later version of Airflow; the project, its data and what runs stay as they are.

    Raises UsageError for a version that is not later, or that the index does not have, EngineError if the
    metadata database does not run or something cannot be installed.
    """
    lock = settings.project / "stack" / airflow_lock.LOCK
    old = read_lock(lock)
    before = airflow_version(old)
    _require_later(before, version)
    # The copy has it too, whose paths mean nothing to the user.
    airflow_lock.read_source(settings.project / "stack")
    if METADATA[0] in down_services(engine.services()):
        raise EngineError("The metadata database, of which a trial takes a copy, is not running.", hint=HINT)
    with _copy(settings) as copy:
        observer.report(f"Finding out what Airflow {version} needs")
        airflow_lock.relock(copy.project / "stack", version)
        new = read_lock(copy.project / "stack" / airflow_lock.LOCK)
        trial = LocalEngine(copy)
        trial.install(observer)
        observer.report(f"Reading the DAGs with Airflow {version}")
        check = checking.check(trial, copy.project, observer, slow=math.inf)
        tests = _test(trial, copy, observer)
        migration = _migrate(engine, settings, trial, copy, observer)
        run = _run(trial, check, observer, is_migrated=migration.outcome == PASSED)
        kept = settings.cache_dir / f"airflow-{environment_key(new)}.txt"
        kept.write_bytes(new)
    packages = airflow_lock.package_changes(old.decode(), new.decode())
    return Trial(settings.project, engine.name, before, version, kept, packages, check, tests, migration, run)


def _require_later(before: str, version: str) -> None:
    wanted, now = airflow_lock.age(version), airflow_lock.age(before)
    if wanted == now:
        raise UsageError(
            f"The project has Airflow {before} already.",
            hint="Name a later one: pipectl upgrade --try-airflow VERSION",
        )
    if wanted < now:
        raise UsageError(
            f"Airflow {version} is older than the project's {before}: a metadata database does not go back.",
            hint="Name a later one: pipectl upgrade --try-airflow VERSION",
        )


@contextmanager
def _copy(settings: Settings) -> Iterator[Settings]:
    """Give a copy of the project without its data and identity, which is deleted with all that runs of it."""
    folder = Path(tempfile.mkdtemp(prefix="pipectl-trial-")).resolve()
    variables = {
        name: value
        for name, value in settings.variables.items()
        if name not in LEFT_OUT and not name.startswith("AIRBYTE_")
    }
    copy = Settings(project=folder, engine="local", cache_dir=settings.cache_dir, variables=variables)
    try:
        for path in settings.project.iterdir():
            if path.is_dir() and path.name in FOLDERS:
                ignored = shutil.ignore_patterns(".env", "__pycache__")
                shutil.copytree(path, folder / path.name, symlinks=True, ignore=ignored)
            elif path.is_file() and path.suffix in SUFFIXES:
                shutil.copy2(path, folder)
        yield copy
    finally:
        with interrupts_held():
            engine = LocalEngine(copy)
            engine.stop()
            engine.delete_volumes()
            shutil.rmtree(folder, ignore_errors=True)


def _test(trial: LocalEngine, copy: Settings, observer: Observer) -> TrialStep:
    observer.report("Running the project's tests")
    layer = pytest_layer.ensure(copy, observer)
    return _outcome(trial.apart("run_tests.py", ("-q", "--color=no"), observer, layer), skip=NO_TESTS)


def _migrate(
    engine: Engine, settings: Settings, trial: LocalEngine, copy: Settings, observer: Observer
) -> TrialStep:
    """Bring a copy of the metadata database to the new Airflow; the databases run on."""
    observer.report("Migrating a copy of the metadata database")
    dumped = copy.project / "dump"
    dump(engine, settings, dumped, observer, METADATA)
    # What it says of ports and of stack/.env is not about the project's.
    quiet = Observer()
    with trial.lock():
        trial.start(quiet, databases())
    pg_restore = pg_restore_for(trial, trial.settings, engine.versions(), observer)
    load(trial, trial.settings, dumped, observer, pg_restore, METADATA)
    began = time.monotonic()
    try:
        with trial.lock():
            # Each start ends with the migration.
            trial.start(quiet, databases())
    except MigrationError as error:
        return TrialStep(FAILED, time.monotonic() - began, error.message, error.detail)
    return TrialStep(PASSED, time.monotonic() - began, "The copy of the metadata database is migrated.")


def _run(trial: LocalEngine, check: Check, observer: Observer, *, is_migrated: bool) -> TrialStep:
    dag_id = trial.settings.dag_id
    if not is_migrated:
        return TrialStep(SKIPPED, 0, "The metadata database is not migrated.")
    if not any(dag_id in file.dags for file in check.files):
        return TrialStep(SKIPPED, 0, f"There is no DAG {dag_id}: PIPECTL_DAG_ID in stack/.env names another.")
    observer.report(f"Running {dag_id} on empty databases")
    step = _outcome(airflow_command(trial.settings, ("dags", "test", dag_id), observer))
    how = "succeeded" if step.outcome == PASSED else "failed"
    return TrialStep(step.outcome, step.seconds, f"A run of {dag_id} {how}.", step.detail)


def _outcome(command: Command, skip: int | None = None) -> TrialStep:
    """Run a command to its end; `skip` is the exit code by which it says that there was nothing to do."""
    began = time.monotonic()
    done = outcome(command)
    how = {0: PASSED, skip: SKIPPED}.get(done.returncode, FAILED)
    printed = f"{done.stdout}\n{done.stderr}"
    message = last_lines(done.stdout, 1) or f"{counted(0, 'line')} printed"
    detail = last_lines(printed, DETAIL_LINES) if how == FAILED else ""
    return TrialStep(how, time.monotonic() - began, message, detail)
