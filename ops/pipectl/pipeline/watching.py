"""The state of everything, looked at again and again, for `status --watch`.

Three threads ask side by side: the engine, Airflow, the databases. One that gets no answer delays neither the
others nor the picture; what it said last stays, and how long ago that was is an alert.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, TypeVar

from pipectl import published
from pipectl.airflow_health import AirflowHealth
from pipectl.databases import Databases
from pipectl.errors import AirflowSilentError, DatabaseSilentError, PipectlError
from pipectl.names import command, counted
from pipectl.pipeline import consumers
from pipectl.pipeline.access import down_services
from pipectl.pipeline.overview import LOCK_SECONDS
from pipectl.pipeline.readiness import component_starts, processor_start, with_health
from pipectl.services import UNHEALTHY
from pipectl.wait import Aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipectl.engines.base import Engine
    from pipectl.models import AirflowAddress, DagRun, ImportFailure, Service, Usage
    from pipectl.pipeline.consumers import Slot
    from pipectl.settings import AlertBounds, Settings

# Of the servers' time, how little counting rows may take: after a count that took 1 s none begins for 20 s.
COUNTING_SHARE = 20
# The most rows that a look reads of those written in a minute, and of those that wait for a label.
MOST_WRITTEN = 100_000
MOST_WAITING = 10_000
RUNS = 10
# Before all transactions: the number of the one that wrote them, and an id.
NO_MARK = ("0", 0)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class WatchedService:
    """A service. `cpu_percent` is of one core since the look before, null at the first look.

    `memory_bytes` is null for a service that does not run.
    """

    name: str
    state: str
    health: str
    port: int | None
    cpu_percent: float | None
    memory_bytes: int | None


@dataclass(frozen=True)
class WatchedTable:
    """A table that the pipeline writes: its rows, exact unless `estimated`, and those of the last minute.

    Of a minute at most 100,000 rows are counted: this number means so many or more.
    """

    name: str
    rows: int
    estimated: bool
    written_last_minute: int


@dataclass(frozen=True)
class WatchedLabels:
    """How far labels are behind: transactions that wait, and for how many seconds the first of them has.

    At most 10,000 are counted: this number means so many or more. `fraud_rate` is that of the latest labels,
    null while there are fewer than an alert is about.
    """

    waiting: int
    lag_seconds: float
    fraud_rate: float | None


@dataclass(frozen=True)
class WatchedDag:
    """The pipeline's DAG; `next_run` is empty if no run is planned."""

    dag_id: str
    paused: bool
    next_run: str


@dataclass(frozen=True)
class Watched:
    """One look at everything. What cannot be reached is left empty or null, and `alerts` say why.

    `memory_kind` says what `memory_bytes` counts. `runs` are the latest of all DAGs, newest first.
    """

    time: datetime
    project: Path
    engine: str
    services: tuple[WatchedService, ...]
    memory_kind: str
    dag: WatchedDag | None
    runs: tuple[DagRun, ...]
    tables: tuple[WatchedTable, ...]
    labels: WatchedLabels | None
    slots: tuple[Slot, ...]
    alerts: tuple[str, ...]


@dataclass(frozen=True)
class _Airflow:
    """What Airflow says; `error` if it says nothing."""

    components: dict[str, str] | None = None
    dag: WatchedDag | None = None
    runs: tuple[DagRun, ...] = ()
    failures: tuple[ImportFailure, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class _Data:
    """What the databases say; `errors` has a sentence for each that says nothing."""

    answered: frozenset[str] = frozenset()
    tables: tuple[WatchedTable, ...] = ()
    labels: WatchedLabels | None = None
    slots: tuple[Slot, ...] = ()
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Labels:
    table: WatchedTable | None = None
    mark: tuple[str, int] = NO_MARK
    fraud_rate: float | None = None


@dataclass(frozen=True)
class _Transactions:
    slots: tuple[Slot, ...]
    table: WatchedTable | None = None
    waiting: int = 0
    lag_seconds: float = 0.0


@dataclass(frozen=True)
class _Services:
    services: tuple[Service, ...] = ()
    usage: dict[str, Usage] = field(default_factory=dict)
    asked: float = 0.0
    error: str = ""


# When an answer that is missing is an alert.
MISSED_LOOKS, LATE_SECONDS = 3, 10.0


class _Latest(Generic[Answer]):
    """The latest answer to a question that is asked again and again, once at a time."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._asking: Aside[Answer] | None = None
        self._since = 0.0
        # Looks one after the other that went on without the answer.
        self.missed = 0

    def ask(self, question: Callable[[], Answer]) -> None:
        """Ask, unless an answer is still awaited."""
        if self._asking is None:
            self._asking, self._since = Aside(question), time.monotonic()

    def settle(self, deadline: float) -> Answer:
        """Return the answer, at `deadline` the one before."""
        if self._asking and self._asking.is_known(deadline - time.monotonic()):
            asked, self._asking = self._asking, None
            self.answer = asked.result()
        self.missed = self.missed + 1 if self._asking else 0
        return self.answer

    @property
    def late_seconds(self) -> float:
        """For how long an answer has been awaited, 0 if none is."""
        return time.monotonic() - self._since if self._asking else 0.0


class Watch:
    """Looks at the stack that `current` returns at each look: it may have been configured anew meanwhile."""

    def __init__(self, current: Callable[[], tuple[Settings, Engine]]) -> None:
        self._current = current
        self._stack: tuple[Settings, Engine, AlertBounds] | None = None
        self._services = _Latest(_Services())
        self._airflow = _Latest(_Airflow())
        self._data = _Latest(_Data())
        self._health: AirflowHealth | None = None
        self._counters = (_Counter(), _Counter())
        self._before: dict[str, tuple[object, float, float]] = {}

    def look(self, patience: float) -> Watched:
        """Return the state now; no question is waited for longer than `patience`, in seconds.

        Raises UsageError if the settings cannot be read at the first look.
        """
        deadline = time.monotonic() + patience
        broken = ""
        try:
            settings, engine = self._current()
            self._stack = settings, engine, settings.alert_bounds
        except PipectlError as error:
            # Somebody edits the file.
            if self._stack is None:
                raise
            broken = error.message
        settings, engine, bounds = self._stack
        self._services.ask(lambda: _ask_engine(engine))
        seen = self._services.settle(deadline)
        down = down_services(seen.services)
        self._airflow.ask(
            lambda: self._ask_airflow(settings, engine, seen.services, is_down="webserver" in down)
        )
        self._data.ask(lambda: self._ask_databases(engine, down) if seen.services else _Data())
        airflow, data = self._airflow.settle(deadline), self._data.settle(deadline)
        services = with_health(seen.services, airflow.components, data.answered)
        return Watched(
            time=datetime.now(UTC),
            project=settings.project,
            engine=engine.name,
            services=tuple(self._watched(service, seen) for service in services),
            memory_kind=engine.memory_kind,
            dag=airflow.dag,
            runs=airflow.runs,
            tables=data.tables,
            labels=data.labels,
            slots=data.slots,
            alerts=(
                *filter(None, (broken, seen.error)),
                *_service_alerts(services),
                *self._silences(),
                *_airflow_alerts(airflow),
                *data.errors.values(),
                *_data_alerts(data, bounds),
            ),
        )

    def _watched(self, service: Service, seen: _Services) -> WatchedService:
        used, identity = seen.usage.get(service.name), service.pid or service.container
        share = None
        before = self._before.get(service.name)
        if used and before and before[0] == identity and seen.asked > before[1]:
            share = round(max(0.0, used.cpu_seconds - before[2]) / (seen.asked - before[1]) * 100, 1)
        if used and (before is None or seen.asked > before[1]):
            self._before[service.name] = identity, seen.asked, used.cpu_seconds
        return WatchedService(
            service.name,
            service.state,
            service.health,
            service.port,
            share,
            used.memory_bytes if used else None,
        )

    def _ask_airflow(
        self, settings: Settings, engine: Engine, services: tuple[Service, ...], *, is_down: bool
    ) -> _Airflow:
        # What answers there while ours is down is another project's.
        if is_down or not services:
            return _Airflow()
        try:
            health = self._kept_connection(engine.airflow())
            dag = health.dag(settings.dag_id)
            return _Airflow(
                health.components(component_starts(services)),
                WatchedDag(settings.dag_id, dag.paused, dag.next_run) if dag else None,
                health.latest_runs(RUNS),
                health.import_failures(processor_start(services)),
            )
        except AirflowSilentError:
            return _Airflow()  # its health says so
        except PipectlError as error:
            return _Airflow(error=error.message)

    def _kept_connection(self, address: AirflowAddress) -> AirflowHealth:
        if self._health is None or self._health.address != address:
            self._health = AirflowHealth(address)
        return self._health

    def _ask_databases(self, engine: Engine, down: set[str]) -> _Data:
        try:
            databases = Databases(*engine.databases(), lock_seconds=LOCK_SECONDS)
        except PipectlError as error:
            return _Data(errors={"": error.message})
        errors: dict[str, str] = {}
        labels = self._ask(self._look_at_labels, databases, databases.mysql.service, down, errors)
        mark = labels.mark if labels else NO_MARK
        found = self._ask(
            lambda each: self._look_at_transactions(each, mark),
            databases,
            databases.postgres.service,
            down,
            errors,
        )
        names = (databases.mysql.service, databases.postgres.service)
        return _Data(
            answered=frozenset(set(names) - down - errors.keys()),
            tables=tuple(each.table for each in (found, labels) if each and each.table),
            labels=WatchedLabels(found.waiting, found.lag_seconds, labels.fraud_rate)
            if found and labels and found.table
            else None,
            slots=found.slots if found else (),
            errors=errors,
        )

    def _ask(
        self,
        question: Callable[[Databases], Answer],
        databases: Databases,
        service: str,
        down: set[str],
        errors: dict[str, str],
    ) -> Answer | None:
        """Return the answer of one server, None if it does not run; its error is added to `errors`."""
        try:
            return None if service in down else question(databases)
        except DatabaseSilentError:
            errors[service] = f"{service} does not answer."
        except PipectlError as error:  # of the engine, if it is asked whose the server is
            errors[service] = error.message
        return None

    def _look_at_labels(self, databases: Databases) -> _Labels:
        with databases.look(databases.mysql.service) as (ask, count):
            rows = self._counters[1].rows(count)
            if not {published.LABELS, published.PROGRESS} <= rows.keys():
                return _Labels()
            [(written,)] = ask(published.WRITTEN_LABELS, MOST_WRITTEN)
            [(number, frauds)] = ask(published.LATEST_FRAUDS)
            marks = ask(published.LABELLED)
        return _Labels(
            WatchedTable(published.LABELS, *rows[published.LABELS], int(written)),
            (str(marks[0][0]), int(marks[0][1])) if marks else NO_MARK,
            float(frauds) / number if number == published.LATEST_COUNT else None,
        )

    def _look_at_transactions(self, databases: Databases, mark: tuple[str, int]) -> _Transactions:
        with databases.look(databases.postgres.service) as (ask, count):
            rows, slots = self._counters[0].rows(count), consumers.slots_of(ask)
            if published.TRANSACTIONS not in rows:
                return _Transactions(slots)
            [(written,)] = ask(published.WRITTEN_TRANSACTIONS, MOST_WRITTEN)
            [(waiting, lag)] = ask(published.WAITING_TRANSACTIONS, *mark, MOST_WAITING)
        table = WatchedTable(published.TRANSACTIONS, *rows[published.TRANSACTIONS], int(written))
        return _Transactions(slots, table, int(waiting), round(max(lag, 0.0), 1))

    def _silences(self) -> Iterator[str]:
        parts = (("The engine", self._services), ("Airflow", self._airflow), ("The databases", self._data))
        for name, part in parts:
            late = part.late_seconds
            # On a busy machine an answer now and then takes longer than a look.
            if late and (part.missed >= MISSED_LOOKS or late >= LATE_SECONDS):
                yield f"{name}: no answer for {late:.0f} s, what is shown is older."


class _Counter:
    """Counts rows as `status` does, as often as that costs the server little."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, bool]] = {}
        self._due = 0.0

    def rows(self, count: Callable[[], dict[str, tuple[int, bool]]]) -> dict[str, tuple[int, bool]]:
        begun = time.monotonic()
        if begun >= self._due:
            self._rows = count()
            self._due = time.monotonic() + COUNTING_SHARE * (time.monotonic() - begun)
        return self._rows


def _ask_engine(engine: Engine) -> _Services:
    try:
        services, used = engine.services(), engine.usage()
    except PipectlError as error:
        return _Services(error=error.message)
    return _Services(services, used, time.monotonic())


def _service_alerts(services: tuple[Service, ...]) -> Iterator[str]:
    if services and all(service.state == "stopped" for service in services):
        yield "Nothing runs. Start it: pipectl up"
        return
    for service in services:
        if service.state == "crashed":
            yield f"{service.name} has crashed. Its log: pipectl logs {service.name}"
        elif service.state == "stopped":
            yield f"{service.name} is stopped. Start it: pipectl up"
        elif service.health == UNHEALTHY:
            yield f"{service.name} runs, and is unhealthy. Why: pipectl doctor --only airflow,heartbeats"


def _airflow_alerts(airflow: _Airflow) -> Iterator[str]:
    if airflow.error:
        yield airflow.error
    for failure in airflow.failures:
        yield f"Airflow cannot import {failure.filename}. What to mend: pipectl check"
    latest: dict[str, DagRun] = {}
    for run in airflow.runs:
        if run.finished:
            latest.setdefault(run.dag_id, run)
    for run in latest.values():
        if run.outcome == "failed":
            tasks = command("runs", run.dag_id, run.run_id)
            yield f"{run.dag_id}: the run {run.run_id} failed. Its tasks: {tasks}"


def _data_alerts(data: _Data, bounds: AlertBounds) -> Iterator[str]:
    for slot in data.slots:
        if slot.danger:
            yield f"The replication slot {slot.danger}. {slot.rescue}"
    labels = data.labels
    if labels and labels.waiting and labels.lag_seconds > bounds.lag_seconds:
        waiting = counted(labels.waiting, "transaction waits", "transactions wait")
        lag, bound = labels.lag_seconds, bounds.lag_seconds
        yield f"{waiting} for a label for {lag:,.0f} s, longer than {bound:,.0f} s."
    rate = labels.fraud_rate if labels else None
    if rate is not None and not bounds.lowest_rate <= rate <= bounds.highest_rate:
        share = f"{rate:.2%} of the latest {counted(published.LATEST_COUNT, 'label')} say fraud"
        yield f"{share}, which is not between {bounds.lowest_rate:.2%} and {bounds.highest_rate:.2%}."
