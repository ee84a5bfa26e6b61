"""verify-db."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl.commands.shared import Progress, content_text, group, line
from pipectl.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.verification import Verification

HINTS = {
    "empty": "To empty them: pipectl reset --data-only. If rows are right: --expect populated or reconciled",
    "populated": "Run the pipeline once: pipectl trigger",
    "reconciled": "Label what is left: pipectl trigger. Orphans, and labels older than their "
    "transaction: a database was restored or emptied on its own. Empty both: pipectl reset --data-only",
}

Document: TypeAlias = "Verification"


def verify_db(
    ctx: typer.Context,
    *,
    expect: Annotated[
        str,
        typer.Option(
            help="empty: no table or no row. populated: transactions and labels. "
            "reconciled: every transaction has exactly one label."
        ),
    ] = "empty",
    wait: Annotated[
        float,
        typer.Option(
            min=0, help="With populated and reconciled: seconds to wait for the end of a run that is active."
        ),
    ] = 120.0,
) -> None:
    """Show the tables and exact row counts of both databases, and check them; exit 6 if they differ.

    Examples: `pipectl verify-db` · `pipectl verify-db --expect reconciled` · `pipectl verify-db --json`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import verification  # noqa: PLC0415  with what it imports 60 ms
    from pipectl.pipeline.access import business_databases  # noqa: PLC0415

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
    result = verification.verify(business_databases(engine), expect)
    console.emit(result, lambda: _result_text(result))
    if not result.ok:
        raise VerificationError(f"Expected {expect}, but {'; '.join(result.reasons)}.", hint=HINTS[expect])


def _result_text(result: Verification) -> RenderableType:
    parts = [content_text(result.databases, "Databases")]
    if result.expect == "reconciled":
        parts.append(
            line(f"Transactions without a label: {result.unlabelled}. Orphaned labels: {result.orphans}.")
        )
    if result.ok:
        parts.append(line(f"As expected: {result.expect}.", "bold green"))
    return group(*parts)
