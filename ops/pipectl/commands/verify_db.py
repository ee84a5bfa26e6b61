"""verify-db."""

from __future__ import annotations

import os
import time
from pathlib import Path  # noqa: TC003  Typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options  # noqa: TC001  Typer reads annotations at run time
from pipectl.commands.output_file import OutputFile
from pipectl.commands.shared import Progress, confirm, content_text, group, line, table
from pipectl.errors import DatabaseError, UsageError, VerificationError, WaitTimeoutError
from pipectl.names import EXPECTATIONS, counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.databases import Databases
    from pipectl.errors import PipectlError
    from pipectl.invocation import Invocation
    from pipectl.pipeline.repairing import Repair, RepairPlan
    from pipectl.pipeline.sql_checking import SqlCheck, SqlVerification
    from pipectl.pipeline.verification import Verification

HINTS = {
    "empty": "If rows are right: pipectl verify-db --expect populated (or reconciled)\n"
    "To empty them: pipectl reset --data-only",
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

CHECK_STYLES = {"passed": "green", "failed": "bold red", "error": "bold red", "timed out": "bold red"}

Document: TypeAlias = "Verification | SqlVerification | RepairPlan | Repair"


def verify_db(
    ctx: typer.Context,
    *,
    expect: Annotated[
        str | None,
        typer.Option(
            show_default="empty, nothing with --sql",
            help="empty: no table or no row. populated: transactions, customers, terminals and labels. "
            "reconciled: every transaction has its customer, its terminal and exactly one label, "
            "whatever that says.",
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            min=0, help="Unless the data shall be empty: seconds to wait for the end of a run that is active."
        ),
    ] = 120.0,
    sql: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="Run checks of your own: queries that must return no rows, in a file or a folder's .sql "
            "files, each below `-- check: SENTENCE` and `-- database: NAME`.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, max=86_400, help="With --sql: seconds that a check may take.")
    ] = 60.0,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the answer as JUnit XML, for a CI server.")
    ] = None,
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

    Examples: `pipectl verify-db` · `pipectl verify-db --expect reconciled` ·
    `pipectl verify-db --sql scripts/checks --junit checks.xml` · `pipectl verify-db --repair --dry-run`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import verification  # noqa: PLC0415  with what it imports 60 ms
    from pipectl.pipeline.access import business_databases  # noqa: PLC0415

    expect = _expectation(expect, sql, junit, repair=repair, asks=not (dry_run or yes))
    target = OutputFile(junit, "--junit") if junit else None
    if target:
        target.check()
    engine = invocation.engine
    if expect != "empty":
        verification.wait_for_active_runs(
            engine, invocation.settings.dag_id, timeout=wait, observer=Progress(invocation.console)
        )
    databases = business_databases(engine)
    begun = time.monotonic()
    result = verification.verify(databases, expect) if expect else None
    if repair and result:
        _repair(invocation, databases, result, dry_run=dry_run, yes=yes)
        return
    checks = _run_checks(invocation, databases, sql, timeout) if sql else ()
    if target:
        target.write(_junit(result, checks, time.monotonic() - begun))
    _show(invocation, result, checks)
    if error := _failure(result, checks):
        raise error


def _expectation(
    expect: str | None, sql: Path | None, junit: Path | None, *, repair: bool, asks: bool
) -> str | None:
    """Return what the data shall be, None if only checks are asked for. Raises UsageError."""
    if not (asks or repair):
        raise UsageError("--dry-run and --yes go with --repair.", hint="To see the data: pipectl verify-db")
    if repair and (sql or junit):
        raise UsageError("--repair goes without --sql and --junit.", hint="Repair first, then verify.")
    if repair and expect not in {None, "reconciled"}:
        raise UsageError(
            f"--repair does not make the data {expect}.", hint="Leave out --expect, or say reconciled."
        )
    if expect and expect not in EXPECTATIONS:
        raise UsageError(
            f"--expect has no value {expect!r}.", hint=f"It takes one of {', '.join(EXPECTATIONS)}."
        )
    if sql and not os.path.exists(sql):  # noqa: PTH110  pathlib raises OSError for a name that is too long
        raise UsageError(
            f"There is no file or folder {sql}.", hint="Name one that has checks: --sql FILE|DIR"
        )
    return expect or (None if sql else "reconciled" if repair else "empty")


def _show(invocation: Invocation, result: Verification | None, checks: tuple[SqlCheck, ...]) -> None:
    if result and not checks:
        invocation.console.emit(result, lambda: _result_text(result))
        return
    from pipectl.pipeline.sql_checking import SqlVerification  # noqa: PLC0415  with what it imports 80 ms

    ok = all(check.state == "passed" for check in checks) and (result is None or result.ok)
    invocation.console.emit(SqlVerification(ok, checks, result), lambda: _checked_text(result, checks))


def _run_checks(
    invocation: Invocation, databases: Databases, sql: Path, timeout: float
) -> tuple[SqlCheck, ...]:
    from pipectl.pipeline.sql_checking import SqlChecker  # noqa: PLC0415  20 ms

    engine, console = invocation.engine, invocation.console
    checker = SqlChecker(invocation.settings.project, engine.databases(), Progress(console))
    for address in engine.databases():
        # The script cannot tell whose server answers.
        databases.ping(address.service)
    return checker.run(sql, timeout)


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
    if error := _failure(found):
        raise error


def _failure(result: Verification | None, checks: tuple[SqlCheck, ...] = ()) -> PipectlError | None:
    """Return the error of what is worst: a check without an answer, one that took too long, or the data."""
    found: dict[str, list[SqlCheck]] = {}
    for check in checks:
        found.setdefault(check.state, []).append(check)
    total = counted(len(checks), "check")
    if errors := found.get("error"):
        hint = "Mend the query, then run the command again."
        if any(check.no_table for check in errors):
            hint = f"If the pipeline has not run yet: pipectl trigger\nIf it has: {hint}"
        return DatabaseError(f"{len(errors)} of {total} could not run: {_named(errors)}.", hint=hint)
    if late := found.get("timed out"):
        return WaitTimeoutError(
            f"{len(late)} of {total} took too long: {_named(late)}.",
            hint="Make the query faster, or give it more time: --timeout SECONDS",
        )
    sentences, hints = [], []
    if result and not result.ok:
        sentences.append(f"Expected {result.expect}, but {'; '.join(result.reasons)}.")
        hints.append(HINTS.get(result.expect) or _reconciling(result))
    if failed := found.get("failed"):
        verb = "does" if len(failed) == 1 else "do"
        sentences.append(f"{len(failed)} of {total} {verb} not hold: {_named(failed)}.")
        hints.append("Mend the rows above, or the query.")
    return VerificationError(" ".join(sentences), hint="\n".join(hints)) if sentences else None


def _named(checks: list[SqlCheck]) -> str:
    return "; ".join(f"{check.check} ({_place(check)})" for check in checks)


def _place(check: SqlCheck) -> str:
    return f"{check.file}:{check.line}"


def _junit(result: Verification | None, checks: tuple[SqlCheck, ...], seconds: float) -> str:
    """Return a test case for what the data shall be, and one for each check."""
    from pipectl.commands.junit import Case, document  # noqa: PLC0415  for --junit alone

    cases = []
    if result:
        reasons = "; ".join(result.reasons)
        kind = "" if result.ok else "verification"
        cases.append(Case("pipectl.verify-db", result.expect, 0.0, kind, reasons, "\n".join(result.reasons)))
    for check in checks:
        kind = "" if check.state == "passed" else check.state.replace(" ", "-")
        message = check.error or f"{_found(check)} found"
        lines = [_place(check), *(_row(check, row) for row in check.rows)]
        broke = bool(check.error)
        text = "\n".join(filter(None, (*lines, check.error))) if kind else ""
        cases.append(Case(check.file, check.check, check.seconds, kind, message, text, broke))
    return document("pipectl verify-db", cases, seconds)


def _row(check: SqlCheck, row: tuple[str | None, ...]) -> str:
    pairs = zip(check.columns, row, strict=True)
    return ", ".join(f"{name}={'NULL' if value is None else value}" for name, value in pairs)


def _found(check: SqlCheck) -> str:
    return f"{'more than ' if check.more else ''}{counted(check.found, 'row')}"


def _checked_text(result: Verification | None, checks: tuple[SqlCheck, ...]) -> RenderableType:
    parts = [_result_text(result)] if result else []
    for check in checks:
        told = {"failed": f": {_found(check)}", "passed": ""}.get(check.state, f": {check.error}")
        parts.append(
            line(f"{check.state:<9} {check.check} [{_place(check)}]{told}", CHECK_STYLES.get(check.state, ""))
        )
        if check.rows and check.columns:
            rows = [tuple("NULL" if value is None else value for value in row) for row in check.rows]
            title = "" if check.found == len(rows) else f"The first {counted(len(rows), 'row')}"
            parts.append(table(*check.columns, rows=list(rows), title=title))
    seconds = sum(check.seconds for check in checks)
    passed = sum(check.state == "passed" for check in checks)
    text = f"{passed} of {counted(len(checks), 'check')} passed in {seconds:.1f} s."
    return group(*parts, line(text, "bold green" if passed == len(checks) else ""))


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
