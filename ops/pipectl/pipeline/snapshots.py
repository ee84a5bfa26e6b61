"""Save the data of both business databases and of Airflow at one moment, and go back to it."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipectl import __version__, seen
from pipectl.airflow_health import AirflowHealth
from pipectl.databases import MOST_COUNTED, Databases
from pipectl.engines.local.folders import shares_blocks
from pipectl.engines.project import state_folder
from pipectl.errors import (
    AirflowError,
    DatabaseError,
    EngineError,
    PipectlError,
    UsageError,
    WaitTimeoutError,
)
from pipectl.names import command, counted, listed, size
from pipectl.pipeline import lifecycle
from pipectl.pipeline.access import airflow_address, down_services
from pipectl.pipeline.consumers import drop_slots
from pipectl.pipeline.portable import dump, load, pg_restore_for
from pipectl.pipeline.readiness import HealthProbe, wait_until_healthy
from pipectl.pipeline.snapshot_store import DATA, PORTABLE, Snapshot
from pipectl.pipeline.snapshot_versions import data_problem, dump_problem
from pipectl.services import business_databases, databases
from pipectl.wait import interrupts_held, interrupts_ignored, until

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from pipectl.engines.base import Engine
    from pipectl.models import DagRun, Volume
    from pipectl.observer import Observer
    from pipectl.pipeline.lifecycle import UpResult
    from pipectl.pipeline.snapshot_store import Store
    from pipectl.settings import Settings

# Of what Airflow has encrypted.
KEY = "AIRFLOW_FERNET_KEY"
DATABASE_SECONDS = 60.0
POLL_SECONDS = 0.1
# Runs that are named if they stay active.
NAMED = 3
# What starts runs and tasks; what else uses the databases all the time. The web server bears a pause.
STARTING, WRITING = ("scheduler", "worker", "triggerer"), ("dag-processor",)
# Numbers that sequences have given, and the statement that lets one go on from there.
SEQUENCES = "SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences"
GO_ON = "SELECT setval(%s::regclass, %s)"


@dataclass(frozen=True)
class SnapshotSaved:
    """What `snapshot save` made: where, how long it took, and how long the databases were away."""

    snapshot: Snapshot
    folder: str
    seconds: float
    away_seconds: float


@dataclass(frozen=True)
class SnapshotRestored:
    """What `snapshot restore` did.

    `settings` are the variables of stack/.env that are again as the data needs them, `slots_dropped` the
    replication slots of the snapshot that were dropped, and `notes` sentences.
    """

    snapshot: Snapshot
    settings: tuple[str, ...]
    slots_dropped: tuple[str, ...]
    up: UpResult
    notes: tuple[str, ...] = field(default=(), metadata={"optional": True})


class _Rest:
    """Services that were stopped for a while."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._names: tuple[str, ...] = ()

    def begin(self, names: Collection[str]) -> None:
        # Ctrl-C in between would leave services at rest that nobody knows of.
        with interrupts_held():
            self._names += self._engine.rest(names)

    def end(self) -> None:
        if self._names:
            with interrupts_held():
                self._engine.wake(self._names)
                self._names = ()

    def forget(self) -> None:
        self._names = ()


@contextmanager
def _telling(engine: Engine, data: Callable[[], str]) -> Iterator[None]:
    """Note on a Ctrl-C that ends the block what `data` says then, and which services it has left stopped."""
    before = down_services(engine.services())
    try:
        yield
    except KeyboardInterrupt as error:
        with interrupts_ignored():
            error.add_note(data())
            error.add_note(_stopped(engine, before))
        raise


def _stopped(engine: Engine, before: set[str]) -> str:
    try:
        stopped = sorted(down_services(engine.services()) - before)
    except PipectlError:
        return "What runs: pipectl status"
    if not stopped:
        return "All services run that ran before."
    return f"Stopped: {listed(stopped, len(stopped))}. To start what is stopped: pipectl up"


def save(
    engine: Engine,
    settings: Settings,
    store: Store,
    name: str,
    *,
    portable: bool,
    hold_timeout: float,
    up_timeout: float,
    observer: Observer,
) -> SnapshotSaved:
    """Copy all data to a snapshot, and leave what runs running; active runs are waited for.

    A `portable` one is dumped by the servers, which go on meanwhile.

    Raises UsageError for a name that is taken, for a database that runs elsewhere, and if there is no space;
    WaitTimeoutError if a run stays active for `hold_timeout` seconds.
    """
    stopwatch = lifecycle.Stopwatch()

    def saved() -> str:
        return f"The snapshot {name} is saved." if name in store.names() else "Nothing was saved."

    with engine.lock(), _telling(engine, saved):
        _require_own(settings, "saved")
        store.require_new(name)
        versions, data = engine.versions(), _data(engine)
        count = sum(volume.bytes for volume in data)
        _require_space(engine, store, count, "The snapshot", settings.state_dir, store.ensure())
        down = down_services(engine.services())
        is_up = not down
        if portable and not down.isdisjoint(databases()):
            raise EngineError("Not all databases run, and they write the dumps.", hint="pipectl up")
        rest = _Rest(engine)
        with store.making(name) as folder, ExitStack() as stack:
            stack.callback(rest.end)
            _hold_schedule(engine, rest, timeout=hold_timeout, observer=observer)
            rows = _rows(engine)
            away = 0.0
            if portable:
                observer.report("Dumping all databases")
                dump(engine, settings, folder / DATA, observer)
            else:
                observer.report(f"Copying {size(count)} while the databases rest")
                began = time.monotonic()
                rest.begin((*WRITING, *databases()))
                engine.data.copy_to(folder / DATA)
            rest.end()
            if is_up and not portable:
                away = time.monotonic() - began
            made_with = settings.of_data
            snapshot = store.finish(
                folder,
                # Logins are the servers' there. What Airflow has encrypted is in the dump.
                {KEY: made_with[KEY]} if portable else made_with,
                created=datetime.now(UTC),
                engine=PORTABLE if portable else engine.name,
                pipectl=__version__,
                versions=versions,
                rows=rows,
                slots=() if portable else engine.data.slots_in(folder / DATA),
            )
        # Whoever ends the command from here on has it.
        observer.report(f"Saved {name}: {size(snapshot.bytes)}")
        if is_up:
            observer.report("Waiting until all services are healthy again")
            deadline = time.monotonic() + up_timeout
            health = AirflowHealth(engine.airflow())
            probe = HealthProbe(Databases(*engine.databases()), health, engine.metadata_answers)
            wait_until_healthy(engine, probe, deadline=deadline, observer=observer)
    return SnapshotSaved(snapshot, str(store.path(name)), stopwatch.seconds, round(away, 3))


def require_restorable(
    engine: Engine,
    settings: Settings,
    store: Store,
    name: str,
    *,
    keep_slots: bool | None,
    observer: Observer,
) -> Snapshot:
    """Return a snapshot that this project can go back to; UsageError, before anything is touched, if not."""
    _require_own(settings, "restored")
    snapshot = store.read(name)
    is_portable = snapshot.engine == PORTABLE
    if not is_portable and snapshot.engine != engine.name:
        raise UsageError(
            f"The snapshot {name} is the {snapshot.engine} engine's, and this is the {engine.name} engine.",
            hint=f"Restore it there: pipectl --engine {snapshot.engine} snapshot restore {name}\n"
            "What goes to every engine: pipectl snapshot save NAME --portable",
        )
    compare = dump_problem if is_portable else data_problem
    if problem := compare(snapshot.versions, engine.versions()):
        raise UsageError(
            f"The snapshot {name} cannot be used here: {problem}.",
            hint="Run the version that it was made with, then the command again.",
        )
    if is_portable:
        pg_restore_for(engine, settings, snapshot.versions, observer)
    observer.report(f"Reading {size(snapshot.bytes)} of {name}")
    store.require_whole(snapshot)
    if not is_portable and engine.data.slots_in(store.path(name) / DATA) and keep_slots is None:
        raise UsageError(
            f"The snapshot {name} holds replication slots, whose readers have gone on since:"
            f" {', '.join(snapshot.slots)}.",
            hint="Choose: --drop-slots, and clear what their readers have copied;"
            " or --keep-slots, if these go back to the same moment too.",
        )
    return snapshot


def active_runs(engine: Engine) -> tuple[DagRun, ...]:
    """Return the runs that a restore would end: those at work; none if Airflow is broken or down."""
    with suppress(AirflowError):
        if "scheduler" not in down_services(engine.services()):
            return AirflowHealth(airflow_address(engine)).running()
    return ()


def restore(
    engine: Engine,
    settings: Settings,
    store: Store,
    snapshot: Snapshot,
    dag_id: str,
    *,
    keep_slots: bool | None,
    up_timeout: float,
    observer: Observer,
) -> SnapshotRestored:
    """Replace all data by that of a snapshot that `require_restorable` has returned, and start the stack.

    Runs that are active end with the services, and are gone with the data. The data of before is kept until
    all services are healthy with the new, and comes back if they are not. Ids that were used are not used
    again. Raises UsageError for a database that runs elsewhere, and if there is no space; and what a start
    raises.
    """
    stopwatch = lifecycle.Stopwatch()
    whose = "before"
    with engine.lock(), _telling(engine, lambda: f"All data is that of {whose}."), ExitStack() as stack:
        _require_space(engine, store, snapshot.bytes, "The restore", store.folder, state_folder(settings))
        made_with = store.settings_of(snapshot)
        if engine.data.beside() == "before":
            observer.report("Deleting the data of before a restore that was interrupted")
        engine.data.drop_beside()

        def drop() -> None:
            with interrupts_ignored():
                engine.data.drop_beside()

        stack.callback(drop)
        data = store.path(snapshot.name) / DATA
        is_portable = snapshot.engine == PORTABLE
        if not is_portable:
            observer.report(f"Copying {size(snapshot.bytes)} beside the data that is there")
        engine.data.lay_beside(None if is_portable else data, made_with)
        rest = _Rest(engine)
        stack.callback(rest.end)
        # Ids are given until then.
        rest.begin(STARTING)
        numbers = _sequences(engine)
        observer.report("Stopping the stack")
        rest.forget()
        engine.stop()
        seen.forget(engine.state_dir)
        with _exchanged(engine, stack, observer):
            engine.install(observer)
            started = engine.start(observer, only=databases())
            dropped = () if keep_slots else snapshot.slots
            _wait_for_databases(engine)
            if is_portable:
                observer.report("Loading the dumps")
                pg_restore = pg_restore_for(engine, settings, snapshot.versions, observer)
                load(engine, settings, data, observer, pg_restore)
            _require_rows(engine, snapshot)
            raised = _prepare(engine, numbers or {}, dropped)
            started += engine.start(observer)
            deadline = time.monotonic() + up_timeout
            health = AirflowHealth(engine.airflow())
            probe = HealthProbe(Databases(*engine.databases()), health, engine.metadata_answers)
            wait_until_healthy(engine, probe, deadline=deadline, observer=observer)
        whose = f"the snapshot {snapshot.name}"
        engine.data.drop_beside()
        result = lifecycle.up_locked(engine, dag_id, timeout=up_timeout, observer=observer)
        result = replace(result, started=started, seconds=stopwatch.seconds)
    now = settings.of_data
    changed = tuple(sorted(name for name, value in made_with.items() if value and value != now.get(name)))
    return SnapshotRestored(
        snapshot,
        changed,
        dropped,
        result,
        _notes(changed, dropped, has_run=numbers is not None, raised=raised),
    )


def _notes(
    changed: tuple[str, ...], dropped: tuple[str, ...], *, has_run: bool, raised: bool
) -> tuple[str, ...]:
    notes = []
    if changed:
        notes.append(f"stack/.env has again what the data was made with: {', '.join(changed)}.")
    if dropped:
        notes.append(
            f"Dropped: {', '.join(dropped)}. To read changes again: pipectl connections --create-slot"
        )
    if raised:
        notes.append("Ids go on from the last that were used, so none is used twice.")
    elif not has_run:
        notes.append(
            "airbyte-postgres did not run before, so ids that were given after the snapshot are given again."
        )
    notes.append("Whoever reads changes has rows of after the snapshot: clear what they have copied.")
    return tuple(notes)


@contextmanager
def _exchanged(engine: Engine, stack: ExitStack, observer: Observer) -> Iterator[None]:
    """Put what lies beside the data into its place; if the block fails, put the data of before back.

    `stack` holds what is to be done if the data stays in its place.
    """
    is_exchanged = False
    try:
        with interrupts_held():
            stack.pop_all()
            engine.data.exchange()
            is_exchanged = True
        yield
    except BaseException as error:
        if not is_exchanged:
            raise
        observer.report("Putting the data of before back")
        with interrupts_ignored():
            engine.stop()
            engine.data.exchange()
            engine.data.drop_beside()
        if isinstance(error, PipectlError):
            error.hint = (
                f"The data of before is in its place again. To start with it: pipectl up\n{error.hint}"
            )
        raise


def _require_own(settings: Settings, what: str) -> None:
    names = [each.name for each in business_databases() if settings.is_external(each.name)]
    if names:
        raise UsageError(
            f"{' and '.join(names)} runs elsewhere (stack/.env), so nothing can be {what}.",
            hint="Use that server's own backups.",
        )


def _data(engine: Engine) -> tuple[Volume, ...]:
    """Return the volumes of the databases; EngineError if not all are there."""
    data = engine.data.volumes()
    if len(data) < len(databases()):
        raise EngineError("There is no data yet, or not of all databases.", hint="Make it: pipectl up")
    return data


def _require_space(engine: Engine, store: Store, count: int, what: str, source: Path, target: Path) -> None:
    """Raise UsageError if a copy of so many bytes has no space; one that shares its blocks takes none."""
    if engine.name != "local" or not shares_blocks(source, target):
        store.require_space(count, what, target)


def _hold_schedule(engine: Engine, rest: _Rest, *, timeout: float, observer: Observer) -> None:
    """Stop what starts runs, at a moment when none is active.

    Nothing of it stays if this command is killed, but services that `pipectl up` starts: no DAG is paused.
    """
    deadline = time.monotonic() + timeout
    while "scheduler" not in down_services(engine.services()):
        health = AirflowHealth(airflow_address(engine))
        if active := health.running():
            observer.report(f"Waiting for the end of the run {active[0].run_id} of {active[0].dag_id}")
            until(lambda health=health: not health.running(), deadline - time.monotonic(), POLL_SECONDS)  # type: ignore[misc]
            active = health.running()
        if active:
            # Each of them must have ended, so each has its command.
            ends = [f"To end it: {command('cancel', run.dag_id, run.run_id)}" for run in active]
            first = command("explain", active[0].dag_id, active[0].run_id)
            raise WaitTimeoutError(
                f"Active, so that only a part of it would be saved: {named_runs(active)}.",
                hint="\n".join(("To wait for longer: --wait SECONDS", f"What it waits for: {first}", *ends)),
            )
        rest.begin(STARTING)
        if not health.running():
            return
        rest.end()  # one has begun in between


def named_runs(runs: tuple[DagRun, ...]) -> str:
    """Return the first runs with their DAGs, and how many more there are."""
    return listed([f"{run.run_id} of {run.dag_id}" for run in runs[:NAMED]], len(runs))


def _rows(engine: Engine) -> dict[str, int] | None:
    """Rows of each table of the business databases, large numbers as estimates; None if one does not run."""
    with suppress(DatabaseError):
        return {name: count for name, (count, _) in _counts(engine).items()}
    return None


def _counts(engine: Engine) -> dict[str, tuple[int, bool]]:
    asked = Databases(*engine.databases())
    counts: dict[str, tuple[int, bool]] = {}
    for definition in business_databases():
        counts |= asked.row_counts(definition.name)
    return counts


def _require_rows(engine: Engine, snapshot: Snapshot) -> None:
    """Raise DatabaseError if a table has fewer rows than were saved, or is missing; estimates tell nothing.

    Whoever writes without Airflow may have added rows between the count and the copy.
    """
    if snapshot.rows is None:
        return
    counts = _counts(engine)
    lost = []
    for name, saved in snapshot.rows.items():
        count, is_estimate = counts.get(name, (0, False))
        is_compared = name not in counts or not (is_estimate or saved > MOST_COUNTED)
        if is_compared and count < saved:
            lost.append(f"{name} has {count:,} of {counted(saved, 'row')}")
    if lost:
        raise DatabaseError(
            f"The snapshot {snapshot.name} does not give back all that was saved: {listed(lost, len(lost))}.",
            hint=f"Delete it: {command('snapshot', 'rm', snapshot.name)}",
        )


def _sequences(engine: Engine) -> dict[str, int] | None:
    """Return the last number of each sequence of airbyte-postgres; None if it does not answer."""
    with suppress(DatabaseError), Databases(*engine.databases()).ask_postgres() as ask:
        return {str(name): int(last) for name, last in ask(SEQUENCES) if last is not None}
    return None


def _prepare(engine: Engine, numbers: dict[str, int], slots: tuple[str, ...]) -> bool:
    """Let sequences go on, and drop slots; return whether a sequence goes on."""
    asked = Databases(*engine.databases())
    raised = False
    with asked.ask_postgres() as ask:
        for name, last in ask(SEQUENCES):
            if (before := numbers.get(str(name), 0)) > (last or 0):
                ask(GO_ON, name, before)
                raised = True
    drop_slots(asked, slots)
    return raised


def _wait_for_databases(engine: Engine) -> None:
    """Wait until both business databases answer; DatabaseError if they do not in time."""
    asked = Databases(*engine.databases())

    def answer() -> bool:
        try:
            for definition in business_databases():
                asked.ping(definition.name)
        except DatabaseError:
            return False
        return True

    if not until(answer, DATABASE_SECONDS, POLL_SECONDS):
        for definition in business_databases():
            asked.ping(definition.name)
