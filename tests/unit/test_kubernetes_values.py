"""The values for Airflow's Helm chart use no key that was not looked up in the chart's values.schema.json."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipectl.engines import airflow_env

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "stack" / "kubernetes"
DOCS = ROOT / "docs" / "kubernetes.md"
# The schema that was read is the one in the released archive of this chart, airflow-1.22.0.tgz:
#   the archive            SHA-256 1f7d1dfe3d58e2c54899950aba907a43625a18c8b6fb3c54760c21592129a5b6
#   values.schema.json     SHA-256 12eb9c2e90674b0f6a180eef5b87817ae3af83b38e2a1e60e9a1ed6b167de36a
# Both files of values are valid by it, and Helm's library 4.2.3 rendered the chart with them.
CHART = "1.22.0"
# What differs from stack/airflow/airflow.env, and why.
OF_A_CLUSTER = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "pods are moved, and networks are slow"
}
# A dot leads into an object, [] into the items of a list.
CHECKED = {
    "airflowVersion": str,
    "apiSecretKeySecretName": str,
    "createUserJob.enabled": bool,
    "dags.gitSync.branch": str,
    "dags.gitSync.credentialsSecret": str,
    "dags.gitSync.enabled": bool,
    "dags.gitSync.period": str,
    "dags.gitSync.recommendedProbeSetting": bool,
    "dags.gitSync.ref": str,
    "dags.gitSync.repo": str,
    "dags.gitSync.subPath": str,
    "dags.persistence.enabled": bool,
    "data.metadataSecretName": str,
    "defaultAirflowRepository": str,
    "defaultAirflowTag": str,
    "enableServiceLinks": bool,
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
    "workers.celery.keda.enabled": bool,
    "workers.celery.keda.maxReplicaCount": int,
    "workers.celery.keda.minReplicaCount": int,
    "workers.celery.persistence.enabled": bool,
}


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for name, each in value.items() for leaf in leaves(each, f"{path}.{name}".lstrip("."))]
    if isinstance(value, list):
        return [leaf for each in value for leaf in leaves(each, f"{path}[]")]
    return [(path, value)]


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return read("values.yaml")


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_every_key_and_its_type_was_checked(name: str) -> None:
    for path, value in leaves(read(name)):
        assert path in CHECKED, path
        assert type(value) is CHECKED[path], path


def test_the_chart_is_the_one_that_was_checked() -> None:
    for path in [DOCS, *FOLDER.glob("*.yaml")]:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"--version (\S+)", text)) == {CHART}, path
        assert set(re.findall(r"chart,? (\d+\.\d+\.\d+)", text)) <= {CHART}, path


def test_each_file_has_its_executor(values: dict[str, Any]) -> None:
    assert values["executor"] == "KubernetesExecutor"
    assert read("celery-keda.yaml")["executor"] == "CeleryExecutor"


def test_airflow_is_the_one_of_the_other_engines(values: dict[str, Any]) -> None:
    compose = (ROOT / "stack" / "docker-compose.yml").read_text(encoding="utf-8")
    assert f"apache/airflow:{values['airflowVersion']}}}" in compose
    assert re.fullmatch(re.escape(values["airflowVersion"]) + r"-\d+", values["defaultAirflowTag"])


def test_settings_are_those_of_the_other_engines(values: dict[str, Any]) -> None:
    shared = airflow_env.read(ROOT, {})
    written = {entry["name"]: entry["value"] for entry in values["env"]}
    assert "AIRFLOW__CORE__LOAD_EXAMPLES" in written
    differing = {name for name, value in written.items() if name in shared and value != shared[name]}
    assert differing == OF_A_CLUSTER.keys()
    assert {name for name in written if name.startswith("AIRFLOW__")} <= shared.keys()


def test_the_scripts_get_their_databases_from_the_values(values: dict[str, Any]) -> None:
    written = {entry["name"] for entry in values["env"]} | {entry["envName"] for entry in values["secret"]}
    for prefix in ("AIRBYTE_POSTGRES", "AIRBYTE_MYSQL"):
        assert {f"{prefix}_{name}" for name in ("HOST", "DATABASE", "USER", "PASSWORD")} <= written


def test_git_sync_is_told_one_branch(values: dict[str, Any]) -> None:
    """git-sync prefers `branch`, which the chart always sets; a `ref` that differs would never be seen."""
    assert values["dags"]["gitSync"]["branch"] == values["dags"]["gitSync"]["ref"]


def test_the_scripts_are_where_git_sync_puts_them(values: dict[str, Any]) -> None:
    """The chart mounts the clone, a link called repo, at /opt/airflow/dags."""
    assert (ROOT / values["dags"]["gitSync"]["subPath"]).is_dir()
    assert (ROOT / "scripts").is_dir()
    assert {"name": "PIPECTL_SCRIPTS", "value": "/opt/airflow/dags/repo/scripts"} in values["env"]


def test_the_docs_make_each_secret_with_the_keys_that_are_read(values: dict[str, Any]) -> None:
    """The keys' names are those in the chart's templates, none of which is optional, and in `secret`."""
    wanted = {
        values["apiSecretKeySecretName"]: {"api-secret-key"},
        values["dags"]["gitSync"]["credentialsSecret"]: {
            "GIT_SYNC_USERNAME",
            "GIT_SYNC_PASSWORD",
            "GITSYNC_USERNAME",
            "GITSYNC_PASSWORD",
        },
        values["data"]["metadataSecretName"]: {"connection"},
        values["fernetKeySecretName"]: {"fernet-key"},
        values["jwtSecretName"]: {"jwt-secret"},
    }
    for entry in values["secret"]:
        wanted.setdefault(entry["secretName"], set()).add(entry["secretKey"])
    commands = DOCS.read_text(encoding="utf-8").replace("\\\n", "")
    made = {
        name: set(re.findall(r"--from-literal=([^=]+)=", literals))
        for name, literals in re.findall(r"create secret generic (\S+) (.*)", commands)
    }
    assert made == wanted


def test_no_secret_is_written_down(values: dict[str, Any]) -> None:
    assert not [entry["name"] for entry in values["env"] if "PASSWORD" in entry["name"]]
