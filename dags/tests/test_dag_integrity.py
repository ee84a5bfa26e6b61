"""What every DAG of this project must be: house rules to edit. Add tests of your own here.

`pipectl test` runs this folder in Airflow's environment, without a stack; Airflow itself leaves it alone
(dags/.airflowignore).
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from airflow.configuration import conf
from airflow.sdk import DAG

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before Airflow 3.2
    from airflow.models.dagbag import DagBag

FOLDER = Path(conf.get_mandatory_value("core", "dags_folder"))
BAG = DagBag(FOLDER)
HOUSE_RULE = "A house rule, not Airflow's: edit it in dags/tests/test_dag_integrity.py."
DAGS = [pytest.param(dag, id=dag.dag_id) for dag in BAG.dags.values()]


def test_every_file_can_be_imported() -> None:
    assert not BAG.import_errors


def test_there_are_dags() -> None:
    assert DAGS


@pytest.mark.parametrize("dag", DAGS)
def test_a_dag_says_what_it_does(dag: DAG) -> None:
    assert dag.description or dag.doc_md, f"{dag.dag_id} has no description. {HOUSE_RULE}"


@pytest.mark.parametrize("dag", DAGS)
def test_a_dag_has_tags(dag: DAG) -> None:
    assert dag.tags, f"{dag.dag_id} has no tags to find it by. {HOUSE_RULE}"


@pytest.mark.parametrize("dag", DAGS)
def test_a_dag_does_not_run_at_once_for_all_of_the_past(dag: DAG) -> None:
    assert not dag.catchup, f"{dag.dag_id} would run for every date since its start_date. {HOUSE_RULE}"


@pytest.mark.parametrize("dag", DAGS)
def test_a_task_that_fails_is_tried_again(dag: DAG) -> None:
    without = [task.task_id for task in dag.tasks if not task.retries]
    assert not without, f"{dag.dag_id} has tasks without retries: {without}. {HOUSE_RULE}"


@pytest.mark.parametrize("dag", DAGS)
def test_ids_do_not_differ_in_case_alone(dag: DAG) -> None:
    names = Counter(task.task_id.lower() for task in dag.tasks)
    twice = [name for name, count in names.items() if count > 1]
    assert not twice, f"{dag.dag_id} has tasks whose ids differ in case alone: {twice}. {HOUSE_RULE}"
