"""Write a fraud label to MySQL for every transaction that PostgreSQL has committed since the last run.

Corrects the labels of frauds that have been reported meanwhile. Safe to kill anywhere and to run twice at
once: no label is lost, none is written twice.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from fraud_pipeline.command import batch_of, moment_option, parser, positive_number, run, seed_of
from fraud_pipeline.connections import (
    missing_mysql_extension,
    mysql_database,
    open_mysql,
    open_postgres,
    postgres_database,
)
from fraud_pipeline.local_infile import pipe_folder
from fraud_pipeline.logs import logfmt
from fraud_pipeline.monitoring import bounds_of, check, check_slots
from fraud_pipeline.schema import prepare_mysql, prepare_postgres

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping

_LOG = logging.getLogger("detection_generator")


def main(environment: Mapping[str, str], given: Namespace) -> None:
    """Write the labels, log what was done, and alert if it is out of bounds. Raises PipelineError."""
    started = time.monotonic()
    batch, seed, bounds = batch_of(environment), seed_of(environment), bounds_of(environment)
    addresses = postgres_database(environment), mysql_database(environment)
    # NumPy takes 0.1 s to load, which neither --help nor a wrong setting should wait for.
    from fraud_pipeline.labelling import Labeller  # noqa: PLC0415

    with (
        pipe_folder() as pipes,
        open_postgres(addresses[0], "detection_generator") as postgres,
        open_mysql(addresses[1], pipes) as mysql,
    ):
        prepare_postgres(postgres)
        prepare_mysql(mysql)
        labeller = Labeller(postgres, mysql, seed=seed, pipes=pipes)
        if given.repair:
            from fraud_pipeline.dimensions import write_missing  # noqa: PLC0415

            with postgres, postgres.cursor() as cursor:
                dimensions = write_missing(cursor, seed)
            repaired = {**asdict(labeller.repair()), "dimensions": dimensions}
            sys.stdout.write(json.dumps(repaired) + "\n")
            _LOG.info(logfmt("labels_repaired", **repaired, seconds=time.monotonic() - started))
            return
        labelled = labeller.run(given.until, limit=given.count)
        check(mysql, bounds, lag_seconds=labelled.lag_seconds, waiting=labelled.waiting)
        check_slots(postgres)
    _LOG.info(
        logfmt(
            "labels_written",
            batch=batch,
            labels=labelled.labels,
            frauds=labelled.frauds,
            corrected=labelled.corrected,
            waiting=labelled.waiting,
            lag_seconds=labelled.lag_seconds,
            seconds=time.monotonic() - started,
            # The results are the same, only slower, so nothing else would tell.
            mysql_driver_is_pure_python_because=missing_mysql_extension(),
        )
    )


def options() -> ArgumentParser:
    """The script's command line."""
    command_line = parser(__doc__ or "")
    command_line.add_argument(
        "--count", type=positive_number, metavar="N", help="labels at most (default: all)"
    )
    command_line.add_argument(
        "--repair",
        action="store_true",
        help="instead compare all ids, write what is missing, also of customers and terminals, and remove and"
        " replace labels of other rows; says on standard output, as JSON, how many",
    )
    command_line.add_argument(
        "--until",
        type=moment_option,
        metavar="TIME",
        help="take in what is reported up to then, at most up to now (default: now)",
    )
    return command_line


if __name__ == "__main__":
    sys.exit(run(options(), main))
