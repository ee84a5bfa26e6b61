"""bundle."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  Typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl.commands.output_file import OutputFile
from pipectl.commands.shared import Progress, group, line
from pipectl.names import counted, size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipectl.invocation import Invocation
    from pipectl.pipeline.bundling import Bundle

Document: TypeAlias = "Bundle"


def bundle(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A tar.gz that does not exist yet.")],
) -> None:
    """Pack all that the local engine needs, for a machine without a network.

    In it are pipectl, Airflow's packages, those of requirements.txt, PostgreSQL and MariaDB, for the same
    Python and platform. Your project goes there as it is.

    Examples: `pipectl bundle pipectl-offline.tar.gz`
    """
    invocation: Invocation = ctx.obj
    from pipectl.pipeline import bundling  # noqa: PLC0415  80 ms

    OutputFile(file, "bundle").check()
    settings = invocation.settings
    invocation.if_interrupted = "No file was written: run the same command again."
    result = bundling.bundle(settings, file, Progress(invocation.console))
    invocation.if_interrupted = ""
    invocation.console.emit(result, lambda: result_text(result))


def result_text(result: Bundle) -> RenderableType:
    """Return what is in the file, and what to type on the other machine."""
    wheels = f"{counted(result.wheels, 'wheel')} for Python {result.machine}"
    lines = [f"Wrote {result.file} ({size(result.bytes)}): {wheels}."]
    if result.servers:
        lines.append(f"Of this distribution: {', '.join(result.servers)}.")
    if "mariadb" not in result.servers:
        lines.append("MariaDB or MySQL is this machine's own: the other one needs it too.")
    lines += ["On the other machine:", f"  tar xf {result.file.name}", "  pipectl-offline/install"]
    return group(*(line(text) for text in lines))
