"""Write a history of many transactions to PostgreSQL, and their labels to MySQL.

Interrupted or killed, it is taken up by the same command. Each line on standard output is a JSON object
that says what has been committed. `pipectl load` and the DAG load_history start parts of it side by side.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from typing import TYPE_CHECKING

from fraud_pipeline.command import parser, positive_number, run, seed_of
from fraud_pipeline.connections import mysql_database, open_mysql, open_postgres, postgres_database
from fraud_pipeline.local_infile import pipe_folder
from fraud_pipeline.logs import logfmt
from fraud_pipeline.schema import prepare_mysql, prepare_postgres
from fraud_pipeline.slots import BINLOG_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fraud_pipeline.history import Load

PARTS = ("plan", "transactions", "labels")

_LOG = logging.getLogger("history_loader")


def main(environment: Mapping[str, str], given: argparse.Namespace) -> None:
    """Do the parts that were asked for. Raises PipelineError."""
    seed = seed_of(environment)
    parts = PARTS if given.only is None else (given.only,)
    # NumPy takes 0.1 s to load, which neither --help nor a wrong setting should wait for.
    from fraud_pipeline import history  # noqa: PLC0415
    from fraud_pipeline.dimensions import warn_of_other_seed  # noqa: PLC0415

    with open_postgres(postgres_database(environment), "history_loader") as postgres:
        prepare_postgres(postgres)
        load = history.open_load(
            postgres,
            seed=seed,
            transactions=given.transactions,
            days=given.days,
            load_id=given.load,
            chunk=given.chunk or history.CHUNK,
            wait_for_slots=given.wait_for_slots,
            shards=given.shard[1],
            planned="plan" not in parts,
            tell=lambda size, slots: _tell("short", bytes=size, slots=[slot._asdict() for slot in slots]),
        )
        if "plan" in parts:
            written = sum(history.written_chunks(postgres, load).values())
            _tell(
                "plan",
                load=load.load_id,
                transactions=load.transactions,
                written=written,
                seed=seed,
                unfinished=[load._asdict() for load in history.unfinished_loads(postgres, seed)],
                other_seed=warn_of_other_seed(postgres, seed),
                binlog_bytes=load.transactions * BINLOG_BYTES,
            )
    if "transactions" in parts:
        _write_transactions(environment, load, given.shard, wait_for_slots=given.wait_for_slots)
    if "labels" in parts:
        _write_labels(environment, load, tell_due=given.due)


def _write_transactions(
    environment: Mapping[str, str], load: Load, shard: tuple[int, int], *, wait_for_slots: bool
) -> None:
    from fraud_pipeline.history import write_shard  # noqa: PLC0415

    started = time.monotonic()
    database = postgres_database(environment)
    with (
        open_postgres(database, "history_loader") as postgres,
        open_postgres(database, "history_loader ids") as helper,
    ):
        written = write_shard(
            postgres,
            helper,
            load,
            shard=shard[0] - 1,
            shards=shard[1],
            progress=lambda rows: _tell("transactions", rows=rows),
            wait_for_slots=wait_for_slots,
            waits=lambda slots: _tell("waits", slots=[slot._asdict() for slot in slots]),
        )
    _LOG.info(
        logfmt(
            "history_written",
            load=load.load_id,
            shard=f"{shard[0]}/{shard[1]}",
            transactions=written,
            seconds=time.monotonic() - started,
        )
    )


def _write_labels(environment: Mapping[str, str], load: Load, *, tell_due: bool) -> None:
    from fraud_pipeline.history import finish_load  # noqa: PLC0415
    from fraud_pipeline.labelling import Labeller  # noqa: PLC0415

    started = time.monotonic()
    with (
        pipe_folder() as pipes,
        open_postgres(postgres_database(environment), "history_loader") as postgres,
        open_mysql(mysql_database(environment), pipes) as mysql,
    ):
        prepare_mysql(mysql)
        labeller = Labeller(postgres, mysql, seed=load.seed, pipes=pipes)
        if tell_due:
            _tell("due", rows=labeller.due())
        labelled = labeller.run(progress=lambda rows: _tell("labels", rows=rows))
        finished = finish_load(postgres, load)
    _tell("done", labels=labelled.labels, frauds=labelled.frauds, finished=finished)
    _LOG.info(
        logfmt(
            "history_labelled",
            load=load.load_id,
            labels=labelled.labels,
            frauds=labelled.frauds,
            waiting=labelled.waiting,
            finished=finished,
            seconds=time.monotonic() - started,
        )
    )


def options() -> argparse.ArgumentParser:
    """The script's command line."""
    command_line = parser(__doc__ or "")
    command_line.add_argument(
        "--transactions", type=positive_number, default=1_000_000, metavar="N", help="default 1000000"
    )
    command_line.add_argument(
        "--days", type=positive_number, default=90, metavar="N", help="up to now (default 90)"
    )
    command_line.add_argument(
        "--load", metavar="ID", help="the load's name (default: an unfinished one, else a new one)"
    )
    command_line.add_argument(
        "--chunk", type=positive_number, metavar="N", help="transactions a commit (default 100000)"
    )
    command_line.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="K/N", help="write the K-th of N parts only"
    )
    command_line.add_argument(
        "--wait-for-slots",
        action="store_true",
        help="write only what every replication slot can hold, and wait for its reader",
    )
    command_line.add_argument("--due", action="store_true", help="tell first how many labels are missing")
    command_line.add_argument("--only", choices=PARTS, help="do one part (default: all)")
    return command_line


def _tell(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def _shard(text: str) -> tuple[int, int]:
    shard, _, shards = text.partition("/")
    if not (shard.isdecimal() and shards.isdecimal() and 1 <= int(shard) <= int(shards)):
        raise argparse.ArgumentTypeError(f"{text!r} is no K/N with K from 1 to N")
    return int(shard), int(shards)


if __name__ == "__main__":
    sys.exit(run(options(), main))
