"""connections."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import published
from pipectl.commands.shared import group, line, table
from pipectl.errors import UsageError, VerificationError
from pipectl.names import size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.change_capture import MysqlSource, PostgresSource, Sources
    from pipectl.pipeline.consumers import Slot

# Titles of the fields in Airbyte's forms, in their order, and the path to each value in the configuration.
POSTGRES_FORM = (
    ("Host", ("host",)),
    ("Port", ("port",)),
    ("Database Name", ("database",)),
    ("Schemas", ("schemas",)),
    ("Username", ("username",)),
    ("Password", ("password",)),
    ("SSL Modes", ("ssl_mode", "mode")),
    ("Update Method", ("replication_method", "method")),
    ("  Plugin", ("replication_method", "plugin")),
    ("  Replication Slot", ("replication_method", "replication_slot")),
    ("  Publication", ("replication_method", "publication")),
    ("SSH Tunnel Method", ("tunnel_method", "tunnel_method")),
)
MYSQL_FORM = (
    ("Host", ("host",)),
    ("Port", ("port",)),
    ("Username", ("username",)),
    ("Password", ("password",)),
    ("Database", ("database",)),
    ("Encryption", ("ssl_mode", "mode")),
    ("SSH Tunnel Method", ("tunnel_method", "tunnel_method")),
    ("Update Method", ("replication_method", "method")),
    ("  Configured server timezone", ("replication_method", "server_timezone")),
)
WORDS = {"CDC": "Read Changes (CDC)", "NO_TUNNEL": "No Tunnel"}


Document: TypeAlias = "Sources"


def connections(
    ctx: typer.Context,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Try all that change data capture needs; exit 6 if it fails.")
    ] = False,
    create_slot: Annotated[
        bool,
        typer.Option(
            "--create-slot",
            help="Make the replication slot: PostgreSQL then keeps its log until Airbyte has read it.",
        ),
    ] = False,
    drop_slot: Annotated[
        bool, typer.Option("--drop-slot", help="Drop the replication slot, for when Airbyte is gone.")
    ] = False,
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Show the password instead of a mask.")
    ] = False,
) -> None:
    """Show what Airbyte's source forms ask for, and check that change data capture works.

    The JSON holds each source's configuration as Airbyte's API takes it.

    Examples: `pipectl connections` · `pipectl connections --create-slot --check` ·
    `pipectl connections --show-secrets --json`
    """
    invocation: Invocation = ctx.obj
    from dataclasses import replace  # noqa: PLC0415

    from pipectl.databases import Databases  # noqa: PLC0415
    from pipectl.pipeline import change_capture  # noqa: PLC0415
    from pipectl.pipeline.access import business_databases  # noqa: PLC0415

    if create_slot and drop_slot:
        raise UsageError("--create-slot and --drop-slot exclude each other.", hint="Give one of them.")
    console, login = invocation.console, invocation.settings.replication_login
    postgres, mysql = invocation.engine.databases()
    if not login.password:
        raise UsageError(
            f"{invocation.settings.env_path} has no {login.password_variable}.",
            hint="Start the stack, which chooses one: pipectl up. For databases of your own, set it there.",
        )
    if create_slot or drop_slot or check:
        # Another project's database may listen on the port that this one would have.
        business_databases(invocation.engine)
    if create_slot or drop_slot:
        invocation.if_interrupted = "Whether there is a slot now: pipectl status"
    own = Databases(login.at(postgres), mysql)
    if create_slot:
        slot = change_capture.create_slot(own)
        console.say(_kept_text(slot) if slot else f"Made the slot {published.SLOT}.")
    if drop_slot:
        dropped = change_capture.drop_slot(own)
        console.say(f"{'Dropped' if dropped else 'There was no'} slot {published.SLOT}.")
    sources = change_capture.source_configurations(postgres, mysql, login, secrets=show_secrets)
    if check:
        from pipectl.pipeline import capture_checks  # noqa: PLC0415

        sources = replace(sources, checks=capture_checks.check(postgres, mysql, login))
    console.emit(sources, lambda: result_text(sources))
    for result in sources.checks or ():
        if not result.ok:
            raise VerificationError(
                f"Change data capture is not in order: {result.database}, {result.name}: {result.found}.",
                hint=result.remedy,
            )


def _kept_text(slot: Slot) -> str:
    """Say what it means that there was a slot already."""
    reader = "is being read" if slot.active else "nobody reads it now"
    if slot.danger:
        return f"There was already a slot, so none was made: {slot.danger}; {reader}. {slot.rescue}"
    return (
        f"There was already the slot {slot.name}, so none was made: it is {size(slot.lag_bytes or 0)} "
        f"behind, and {reader}. To begin anew from here: {slot.remedy}"
    )


def result_text(sources: Sources) -> RenderableType:
    """Return the fields of both forms, and what the checks have found."""
    parts = [
        table("field", "value", rows=_form(sources.postgres, POSTGRES_FORM), title="Airbyte source Postgres"),
        table("field", "value", rows=_form(sources.mysql, MYSQL_FORM), title="Airbyte source MySQL"),
    ]
    if "127.0.0.1" in {sources.postgres.host, sources.mysql.host}:
        parts.append(
            line(
                "127.0.0.1 is this machine. For an Airbyte in containers on it, the host is "
                "host.docker.internal if Docker Desktop runs them."
            )
        )
    if sources.checks:
        rows: list[tuple[object, ...]] = [
            (
                check.database,
                check.name,
                "ok" if check.ok else "failed",
                check.found if check.ok else f"{check.found}\n→ {check.remedy}",
            )
            for check in sources.checks
        ]
        parts.append(table("database", "check", "result", "found", rows=rows, title="Change data capture"))
    return group(*parts)


def _form(
    source: PostgresSource | MysqlSource, fields: tuple[tuple[str, tuple[str, ...]], ...]
) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for title, path in fields:
        value = reduce(getattr, path, source)
        text = ", ".join(value) if isinstance(value, tuple) else str(value)
        rows.append((title, WORDS.get(text, text)))
    return rows
