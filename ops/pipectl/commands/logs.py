"""logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from pipectl.invocation import Invocation
    from pipectl.models import LogLine

Document: TypeAlias = "LogLine"  # one per line


def logs(
    ctx: typer.Context,
    services: Annotated[list[str] | None, typer.Argument(help="Services; all of them otherwise.")] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=0, help="Lines per service to begin with.")] = 50,
) -> None:
    """Show the logs of services.

    Examples: `pipectl logs scheduler` · `pipectl logs -f webserver` · `pipectl logs --tail 5 --json`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline.access import unknown_service  # noqa: PLC0415  20 ms

    known = [service.name for service in invocation.engine.services()]
    for name in services or ():
        if name not in known:
            raise unknown_service(name, known)
    chosen = tuple(services or known)
    width = max(map(len, chosen))
    for entry in invocation.engine.logs(chosen, tail=tail, follow=follow):
        text = entry.text if len(chosen) == 1 else f"{entry.service:<{width}} | {entry.text}"
        invocation.console.line(entry, text)
