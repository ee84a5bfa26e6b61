"""connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipectl import published
from pipectl.console import group, table, words
from pipectl.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.models import CaptureCheck

# Titles of the fields in Airbyte's forms, in their order, and where the configuration has their values.
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


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("connections")(connections)


def connections(
    ctx: typer.Context,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Try all that change data capture needs; exit 6 where it fails.")
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

    if create_slot and drop_slot:
        raise UsageError("--create-slot and --drop-slot exclude each other.", hint="Give one of them.")
    console, login = invocation.console, invocation.settings.replication_login
    postgres, mysql = invocation.engine.databases()
    if not login.password:
        raise UsageError(
            f"{invocation.settings.env_path} has no AIRBYTE_REPLICATION_PASSWORD.",
            hint="Start the stack, which chooses one: pipectl up. For databases of your own, set it there.",
        )
    own = Databases(replace(postgres, user=login.user, password=login.password), mysql)
    if create_slot:
        made = change_capture.create_slot(own)
        console.say(f"{'Made' if made else 'There was already'} the slot {published.SLOT}.")
    if drop_slot:
        dropped = change_capture.drop_slot(own)
        console.say(f"{'Dropped' if dropped else 'There was no'} slot {published.SLOT}.")
    sources = change_capture.source_configurations(postgres, mysql, login, secrets=show_secrets)
    checks: tuple[CaptureCheck, ...] = ()
    if check:
        from pipectl.pipeline import capture_checks  # noqa: PLC0415

        checks = capture_checks.check(postgres, mysql, login)
    document = {**sources, "checks": checks} if check else sources
    console.emit(document, lambda: _text(sources, checks))
    for found in checks:
        if not found.ok:
            raise VerificationError(
                f"Change data capture does not work yet: {found.database}, {found.name}: {found.found}.",
                hint=found.remedy,
            )


def _text(sources: dict[str, dict[str, Any]], checks: tuple[CaptureCheck, ...]) -> RenderableType:
    parts = [
        table(
            "field", "value", rows=_form(sources["postgres"], POSTGRES_FORM), title="Airbyte source Postgres"
        ),
        table("field", "value", rows=_form(sources["mysql"], MYSQL_FORM), title="Airbyte source MySQL"),
    ]
    if any(source["host"] == "127.0.0.1" for source in sources.values()):
        parts.append(
            words(
                "127.0.0.1 is this machine. For an Airbyte in containers on it, the host is "
                "host.docker.internal where Docker Desktop runs them."
            )
        )
    if checks:
        rows: list[tuple[object, ...]] = [
            (
                found.database,
                found.name,
                "ok" if found.ok else "failed",
                found.found if found.ok else f"{found.found}\n→ {found.remedy}",
            )
            for found in checks
        ]
        parts.append(table("database", "check", "result", "found", rows=rows, title="Change data capture"))
    return group(*parts)


def _form(
    source: dict[str, Any], fields: tuple[tuple[str, tuple[str, ...]], ...]
) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for title, path in fields:
        value: Any = source
        for key in path:
            value = value[key]
        text = ", ".join(value) if isinstance(value, list) else str(value)
        rows.append((title, WORDS.get(text, text)))
    return rows
