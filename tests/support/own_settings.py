"""What users add to a project: settings, a connection, plugins, modules, and DAGs that tell what they see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

USER_ENV = """\
# A pool, a connection, a variable, and what the DAG below reads.
AIRFLOW__CORE__DEFAULT_POOL_TASK_SLOT_COUNT=77
AIRFLOW_CONN_MINE='{"conn_type": "http", "host": "example.org", "password": "pa$$word"}'
AIRFLOW_VAR_COLOUR="ultramarine"  # and not red
COLOUR_OF_MY_DAG=${COLOUR:-green}
"""
PLUGIN = """\
from airflow.plugins_manager import AirflowPlugin


class OwnPlugin(AirflowPlugin):
    name = "own_plugin"
"""
# `login` is also a name in stack/airflow: what runs there may not hide a module of a DAG.
MODULE = "COLOUR = 'of a module beside the DAG'\n"
DAG = """\
import os

import login
import own_config
from team import helper

from airflow.configuration import conf
from airflow.sdk import DAG, BaseHook, Variable, task

with DAG("own_settings"):

    @task
    def tell():
        return {
            "pool": conf.get("core", "default_pool_task_slot_count"),
            "password": BaseHook.get_connection("mine").password,
            "variable": Variable.get("colour"),
            "environment": os.environ["COLOUR_OF_MY_DAG"],
            "module": login.COLOUR,
            "module in a folder": helper.COLOUR,
            "module of the configuration": own_config.COLOUR,
            "seed": os.environ["PIPECTL_SEED"],
            "administrator": os.environ.get("AIRFLOW_ADMIN_PASSWORD", ""),
            "only in stack/.env": os.environ.get("MY_SECRET", ""),
        }

    tell()

with DAG("own_second"):

    @task
    def tell_too():
        return "of the same file"

    tell_too()
"""
BROKEN = "raise RuntimeError('a file that .airflowignore names was read')\n"
XCOM = (
    "/api/v2/dags/own_settings/dagRuns/{run_id}/taskInstances/tell/xcomEntries/return_value?deserialize=true"
)


def add(project: Path) -> None:
    """Write all of it into a project that has stack/airflow and dags/."""
    airflow = project / "stack" / "airflow"
    (airflow / "user.env").write_text(USER_ENV, encoding="utf-8")
    (airflow / "plugins").mkdir(exist_ok=True)
    (airflow / "plugins" / "own_plugin.py").write_text(PLUGIN, encoding="utf-8")
    for name, text in (("dags/team", "helper"), ("stack/airflow/config", "own_config")):
        (project / name).mkdir()
        (project / name / f"{text}.py").write_text(f"COLOUR = 'of {text}'\n", encoding="utf-8")
    (project / "dags" / "drafts").mkdir()
    (project / "dags" / "drafts" / "draft.py").write_text(BROKEN, encoding="utf-8")
    # A line more: the project's own tests there import what Airflow's containers do not have.
    with (project / "dags" / ".airflowignore").open("a", encoding="utf-8") as ignored:
        ignored.write("drafts/\n")
    (project / "dags" / "login.py").write_text(MODULE, encoding="utf-8")
    (project / "dags" / "own_settings.py").write_text(DAG, encoding="utf-8")


def expected(*, seed: str = "1", colour: str = "green") -> dict[str, Any]:
    """What the DAG's task returns."""
    return {
        "pool": "77",
        "password": "pa$$word",
        "variable": "ultramarine",
        "environment": colour,
        "module": "of a module beside the DAG",
        "module in a folder": "of helper",
        "module of the configuration": "of own_config",
        "seed": seed,
        "administrator": "",
        "only in stack/.env": "",
    }
