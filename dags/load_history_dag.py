"""On demand: millions of transactions into PostgreSQL, in shards, then their labels into MySQL."""

# What a task needs is imported when it runs: the DAG processor parses this file again and again.
# ruff: noqa: PLC0415

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param, get_current_context, task

_SCRIPTS_FOLDER = os.environ.get("PIPECTL_SCRIPTS") or "/opt/airflow/scripts"
# Appended: the scripts' folder must not hide a module of Airflow's environment.
if _SCRIPTS_FOLDER not in sys.path:
    sys.path.append(_SCRIPTS_FOLDER)

from fraud_pipeline.alerts import alert_on_failure  # noqa: E402 -- found in the folder just named

DESCRIPTION = "Loads a history of transactions with their labels, in shards that workers share."

DOCUMENTATION = """
### A history to train on

Trigger it with the number of `transactions`, the `days` up to now that they fall in, and the `shards` to
write them in. Each shard is a task of its own, which any worker can take.

1. **plan** notes the load under the run's id.
2. **write_shard** writes its part of the chunks, 100,000 transactions each, to `public.transactions`.
   With `wait_for_slots` each chunk waits until every replication slot has room for it. Without, nothing is
   begun if a slot has not room for all of them.
3. **write_labels** writes all labels that are missing to `fraud_labels`, in chunks of 50,000.

A chunk is committed whole, with its row in `sim.batches`. So a task that is killed and tried again, or
cleared, goes on where it was, and writes no row twice. On one machine, `pipectl load` does the same without
Airflow.
"""

_LOG = logging.getLogger(__name__)


with DAG(
    dag_id="load_history",
    description=DESCRIPTION,
    doc_md=DOCUMENTATION,
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "airflow",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "on_failure_callback": alert_on_failure,
    },
    params={
        "transactions": Param(1_000_000, type="integer", minimum=1, description="How many transactions."),
        "days": Param(90, type="integer", minimum=1, maximum=3650, description="The days up to now."),
        "shards": Param(2, type="integer", minimum=1, maximum=64, description="Tasks that share the work."),
        "wait_for_slots": Param(
            False, type="boolean", description="Write as fast as the readers of replication slots read."
        ),
    },
    tags=["fraud", "postgres", "mysql"],
):

    @task(doc_md="Notes the load under the run's id, and deals its chunks to the shards.")
    def plan() -> list[dict[str, int]]:
        """Begin the load, or take it up, and give each shard its number."""
        from fraud_pipeline.command import seed_of
        from fraud_pipeline.connections import open_postgres, postgres_database
        from fraud_pipeline.dimensions import warn_of_other_seed
        from fraud_pipeline.history import open_load
        from fraud_pipeline.schema import prepare_postgres

        context = get_current_context()
        params = context["params"]
        with open_postgres(postgres_database(os.environ), "load_history") as postgres:
            prepare_postgres(postgres)
            warn_of_other_seed(postgres, seed_of(os.environ))
            load = open_load(
                postgres,
                seed=seed_of(os.environ),
                transactions=params["transactions"],
                days=params["days"],
                load_id=context["run_id"],
                wait_for_slots=params["wait_for_slots"],
                shards=params["shards"],
                tell=lambda _, slots: _LOG.info("No room for all of it: %s", [s.description for s in slots]),
            )
        shards = min(params["shards"], load.chunks)
        _LOG.info("Load %s: %s chunks in %s shards", load.load_id, load.chunks, shards)
        return [{"shard": shard, "shards": shards} for shard in range(shards)]

    @task(doc_md="Writes one shard's chunks to PostgreSQL, without those that are there.")
    def write_shard(part: dict[str, int]) -> int:
        """Write a shard of the load, and give the number of transactions written."""
        from fraud_pipeline.connections import open_postgres, postgres_database
        from fraud_pipeline.history import find_load, write_shard

        database, context = postgres_database(os.environ), get_current_context()
        with (
            open_postgres(database, "load_history") as postgres,
            open_postgres(database, "load_history ids") as helper,
        ):
            return write_shard(
                postgres,
                helper,
                find_load(postgres, context["run_id"]),
                shard=part["shard"],
                shards=part["shards"],
                progress=lambda rows: _LOG.info("Committed %s transactions", rows),
                wait_for_slots=context["params"]["wait_for_slots"],
                waits=lambda slots: _LOG.info(
                    "Waiting for the readers of %s", [s.description for s in slots]
                ),
            )

    @task(doc_md="Writes all labels that are missing to MySQL, and notes that the load is complete.")
    def write_labels() -> int:
        """Label what has no label yet, and give the number of labels written."""
        from fraud_pipeline.connections import mysql_database, open_mysql, open_postgres, postgres_database
        from fraud_pipeline.history import find_load, finish_load
        from fraud_pipeline.labelling import Labeller
        from fraud_pipeline.local_infile import pipe_folder
        from fraud_pipeline.schema import prepare_mysql

        with (
            pipe_folder() as pipes,
            open_postgres(postgres_database(os.environ), "load_history") as postgres,
            open_mysql(mysql_database(os.environ), pipes) as mysql,
        ):
            prepare_mysql(mysql)
            load = find_load(postgres, get_current_context()["run_id"])
            labelled = Labeller(postgres, mysql, seed=load.seed, pipes=pipes).run(
                progress=lambda rows: _LOG.info("Committed %s labels", rows)
            )
            finish_load(postgres, load)
        return labelled.labels

    write_shard.expand(part=plan()) >> write_labels()
