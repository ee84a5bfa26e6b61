"""`check` and `test` with the real Airflow of the local engine, in a project that was never started."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from support.broken_dags import DEADLY, FINE, REPORTED, archive, write
from support.needs import need_airflow
from support.project_copy import copy_project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.project_copy import Project

pytestmark = pytest.mark.integration


@pytest.fixture
def project(tmp_path: Path) -> Project:
    need_airflow()
    return copy_project(tmp_path / "a project")


@pytest.fixture
def dags(project: Project) -> Path:
    return project.folder / "dags"


def files_of(project: Project) -> set[Path]:
    """Return all files but those that Python and the installation of packages leave."""
    unrelated = {"__pycache__", ".pipectl"}
    return {path for path in project.folder.rglob("*") if unrelated.isdisjoint(path.parts)}


def found(answer: Any) -> set[tuple[str, int | None, str]]:
    return {
        (entry["file"].removeprefix("dags/"), entry["line"], entry["kind"])
        for entry in answer["findings"]
        if entry["severity"] == "error"
    }


def test_the_project_as_it_is_shipped_has_no_findings_and_is_not_changed(project: Project) -> None:
    before = files_of(project)
    answer = project.json("check")
    assert answer["findings"] == []
    assert {dag for file in answer["files"] for dag in file["dags"]} >= {"generate_transaction_and_labels"}
    assert not [file for file in answer["files"] if "tests/" in file["file"]]
    assert files_of(project) == before


def test_each_fault_is_found_with_its_file_line_and_kind(project: Project, dags: Path) -> None:
    write(dags, REPORTED)
    (dags / "first.py").write_text(FINE.format("same"))
    (dags / "second.py").write_text("# more\n" + FINE.format("same") + FINE.format("same"))
    (dags / "team").mkdir()
    (dags / "team" / "helper.py").write_text("VALUE = undefined_name\n")
    (dags / "team" / "beside.py").write_text("from airflow.sdk import DAG\nimport helper\n")
    (dags / "team" / "uses.py").write_text("from team import helper\n" + FINE.format("uses"))
    (dags / "ignored").mkdir()
    (dags / "ignored" / "broken.py").write_text("from airflow.sdk import DAG\nimport no_such_thing\n")
    with (dags / ".airflowignore").open("a") as file:
        file.write("ignored/\n")
    archive(dags / "packed.zip", inside=FINE.format("packed"))
    answer = project.json("check", code=9)
    expected = {(name, line, kind) for name, (_, line, kind) in REPORTED.items()}
    duplicates = {("second.py", 4, "duplicate"), ("second.py", 8, "duplicate")}
    in_team = {("team/helper.py", 1, "import"), ("team/beside.py", 2, "import")}
    assert found(answer) == expected | duplicates | in_team
    assert "from team import helper" in {entry["hint"][-23:] for entry in answer["findings"]}
    assert {"file": "dags/packed.zip", "dags": ["packed"]}.items() <= {
        **next(file for file in answer["files"] if file["file"].endswith(".zip")),
        "seconds": 0,
    }.items()


def test_files_that_hang_or_end_their_process_end_neither_check_nor_leave_anything(
    project: Project, dags: Path
) -> None:
    user_env = project.folder / "stack" / "airflow" / "user.env"
    user_env.write_text("AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT=3\n")
    write(dags, DEADLY)
    (dags / "loop.py").write_text("from airflow.sdk import DAG\nwhile True:\n    pass\n")
    child = "import subprocess\nsubprocess.Popen(['sleep', '3600.25'])\n"
    (dags / "children.py").write_text(child + FINE.format("children"))
    (dags / "talks.py").write_text("print('x' * 100_000_000, flush=True)\n" + FINE.format("talks"))
    answer = project.json("check", code=9)
    deadly = {(name, line, kind) for name, (_, line, kind) in DEADLY.items()}
    assert found(answer) == deadly | {("loop.py", 2, "time-limit")}
    assert sorted(entry["file"] for entry in answer["findings"]) == sorted(
        f"dags/{name}" for name in (*DEADLY, "loop.py", "talks.py")
    )
    [talks] = [entry["message"] for entry in answer["findings"] if entry["kind"] == "output"]
    assert "100.0 MB" in talks
    assert {"children", "talks"} <= {dag for file in answer["files"] for dag in file["dags"]}
    assert not [
        process
        for process in psutil.process_iter(["cmdline"])
        if "3600.25" in (process.info["cmdline"] or ())
    ]


def test_what_a_file_prints_or_names_its_error_never_reaches_the_terminal_raw(
    project: Project, dags: Path
) -> None:
    (dags / "ugly.py").write_text(
        "from airflow.sdk import DAG\nimport os\nos.write(2, b'\\x1b]0;title\\x07')\n"
        "raise ValueError('\\x1b[2J')\n"
    )
    done = project.run("check", code=9)
    assert "\x1b" not in done.stdout + done.stderr
    assert "ValueError: ␛[2J" in done.stdout


def test_what_needs_a_stack_is_a_warning(project: Project, dags: Path) -> None:
    asking = "from airflow.sdk import Variable\nVariable.get('{}')\n"
    (dags / "asks.py").write_text(asking.format("unknown") + FINE.format("asks"))
    (dags / "knows.py").write_text(asking.format("threshold") + FINE.format("knows"))
    (project.folder / "stack" / "airflow" / "user.env").write_text("AIRFLOW_VAR_THRESHOLD=0.5\n")
    [finding] = project.json("check")["findings"]
    assert (finding["file"], finding["line"], finding["kind"]) == ("dags/asks.py", 2, "needs-airflow")
    assert finding["severity"] == "warning"


def test_fix_makes_an_airflow_2_dag_one_of_airflow_3(project: Project, dags: Path) -> None:
    (dags / "old.py").write_text(
        "from airflow import DAG\nfrom airflow.operators.dummy import DummyOperator\n\n"
        'with DAG("old", schedule_interval=None, concurrency=2):\n    DummyOperator(task_id="a")\n'
    )
    before = project.json("check", code=9)
    assert {entry["rule"] for entry in before["findings"] if "rule" in entry} == {
        "AIR301",
        "AIR302",
        "AIR311",
    }
    after = project.json("check", "--fix")
    assert (after["fixed"], after["rewritten"]) == (4, ["dags/old.py"])
    assert after["findings"] == []
    assert "old" in {dag for file in after["files"] for dag in file["dags"]}


@pytest.fixture
def tested(project: Project) -> Callable[..., tuple[int, str]]:
    def run(*words: str) -> tuple[int, str]:
        process = project.start("test", *words, stderr=subprocess.STDOUT)
        out, _ = process.communicate(timeout=200)
        return process.returncode, out

    return run


def test_the_projects_own_tests_run_with_pytests_words_and_exit_codes(
    project: Project, dags: Path, tested: Callable[..., tuple[int, str]]
) -> None:
    code, out = tested()
    assert code == 0, out
    assert "test_dag_integrity.py" in out
    (project.folder / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (project.folder / "test_of_somebody_else.py").write_text("raise SystemExit\n")
    (dags / "helper.py").write_text("VALUE = 7\n")
    (dags / "tests" / "test_own.py").write_text(
        "import os\nimport helper\n\n"
        "def test_helper():\n    assert helper.VALUE == 8\n\n"
        "def test_secrets():\n    assert 'AIRFLOW__API_AUTH__JWT_SECRET' not in os.environ\n"
        "    assert os.environ['AIRBYTE_POSTGRES_DATABASE'] == 'airbyte'\n"
    )
    code, out = tested("-q", "-k", "helper or secrets")
    assert code == 1, out
    assert "assert 7 == 8" in out
    assert "1 failed, 1 passed" in out
    assert tested("dags/tests/test_own.py::test_secrets")[0] == 0
    assert tested("-k", "nothing_at_all")[0] == 5
