"""report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pipectl.commands.shared import size

if TYPE_CHECKING:
    from pipectl.invocation import Invocation
    from pipectl.pipeline.reporting import Report

# Where stack/airflow/plugins/report_page.py looks for it.
PUBLISHED = Path("stack", "airflow", "report.html")
# The page in Airflow's user interface, as report_page.py names it.
ROUTE = "fraud-report"

Document: TypeAlias = "Report"


def report(
    ctx: typer.Context,
    *,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one page with interactive charts, which needs no network to be viewed.",
        ),
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Show the page in Airflow's user interface too.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --html: replace a file that is no report of pipectl.")
    ] = False,
) -> None:
    """Show what is in both databases: transactions and fraud over time, amounts by scenario, label lag.

    Examples: `pipectl report` · `pipectl report --html report.html` · `pipectl report --publish`
    """
    invocation: Invocation = ctx.obj
    from pipectl.commands.report.page import Target, page  # noqa: PLC0415
    from pipectl.commands.report.text import report_text  # noqa: PLC0415
    from pipectl.pipeline import reporting  # noqa: PLC0415
    from pipectl.pipeline.access import business_databases  # noqa: PLC0415

    targets = [Target(html, replace_foreign=force)] if html else []
    if publish:
        targets.append(Target(invocation.settings.project / PUBLISHED, replace_foreign=True))
    for target in targets:
        target.check()  # before minutes may be spent on reading
    result = reporting.build(business_databases(invocation.engine))
    if targets:
        text = page(result, invocation.settings.project.name)
        for target in targets:
            target.write(text)
    if publish:
        # Airflow's user in a container is another one.
        targets[-1].path.chmod(0o644)
    invocation.console.emit(result, lambda: report_text(result))
    for target in targets:
        invocation.console.say(f"Wrote {target.path} ({size(target.path.stat().st_size)})")
    if publish:
        url = invocation.engine.airflow().url
        invocation.console.say(f"In Airflow: Report in the navigation, {url}/plugin/{ROUTE}")
