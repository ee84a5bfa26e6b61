"""restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options
from pipectl.commands.shared import StartProgress, group, line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.lifecycle import RestartResult

Document: TypeAlias = "RestartResult"


def restart(
    ctx: typer.Context,
    services: Annotated[list[str] | None, typer.Argument(help="Services; all of them otherwise.")] = None,
    *,
    timeout: options.UpTimeout = options.UP_SECONDS,
) -> None:
    """Restart services as they were started, and wait until they are healthy; `up` applies what changed.

    Tasks get 10 s to end before the scheduler restarts, Celery's 120 s. `worker` is every Celery worker.

    Examples: `pipectl restart scheduler` · `pipectl restart airbyte-mysql webserver` · `pipectl restart`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import lifecycle  # noqa: PLC0415  with what it imports 60 ms

    engine = invocation.engine
    invocation.if_interrupted = "What was stopped stays so: pipectl up starts it."
    with StartProgress(invocation.console).shown() as observer:
        result = lifecycle.restart(engine, tuple(services or ()), timeout=timeout, observer=observer)
    invocation.console.emit(result, lambda: result_text(result))


def result_text(result: RestartResult) -> RenderableType:
    """Return what was restarted, and why what nobody named was."""
    asked = ", ".join(name for name, reason in result.restarted.items() if not reason)
    lines = [line(f"Restarted in {result.seconds:.1f} s: {asked}.", "bold green")]
    by_reason: dict[str, list[str]] = {}
    for name, reason in result.restarted.items():
        if reason:
            by_reason.setdefault(reason, []).append(name)
    lines += [
        line(f"Restarted too, since {reason}: {', '.join(names)}.") for reason, names in by_reason.items()
    ]
    return group(*lines, *(line(note, "yellow") for note in result.notes))
