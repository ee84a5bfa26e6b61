"""Alerts: one log line, and a JSON message to the webhook named by PIPECTL_ALERT_WEBHOOK.

Used by the DAG as failure callback and free to be used by the scripts. Only the standard library, because the
DAG processor imports it. An alert never fails what it reports on.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from fraud_pipeline.logs import logfmt

if TYPE_CHECKING:
    from collections.abc import Mapping

WEBHOOK_VARIABLE = "PIPECTL_ALERT_WEBHOOK"
WEBHOOK_SECONDS = 5.0
LONGEST_ERROR = 2_000

_LOG = logging.getLogger(__name__)


def alert(event: str, *, warning: bool = False, **fields: object) -> bool:
    """Log the alert, as an error or a warning, and post it if a webhook is set; true if that took it."""
    _LOG.log(logging.WARNING if warning else logging.ERROR, logfmt(event, **fields))
    webhook = os.environ.get(WEBHOOK_VARIABLE, "").strip()
    if not webhook:
        return False
    try:
        _post(webhook, {"event": event, **fields})
    except Exception as error:  # noqa: BLE001 -- whatever goes wrong, the task's own outcome stands
        # The address may carry a token, and so may the error's text: neither is logged.
        _LOG.warning(
            logfmt("alert_not_delivered", alert=event, variable=WEBHOOK_VARIABLE, error=type(error).__name__)
        )
        return False
    _LOG.info(logfmt("alert_delivered", alert=event))
    return True


def alert_on_failure(context: Mapping[str, object]) -> None:
    """Airflow's `on_failure_callback`: a task has failed for good, its retries used up.

    Reads the context carefully: for a task whose process was killed, the DAG processor calls this, with
    less in the context than the task's own process has.
    """
    try:
        instance = context.get("task_instance") or context.get("ti")
        error = (
            context.get("exception")
            or context.get("reason")
            or "the task's process ended without an exception"
        )
        alert(
            "task_failed",
            dag_id=getattr(instance, "dag_id", None),
            run_id=context.get("run_id") or getattr(instance, "run_id", None),
            task_id=getattr(instance, "task_id", None),
            try_number=getattr(instance, "try_number", None),
            log_url=getattr(instance, "log_url", None),
            error=str(error)[:LONGEST_ERROR],
        )
    except Exception:  # noqa: BLE001 -- a failed alert must not hide what failed
        _LOG.exception(logfmt("alert_failed"))


def _post(webhook: str, message: Mapping[str, object]) -> None:
    import json  # noqa: PLC0415 -- 30 ms that only an alert needs
    from urllib.request import Request, urlopen  # noqa: PLC0415

    if not webhook.startswith(("http://", "https://")):
        raise ValueError("the webhook must be an http or https address")
    body = json.dumps(message, default=str).encode()
    request = Request(webhook, body, {"Content-Type": "application/json"})  # noqa: S310 -- scheme checked above
    with urlopen(request, timeout=WEBHOOK_SECONDS):  # noqa: S310
        pass
