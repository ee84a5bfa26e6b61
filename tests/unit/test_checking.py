"""What `check` makes of Airflow's answers, and of ruff's."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from pipectl.cli import app
from pipectl.engines.foreground import Command
from pipectl.errors import EngineError, ExitCode
from pipectl.observer import Observer
from pipectl.pipeline import checking, idioms
from pipectl.settings import Settings
from support.fake_engine import FakeEngine
from support.json_schemas import validate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PYTHON = "3.11.7"
MISSING = "ModuleNotFoundError: No module named"
UNEXPECTED = "TypeError: DAG.__init__() got an unexpected keyword argument"
OLD = """
from airflow import DAG
from airflow.operators.dummy import DummyOperator, DummyOperator as Again
from airflow.utils.log.file_processor_handler import nothing

with DAG("old", schedule_interval=None):
    DummyOperator(task_id="a") >> Again(task_id="b")
"""


class Answering(FakeEngine):
    """An engine whose Airflow gives the answer that a test has chosen."""

    script = ""

    def apart(
        self,
        program: str,
        words: tuple[str, ...],
        observer: Observer,
        pytest: Path | None = None,
        *,
        tolerant: bool = False,
    ) -> Command:
        del program, words, observer, pytest
        assert tolerant
        return Command((sys.executable, "-c", self.script), {}, self._settings.project)


TEMPLATES = """
from airflow.sdk import DAG
def f():
    "{{ execution_date }} is removed"
Bash(bash_command="echo {{ execution_date }} {{ dag_run.conf['conf'] }} {{ 'prev_ds' }}")
Bash(bash_command='''
  {% if conf %} {{ ds }}
  {{ ti.execution_date.year }} {{ params.next_ds }} {{ macros.f(conf=1) }} execution_date
''' + f"{{{{ tomorrow_ds }}}}")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dags").mkdir()
    (tmp_path / "stack").mkdir()
    return tmp_path


@pytest.fixture
def engine(project: Path) -> Answering:
    return Answering(Settings(project, "fake", project / "cache", {}))


@pytest.fixture
def check(project: Path, engine: Answering) -> Callable[..., checking.Check]:
    """Check files: each by its name, with its text, and what Airflow says of it."""

    def run(
        files: dict[str, tuple[str, dict[str, Any]]], folder: str = "", said: str = "", **options: Any
    ) -> checking.Check:
        seen = folder or str(project / "dags")
        for name, (text, _) in files.items():
            (project / "dags" / name).write_text(text)
        answer = {
            "airflow": "3.3.2",
            "requirements": said,
            "context": ["ds", "logical_date", "ti"],
            "python": PYTHON,
            "folder": seen,
            "limit": 30.0,
            "interval": 30,
            "sources": [f"{seen}/{name}" for name in files],
            "files": [
                {"path": f"{seen}/{name}", "dags": [], "seconds": 0.1, "errors": [], **entry}
                for name, (_, entry) in files.items()
            ],
        }
        engine.script = f"print({json.dumps(answer)!r})"
        return checking.check(engine, project, Observer(), **{"slow": 1.0, **options})

    return run


def trace(path: str, line: int, error: str, code: str = "import x") -> str:
    return (
        'Traceback (most recent call last):\n  File "/lib/python/importer.py", line 238, in parse\n'
        f'    loader.exec_module(new_module)\n  File "{path}", line {line}, in <module>\n    {code}\n'
        f'  File "/lib/python/other.py", line 5, in deep\n    raise\n    ^^^^^\n{error}\n'
    )


def errors(result: checking.Check) -> list[tuple[str, int | None, str]]:
    return [(finding.file, finding.line, finding.kind) for finding in result.errors]


def test_a_project_without_faults_has_no_findings(check: Any) -> None:
    result = check({"a.py": ("x = 1\n", {"dags": ["a"]})})
    assert not result.findings
    assert result.files == (checking.CheckedFile("dags/a.py", ("a",), 0.1),)


@pytest.mark.parametrize("folder", ["{project}/dags", "/opt/airflow/dags"])
def test_an_error_is_at_the_line_of_the_users_file_as_this_machine_has_it(
    check: Any, project: Path, folder: str
) -> None:
    seen = folder.format(project=project)
    text = trace(f"{seen}/a.py", 3, "ValueError: no: such\nthing")
    result = check({"a.py": ("", {"errors": [text]})}, folder=seen)
    assert errors(result) == [("dags/a.py", 3, "import")]
    assert result.errors[0].message == "ValueError: no: such thing"


def test_an_error_in_a_helper_is_found_once_where_it_is(check: Any, project: Path) -> None:
    helper = f"{project}/dags/lib/helper.py"
    text = (
        trace(f"{project}/dags/a.py", 2, "").rstrip("\n")
        + f'\n  File "{helper}", line 9, in f\n    x\nKeyError: 1\n'
    )
    result = check({name: ("", {"errors": [text]}) for name in ("a.py", "b.py")})
    assert errors(result) == [("dags/lib/helper.py", 9, "import")]
    assert "read by dags/a.py" in result.errors[0].message


def test_a_plugin_of_a_container_has_its_place_in_the_project(check: Any) -> None:
    text = trace("/opt/airflow/stack/plugins/mine.py", 4, "NameError: x")
    result = check({"a.py": ("", {"errors": [text]})}, folder="/opt/airflow/dags")
    assert errors(result) == [("stack/airflow/plugins/mine.py", 4, "import")]


@pytest.mark.parametrize(
    ("code", "module", "hint"),
    [
        ("import pandas", "pandas", "Add this line to requirements.txt: pandas"),
        ("import sklearn.svm", "sklearn", "Add this line to requirements.txt: scikit-learn"),
        (
            "from airflow.providers.http.operators.http import HttpOperator",
            "airflow.providers.http",
            "Add this line to requirements.txt: apache-airflow-providers-http",
        ),
        (
            "from airflow.providers.microsoft.azure.hooks import x",
            "airflow.providers.microsoft",
            "Add this line to requirements.txt: apache-airflow-providers-microsoft-azure",
        ),
        ("import polars", "polars", "requirements.txt has polars, but it is not installed"),
        ("import nobody_knows", "nobody_knows", "Add the package that has it"),
        (
            "from airflow.operators.dummy import DummyOperator",
            "airflow.operators.dummy",
            "take the import out",
        ),
        ("from airflow.datasets import Dataset\nDataset('a')", "airflow.datasets", "`Asset` has been moved"),
        ("import_module('airflow.x')", "airflow.x", "notes on release 3.0.0"),
    ],
)
def test_a_missing_package_is_named_only_if_it_is_known(
    check: Any, project: Path, code: str, module: str, hint: str
) -> None:
    (project / "requirements.txt").write_text("# mine\nPolars[all]>=1 # fast\n")
    error = f"ModuleNotFoundError: No module named '{module}'"
    result = check({"a.py": (code, {"errors": [trace(f"{project}/dags/a.py", 1, error, code)]})})
    [finding] = [finding for finding in result.errors if finding.kind == "package"]
    assert (finding.file, finding.line) == ("dags/a.py", 1)
    assert hint in finding.hint


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("requirements.txt cannot be installed: nosuchpackage was not found in the package registry.", 3),
        ("requirements.txt, line 2, is no requirement: foo bar", 2),
        ("requirements.txt: https://index.example/simple/added/ could not be read: no route.", None),
        ("what nobody has seen before", None),
    ],
)
def test_packages_that_cannot_be_installed_are_one_finding_among_others(
    check: Any, engine: Answering, project: Path, said: str, line: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "requirements.txt").write_text("# mine\nfoo bar\nnosuchpackage==1.0\n")
    error = trace(f"{project}/dags/a.py", 1, f"{MISSING} 'nobody_knows'")
    files = {"a.py": ("import nobody_knows\n", {"errors": [error]}), "b.py": ("", {"dags": ["b"]})}
    result = check(files, said=f"uv's words\n{said}\n")
    assert errors(result) == [("dags/a.py", 1, "package"), ("requirements.txt", line, "requirements")]
    assert "pipectl check" in result.errors[1].hint
    monkeypatch.setattr("pipectl.engines.choice.choose", lambda _: engine)
    words = ["--project", str(project), "--json", "check", "--junit", str(project / "out.xml")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == ExitCode.DAG
    suite = ET.parse(project / "out.xml").getroot()[0]  # noqa: S314  pipectl's own
    assert {case.get("name"): case.find("failure") is not None for case in suite} == {
        "dags/a.py": True,
        "dags/b.py": False,
        "requirements.txt": True,
    }


def test_a_cycle_is_at_the_line_of_its_task(check: Any) -> None:
    text = "AirflowDagCycleException: Cycle detected in Dag: a. Faulty task: turn"
    result = check({"a.py": ("\n\nEmpty(\n    task_id='turn')\n", {"dags": ["a"], "errors": [text]})})
    assert errors(result) == [("dags/a.py", 4, "cycle")]


def test_an_id_in_two_files_and_twice_in_one_is_an_error(check: Any) -> None:
    result = check(
        {
            "a.py": ("DAG('one')\n\nDAG('one')\n", {"dags": ["one", "one"]}),
            "b.py": ("\n@dag\ndef one(): ...\n", {"dags": ["one"]}),
        }
    )
    assert errors(result) == [("dags/a.py", 3, "duplicate"), ("dags/b.py", 3, "duplicate")]
    assert "dags/a.py" in result.errors[1].message


def test_what_takes_longer_than_the_threshold_is_a_warning_that_names_it(check: Any) -> None:
    files = {"a.py": ("", {"dags": ["a"], "seconds": 2.345})}
    [finding] = check(files).findings
    assert (finding.severity, finding.kind) == ("warning", "slow")
    assert "2.3 s, more than 1" in finding.message
    assert not check(files, slow=3).findings


def test_a_file_that_prints_megabytes_is_a_warning(check: Any) -> None:
    files = {"a.py": ("", {"dags": ["a"], "printed": 20_000_000}), "b.py": ("", {"printed": 1000})}
    [finding] = check(files).findings
    assert (finding.file, finding.severity, finding.kind) == ("dags/a.py", "warning", "output")
    assert "prints 20.0 MB" in finding.message


@pytest.mark.parametrize(
    ("code", "place", "line", "kind", "how"),
    [
        (3, "", None, "ended", "exit code 3"),
        (-11, "", None, "ended", "SIGSEGV (Segmentation fault)"),
        (
            -6,
            'Fatal Python error: Aborted\n\nThread 0x1:\n  File "{dags}/a.py", line 8 in g\n',
            8,
            "ended",
            "SIGABRT (Aborted)",
        ),
        (-9, "", None, "ended", "SIGKILL (Killed)"),
        (-99, "", None, "ended", "signal 99"),
        (
            1,
            'Timeout!\nThread 0x1:\n  File "/lib/x.py", line 1 in f\n  File "{dags}/a.py", line 7 in g\n',
            7,
            "time-limit",
            "did not end within 30 s",
        ),
    ],
)
def test_a_file_that_ends_its_process_or_does_not_end_is_an_error(
    check: Any, project: Path, code: int, place: str, line: int | None, kind: str, how: str
) -> None:
    entry = {"seconds": None, "exit": code, "place": place.replace("{dags}", f"{project}/dags")}
    result = check({"a.py": ("", entry)})
    assert errors(result) == [("dags/a.py", line, kind)]
    assert how in result.errors[0].message
    assert result.files[0].seconds is None


def test_a_file_that_is_killed_is_told_from_one_that_is_late_and_from_one_that_memory_ends(
    check: Any,
) -> None:
    killed: dict[str, Any] = {"seconds": None, "exit": -9, "place": ""}
    result = check(
        {
            "a.py": ("", killed),
            "b.py": ("", {**killed, "late": True}),
            "c.py": ("", {**killed, "out_of_memory": True}),
        }
    )
    assert [finding.kind for finding in result.errors] == ["ended", "time-limit", "ended"]
    assert ["memory" in finding.hint for finding in result.errors] == [False, False, True]


def test_a_file_that_airflow_gives_up_is_told_once(check: Any, project: Path) -> None:
    limit = "airflow.sdk.exceptions.AirflowTaskTimeout: DagBag import timeout after 30.0s."
    text = trace(f"{project}/dags/a.py", 3, limit)
    [finding] = check({"a.py": ("", {"seconds": 30.1, "errors": [text]})}).findings
    assert (finding.kind, finding.line) == ("time-limit", 3)


@pytest.mark.parametrize(
    ("where", "beside", "error", "hint"),
    [
        ("team/a.py", "team/helper.py", f"{MISSING} 'helper'", "from team import helper"),
        ("team/b/a.py", "team/lib/x.py", f"{MISSING} 'lib'", "from team import lib"),
        ("team/b/a.py", "team/b/x.py", f"{MISSING} 'x.y'", "from team.b import x"),
        ("team/a.py", "team/x.py", f"{MISSING} 'helper'", "requirements.txt"),
        ("a.py", "b.py", "ImportError: attempted relative import with no known parent", "from dags/ on"),
        ("a.py", "b.py", f"{UNEXPECTED} 'schedule_interval'", "Write schedule."),
    ],
)
def test_a_hint_says_what_to_write_instead(
    check: Any, project: Path, where: str, beside: str, error: str, hint: str
) -> None:
    for name in (where, beside):
        (project / "dags" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / "dags" / name).touch()
    result = check({where: ("", {"errors": [trace(f"{project}/dags/{where}", 3, error)]})})
    assert errors(result)[0][:2] == (f"dags/{where}", 3)
    assert hint in result.errors[0].hint


def test_an_error_that_quotes_all_it_has_is_shortened(check: Any, project: Path) -> None:
    text = trace(f"{project}/dags/a.py", 3, f"ValueError: begins {'x' * 100_000} ends")
    [finding] = check({"a.py": ("", {"errors": [text]})}).findings
    assert finding.line == 3
    assert finding.message.startswith("ValueError: begins")
    assert finding.message.endswith("ends")
    assert len(finding.message) + len(finding.detail) < 10_000


def test_what_only_airflow_can_answer_is_no_error(check: Any, project: Path) -> None:
    error = (
        "airflow.sdk.exceptions.AirflowRuntimeError: VARIABLE_NOT_FOUND: {'message': 'Variable x not found'}"
    )
    result = check({"a.py": ("", {"errors": [trace(f"{project}/dags/a.py", 2, error)]})})
    [finding] = result.findings
    assert (finding.severity, finding.kind, finding.line) == ("warning", "needs-airflow", 2)


def test_a_syntax_error_is_told_once_and_in_a_file_without_dags_too(check: Any, project: Path) -> None:
    text = (
        f'Traceback\n  File "{project}/dags/a.py", line 1\n    x = (\n        ^\nSyntaxError: never closed\n'
    )
    files = {"a.py": ("x = (\n", {"errors": [text]}), "helper.py": ("def f(:\n", {})}
    result = check(files)
    assert errors(result) == [("dags/a.py", 1, "syntax"), ("dags/helper.py", 1, "syntax")]
    assert result.errors[0].message == "SyntaxError: never closed"


def test_what_airflow_3_has_removed_is_an_error_and_what_it_will_remove_a_warning(check: Any) -> None:
    result = check({"a.py": (OLD, {"dags": ["old"]})})
    rules = {(finding.rule, finding.severity) for finding in result.findings}
    assert {("AIR301", "error"), ("AIR302", "error"), ("AIR311", "warning")} <= rules


def test_a_warning_has_no_contradiction_and_each_of_a_removed_argument_says_what_to_write(check: Any) -> None:
    text = (
        "from airflow import DAG\n"
        'DAG("old", schedule_interval=None, default_view="grid", sla_miss_callback=None)\n'
    )
    findings = check({"a.py": (text, {"dags": ["old"]})}).findings
    assert len(findings) == 4
    assert not [found for found in findings if "removed" in found.message and "works" in found.message]
    assert all(found.hint for found in findings)


def test_variables_that_airflow_3_has_removed_are_found_in_templates_alone(check: Any, project: Path) -> None:
    (project / "dags" / "query.sql").write_text("SELECT 1;\nSELECT '{{ yesterday_ds }}', prev_ds\n")
    findings = check({"a.py": (TEMPLATES, {"dags": ["a"]})}).findings
    assert {(found.file, found.line, found.message.split("`")[1]) for found in findings} == {
        ("dags/a.py", 5, "execution_date"),
        ("dags/a.py", 7, "conf"),
        ("dags/a.py", 8, "execution_date"),
        ("dags/a.py", 9, "tomorrow_ds"),
        ("dags/query.sql", 2, "yesterday_ds"),
    }
    assert {found.severity for found in findings} == {"warning"}
    assert all(found.hint for found in findings)


def failing(text: str, *names: str, task: str = "t") -> dict[str, Any]:
    return {"dag": "a", "task": task, "text": text, "names": list(names)}


def test_a_removed_variable_is_an_error_where_a_task_is_sure_to_ask_for_it(check: Any, project: Path) -> None:
    (project / "dags" / "query.sql").write_text("SELECT '{{ yesterday_ds }}'\n")
    entry = {
        "dags": ["a"],
        "templates": [
            failing("{{ execution_date }}x", "execution_date"),
            failing("SELECT '{{ yesterday_ds }}'\n", "yesterday_ds"),
            failing("{{ ti.execution_date }}", "ti.execution_date"),
            failing("{{ prev_ds }}", "prev_ds", task="g.built"),
            failing("{{ dss }} {{ mine }}", "dss", "mine"),
        ],
        "macros": ["conf"],
    }
    text = (
        'A("{{ execution_date }}" + x)\nA("{{ next_ds }} {{ conf.x }}")\nA("{{ ti.execution_date }}")\n'
        'A(task_id="built")\nA(task_id="t")\n'
    )
    result = check({"a.py": (text, entry)})
    assert {(found.file, found.line, found.severity) for found in result.findings} == {
        ("dags/a.py", 1, "error"),
        ("dags/a.py", 2, "warning"),
        ("dags/a.py", 3, "error"),
        ("dags/a.py", 4, "error"),
        ("dags/a.py", 5, "error"),
        ("dags/query.sql", 1, "error"),
    }
    hints = {found.message.split("`")[-2]: found.hint for found in result.findings}
    assert hints["dss"] == "Did you mean ds?"
    assert "user_defined_macros" in hints["mine"]
    assert hints["prev_ds"].startswith("Write ti.get_previous_dagrun().logical_date | ds ")


def test_what_jinja_or_airflow_refuses_in_a_template_is_found_where_it_is(check: Any, project: Path) -> None:
    def fault(kind: str, name: str, value: str, **more: Any) -> dict[str, Any]:
        wrong = {"kind": kind, "name": name, "close": [], "line": 1, "fails": True, **more}
        return {**failing(value, task="g.t"), "value": value, "path": "", "faults": [wrong]}

    entry = {
        "dags": ["a"],
        "templates": [
            fault("syntax", "Expected an expression", "{% if %}"),
            fault("filter", "nofilter", "{{ ds | nofilter }}", close=["nofiltre"]),
            fault("test", "nosuch", "built {{ ds is nosuch }}"),
            fault("file", "run.sh", "run.sh", line=None),
            {**fault("filter", "x", "q.sql", line=7), "path": f"{project}/dags/q.sql"},
            fault("param", "q", "{{ params.q }}", fails=False),
            fault("param", "daily", "{{ params.daily }}"),
            fault("date", "ds", "{{ ds }}", fails=False),
        ],
    }
    text = (
        "A('{% if %}')\nA('{{ ds | nofilter }}')\nA('run.sh')\nA(task_id='t')\nA('q.sql')\n"
        "A('{{ params.q }}')\nA('{{ params.daily }}')\nA('{{ ds }}')\n"
    )
    found = check({"a.py": (text, entry)}).findings
    assert [(one.file, one.line, one.severity) for one in found] == [
        ("dags/a.py", 1, "error"),
        ("dags/a.py", 2, "error"),
        ("dags/a.py", 3, "error"),
        ("dags/a.py", 4, "error"),
        ("dags/a.py", 6, "warning"),
        ("dags/a.py", 7, "error"),
        ("dags/a.py", 8, "warning"),
        ("dags/q.sql", 7, "error"),
    ]
    assert "Expected an expression" in found[0].message
    assert "{% raw %}" in found[0].hint
    assert found[1].hint == "Did you mean nofiltre?"
    assert "triggered without it fails" in found[4].message
    assert "params.get('q')" in found[4].hint
    assert found[5].message.endswith(": it fails.")


PREFIX = "from airflow.sdk import task, get_current_context\n"


@pytest.mark.parametrize(
    ("code", "line", "severity", "hint"),
    [
        ("@task\ndef f(**kw):\n    kw['prev_ds']\n", 4, "error", 'Write kw["ti"].get_previous_dagrun().'),
        ("def f(**c):\n    c['conf']\nP(python_callable=f)\n", 3, "error", 'Write c["dag_run"].conf'),
        ("class O(B):\n    def execute(self, context):\n        context['execution_date']\n", 4, "error", ""),
        ("def f():\n    get_current_context()['execution_date']\n", 3, "error", "get_current_context()["),
        (
            "def f():\n    c = get_current_context()\n    c['next_ds']\n",
            4,
            "error",
            '(c["logical_date"] + timedelta(',
        ),
        ("def f(context):\n    context['ti'].execution_date\n", 3, "error", 'Write context["logical_date"].'),
        (
            "@task\ndef f(ti):\n    ti.execution_date\n",
            4,
            "error",
            'ti.get_template_context()["logical_date"]',
        ),
        ("def f(dag_run):\n    dag_run.execution_date\n", 3, "error", "Write dag_run.logical_date."),
        ("def f(context):\n    context['dag_run'].execution_date\n", 3, "error", '["dag_run"].logical_date'),
        ("P(on_failure_callback=lambda c, **k: k['tomorrow_ds'])\n", 2, "error", "timedelta(days=1)"),
        ("def f(*, prev_ds):\n    pass\nP(python_callable=f)\n", 2, "error", "Take **context in its place"),
        ("def f(a, prev_ds=1):\n    pass\nP(python_callable=f)\n", 2, "warning", "Take **context"),
        ("@task\ndef f(execution_date=None, **kw):\n    pass\n", 3, "warning", 'Write kw["logical_date"].'),
        ("def f(context):\n    context.get('execution_date')\n", 3, "warning", ""),
        ("def f(context):\n    if OLD:\n        context['execution_date']\n", 4, "warning", ""),
        ("def f(context):\n    return A or context['execution_date']\n", 3, "warning", ""),
        (
            "def f(context):\n    try:\n        context['conf']\n    except KeyError:\n        pass\n",
            4,
            "warning",
            "",
        ),
        ("def helper(**words):\n    words['execution_date']\n", 3, "warning", ""),
        ("def f(context):\n    context['test_mode']\n", 3, "error", "Leave it out"),
        (
            "def f(context):\n    context['triggering_dataset_events']\n",
            3,
            "error",
            "triggering_asset_events",
        ),
    ],
)
def test_what_a_program_takes_from_the_context_is_found_with_what_to_write_in_python(
    check: Any, code: str, line: int, severity: str, hint: str
) -> None:
    [finding] = check({"a.py": (PREFIX + code, {"dags": ["a"]})}).findings
    assert (finding.file, finding.line, finding.severity) == ("dags/a.py", line, severity)
    assert hint in finding.hint
    assert "macros" not in finding.hint
    assert "|" not in finding.hint


@pytest.mark.parametrize(
    "code",
    [
        "@task\ndef f(execution_date):\n    pass\nf(execution_date=1)\n",
        "@task\ndef f(a, execution_date):\n    pass\nf(1, 2)\n",
        "def f(prev_ds):\n    pass\nP(python_callable=f, op_kwargs={'prev_ds': 1})\n",
        "def f(prev_ds):\n    pass\nP(python_callable=f, op_args=[1])\n",
        "def f(context):\n    context['prev_ds'] = 1\n    context['prev_ds']\n",
        "def f(context):\n    context = {}\n    context['prev_ds']\n",
        "def f(rows):\n    rows['execution_date']\n",
        "def f(**words):\n    words['conf']\n",
        "def f(execution_date):\n    pass\n",
        "def f(ti, context):\n    context['ds'], ti.logical_date\n",
    ],
)
def test_what_has_a_value_is_not_found(check: Any, code: str) -> None:
    assert not check({"a.py": (PREFIX + code, {"dags": ["a"]})}).findings


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("from airflow.utils.dates import days_ago\ndays_ago(1)\n", "pendulum.today('UTC').add(days=-N)"),
        ("from airflow.utils.trigger_rule import TriggerRule\nTriggerRule.DUMMY\n", "TriggerRule.ALWAYS"),
        ("from airflow.utils.dates import date_range\ndate_range(1)\n", ""),
        ("from airflow.utils.dates import round_time\nround_time(1)\n", ""),
        ("from airflow.triggers.external_task import TaskStateTrigger\nTaskStateTrigger()\n", ""),
        ("from airflow.contrib.hooks import x\nx()\n", ""),
        ("from airflow.operators.subdag import SubDagOperator\nSubDagOperator()\n", ""),
    ],
)
def test_what_fix_does_not_mend_is_said_with_what_to_write(
    check: Any, project: Path, code: str, hint: str
) -> None:
    findings = check({"a.py": (code, {"dags": ["a"]})}, fix=True).findings
    assert findings
    assert all(finding.hint for finding in findings)
    assert hint in findings[0].hint
    # The same if Airflow itself could not import it.
    if "DUMMY" in code:
        return
    error = "ImportError: cannot import name 'x' from 'airflow.utils' (/lib/x.py)"
    text = trace(f"{project}/dags/a.py", 1, error, code.partition("\n")[0])
    told = check({"a.py": (code, {"errors": [text]})}).findings
    assert all(finding.hint for finding in told)
    assert hint in told[0].hint


@pytest.mark.parametrize(
    "code",
    [
        "from airflow.sdk import DAG\nDAG('a')\n",
        "from airflow.sdk import dag\n@dag()\ndef f(): ...\n",
        "from airflow.www.auth import has_access\nhas_access()\n",
        "from airflow.www.utils import should_hide_value_for_key as f\nf()\n",
        "from airflow.www.utils import get_sensitive_variables_fields\nget_sensitive_variables_fields()\n",
        "from airflow.lineage.hook import HookLineageCollector\nHookLineageCollector().create_asset('x')\n",
    ],
)
def test_a_hint_says_what_to_write_and_sends_nobody_to_read_notes(check: Any, code: str) -> None:
    [finding] = check({"a.py": (code, {"dags": ["a"]})}).findings
    assert finding.hint
    assert "notes on release" not in finding.hint
    if finding.rule == "AIR002":
        assert "schedule=None" in finding.hint
        assert '"@daily"' in finding.hint


def test_fix_rewrites_what_ruff_knows_and_leaves_no_import_behind(check: Any, project: Path) -> None:
    path = project / "dags" / "a.py"
    before = "import os  # unused before\r\n" + OLD.replace("\n", "\r\n")
    path.write_bytes(before.encode())
    other = project / "dags" / "other.py"
    other.write_text("x = 1\n")
    lines, files = idioms.fix([path, other], PYTHON)
    assert lines > 0
    assert files == (path,)
    after = path.read_bytes().decode()
    assert "dummy" not in after.lower()
    assert "schedule=None" in after
    assert "import os  # unused before" in after
    assert "nothing" in after
    assert not [entry for entry in idioms.find([path], PYTHON) if entry.fixable]
    assert check({"b.py": ("x = 1\n", {"dags": ["b"]})}, fix=True).fixed == 0


def test_an_airflow_that_cannot_be_run_is_an_engine_error_with_its_last_lines(
    engine: Answering, project: Path
) -> None:
    engine.script = "import sys; sys.exit('no such thing')"
    with pytest.raises(EngineError) as caught:
        checking.check(engine, project, Observer(), slow=1)
    assert "no such thing" in caught.value.detail
    engine.script = "print('[1, 2')"
    with pytest.raises(EngineError):
        checking.check(engine, project, Observer(), slow=1)


def test_the_command_ends_with_9_and_writes_junit_that_a_reader_of_xml_takes(
    check: Any, engine: Answering, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ugly = trace(f"{project}/dags/a.py", 2, "ValueError: \x1b[2J <&> \x00")
    check({"a.py": ("", {"errors": [ugly]}), "b.py": ("", {"dags": ["b"], "seconds": 5.0})})
    monkeypatch.setattr("pipectl.engines.choice.choose", lambda _: engine)
    words = ["--project", str(project), "check", "--junit", str(project / "out.xml")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == ExitCode.DAG
    assert "\x1b" not in done.output
    assert "\x00" not in done.output
    suite = ET.parse(project / "out.xml").getroot()[0]  # noqa: S314  pipectl's own
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.find("failure") is not None for case in suite] == [True, False]
    printed = CliRunner().invoke(app, [*words[:2], "--json", "check"])
    validate("check", json.loads(printed.stdout))
    assert json.loads(printed.stdout)["findings"][0]["kind"] == "import"


@pytest.mark.parametrize("name", ["no/out.xml", "dags", "-", "x" * 300])
def test_a_file_that_cannot_be_written_is_told_before_airflow_runs(
    engine: Answering, project: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipectl.engines.choice.choose", lambda _: engine)
    monkeypatch.chdir(project)
    done = CliRunner().invoke(app, ["--project", str(project), "check", "--junit", name])
    assert done.exit_code == ExitCode.USAGE
