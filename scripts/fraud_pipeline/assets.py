"""Both tables as Airflow's Assets: a DAG can be scheduled on them, and each event says what was written.

Imported by DAG files alone: the scripts do without Airflow.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset

from fraud_pipeline.logs import logfmt

if TYPE_CHECKING:
    from collections.abc import Mapping

# The same on every engine, wherever the databases are: an asset is known by these.
TRANSACTIONS = Asset(
    "transactions", uri="postgres://airbyte-postgres:5432/airbyte/public/transactions", group="fraud"
)
LABELS = Asset("fraud_labels", uri="mysql://airbyte-mysql:3306/data/fraud_labels", group="fraud")

_FIELD = re.compile(r"\b(\w+)=(-?[0-9.]+)(?= |$)")
_LOG = logging.getLogger(__name__)


def describe_event(context: Mapping[str, Any], last_line: object) -> None:
    """Give the events of a task's outlets the figures in the last line of its script: a `post_execute`.

    The rows are written whatever becomes of their description, so a line without figures fails nothing.
    """
    try:
        figures = extra(str(last_line))
        for outlet in context["task"].outlets:
            context["outlet_events"][outlet].extra = figures
    except Exception:  # noqa: BLE001  see above
        _LOG.warning(logfmt("asset_event_without_figures", last_line=last_line))


def extra(line: str) -> dict[str, float | None]:
    """Return rows, the share of fraud among them (None of no rows), and the lag in seconds.

    Of transactions, the lag is the time from the batch's end to its commit; of labels, how far they are
    behind the transactions. Raises KeyError for a line that does not have the figures.
    """
    fields = dict(_FIELD.findall(line))
    rows = int(fields["transactions"] if "transactions" in fields else fields["labels"])
    share = round(int(fields["frauds"]) / rows, 6) if rows else None
    lag = float(fields["lag_seconds"]) if "lag_seconds" in fields else None
    return {"rows": rows, "fraud_share": share, "lag_seconds": lag}
