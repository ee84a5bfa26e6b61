"""The report as a page in Airflow's user interface: what `pipectl report --publish` has written.

The API server serves it, to whoever may see the pipeline's DAG. Airflow 3.0 has no such pages.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Scope]]
    Send = Callable[[Scope], Awaitable[None]]

DAG_ID = "generate_transaction_and_labels"
PREFIX = "/pipectl-report"
# Beside the folder of plugins: in a project stack/airflow/, which containers mount.
REPORT = Path(__file__).resolve().parents[1] / "report.html"
TOKEN = "_token"  # noqa: S105  the name of a cookie
NOTHING = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Transactions and fraud</title>
<style>body { font: 16px/1.6 system-ui, sans-serif; margin: 3rem; color-scheme: light dark }</style>
<h1>There is no report yet</h1><p>Write one in the project's folder, and load this page again:
<code>pipectl report --publish</code></p></html>"""


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request of the browser: the page, or why not."""
    if scope["type"] != "http":
        return
    from starlette.requests import Request
    from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response

    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    response: Response
    if not await may_see(Request(scope)):
        response = PlainTextResponse("Log in to Airflow as a user who may see the DAG.", 403, headers)
    elif os.access(REPORT, os.R_OK):
        response = FileResponse(REPORT, headers=headers, media_type="text/html")
    else:
        response = HTMLResponse(NOTHING, headers=headers)
    await response(scope, receive, send)


async def may_see(request: Any) -> bool:  # noqa: ANN401  starlette's own
    """Whether the request is that of a user who may see the DAG."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails

    word, _, bearer = request.headers.get("Authorization", "").partition(" ")
    token = bearer if word.lower() == "bearer" else request.cookies.get(TOKEN)
    if not token:
        return False
    manager = get_auth_manager()
    try:
        user = await manager.get_user_from_token(token)
    except Exception:  # noqa: BLE001  a token that is forged, too old, or another Airflow's
        return False
    return bool(manager.is_authorized_dag(method="GET", details=DagDetails(id=DAG_ID), user=user))


class ReportPage(AirflowPlugin):
    """The page and its place in the navigation."""

    name = "pipectl_report"
    fastapi_apps: ClassVar[list[Any]] = [{"name": "pipectl report", "app": serve, "url_prefix": PREFIX}]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Report",
            "href": f"{PREFIX}/",
            "url_route": "fraud-report",
            "destination": "nav",
            "nav_top_level": True,
        }
    ]
