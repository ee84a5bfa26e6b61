"""verify-db."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options  # noqa: TC001  Typer reads annotations at run time
from pipectl.commands.shared import Progress, confirm, content_text, group, line
from pipectl.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.databases import Databases
    from pipectl.invocation import Invocation
    from pipectl.pipeline.repairing import Repair, RepairPlan
    from pipectl.pipeline.verification import Verification

HINTS = {
    "empty": "To empty them: pipectl reset --data-only\nIf rows are right: --expect populated or reconciled",
    "populated": "Run the pipeline once: pipectl trigger",
}
REPAIR = "Mend it: pipectl verify-db --repair"
MISSING_ROWS = (
    "That writes the customers and terminals of the seed's world. "
    "Insert others yourself, with the numbers that your own transactions name."
)
EDITED = "Other labels are kept as they are, also if their content was edited."
OPEN_TRANSACTIONS = (
    "pipectl psql -c 'SELECT pid, xact_start, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL'"
)

Document: TypeAlias = "Verification | RepairPlan | Repair"


def verify_db(
    ctx: typer.Context,
    *,
    expect: Annotated[
        str | None,
        typer.Option(
            show_default="empty",
            help="empty: no table or no row. populated: transactions, customers, terminals and labels. "
            "reconciled: every transaction has its customer, its terminal and exactly one label, "
            "whatever that says.",
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0, help="With populated and reconciled: seconds to wait for the end of a run that is active."
        ),
    ] = 120.0,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Write labels that are missing, remove those without a transaction, "
            "replace those of an earlier one; also write missing customers and terminals; "
            "asks before it deletes. Labels whose content was edited are kept.",
        ),
    ] = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
) -> None:
    """Show the tables and exact row counts of both databases, and check them; exit 6 if they differ.

    Examples: `pipectl verify-db` · `pipectl verify-db --expect reconciled` · `pipectl verify-db --json` ·
    `pipectl verify-db --repair --dry-run`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import verification  # noqa: PLC0415  with what it imports 60 ms
    from pipectl.pipeline.access import business_databases  # noqa: PLC0415

    if (dry_run or yes) and not repair:
        raise UsageError("--dry-run and --yes go with --repair.", hint="To see the data: pipectl verify-db")
    if repair and expect not in {None, "reconciled"}:
        raise UsageError(
            f"--repair does not make the data {expect}.", hint="Leave out --expect, or say reconciled."
        )
    expect = expect or ("reconciled" if repair else "empty")
    if expect not in verification.EXPECTATIONS:
        raise UsageError(
            f"--expect has no value {expect!r}.",
            hint=f"It takes one of {', '.join(verification.EXPECTATIONS)}.",
        )
    engine, console = invocation.engine, invocation.console
    if expect != "empty":
        verification.wait_for_active_runs(
            engine, invocation.settings.dag_id, timeout=wait, observer=Progress(console)
        )
    databases = business_databases(engine)
    result = verification.verify(databases, expect)
    if repair:
        _repair(invocation, databases, result, dry_run=dry_run, yes=yes)
        return
    console.emit(result, lambda: _result_text(result))
    _require(result)


def _repair(
    invocation: Invocation, databases: Databases, found: Verification, *, dry_run: bool, yes: bool
) -> None:
    from pipectl.pipeline import repairing, verification  # noqa: PLC0415  with what it imports 60 ms
    from pipectl.pipeline.loading import seed_of  # noqa: PLC0415

    console, engine = invocation.console, invocation.engine
    plan = repairing.plan(found)
    if dry_run:
        console.emit(plan, lambda: line(_plan_text(plan)))
        return
    done = repairing.Repaired()
    if not plan.is_empty:
        if plan.deletes:
            confirm(invocation, f"{_plan_text(plan)} Go on?", "verify-db --repair", yes=yes)
        repairer = repairing.Repairer(
            invocation.settings.project,
            engine.databases(),
            seed=seed_of(invocation.settings.variables),
            observer=Progress(console),
        )
        invocation.if_interrupted = "What was repaired stays so: the same command goes on."
        done = repairer.repair()
        found = verification.verify(databases, "reconciled")
    result = repairing.Repair(done.written, done.removed, done.replaced, found, done.dimensions)
    text = (
        f"Labels written: {done.written:,}, removed: {done.removed:,}, replaced: {done.replaced:,}. "
        f"Customers and terminals written: {done.dimensions:,}. {EDITED}"
    )
    console.emit(result, lambda: group(_result_text(found), line(text)))
    _require(found)


def _require(result: Verification) -> None:
    if not result.ok:
        hint = HINTS.get(result.expect) or _reconciling(result)
        raise VerificationError(f"Expected {result.expect}, but {'; '.join(result.reasons)}.", hint=hint)


def _reconciling(result: Verification) -> str:
    """Return what to type next, for each cause that was found."""
    causes = result.causes
    steps = (
        (causes.next_run, "Label what is left: pipectl trigger"),
        (
            causes.open_transaction,
            f"Which transactions are open: {OPEN_TRANSACTIONS}",
        ),
        (
            causes.other_cluster or causes.below_mark or result.orphans or result.older or result.dangling,
            REPAIR,
        ),
        (result.dangling, MISSING_ROWS),
        (causes.set_aside, "Delete rows with an id below 0, or give them ids that PostgreSQL makes."),
    )
    return "\n".join(step for is_needed, step in steps if is_needed)


def _plan_text(plan: RepairPlan) -> str:
    if plan.is_empty:
        return f"Nothing is to be repaired. {EDITED}"
    return (
        f"Labels to be written: {plan.would_write:,}, removed: {plan.would_remove:,}, "
        f"replaced: {plan.would_replace:,}. Transactions without a customer or terminal: {plan.dangling:,}. "
        f"{EDITED}"
    )


def _result_text(result: Verification) -> RenderableType:
    parts = [content_text(result.databases, "Databases")]
    if result.expect == "reconciled":
        parts.append(
            line(f"Transactions without a label: {result.unlabelled:,}. Orphaned labels: {result.orphans:,}.")
        )
        if result.transactions_ahead or result.labels_ahead:
            text = (
                f"Transactions dated ahead of PostgreSQL's clock: {result.transactions_ahead:,}. "
                f"Labels: {result.labels_ahead:,}."
            )
            parts.append(line(text, "yellow"))
    if result.ok:
        parts.append(line(f"As expected: {result.expect}.", "bold green"))
    return group(*parts)
