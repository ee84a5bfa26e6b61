"""stack/airflow/run_tests.py with this environment's pytest: no Airflow is needed to look at paths."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from support import ROOT

FOREIGN = "raise RuntimeError('settings of another project')\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a test of its own, in a clone whose `tests/` are not the project's."""
    for folder in ("dags/tests", "scripts", "tests/unit"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tests" / "conftest.py").write_text(FOREIGN)
    (tmp_path / "tests" / "unit" / "test_other.py").write_text("def test_other(): pass\n")
    (tmp_path / "dags" / "some_dag.py").touch()
    (tmp_path / "dags" / "tests" / "test_own.py").write_text("def test_own(): pass\n")
    (tmp_path / "scripts" / "test_script.py").write_text("def test_script(): pass\n")
    return tmp_path


def run(project: Path, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "stack" / "airflow" / "run_tests.py"), "-p", "no:randomly", *words],
        cwd=project,
        env={"PYTEST_FOLDER": str(Path(pytest.__file__).parent), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("dags/tests/nofile.py", ""),
        ("dags/tests/test_onw.py", "dags/tests/test_own.py"),
        ("test_own.py::test_own", "dags/tests/test_own.py"),
        ("dags/nofolder", ""),
        ("dags/nosuch.py", ""),
        ("dags/test_nosuch.py", ""),
        ("dags/some_dag.py.", ""),
        ("tests/unit", ""),
        ("dags/../tests/unit/test_other.py", ""),
        (".", ""),
    ],
)
def test_a_path_that_is_none_of_the_projects_code_is_told_in_one_sentence(
    project: Path, word: str, meant: str
) -> None:
    code, out, err = run(project, "-q", word)
    assert code == 2
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith(
        f"Error: {Path(word.partition('::')[0])} is no file or folder in dags/ or scripts/"
    )
    assert line.endswith(f" Did you mean {meant}?") == bool(meant)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 0, "1 passed"),
        (("-k", "own"), 0, "1 passed"),
        (("-k", "nofile.py"), 5, "1 deselected"),
        (("dags/tests/test_own.py::test_own", "scripts/test_script.py"), 0, "2 passed"),
        (("dags/tests/test_own.py::nothing",), 4, "not found"),
    ],
)
def test_nothing_beside_the_projects_code_configures_its_tests(
    project: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    done = run(project, *words)
    assert done[0] == code, done
    assert told in "".join(done[1:])
    assert "another project" not in "".join(done[1:])


def test_a_house_rule_that_a_dag_breaks_is_told_as_one_with_the_file_to_edit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = SimpleNamespace(task_id="Load", retries=0)
    dag = SimpleNamespace(
        dag_id="mine",
        description=None,
        doc_md=None,
        tags=(),
        catchup=True,
        tasks=[task, SimpleNamespace(task_id="load", retries=1)],
    )
    bag = SimpleNamespace(dags={"mine": dag}, import_errors={})
    stand_ins: dict[str, dict[str, object]] = {
        "airflow": {},
        "airflow.dag_processing": {},
        "airflow.configuration": {"conf": SimpleNamespace(get_mandatory_value=lambda *_: str(tmp_path))},
        "airflow.sdk": {"DAG": object},
        "airflow.dag_processing.dagbag": {"DagBag": lambda _: bag},
    }
    for name, content in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    path = "dags/tests/test_dag_integrity.py"
    rules = {
        name: function
        for name, function in runpy.run_path(str(ROOT / path)).items()
        if name.startswith("test_") and "dag" in function.__annotations__
    }
    assert len(rules) == 5
    for rule in rules.values():
        with pytest.raises(AssertionError, match=rf"mine .*house rule.*{path}"):
            rule(dag)
