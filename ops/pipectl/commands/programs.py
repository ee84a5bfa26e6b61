"""airflow, python, shell, exec, test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipectl.commands.shared import Progress
from pipectl.errors import UsageError
from pipectl.options import Words  # noqa: TC001  Typer reads annotations at run time

if TYPE_CHECKING:
    from pipectl.invocation import Invocation


def airflow(ctx: typer.Context, arguments: Words = None) -> None:
    """Run an Airflow command in this project's Airflow; it gets all words from the first on.

    Examples: `pipectl airflow dags list` · `pipectl airflow dags test generate_transaction_and_labels` ·
    `pipectl airflow variables set threshold 0.9` · `pipectl airflow -- --help`
    """
    _run_in_airflow(ctx.obj, "airflow", arguments)


def python(ctx: typer.Context, arguments: Words = None) -> None:
    """Run Python as a task does: with Airflow, the project's packages and its databases' addresses.

    It starts in the project's folder, in a container in /opt/airflow, which has dags/ and scripts/ too.

    Examples: `pipectl python` · `pipectl python dags/generate_data_dag.py` ·
    `pipectl python -c 'import os; print(os.environ["AIRBYTE_POSTGRES_HOST"])'`
    """
    _run_in_airflow(ctx.obj, "python", arguments)


def shell(ctx: typer.Context, arguments: Words = None) -> None:
    """Open a shell as a task has it: with Airflow on PATH, and the databases' addresses.

    Examples: `pipectl shell` · `pipectl shell -c 'airflow info'` · `pipectl shell < script.sh`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline.programs import run_shell  # noqa: PLC0415  30 ms

    raise typer.Exit(run_shell(invocation.engine, tuple(arguments or ())))


def exec(  # noqa: A001  the command's name; nothing here executes a string
    ctx: typer.Context,
    service: Annotated[str, typer.Argument(help="A service, as `pipectl status` names it.")],
    arguments: Words = None,
) -> None:
    """Run a program beside a service: in its container, or with the variables of its process.

    Beside a database, PostgreSQL's tools are logged in, and MySQL's know all but user and database: on Docker
    they are root unless --user names another. The local engine brings those that the machine lacks.

    Examples: `pipectl exec scheduler -- env` ·
    `pipectl exec airbyte-postgres -- pg_dump --clean --if-exists > dump.sql` ·
    `pipectl exec airbyte-mysql -- mysqldump --user=docker --no-tablespaces data > labels.sql`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline.programs import run_beside  # noqa: PLC0415  30 ms

    if not arguments:
        raise UsageError(
            f"There is no program to run beside {service}.",
            hint=f"For example: pipectl exec {service} -- env",
        )
    raise typer.Exit(run_beside(invocation.engine, service, tuple(arguments), Progress(invocation.console)))


def test(ctx: typer.Context, arguments: Words = None) -> None:  # noqa: PT028  a command, no test
    """Run the project's own tests, dags/tests, with pytest in Airflow's environment; no stack is needed.

    All words are pytest's, and so is the exit code. Without a path it runs all of dags/tests.

    Examples: `pipectl test` · `pipectl test -x -k retries` · `pipectl test dags/tests/test_dag_integrity.py`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline.programs import run_tests  # noqa: PLC0415  30 ms

    run_tests(invocation.engine, invocation.settings, tuple(arguments or ()), Progress(invocation.console))


def _run_in_airflow(invocation: Invocation, program: str, arguments: list[str] | None) -> None:
    from pipectl.pipeline.programs import run_in_airflow  # noqa: PLC0415  30 ms

    raise typer.Exit(run_in_airflow(invocation.engine, (program, *(arguments or ()))))
