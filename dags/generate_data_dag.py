"""Every 30 minutes: payment transactions into PostgreSQL, then their fraud labels into MySQL."""

from __future__ import annotations

import os
import shlex
import sys
from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

_SCRIPTS_FOLDER = os.environ.get("PIPECTL_SCRIPTS") or "/opt/airflow/scripts"
# Quoted for the shell, so that a project's folder may have a space in its name.
SCRIPTS = shlex.quote(_SCRIPTS_FOLDER)

# Appended: the scripts' folder must not hide a module of Airflow's environment.
if _SCRIPTS_FOLDER not in sys.path:
    sys.path.append(_SCRIPTS_FOLDER)

from fraud_pipeline.alerts import alert_on_failure  # noqa: E402 -- found in the folder just named

DESCRIPTION = "Writes payment transactions to PostgreSQL and their fraud labels to MySQL."

DOCUMENTATION = """
### Transactions and fraud labels

1. **generate_transactions** writes one batch of 50 to 200 payment transactions to PostgreSQL
   (`airbyte-postgres`, database `airbyte`, table `public.transactions`).
2. **generate_labels** writes a fraud label for each of them to MySQL (`airbyte-mysql`, database `data`,
   table `fraud_labels`).

A scheduled run, and a run of a backfill, writes the payments of the half hour that ends at its logical date;
any other run those of the last half hour. The run's id names the batch, so a task that is retried or cleared
writes nothing twice, and neither does a backfill of slots that have run: the batch is there once, and every
committed transaction gets exactly one label. Labels that had to wait for an open transaction are written by
the next run; the log of *generate_labels* then warns of it.

**When it fails**: each task is tried again once, after 2 minutes. After that an alert is logged, and posted
as JSON to the address in `PIPECTL_ALERT_WEBHOOK` if one is set. The last line of the task's log names the
database, and the variables (`AIRBYTE_POSTGRES_…`, `AIRBYTE_MYSQL_…`) to check.
"""

# The batch reaches the scripts by environment, so that the commands stay as they are. A slot of the schedule
# has one batch, whether the schedule or a backfill runs it, with the payments of the half hour that ends
# then. Other runs have those of the last half hour.
BATCH = {
    "PIPECTL_BATCH_ID": (
        "{{ run_id.replace('backfill__', 'scheduled__', 1) if dag_run.run_type == 'backfill' else run_id }}"
    ),
    "PIPECTL_BATCH_UNTIL": (
        "{{ dag_run.logical_date.isoformat() if dag_run.run_type in ('scheduled', 'backfill') else '' }}"
    ),
}

with DAG(
    dag_id="generate_transaction_and_labels",
    description=DESCRIPTION,
    doc_md=DOCUMENTATION,
    schedule="*/30 * * * *",
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "airflow",
        "depends_on_past": False,
        "retries": 1,
        "retry_delay": timedelta(minutes=2),
        "on_failure_callback": alert_on_failure,
    },
    tags=["fraud", "postgres", "mysql"],
):
    generate_transactions = BashOperator(
        task_id="generate_transactions",
        bash_command=f"python {SCRIPTS}/transaction_generator.py",
        env=BATCH,
        append_env=True,
        doc_md="Writes one batch of transactions to PostgreSQL, once per run.",
    )
    generate_labels = BashOperator(
        task_id="generate_labels",
        bash_command=f"python {SCRIPTS}/detection_generator.py",
        env=BATCH,
        append_env=True,
        doc_md="Writes the labels that are missing in MySQL.",
    )
    generate_transactions >> generate_labels
