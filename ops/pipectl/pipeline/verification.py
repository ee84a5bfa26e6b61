"""Whether the data is as it is expected to be."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pipectl import published
from pipectl.airflow_health import AirflowHealth
from pipectl.errors import AirflowError
from pipectl.models import Reconciliation, Verification
from pipectl.pipeline.access import airflow_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipectl.databases import Databases
    from pipectl.engines.base import Engine

EXPECTATIONS = ("empty", "populated", "reconciled")
POLL_SECONDS = 0.2


def wait_for_active_runs(
    engine: Engine, dag_id: str, *, timeout: float, report: Callable[[str], None]
) -> tuple[str, ...]:
    """Wait, at most `timeout` seconds, until no run of the DAG is active; return those that still are.

    In the middle of a run transactions have no labels yet, which says nothing about the data. Without
    Airflow there is no run to wait for.
    """
    deadline = time.monotonic() + timeout
    said = False
    while True:
        try:
            active = AirflowHealth(airflow_address(engine)).active_runs(dag_id)
        except AirflowError:
            return ()
        if not active or time.monotonic() > deadline:
            return active
        if not said:
            report(f"Waiting for the end of the run {active[0]}, which is in the middle of its work")
            said = True
        time.sleep(POLL_SECONDS)


def verify(databases: Databases, expect: str) -> Verification:
    """Compare the data with `expect`, one of EXPECTATIONS; DatabaseError where a database does not answer.

    empty: no table, or tables without a row. populated: transactions and labels. reconciled: every
    committed transaction has exactly one label (the label's primary key is the transaction's id, so never
    two), and no label is without its transaction.
    """
    content = databases.content()
    reconciliation = databases.reconcile()
    reasons = {"empty": _not_empty, "populated": _not_populated, "reconciled": _not_reconciled}[expect](
        {table.name: table.rows for database in content for table in database.tables}, reconciliation
    )
    return Verification(
        expect=expect,
        ok=not reasons,
        databases=content,
        unlabelled=reconciliation.unlabelled,
        orphans=reconciliation.orphans,
        reasons=reasons,
    )


def _not_empty(rows: dict[str, int], _: Reconciliation) -> tuple[str, ...]:
    return tuple(f"{name} has {count} rows" for name, count in rows.items() if count)


def _not_populated(rows: dict[str, int], _: Reconciliation) -> tuple[str, ...]:
    return tuple(
        f"{name} has no row" if name in rows else f"{name} does not exist"
        for name in (published.TRANSACTIONS, published.LABELS)
        if not rows.get(name)
    )


def _not_reconciled(_: dict[str, int], found: Reconciliation) -> tuple[str, ...]:
    reasons = []
    if found.unlabelled:
        reasons.append(f"{found.unlabelled} transactions have no label")
    if found.orphans:
        reasons.append(f"{found.orphans} labels have no transaction")
    return tuple(reasons)
