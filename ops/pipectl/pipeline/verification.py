"""Whether the data is as it is expected to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipectl import published
from pipectl.airflow_health import AirflowHealth
from pipectl.errors import AirflowError, ForeignAirflowError
from pipectl.models import Causes
from pipectl.names import counted
from pipectl.pipeline.access import airflow_address
from pipectl.wait import until

if TYPE_CHECKING:
    from pipectl.databases import Databases
    from pipectl.engines.base import Engine
    from pipectl.models import DatabaseContent, Reconciliation
    from pipectl.observer import Observer

POLL_SECONDS = 0.2
NO_CAUSES = Causes()


@dataclass(frozen=True)
class Verification:
    """The answer of `verify-db`. `reasons` says, sentence by sentence, why `ok` is false.

    `causes` says why transactions have no label. Rows that are dated ahead of the clock are no error.
    `dangling` transactions name a customer or terminal without a row.
    """

    expect: str
    ok: bool
    databases: tuple[DatabaseContent, ...]
    unlabelled: int
    orphans: int
    older: int = 0
    causes: Causes = NO_CAUSES
    transactions_ahead: int = 0
    labels_ahead: int = 0
    dangling: int = 0
    reasons: tuple[str, ...] = ()


def wait_for_active_runs(
    engine: Engine, dag_id: str, *, timeout: float, observer: Observer
) -> tuple[str, ...]:
    """Wait, at most `timeout` seconds, until no run of the DAG is active; return those that still are.

    In the middle of a run transactions have no labels yet, which says nothing about the data. Without
    Airflow there is no run to wait for. Raises ForeignAirflowError if another program answers in its place.
    """

    def active_runs() -> tuple[str, ...]:
        try:
            return AirflowHealth(airflow_address(engine)).active_runs(dag_id)
        except ForeignAirflowError:
            raise
        except AirflowError:
            return ()

    if not (active := active_runs()):
        return ()
    observer.report(f"Waiting for the end of the run {active[0]}, which is in the middle of its work")
    return () if until(lambda: not active_runs(), timeout, POLL_SECONDS) else active_runs()


def verify(databases: Databases, expect: str) -> Verification:
    """Compare the data with `expect`, one of names.EXPECTATIONS; DatabaseError if a database does not answer.

    empty: no table, or tables without a row. populated: transactions, customers, terminals and labels.
    reconciled: every committed transaction names a customer and a terminal that have a row, and has exactly
    one label (the label's primary key is the transaction's id, so never two); and no label is without its
    transaction, or older than it: such a label is that of a transaction which had the same id before.
    """
    content, reconciliation = databases.compare()
    reasons = {"empty": _not_empty, "populated": _not_populated, "reconciled": _not_reconciled}[expect](
        {table.name: table.rows for database in content for table in database.tables}, reconciliation
    )
    return Verification(
        expect=expect,
        ok=not reasons,
        databases=content,
        unlabelled=reconciliation.unlabelled,
        orphans=reconciliation.orphans,
        older=reconciliation.older,
        causes=reconciliation.causes,
        transactions_ahead=reconciliation.transactions_ahead,
        labels_ahead=reconciliation.labels_ahead,
        dangling=reconciliation.dangling,
        reasons=reasons,
    )


def _not_empty(rows: dict[str, int], _: Reconciliation) -> tuple[str, ...]:
    return tuple(f"{name} has {counted(count, 'row')}" for name, count in rows.items() if count)


def _not_populated(rows: dict[str, int], _: Reconciliation) -> tuple[str, ...]:
    return tuple(
        f"{name} has no row" if name in rows else f"{name} does not exist"
        for name in (*published.CAPTURED, published.LABELS)
        if not rows.get(name)
    )


def _not_reconciled(_: dict[str, int], reconciliation: Reconciliation) -> tuple[str, ...]:
    causes, foreign = reconciliation.causes, "that another PostgreSQL wrote"
    return tuple(
        f"{counted(count, one, many)} {rest}"
        for count, one, many, rest in (
            (causes.next_run, "transaction has", "transactions have", "no label yet"),
            (
                causes.open_transaction,
                "transaction waits",
                "transactions wait",
                "for the end of one that is open in PostgreSQL",
            ),
            (causes.other_cluster, f"transaction {foreign} has", f"transactions {foreign} have", "no label"),
            (
                causes.below_mark,
                "transaction lacks",
                "transactions lack",
                "a label where labelling has been already",
            ),
            (
                causes.set_aside,
                "transaction has",
                "transactions have",
                "an id below 0, which no label can have",
            ),
            (reconciliation.orphans, "label has", "labels have", "no transaction"),
            (reconciliation.older, "label is older than its", "labels are older than their", "transaction"),
            (
                reconciliation.dangling,
                "transaction names",
                "transactions name",
                "a customer or terminal without a row",
            ),
        )
        if count
    )
