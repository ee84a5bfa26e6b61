"""`check` and `test` with the real Airflow of the local engine, in a project that was never started."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from pipectl.pipeline import removed_names
from support.broken_dags import DEADLY, FINE, REPORTED, archive, check_without_a_package, write
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
    # A busy machine comes near the limit with what talks, which is told too.
    files = {entry["file"] for entry in answer["findings"]}
    assert files == {f"dags/{name}" for name in (*DEADLY, "loop.py", "talks.py")}
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


def test_a_package_that_cannot_be_had_hides_nothing_else(project: Project) -> None:
    check_without_a_package(project)


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


TEMPLATES = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, BaseOperator, task
import jinja2

def bash(number, command, **words):
    return BashOperator(task_id=f"t{number}", bash_command=command, **words)

class Mine(BaseOperator):
    template_fields = ("query",)
    template_ext = (".sql",)
    def __init__(self, query, **words):
        super().__init__(**words)
        self.query = query

class Gives(Mine):
    def render_template_fields(self, context, jinja_env=None):
        super().render_template_fields({**context, "prev_ds": 1}, jinja_env)

@task
def f(words):
    pass

with DAG("strict", schedule=None, doc_md="{{ tomorrow_ds }}"):
    bash(1, "{{ execution_date }}")
    bash(2, "x", env={"A": "{{ prev_ds }}"})
    bash(3, "{{ execution_date if execution_date is defined else ts }}")
    bash(4, "{{ conf | default(1) }} {% if params %}{{ yesterday_ds }}{% endif %}")
    bash(5, "{{ ti.execution_date }} {{ macros.ds_add(ds, 1) }} {{ var.value.x }} {{ ts_nodash_with_tz }}")
    BashOperator.partial(task_id="t6").expand(bash_command=["{{ next_ds_nodash }}"])
    Mine(task_id="t7", query="query.sql")
    Gives(task_id="t8", query="{{ prev_ds }} ")
    f(["{{ test_mode }}"])
    PythonOperator(task_id="t9", python_callable=print, op_kwargs={"a": "{{ logical_dat }}"})
    bash(10, "{" + "{ triggering_dataset_events }}")
with DAG("loose", schedule=None, template_undefined=jinja2.Undefined):
    bash(1, "a {{ tomorrow_ds_nodash }}")
with DAG("own", schedule=None, user_defined_macros={"next_execution_date": 1}):
    bash(1, "{{ next_execution_date }}")
"""
UNRUNNABLE = """
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Asset
import jinja2

def bash(number, command, **words):
    return BashOperator(task_id=f"t{number}", bash_command=command, **words)

with DAG("by_hand", schedule=None, params={"known": 1}, template_searchpath=["ELSEWHERE"]):
    bash(1, "{{ ds | nofilter }} {{ ds }}")
    bash(2, "{{ ds is nosuch }}")
    bash(3, "{% if %}")
    bash(4, "echo ${#array[@]}")
    bash(5, "run.sh")
    bash(6, "echo", env={"A": "/nested.sh"})
    bash(7, "{% include 'part.txt' %}")
    bash(8, "broken.sh")
    bash(9, "{{ params.knwon }} {{ params['q'] }}")
    bash(10, "{{ params.known }}{{ params.own }}{{ params.get('q') }}", params={"own": 2})
    bash(11, "{{ params.q | default(1) }}{{ params.q if params.q is defined }}")
    bash(12, "{% if ds %}{{ params.q }}{% endif %}{{ ds if ds else (ds | nofilter) }}")
    bash(12.5, "{% include 'part.txt' ignore missing %}{% raw %}{{ x }}{% endraw %}")
    bash(13, "{% set params = {'q': 1} %}{{ params.q }} run.sh ")
    bash(14, "there.sh")
    BashOperator.partial(task_id="t15").expand(bash_command=["gone.sh"])
    BashOperator.partial(task_id="t16", bash_command="{{ params.q }}").expand(params=[{"q": 1}])
with DAG("daily", schedule="@daily"):
    bash(1, "{{ params.daily }}")
    bash(2, "{{ ds }}")
with DAG("assets", schedule=[Asset("a")]):
    bash(1, "{{ ts }} {{ run_id }} {{ dag_run.run_after | ds }}")
with DAG("undefined", schedule=None, template_undefined=jinja2.Undefined):
    bash(1, "{{ params.q }}{{ dss }}")
    bash(2, "{{ ds | lower_ }}")
"""
# In a DAG file that fails if one of them cannot be rendered, or run.
ADVICE = """
import pendulum
from datetime import timedelta
from types import SimpleNamespace
from airflow.sdk import DAG
from airflow.sdk.definitions._internal.templater import create_template_env
from airflow.sdk.execution_time.context import MacrosAccessor
# As the default timetable of a cron schedule has it; the run of the day before failed.
day = pendulum.datetime(2026, 1, 30)
context = {"logical_date": day, "data_interval_start": day, "data_interval_end": day, "ds": str(day.date())}
context["prev_data_interval_start_success"] = day.subtract(days=2)
previous = SimpleNamespace(logical_date=day.subtract(days=1))
context["ti"] = SimpleNamespace(get_previous_dagrun=lambda: previous)
context |= {"dag_run": SimpleNamespace(conf={}), "triggering_asset_events": {}, "macros": MacrosAccessor()}
days = {"prev": 29, "yest": 29, "next": 31, "tomo": 31, "exec": 30, "prev_execution_date_success": 28}
for name, template, code in PAIRS:
    rendered = create_template_env().from_string("{{ " + template + " }}").render(context)
    assert rendered == str(eval(code)), (rendered, code)
    if number := days.get(name) or days.get(name[:4]):
        assert rendered.replace("-", "")[:8] == f"202601{number}", (name, rendered)
"""


def test_a_template_that_cannot_be_rendered_is_an_error_as_in_airflow(project: Project, dags: Path) -> None:
    (dags / "templates.py").write_text(TEMPLATES)
    (dags / "query.sql").write_text("SELECT\n'{{ prev_execution_date }}'\n")
    findings = project.json("check", code=9)["findings"]
    lines = dict(enumerate(TEMPLATES.splitlines(), start=1))
    said = {
        (entry["message"].split("`")[-2], entry["severity"], lines.get(entry["line"], "").strip()[:9])
        for entry in findings
        if entry["file"].endswith(".py")
    }
    assert said == {
        ("tomorrow_ds", "warning", "with DAG("),
        ("execution_date", "error", 'bash(1, "'),
        ("prev_ds", "error", 'bash(2, "'),
        ("execution_date", "warning", 'bash(3, "'),
        ("conf", "warning", 'bash(4, "'),
        ("yesterday_ds", "warning", 'bash(4, "'),
        ("execution_date", "error", 'bash(5, "'),
        ("next_ds_nodash", "error", "BashOpera"),
        ("prev_ds", "warning", "Gives(tas"),
        ("test_mode", "error", 'f(["{{ te'),
        ("logical_dat", "error", "PythonOpe"),
        ("triggering_dataset_events", "error", ""),
        ("tomorrow_ds_nodash", "warning", 'bash(1, "'),
    }
    [query] = [entry for entry in findings if entry["file"] == "dags/query.sql"]
    assert (query["line"], query["severity"]) == (2, "error")


def test_a_template_that_jinja_or_airflow_refuses_is_an_error_and_one_that_some_runs_lack_a_warning(
    project: Project, dags: Path
) -> None:
    elsewhere = project.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "there.sh").write_text("echo\n")
    (elsewhere / "broken.sh").write_text("echo\n{{ ds | nofilter }}\n")
    source = UNRUNNABLE.replace("ELSEWHERE", str(elsewhere))
    (dags / "unrunnable.py").write_text(source)
    lines = dict(enumerate(source.splitlines(), start=1))
    findings = project.json("check", code=9)["findings"]
    said = {
        (
            entry["severity"],
            entry["message"].partition(" of the task ")[2].partition("`")[2].partition("`")[0],
            re.sub(r"^.*?(bash\(\d+|Bash).*$", r"\1", lines.get(entry["line"], "").strip()),
            (re.findall(r"`([^`]+)`", entry["message"]) * 2)[1],
        )
        for entry in findings
        if entry["file"] == "dags/unrunnable.py"
    }
    assert said == {
        ("error", "t1", "bash(1", "nofilter"),
        ("error", "t2", "bash(2", "nosuch"),
        ("error", "t3", "bash(3", "t3"),
        ("error", "t4", "bash(4", "t4"),
        ("error", "t5", "bash(5", "run.sh"),
        ("error", "t6", "bash(6", "/nested.sh"),
        ("error", "t7", "bash(7", "part.txt"),
        ("warning", "t9", "bash(9", "params.knwon"),
        ("warning", "t9", "bash(9", "params.q"),
        ("error", "t15", "Bash", "gone.sh"),
        ("error", "t1", "bash(1", "params.daily"),
        ("warning", "t1", "bash(1", "ts"),
        ("error", "t2", "bash(2", "lower_"),
    }
    [file] = [entry for entry in findings if entry["file"] != "dags/unrunnable.py"]
    assert (file["file"], file["line"], file["severity"]) == ("elsewhere/broken.sh", 2, "error")
    hints = {entry["hint"] for entry in findings}
    assert {"Did you mean known?", "Did you mean lower?"} <= hints
    assert all(hints)


def test_what_is_said_to_write_instead_of_a_removed_variable_works(project: Project, dags: Path) -> None:
    def written(sentence: str) -> str:
        return sentence.removeprefix("Write ").partition(" for ")[0].removesuffix(".")

    pairs = [
        (name, written(removed_names.in_a_template(name)), written(removed_names.in_a_task(name, "context")))
        for name in removed_names.VARIABLES
        if removed_names.in_a_template(name).startswith("Write")
    ]
    assert len(pairs) > 10
    (dags / "advice.py").write_text(ADVICE.replace("PAIRS", repr(pairs)) + FINE.format("advice"))
    assert "advice" in {dag for file in project.json("check")["files"] for dag in file["dags"]}


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
