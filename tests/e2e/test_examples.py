"""All of Airflow's own example DAGs, on both engines. A sample runs in the tests of each engine's stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.docker_project import DockerProject, new_docker_project
from support.example_dags import FAIL, LEFT_OUT, LEFT_OUT_OF_THE_IMAGE, Examples
from support.project_copy import new_local_project
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.project_copy import Project

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]
OWN = {"generate_transaction_and_labels", "load_history", "watch_fraud_share"}
# DAGs in an answer: Airflow's limit.
PAGE = 100
AT_ONCE = 8
# Each of which has a stack of its own, and can be run alone: -k "local and part0".
PARTS = 2
# Airflow would make the default connections of its examples by a command of its own.
SETTINGS = """\
AIRFLOW__CORE__LOAD_EXAMPLES=True
AIRFLOW_CONN_FS_DEFAULT='{"conn_type": "fs", "extra": {"path": "/"}}'
"""


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    make = new_docker_project if request.param == "docker" else new_local_project
    with make(tmp_path / "project") as made:
        settings = SETTINGS
        if isinstance(made, DockerProject):
            settings += made.ways_to_packages()
        (made.folder / "stack" / "airflow" / "user.env").write_text(settings, encoding="utf-8")
        # Some sensors keep a slot until another task of theirs has run.
        made.set_variable("AIRFLOW_PARALLELISM", "16")
        made.run("up")
        yield made


@pytest.mark.parametrize("part", range(PARTS), ids="part{}".format)
def test_every_example_ends_as_its_authors_meant(project: Project, part: int) -> None:
    client = project.client()

    def dag_ids() -> set[str]:
        pages = [client.call(f"/api/v2/dags?limit={PAGE}&offset={offset}") for offset in (0, PAGE)]
        assert pages[0]["total_entries"] <= 2 * PAGE
        return {dag["dag_id"] for page in pages for dag in page["dags"]} - OWN

    left_out = LEFT_OUT if project.engine == "local" else LEFT_OUT | LEFT_OUT_OF_THE_IMAGE
    until(lambda: dag_ids() >= {*left_out, *FAIL}, "the examples that the lists name")
    names = sorted(dag_ids() - left_out.keys())[part::PARTS]
    assert len(names) > 90 // PARTS
    examples = Examples(client)
    ends: dict[str, str] = {}
    for place in range(0, len(names), AT_ONCE):
        ends |= examples.run(names[place : place + AT_ONCE])
    assert {name for name, state in ends.items() if state == "failed"} == FAIL.intersection(names)
