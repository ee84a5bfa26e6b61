"""scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl import options
from pipectl.commands.up import start

if TYPE_CHECKING:
    from pipectl.invocation import Invocation
    from pipectl.pipeline.lifecycle import UpResult

Document: TypeAlias = "UpResult"


def scale(
    ctx: typer.Context,
    workers: Annotated[int, typer.Argument(min=1, max=64, help="Celery workers to run.")],
    *,
    timeout: options.UpTimeout = options.UP_SECONDS,
) -> None:
    """Run this many Celery workers, and wait until they are healthy. Needs `up --executor celery`.

    A worker that is taken away ends its tasks first.

    Examples: `pipectl scale 3` · `pipectl scale 1 --json`
    """
    invocation: Invocation = ctx.obj
    invocation.engine.resize(executor=None, workers=workers)
    start(invocation, timeout)
