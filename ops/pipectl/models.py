"""Frozen values that more than one layer makes or reads; a result of one module is defined beside it."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

# Modes of encryption in which the server's certificate counts; the first leaves its name out.
VERIFYING = ("verify-ca", "verify-full")


def _as_it_is(value: Any) -> Any:  # noqa: ANN401  whatever it is
    return value


class Witness(Protocol):
    """Who sees which program listens on a port of this machine: the engine."""

    def holds(self, service: str, port: int) -> bool:
        """Whether the project's own service listens there."""

    def stranger(self, port: int) -> str:
        """Name who listens there, for a message."""


@dataclass(frozen=True)
class DatabaseAddress:
    """Where a database listens and how to log in.

    `ssl_mode` is one of settings.SSL_MODES, and `root_certificate` the file that VERIFYING modes trust, empty
    for the authorities that this machine trusts. `mark` is what the project's own server says of itself,
    empty for one that stack/.env places elsewhere. `password_variable` of stack/.env holds the password,
    empty for that of the database's owner; with `takes_password` a start gives it to a stopped server.
    """

    service: str
    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    ssl_mode: str = "prefer"
    root_certificate: str = ""
    password_variable: str = ""
    takes_password: bool = False
    mark: str = ""
    witness: Witness | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class ReplicationLogin:
    """The account with which Airbyte reads both business databases and their changes; it cannot write."""

    password_variable: ClassVar = "AIRBYTE_REPLICATION_PASSWORD"  # noqa: S105  the name of a variable

    user: str
    password: str = field(repr=False)

    def at(self, address: DatabaseAddress) -> DatabaseAddress:
        """The same database, for this account."""
        return replace(
            address, user=self.user, password=self.password, password_variable=self.password_variable
        )


@dataclass(frozen=True)
class CaptureCheck:
    """One thing that change data capture needs: what was found, and the remedy where that is not enough."""

    database: str
    name: str
    ok: bool
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class AirflowAddress:
    """Airflow's base URL (no trailing slash) and the login of its administrator.

    `secret` signs the tokens of this project's Airflow, empty if it is not known; `takes_signed` tells
    whether the auth manager takes one that names the administrator. The other fields are claims of tokens.
    """

    url: str
    user: str
    password: str = field(repr=False)
    secret: str = field(default="", repr=False)
    takes_signed: bool = True
    audience: str = "apache-airflow"
    task_audience: str = "urn:airflow.apache.org:task"
    issuer: str = ""
    witness: Witness | None = field(default=None, repr=False, compare=False)
    mask: Callable[[Any], Any] = field(default=_as_it_is, repr=False, compare=False)


@dataclass(frozen=True)
class Service:
    """One service of the stack. `state` is running, starting, stopped or crashed.

    `health` is healthy, starting, unhealthy, unknown or, for one that runs once something needs it, waiting.

    `started` is the start of the process that runs now, None if none runs.
    """

    name: str
    state: str
    health: str = ""
    port: int | None = None
    pid: int | None = None
    container: str = ""
    restarts: int = 0
    started: datetime | None = None


@dataclass(frozen=True)
class Usage:
    """What a service has used of the processor, in seconds of a core since some start, and its memory now."""

    cpu_seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Volume:
    """Data that a reset deletes: a folder of the local engine or a volume of Docker."""

    name: str
    location: str
    created: datetime
    bytes: int


@dataclass(frozen=True)
class LogLine:
    """One line of a service's log."""

    service: str
    text: str


@dataclass(frozen=True)
class Table:
    """A table and its exact number of rows."""

    name: str
    rows: int


@dataclass(frozen=True)
class DatabaseContent:
    """The tables of one business database."""

    name: str
    tables: tuple[Table, ...]

    @property
    def rows(self) -> int:
        """Rows of all tables together."""
        return sum(table.rows for table in self.tables)


@dataclass(frozen=True)
class Causes:
    """Why transactions have no label.

    `next_run` have come since the last run, and `open_transaction` wait for the end of a transaction that is
    open beside them. `below_mark` are where labelling has been already, and `other_cluster` have numbers of
    another PostgreSQL: no run may find those. `set_aside` have an id below 0, which no label can have.
    """

    below_mark: int = 0
    next_run: int = 0
    open_transaction: int = 0
    other_cluster: int = 0
    set_aside: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(astuple(self))


@dataclass(frozen=True)
class Reconciliation:
    """Committed transactions without a label, labels without a transaction, and labels older than theirs.

    Rows that are `ahead` are dated ahead of PostgreSQL's clock. `dangling` transactions name a customer or
    terminal without a row.
    """

    unlabelled: int
    orphans: int
    older: int = 0
    causes: Causes = Causes()
    transactions_ahead: int = 0
    labels_ahead: int = 0
    dangling: int = 0


@dataclass(frozen=True)
class Counts:
    """Rows of a batch: transactions, the labels of these, and how many of the labels say fraud."""

    transactions: int
    labels: int
    frauds: int


@dataclass(frozen=True)
class DagRun:
    """A run of a DAG as Airflow reports it; times are timezone-aware, `seconds` from start to end.

    Airflow calls a run failed too that was `cancelled`: before it began, or when somebody `stopped` it. It
    starts no run before `run_after`.
    """

    computed: ClassVar = ("seconds", "cancelled")

    dag_id: str
    run_id: str
    run_type: str
    state: str
    logical_date: datetime | None = None
    queued_at: datetime | None = None
    start: datetime | None = None
    end: datetime | None = None
    run_after: datetime | None = field(default=None, metadata={"optional": True})
    stopped: datetime | None = field(default=None, metadata={"optional": True})

    @property
    def seconds(self) -> float | None:
        """Seconds from start to end, None while the run has not ended."""
        return (self.end - self.start).total_seconds() if self.start and self.end else None

    @property
    def cancelled(self) -> bool:
        """Whether somebody ended the run, or its backfill: what fails by itself has a start."""
        return self.state == "failed" and (self.start is None or self.stopped is not None)

    @property
    def outcome(self) -> str:
        """The state as people call it."""
        return "cancelled" if self.cancelled else self.state

    @property
    def finished(self) -> bool:
        """Whether Airflow will not change this run any more."""
        return self.state in {"success", "failed"}


@dataclass(frozen=True)
class Backfill:
    """Runs that Airflow has `created` for the logical dates from `since` up to and with `until`.

    No more than `max_active_runs` of them run at once, None if Airflow does not say, and none while `paused`.
    """

    id: int
    dag_id: str
    since: datetime
    until: datetime
    created: datetime
    max_active_runs: int | None = None
    paused: bool = False


def instance_name(task_id: str, map_index: int) -> str:
    """Return what users call a task instance: a mapped one has its index in brackets."""
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


@dataclass(frozen=True)
class TaskState:
    """The latest try of one task in a run; times are timezone-aware.

    Left out of JSON: `map_index`, -1 for a task that is not mapped, times that have not come, and
    `waits_for`, which a deferred task has (its trigger), and one that asks a human.
    """

    id: str
    state: str
    tries: int = field(metadata={"property": "try"})
    seconds: float | None
    map_index: int = field(default=-1, metadata={"optional": True})
    start: datetime | None = field(default=None, metadata={"optional": True})
    end: datetime | None = field(default=None, metadata={"optional": True})
    waits_for: str = field(default="", metadata={"optional": True})

    @property
    def name(self) -> str:
        """What users call the task instance."""
        return instance_name(self.id, self.map_index)


@dataclass(frozen=True)
class TaskTry:
    """One try of a task instance; times are timezone-aware, `seconds` from start to end."""

    computed: ClassVar = ("seconds",)

    number: int = field(metadata={"property": "try"})
    state: str
    start: datetime | None = None
    end: datetime | None = None

    @property
    def seconds(self) -> float | None:
        """Seconds from start to end, None while the try has not ended."""
        return (self.end - self.start).total_seconds() if self.start and self.end else None


@dataclass(frozen=True)
class TaskLogLine:
    """One line of the log of a task's try."""

    task: str
    number: int = field(metadata={"property": "try"})
    text: str
    map_index: int = field(default=-1, metadata={"optional": True})

    @property
    def name(self) -> str:
        """What users call the task instance."""
        return instance_name(self.task, self.map_index)


@dataclass(frozen=True)
class DagParam:
    """A param of a DAG: its default, the JSON Schema of its values, and what its author says of it."""

    default: Any
    schema: dict[str, Any]
    description: str = ""


@dataclass(frozen=True)
class ParsedDag:
    """A DAG that Airflow has parsed, from `file` in the folder of DAGs.

    `next_run` is a time in ISO 8601, empty if no run is planned; `parsed` is when the file was read last.
    `schedule` is Airflow's short name of it, empty if only triggers start runs; it is `periodic` if it has
    slots. A DAG is `stale` if its file no longer has it. Only the DAG's details tell `catchup`, `params`,
    `start` and `end`, before and after which no slot is, `timeout`, the longest that a run may take, and
    `asset_rule`: `any` or `all`, if the update of any of some assets, or of all, starts a run. Of each run
    `max_active_tasks` are at work at once.
    """

    paused: bool
    has_import_errors: bool
    file: str
    next_run: str
    parsed: datetime | None = None
    dag_id: str = ""
    schedule: str = ""
    periodic: bool = False
    stale: bool = False
    max_active_runs: int | None = None
    max_active_tasks: int | None = None
    timeout: timedelta | None = None
    start: datetime | None = None
    end: datetime | None = None
    catchup: bool = False
    asset_rule: str = ""
    params: dict[str, DagParam] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportFailure:
    """A DAG file that Airflow could not import."""

    filename: str
    stack_trace: str


@dataclass(frozen=True)
class LoadProgress:
    """How far a phase is: `rate` in rows a second, `left` in seconds, None if nothing is known yet."""

    phase: str
    done: int
    total: int
    rate: float | None = None
    left: float | None = None
