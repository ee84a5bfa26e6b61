"""A later Airflow tried beside a stack that runs: what it finds, and that the stack is as it was."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from support.docker_project import new_docker_project
from support.json_schemas import check_output
from support.project_copy import DAG_ID, Project, new_local_project

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]
# Later than the version that the lock file pins.
LATER = "3.4.0b2"
TRIAL_SECONDS = 1200


def state(project: Project) -> dict[str, Any]:
    """What a trial must leave as it is: bytes of files, processes with their ports, and rows."""
    files = [path for path in project.folder.rglob("*") if path.is_file() and ".pipectl" not in path.parts]
    files += [
        path for path in (project.folder / ".pipectl").glob("*") if path.name in {"settings.json", "engine"}
    ]
    metadata = (
        *("psql", "--metadata", "-Atc"),
        "SELECT (SELECT version_num FROM alembic_version), (SELECT count(*) FROM dag_run),"
        " (SELECT count(*) FROM connection)",
    )
    return {
        "files": {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "services": [
            (each["name"], each["state"], each["port"], each.get("pid"))
            for each in project.json("status")["services"]
        ],
        "metadata": project.run(*metadata).stdout,
        "transactions": project.ask_postgres("SELECT count(*), max(transaction_id) FROM transactions"),
        "labels": project.ask_mysql("SELECT count(*), max(transaction_id) FROM fraud_labels"),
    }


@pytest.mark.parametrize(
    "new_project",
    [
        pytest.param(new_local_project, id="local"),
        pytest.param(new_docker_project, id="docker", marks=pytest.mark.docker),
    ],
)
def test_a_trial_reads_tests_migrates_and_runs_beside_a_stack_that_stays_as_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_project: Callable[[Path], AbstractContextManager[Project]],
) -> None:
    (tmp_path / "temporary").mkdir()
    with new_project(tmp_path / "my shop") as project:
        project.run("up")
        project.run("trigger")
        project.settle()
        project.run(
            "airflow", "connections", "add", "lake", "--conn-type", "http", "--conn-password", "secret"
        )
        before = state(project)
        monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
        trying = project.start("upgrade", "--try-airflow", LATER, "--json")
        out, err = trying.communicate(timeout=TRIAL_SECONDS)
        assert trying.returncode == 0, f"{out}\n{err}"
        check_output(("upgrade", "--json"), out, err)
        assert state(project) == before
    trial = json.loads(out)
    assert trial["after"] == LATER
    assert {"name": "apache-airflow-core", "before": trial["before"], "after": LATER} in trial["packages"]
    assert trial["check"]["airflow"] == LATER
    assert trial["check"]["findings"] == []
    assert [trial[step]["outcome"] for step in ("tests", "migration", "run")] == ["passed"] * 3
    assert DAG_ID in trial["run"]["message"]
    assert not list((tmp_path / "temporary").glob("pipectl-*"))
