"""Options and arguments that more than one command takes, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

UP_SECONDS = 300.0
RUN_SECONDS = 900.0
DEFAULT_DAG = "PIPECTL_DAG_ID in the environment or stack/.env, or the pipeline"

DagId = Annotated[str | None, typer.Argument(help="The DAG's id.", show_default=DEFAULT_DAG)]
DagOrRun = Annotated[
    str | None,
    typer.Argument(metavar="DAG_ID|RUN_ID", help="The DAG's id, or that of a run.", show_default=DEFAULT_DAG),
]
NamedDag = Annotated[str, typer.Argument(metavar="DAG_ID", help="The DAG's id.")]
NamedRun = Annotated[
    str, typer.Argument(metavar="RUN_ID", help="The run's id, or `latest` for the one made last.")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end.")]
RunTimeout = Annotated[
    float, typer.Option("--timeout", min=0.1, help="Seconds to follow the run; it goes on after that.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
UpTimeout = Annotated[
    float, typer.Option("--timeout", min=1, help="Seconds to wait until all is healthy, once installed.")
]
Words = Annotated[list[str] | None, typer.Argument(metavar="WORD", help="The program's own words.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
