"""Write one batch of 50 to 200 payment transactions to PostgreSQL, with the ground truth of their frauds.

A batch is written once: a retry with the same PIPECTL_BATCH_ID, also at the same time, adds nothing.
"""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fraud_pipeline.command import (
    UNTIL_VARIABLE,
    batch_end_of,
    batch_of,
    moment_option,
    parser,
    positive_number,
    run,
    seed_of,
)
from fraud_pipeline.connections import open_postgres, postgres_database
from fraud_pipeline.errors import SettingError
from fraud_pipeline.logs import logfmt
from fraud_pipeline.schema import prepare_postgres

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping

# The schedule's interval: a batch holds what happened since the one before.
SPAN = timedelta(minutes=30)

_LOG = logging.getLogger("transaction_generator")


def main(environment: Mapping[str, str], given: Namespace) -> None:
    """Write the batch and log what was done. Raises PipelineError."""
    started = time.monotonic()
    batch, seed, database = batch_of(environment), seed_of(environment), postgres_database(environment)
    end = given.until or (given.since + SPAN if given.since else batch_end_of(environment))
    until = end or datetime.now(UTC)
    try:
        since = given.since or until - SPAN
    except OverflowError as error:
        raise SettingError(
            f"A batch cannot end at {until:%Y-%m-%dT%H:%M:%SZ}: the calendar begins then."
        ) from error
    if since > until:
        raise SettingError(
            f"--since is {since:%Y-%m-%dT%H:%M:%SZ}, which is after {until:%Y-%m-%dT%H:%M:%SZ}."
        )
    # NumPy takes 0.1 s to load, which neither --help nor a wrong setting should wait for.
    from fraud_pipeline.batches import write_batch  # noqa: PLC0415
    from fraud_pipeline.dimensions import warn_of_other_seed  # noqa: PLC0415
    from fraud_pipeline.transactions import BatchRequest, batch_size, generate  # noqa: PLC0415

    request = BatchRequest(seed, batch, given.count or batch_size(seed, batch), since, until)
    with open_postgres(database, "transaction_generator") as connection:
        prepare_postgres(connection)
        warn_of_other_seed(connection, seed)
        written = write_batch(connection, request, generate(request))
    _LOG.info(
        logfmt(
            "batch_already_written" if written.already_written else "batch_written",
            batch=batch,
            transactions=written.transactions,
            frauds=written.frauds,
            lag_seconds=(datetime.now(UTC) - until).total_seconds(),
            seconds=time.monotonic() - started,
        )
    )


def options() -> ArgumentParser:
    """The script's command line."""
    command_line = parser(__doc__ or "")
    command_line.add_argument(
        "--count",
        type=positive_number,
        metavar="N",
        help="transactions (default: 50 to 200, by the batch's name)",
    )
    command_line.add_argument(
        "--since",
        type=moment_option,
        metavar="TIME",
        help="the batch's begin (default: 30 minutes before its end)",
    )
    command_line.add_argument(
        "--until",
        type=moment_option,
        metavar="TIME",
        help=f"its end (default: 30 minutes after --since; else {UNTIL_VARIABLE}, or now)",
    )
    return command_line


if __name__ == "__main__":
    sys.exit(run(options(), main))
