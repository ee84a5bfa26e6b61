"""The DAG's file in a real Airflow: the one in PIPECTL_TEST_AIRFLOW_PYTHON, else the local engine's."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import ROOT
from support.needs import need_airflow

pytestmark = pytest.mark.integration

SCRIPTS = shlex.quote(str(ROOT / "scripts"))
DAG_FILE = ROOT / "dags" / "generate_data_dag.py"
# Prints what the file defines, serialised as the DAG processor does, and the warnings that it raised.
PARSE = """
import importlib.util, json, sys, warnings
import airflow.models  # which turns warnings into log lines, unless they are recorded later
spec = importlib.util.spec_from_file_location("parsed", sys.argv[1])
module = importlib.util.module_from_spec(spec)
with warnings.catch_warnings(record=True) as raised:
    warnings.simplefilter("always")
    spec.loader.exec_module(module)
dag = module.generate_transactions.dag
from airflow.serialization.serialized_objects import DagSerialization
DagSerialization.to_dict(dag)
print(json.dumps({
    "dag_id": dag.dag_id, "description": dag.description, "schedule": dag.schedule, "catchup": dag.catchup,
    "start": dag.start_date.isoformat(), "max_active_runs": dag.max_active_runs, "tags": sorted(dag.tags),
    "doc": bool(dag.doc_md),
    "warnings": [str(warning.message) for warning in raised if warning.filename == sys.argv[1]],
    "tasks": [{
        "id": task.task_id, "command": task.bash_command, "environment": task.env, "append": task.append_env,
        "owner": task.owner, "retries": task.retries, "delay": task.retry_delay.total_seconds(),
        "past": task.depends_on_past, "downstream": sorted(task.downstream_task_ids),
        "alerts": [callback.__name__ for callback in task.on_failure_callback], "doc": bool(task.doc_md),
    } for task in dag.topological_sort()],
}))
"""


@pytest.fixture(scope="module")
def airflow_python() -> Path:
    given = os.environ.get("PIPECTL_TEST_AIRFLOW_PYTHON")
    if given:
        return Path(given)
    return need_airflow().python


def parse(python: Path, home: Path, file: Path = DAG_FILE, **environment: str) -> Any:
    told = subprocess.run(
        (str(python), "-c", PARSE, str(file)),
        env={
            "PATH": os.environ["PATH"],
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout.splitlines()[-1])


def test_dag_is_as_the_team_wrote_it(airflow_python: Path, tmp_path: Path) -> None:
    dag = parse(airflow_python, tmp_path, PIPECTL_SCRIPTS=str(ROOT / "scripts"))

    tasks = dag.pop("tasks")
    common = {
        "environment": {
            "PIPECTL_BATCH_ID": "{{ run_id.replace('backfill__', 'scheduled__', 1)"
            " if dag_run.run_type == 'backfill' else run_id }}",
            "PIPECTL_BATCH_UNTIL": "{{ dag_run.logical_date.isoformat()"
            " if dag_run.run_type in ('scheduled', 'backfill') else '' }}",
        },
        "append": True,
        "owner": "airflow",
        "retries": 1,
        "delay": 120,
        "past": False,
        "alerts": ["alert_on_failure"],
        "doc": True,
    }
    assert dag == {
        "dag_id": "generate_transaction_and_labels",
        "description": "Writes payment transactions to PostgreSQL and their fraud labels to MySQL.",
        "schedule": "*/30 * * * *",
        "catchup": False,
        "start": "2024-01-01T00:00:00+00:00",
        "max_active_runs": 1,
        "tags": ["fraud", "mysql", "postgres"],
        "doc": True,
        "warnings": [],
    }
    assert tasks == [
        {
            "id": "generate_transactions",
            "command": f"python {SCRIPTS}/transaction_generator.py",
            "downstream": ["generate_labels"],
            **common,
        },
        {
            "id": "generate_labels",
            "command": f"python {SCRIPTS}/detection_generator.py",
            "downstream": [],
            **common,
        },
    ]


def test_scripts_are_where_containers_mount_them_unless_told_otherwise(
    airflow_python: Path, tmp_path: Path
) -> None:
    # The package is found by PYTHONPATH here, as nothing is mounted on this machine.
    dag = parse(airflow_python, tmp_path, PYTHONPATH=str(ROOT / "scripts"))

    assert [task["command"] for task in dag["tasks"]] == [
        "python /opt/airflow/scripts/transaction_generator.py",
        "python /opt/airflow/scripts/detection_generator.py",
    ]


def test_deprecated_import_would_be_noticed(airflow_python: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.py"
    old.write_text(
        DAG_FILE.read_text().replace("airflow.providers.standard.operators.", "airflow.operators.")
    )

    dag = parse(airflow_python, tmp_path, old, PIPECTL_SCRIPTS=str(ROOT / "scripts"))

    assert "deprecated" in dag["warnings"][0]


def test_folder_with_a_space_in_its_name_works(airflow_python: Path, tmp_path: Path) -> None:
    scripts = tmp_path / "my project" / "scripts"
    shutil.copytree(ROOT / "scripts", scripts)
    dag = parse(airflow_python, tmp_path, PIPECTL_SCRIPTS=str(scripts))

    for task in dag["tasks"]:
        told = subprocess.run(
            ("bash", "-c", f"{task['command']} --help"),
            env={"PATH": f"{airflow_python.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stderr
