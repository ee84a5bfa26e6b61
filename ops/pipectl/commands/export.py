"""export."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003  Typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl.commands.shared import Progress, group, line
from pipectl.commands.trigger import point_in_time
from pipectl.errors import UsageError
from pipectl.names import EXPORT_FORMATS, counted, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.exporting import ExportResult

Document: TypeAlias = "ExportResult"


def export(
    ctx: typer.Context,
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A folder that is empty or does not exist.", show_default=False),
    ],
    *,
    file_format: Annotated[str, typer.Option("--format", help="parquet or csv.")] = "parquet",
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="Transactions from then on, in ISO 8601.", show_default="all"
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="TIME", help="Transactions before then.", show_default="all"),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="TIME", help="Labels as they were known then.", show_default="now"),
    ] = None,
) -> None:
    """Write transactions, labels, customers and terminals as Parquet or CSV files, to train on.

    Transactions and labels have a folder for each day.

    Times are UTC if they name no time zone. Needs pyarrow, which the extra `export` installs.

    Examples: `pipectl export data` · `pipectl export data --since 2026-01-01 --until 2026-02-01` ·
    `pipectl export data --format csv --as-of 2026-01-15T12:00`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import exporting  # noqa: PLC0415  with numpy 120 ms
    from pipectl.pipeline.access import business_databases  # noqa: PLC0415

    if file_format not in EXPORT_FORMATS:
        raise UsageError(
            f"--format has no value {file_format!r}.", hint=f"It takes one of {', '.join(EXPORT_FORMATS)}."
        )
    times = [
        None if text is None else point_in_time(option, text)
        for option, text in (("--since", since), ("--until", until), ("--as-of", as_of))
    ]
    if times[0] and times[1] and times[0] >= times[1]:
        raise UsageError("--since is not before --until.", hint="Exchange the two.")
    if times[2] and times[2] > datetime.now(UTC):
        raise UsageError(
            f"--as-of {as_of} is yet to come.", hint="For labels as they are known now, leave it out."
        )
    request = exporting.ExportRequest(folder, file_format, *times)
    databases = business_databases(invocation.engine)
    invocation.if_interrupted = "Nothing was exported: run the same command again."
    result = exporting.export(databases, request, Progress(invocation.console))
    invocation.console.emit(result, lambda: _result_text(result))


def _result_text(result: ExportResult) -> RenderableType:
    labels = counted(result.labels, "label")
    lines = [
        f"Exported to {result.folder} in {result.seconds:.1f} s ({size(result.bytes)}).",
        f"{counted(result.transactions, 'transaction')} of {counted(result.days, 'day')}.",
        f"{counted(result.customers, 'customer')} and {counted(result.terminals, 'terminal')}.",
        f"{labels} as known at {result.as_of:%Y-%m-%d %H:%M} UTC, {result.frauds:,} fraud.",
    ]
    if result.unlabelled:
        lines.append(f"{counted(result.unlabelled, 'transaction')} had no label then.")
    return group(*(line(text) for text in lines))
