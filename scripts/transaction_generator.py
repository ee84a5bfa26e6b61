"""Write one batch of 50 to 200 payment transactions to PostgreSQL, with the ground truth of their frauds.

A batch is written once: a retry with the same PIPECTL_BATCH_ID, also at the same time, adds nothing.
"""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fraud_pipeline.batches import write_batch
from fraud_pipeline.command import batch_of, run, seed_of
from fraud_pipeline.connections import open_postgres, postgres_database
from fraud_pipeline.logs import logfmt
from fraud_pipeline.schema import prepare_postgres
from fraud_pipeline.transactions import BatchRequest, batch_size, generate

if TYPE_CHECKING:
    from collections.abc import Mapping

# The schedule's interval: a batch holds what happened since the one before.
SPAN = timedelta(minutes=30)

_LOG = logging.getLogger("transaction_generator")


def main(environment: Mapping[str, str]) -> None:
    """Write the batch and log what was done. Raises PipelineError."""
    started = time.monotonic()
    batch, seed = batch_of(environment), seed_of(environment)
    until = datetime.now(UTC)
    request = BatchRequest(seed, batch, batch_size(seed, batch), until - SPAN, until)
    with open_postgres(postgres_database(environment), "transaction_generator") as connection:
        prepare_postgres(connection)
        written = write_batch(connection, request, generate(request))
    _LOG.info(
        logfmt(
            "batch_already_written" if written.already_written else "batch_written",
            batch=batch,
            transactions=written.transactions,
            frauds=written.frauds,
            seconds=time.monotonic() - started,
        )
    )


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", main))
