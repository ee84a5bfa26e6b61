"""An example: a DAG that runs whenever both tables have new rows, and reads what the events say of them."""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, task

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCRIPTS_FOLDER = os.environ.get("PIPECTL_SCRIPTS") or "/opt/airflow/scripts"
# Appended: the scripts' folder must not hide a module of Airflow's environment.
if _SCRIPTS_FOLDER not in sys.path:
    sys.path.append(_SCRIPTS_FOLDER)

from fraud_pipeline.assets import LABELS, TRANSACTIONS  # noqa: E402 -- found in the folder just named

DOCUMENTATION = """
### The share of fraud, event by event

Runs after *generate_transaction_and_labels* has written to both tables: its schedule are these two Assets,
and no time. Each event's `extra` has `rows`, `fraud_share` and `lag_seconds`.

It is paused until somebody switches it on: `pipectl unpause watch_fraud_share`
"""

_LOG = logging.getLogger(__name__)

with DAG(
    dag_id="watch_fraud_share",
    description="An example that is scheduled on Assets: logs what each event says of the new rows.",
    doc_md=DOCUMENTATION,
    schedule=[TRANSACTIONS, LABELS],
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    default_args={"owner": "airflow", "retries": 1},
    tags=["fraud", "example"],
):

    @task(multiple_outputs=False, doc_md="Logs rows, share of fraud and lag of each event.")
    def read_events(*, triggering_asset_events: Mapping[Any, Any] | None = None) -> dict[str, int]:
        """Return the number of new rows for each table."""
        rows: dict[str, int] = {}
        for asset, events in (triggering_asset_events or {}).items():
            for event in events:
                figures = event.extra
                _LOG.info("%s: %s", asset.name, figures)
                rows[asset.name] = rows.get(asset.name, 0) + int(figures.get("rows") or 0)
        return rows

    read_events()
