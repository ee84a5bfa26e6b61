"""Write a fraud label to MySQL for every transaction that PostgreSQL has committed since the last run.

Safe to kill anywhere and to run twice at once: no label is lost, none is written twice.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

from fraud_pipeline.command import batch_of, run, seed_of
from fraud_pipeline.connections import mysql_database, open_mysql, open_postgres, postgres_database
from fraud_pipeline.labelling import label_new
from fraud_pipeline.logs import logfmt
from fraud_pipeline.schema import prepare_mysql, prepare_postgres

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOG = logging.getLogger("detection_generator")


def main(environment: Mapping[str, str]) -> None:
    """Write the labels and log what was done. Raises PipelineError."""
    started = time.monotonic()
    batch, seed = batch_of(environment), seed_of(environment)
    with (
        open_postgres(postgres_database(environment), "detection_generator") as postgres,
        open_mysql(mysql_database(environment)) as mysql,
    ):
        prepare_postgres(postgres)
        prepare_mysql(mysql)
        labelled = label_new(postgres, mysql, seed=seed)
        client = "pure" if type(mysql).__name__ == "MySQLConnection" else "extension"
    _LOG.info(
        logfmt(
            "labels_written",
            batch=batch,
            labels=labelled.labels,
            frauds=labelled.frauds,
            waiting=labelled.waiting,
            seconds=time.monotonic() - started,
            mysql_client=client,
        )
    )


if __name__ == "__main__":
    sys.exit(run(__doc__ or "", main))
