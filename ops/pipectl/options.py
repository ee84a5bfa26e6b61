"""Options and arguments that more than one command takes, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

from pipectl.names import DAG_ID

UP_SECONDS = 300.0

DagId = Annotated[
    str | None,
    typer.Argument(
        help="The DAG's id.", show_default=f"PIPECTL_DAG_ID in the environment or stack/.env, or {DAG_ID}"
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
UpTimeout = Annotated[
    float, typer.Option("--timeout", min=1, help="Seconds to wait until all is healthy, once installed.")
]
Words = Annotated[list[str] | None, typer.Argument(metavar="WORD", help="The program's own words.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
