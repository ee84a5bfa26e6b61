"""psql, mysql."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipectl.commands.shared import Progress
from pipectl.options import Words  # noqa: TC001  Typer reads annotations at run time

if TYPE_CHECKING:
    from pipectl.invocation import Invocation


def psql(
    ctx: typer.Context,
    arguments: Words = None,
    *,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="Airflow's metadata database instead of airbyte-postgres.")
    ] = False,
) -> None:
    r"""Run psql on `airbyte-postgres`, logged in; it gets all words from the first that is not pipectl's on.

    It reads stdin, and its exit code is the command's.

    Examples: `pipectl psql` · `pipectl psql -c '\dt'` · `pipectl psql < dump.sql` ·
    `pipectl psql --metadata -c 'SELECT state, count(*) FROM dag_run GROUP BY 1'` · `pipectl psql -- --help`
    """
    _run(ctx.obj, "postgres" if metadata else "airbyte-postgres", arguments)


def mysql(ctx: typer.Context, arguments: Words = None) -> None:
    """Run mysql on `airbyte-mysql`, logged in; it gets all words from the first that is not pipectl's on.

    It reads stdin, and its exit code is the command's. On the local engine it may be MariaDB's client.

    Examples: `pipectl mysql` · `pipectl mysql -e 'SHOW TABLES IN data;'` · `pipectl mysql < dump.sql` ·
    `pipectl mysql -- --help`
    """
    _run(ctx.obj, "airbyte-mysql", arguments)


def _run(invocation: Invocation, service: str, arguments: list[str] | None) -> None:
    from pipectl.pipeline.programs import run_client  # noqa: PLC0415  30 ms

    code = run_client(invocation.engine, service, tuple(arguments or ()), Progress(invocation.console))
    raise typer.Exit(code)
