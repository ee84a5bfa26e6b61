"""The values for Airflow's Helm chart use no key that was not looked up in the chart's values.schema.json."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
VALUES = ROOT / "stack" / "kubernetes" / "values.yaml"
# The schema that was read is the one of the development branch after chart 1.18.0 (default Airflow 3.0.5),
# commit 002e5532d7d5 of apache/airflow. A dot leads into an object, [] into the items of a list.
CHECKED = {
    "airflowVersion": str,
    "apiSecretKeySecretName": str,
    "dags.gitSync.branch": str,
    "dags.gitSync.credentialsSecret": str,
    "dags.gitSync.enabled": bool,
    "dags.gitSync.period": str,
    "dags.gitSync.ref": str,
    "dags.gitSync.repo": str,
    "dags.gitSync.subPath": str,
    "dags.persistence.enabled": bool,
    "data.metadataSecretName": str,
    "defaultAirflowRepository": str,
    "defaultAirflowTag": str,
    "env[].name": str,
    "env[].value": str,
    "executor": str,
    "fernetKeySecretName": str,
    "jwtSecretName": str,
    "logs.persistence.enabled": bool,
    "logs.persistence.size": str,
    "postgresql.enabled": bool,
    "secret[].envName": str,
    "secret[].secretKey": str,
    "secret[].secretName": str,
}
EXECUTOR = re.compile(r"(([a-zA-Z_][a-zA-Z0-9_]*.)*[A-Z][a-zA-Z0-9]+Executor)")


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for name, each in value.items() for leaf in leaves(each, f"{path}.{name}".lstrip("."))]
    if isinstance(value, list):
        return [leaf for each in value for leaf in leaves(each, f"{path}[]")]
    return [(path, value)]


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    return found


def test_every_key_and_its_type_was_checked(values: dict[str, Any]) -> None:
    for path, value in leaves(values):
        assert path in CHECKED, path
        assert isinstance(value, CHECKED[path]), path


def test_the_executor_is_one_that_the_chart_knows(values: dict[str, Any]) -> None:
    assert EXECUTOR.fullmatch(values["executor"])


def test_airflow_is_the_one_of_the_other_engines(values: dict[str, Any]) -> None:
    lock = (ROOT / "stack" / "airflow-requirements.txt").read_text(encoding="utf-8")
    compose = (ROOT / "stack" / "docker-compose.yml").read_text(encoding="utf-8")
    assert f"apache-airflow-core=={values['airflowVersion']} " in lock
    assert f"apache/airflow:{values['airflowVersion']}" in compose
    assert values["defaultAirflowTag"].startswith(values["airflowVersion"])


def test_no_secret_is_written_down(values: dict[str, Any]) -> None:
    assert not [entry["name"] for entry in values["env"] if "PASSWORD" in entry["name"]]
