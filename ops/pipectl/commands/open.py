"""open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl.commands.shared import line

if TYPE_CHECKING:
    from pipectl.invocation import Invocation

Document: TypeAlias = "Opening"


@dataclass(frozen=True)
class Opening:
    """Airflow's address and the login's name; `opened` tells whether a browser was started."""

    url: str
    user: str
    opened: bool


def open(  # noqa: A001  the command's name; nothing here opens a file
    ctx: typer.Context,
    *,
    show: Annotated[bool, typer.Option("--url", help="Only print the address.")] = False,
) -> None:
    """Open Airflow's user interface in the browser.

    Examples: `pipectl open` · `pipectl open --url`
    """
    invocation: Invocation = ctx.obj
    import webbrowser  # noqa: PLC0415  15 ms

    from pipectl.airflow_health import AirflowHealth  # noqa: PLC0415
    from pipectl.pipeline.access import airflow_address  # noqa: PLC0415

    address = airflow_address(invocation.engine)
    AirflowHealth(address).version()  # nobody types a password into another project's page
    opening = Opening(address.url, address.user, opened=not show and webbrowser.open(address.url))
    invocation.console.emit(opening, lambda: line(address.url))
