"""What shells are told when they complete a command line, without a stack and without a shell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, get_args, get_type_hints

import pytest
from typer.testing import CliRunner

from pipectl import airflow_answers, cli, completion, seen, services
from pipectl.commands import COMMANDS, PANELS, RUN_PROGRAMS, up
from pipectl.completion import VALUES, candidates
from pipectl.pipeline.doctor import ORDERED
from support.fake_engine import FakeEngine

if TYPE_CHECKING:
    from pathlib import Path

RUN = "manual__2026-11-26T15:18:19.123+00:00"
SEEN = {"dags": ["orders", "payments"], "runs": {"orders": [RUN]}, "tasks": {"orders": ["load[3]", "sum"]}}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose commands have seen two DAGs, a run and two tasks."""
    folder = tmp_path / "a project"
    for name in ("dags", "stack", ".pipectl/snapshots/before/data", ".pipectl/snapshots/.half", "dags/deep"):
        (folder / name).mkdir(parents=True)
    before = folder / ".pipectl/snapshots/before"
    (before / "settings.json").write_text("{}", encoding="utf-8")
    (before / "snapshot.json").write_text('{"program": "pipectl snapshot"}', encoding="utf-8")
    (folder / ".pipectl" / seen.FILE).write_text(json.dumps(SEEN), encoding="utf-8")
    monkeypatch.chdir(folder / "dags" / "deep")
    # What answers in other tests held.
    monkeypatch.setattr("pipectl.seen._noted", seen.Seen())
    return folder


OTHERS = ("env-file", "env-running", "env-volumes")


def complete(line: str) -> list[str]:
    *words, incomplete = line.split(" ")
    return candidates(words, incomplete)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", list(COMMANDS)),
        ("sta", ["status"]),
        ("--engine local sta", ["status"]),
        ("--qui", ["--quiet"]),
        ("--ver", ["--verbose", "--version"]),
        ("status --eng", ["--engine"]),
        ("status --engine ", ["auto", "docker", "local"]),
        ("status --engine=l", ["--engine=local"]),
        ("--engine d", ["docker"]),
        ("logs sched", ["scheduler"]),
        ("logs -f --tail 5 scheduler web", ["webserver"]),
        ("logs scheduler sched", []),
        ("exec airbyte-", ["airbyte-postgres", "airbyte-mysql"]),
        ("exec scheduler -- ", []),
        ("exec scheduler ls ", []),
        ("psql --meta", ["--metadata"]),
        ("psql -c ", []),
        ("trigger ", ["orders", "payments"]),
        ("trigger --timeout 5 pay", ["payments"]),
        ("--json pause o", ["orders"]),
        ("runs ", ["orders", "payments", "latest"]),
        ("runs orders ", ["latest", RUN]),
        ("runs payments ", ["latest"]),
        ("runs nowhere ", ["latest"]),
        ("task-log orders manual__2026-11-26T15:", [RUN]),
        ("task-log orders latest ", ["load[3]", "sum"]),
        (f"task-log orders {RUN} load", ["load[3]"]),
        ("clear orders latest sum ", ["load[3]"]),
        ("verify-db --expect ", ["empty", "populated", "reconciled"]),
        ("verify-db --expect=pop", ["--expect=populated"]),
        ("verify-db --sql ", []),
        ("doctor --only port", ["ports"]),
        ("doctor --only=env-f", ["--only=env-file"]),
        ("doctor --only secrets,ports,env-f", ["secrets,ports,env-file"]),
        ("doctor --only=ports,env-f", ["--only=ports,env-file"]),
        ("doctor --only ports,por", []),
        ("explain orders latest lo", ["load[3]"]),
        ("verify-db --re", ["--repair"]),
        ("verify-db --repair --re", []),
        ("export data --format ", ["parquet", "csv"]),
        ("export ", []),
        ("up --executor ", ["local", "celery"]),
        ("trigger -- pay", ["payments"]),
        ("nonsense ", []),
        ("trigger orders more ", []),
    ],
)
def test_a_line_is_completed_by_what_may_stand_there(line: str, expected: list[str]) -> None:
    assert complete(line) == expected


def test_snapshots_are_the_folders_that_are_whole(project: Path) -> None:
    snapshots = project / ".pipectl/snapshots"
    (snapshots / "empty").mkdir()
    (snapshots / "a-file").touch()
    (snapshots / "a-link").symlink_to(snapshots / "before")
    shutil.copytree(snapshots / "before", snapshots / "odd")
    (snapshots / "odd/snapshot.json").write_text("{", encoding="utf-8")
    line = completion.read([])
    assert line
    assert list(VALUES["name"](line)) == ["before"]
    assert line.project == project


def test_names_of_parameters_are_those_of_commands() -> None:
    """Else nothing would be completed, and no test would tell."""
    parameters = {parameter.name for command in COMMANDS for parameter in cli.import_command(command).params}
    of_later_commands = {"action", "name"}
    assert VALUES.keys() - parameters <= {"engine", "shell", *of_later_commands}
    required = [
        f"{command} {parameter.name}"
        for command in COMMANDS
        for parameter in cli.import_command(command).params
        if parameter.param_type_name == "argument"
        and parameter.name not in {*VALUES, "file", "folder", "arguments", "seconds", "worker", "workers"}
    ]
    assert required == []


def test_checks_are_those_that_doctor_runs() -> None:
    assert complete("doctor --only ") == [each.id for each in ORDERED]


def test_executors_are_those_that_up_takes() -> None:
    executor = get_args(get_type_hints(up.up)["executor"])[0]
    assert get_args(executor) == completion.EXECUTORS


def test_the_project_may_be_named(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert complete("trigger ") == []
    assert candidates(["--project", str(project), "trigger"], "") == ["orders", "payments"]
    assert candidates(["trigger", f"--project={project}"], "") == ["orders", "payments"]
    monkeypatch.setenv("PIPECTL_PROJECT", str(project / "dags"))
    assert complete("trigger ") == ["orders", "payments"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"dags": {"a": 1}, "runs": [1], "tasks": {"orders": 5}}', "\0"]
)
def test_a_file_of_nonsense_completes_nothing(project: Path, content: str) -> None:
    (project / ".pipectl" / seen.FILE).write_text(content, encoding="utf-8")
    assert complete("trigger ") == []
    assert complete("task-log orders latest ") == []


def asked(shell: str, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Ask as a shell's script does, the line up to the cursor being `line`."""
    given = {"_PIPECTL_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line, **variables}
    return subprocess.run(
        [sys.executable, "-m", "pipectl"], env=os.environ | given, capture_output=True, text=True, check=False
    )


@pytest.mark.usefixtures("project")
def test_each_shell_gets_its_own_form() -> None:
    words = ("pipectl", "task-log", "orders", "manual__2026-11-26T15", ":", "18")
    bash = asked("bash", "", COMP_WORDS="\n".join(words), COMP_CWORD="5")
    assert (bash.stdout, bash.stderr) == ("18:19.123+00:00\n", "")
    choice = "pipectl\nverify-db\n--expect\n=\n"
    assert asked("bash", "", COMP_WORDS=choice, COMP_CWORD="4").stdout.split() == [
        "empty",
        "populated",
        "reconciled",
    ]
    assert asked("zsh", "pipectl task-log orders latest l").stdout == "compadd -- 'load[3]'\n"
    assert asked("zsh", "pipectl export ").stdout == "_files\n"
    fish = asked("fish", "pipectl trigger ", _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert fish.stdout == "orders\npayments\n"
    codes = [
        asked("fish", f"pipectl {words} ", _TYPER_COMPLETE_FISH_ACTION="is-args").returncode
        for words in ("trigger", "export")
    ]
    assert codes == [0, 1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    "line",
    [
        "pipectl",
        "pipectl trigger 'half ",
        'pipectl trigger "half',
        "pipectl trigger half\\",
        "pipectl --project /nowhere trigger ",
        "pipectl --project /dev/null/x trigger ",
        f"pipectl --project {'x' * 5000} trigger ",
        "pipectl -- - -- ",
        "pipectl --nonsense=1 --=",
    ],
)
def test_a_line_that_means_nothing_is_met_with_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = line.split(" ")
    done = asked(shell, line, COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1))
    assert (done.returncode in {0, 1}, done.stderr) == (True, "")
    assert len(done.stdout.splitlines()) <= len(COMMANDS)


def test_a_completion_imports_no_more_than_the_command() -> None:
    code = (
        "import atexit, sys; from pipectl import cli; sys.argv = ['pipectl'];"
        " atexit.register(lambda: print(*sys.modules)); cli.main()"
    )
    line = {"_PIPECTL_COMPLETE": "complete_bash", "COMP_WORDS": "pipectl\ntrigger\n", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | line, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "pipectl.commands.trigger" in loaded
    assert not loaded & {
        "rich",
        "pydantic",
        "typer.rich_utils",
        "pipectl.settings",
        "pipectl.models",
        "psutil",
    }
    assert len([name for name in loaded if name.startswith("pipectl.commands.")]) <= 3


class TestSeen:
    """What commands leave for completions."""

    def test_answers_are_kept_and_merged(self, project: Path) -> None:
        airflow_answers.read_dags([{"dag_id": "orders"}, {"dag_id": "new"}])
        airflow_answers.read_run({"dag_id": "orders", "dag_run_id": "second"})
        airflow_answers.read_task({"dag_id": "new", "task_id": "load", "map_index": 3})
        seen.keep(project / ".pipectl")
        kept = seen.read(project / ".pipectl")
        assert list(kept.dags) == ["orders", "new"]
        assert {dag_id: list(runs) for dag_id, runs in kept.runs.items()} == {"orders": ["second", RUN]}
        assert list(kept.tasks["new"]) == ["load[3]"]
        assert list(kept.tasks["orders"]) == ["load[3]", "sum"]
        assert [path.name for path in (project / ".pipectl").glob("seen*")] == [seen.FILE]

    def test_one_dag_takes_no_other_away(self, project: Path) -> None:
        airflow_answers.read_dag({"dag_id": "third"})
        seen.keep(project / ".pipectl")
        assert list(seen.read(project / ".pipectl").dags) == ["orders", "payments", "third"]

    def test_no_folder_is_made_for_it(self, tmp_path: Path) -> None:
        airflow_answers.read_dag({"dag_id": "third"})
        seen.keep(tmp_path / ".pipectl")
        assert not (tmp_path / ".pipectl").exists()

    def test_what_stops_the_stack_forgets(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pipectl.engines.choice.choose", FakeEngine)
        done = CliRunner().invoke(cli.app, ["down"])
        assert done.exit_code == 0, done.output
        assert not (project / ".pipectl" / seen.FILE).exists()

    def test_an_old_answer_is_asked_for_anew_once(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started: list[list[str]] = []
        monkeypatch.setattr("subprocess.Popen", lambda words, **_: started.append(words))
        complete("trigger ")
        assert started == []
        os.utime(project / ".pipectl" / seen.FILE, (1, 1))
        complete("task-log orders ")
        complete("trigger ")
        assert [words[3:] for words in started] == [
            [f"--project={project}", "--quiet", "runs", "--limit=20", "--", "orders"]
        ]
        (project / ".pipectl" / seen.FILE).unlink()
        complete("trigger ")
        assert len(started) == 1

    def test_what_is_not_known_is_asked_for_at_once_whatever_else_was_answered(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        started: list[list[str]] = []
        monkeypatch.setattr("subprocess.Popen", lambda words, **_: started.append(words[5:]))
        for _ in range(2):
            complete("explain payments ")
            complete("explain orders latest lo")  # known
        for _ in range(2):
            complete("explain payments latest div")
        assert started == [["runs", "--limit=20", "--", "payments"], ["runs", "--", "payments", "latest"]]
        os.utime(project / ".pipectl" / seen.ASKED, (1, 1))
        complete("explain payments latest div")
        assert started[2:] == [["runs", "--", "payments", "latest"]]
        seen.forget(project / ".pipectl")
        assert not list((project / ".pipectl").glob("seen*"))
        complete("explain payments latest div")
        assert len(started) == 3


def test_help_shows_the_panels_in_order() -> None:
    done = CliRunner().invoke(cli.app, ["--help"], env={"COLUMNS": "120"})
    lines = done.stdout.splitlines()
    starts = [next(place for place, line in enumerate(lines) if f"─ {panel} ─" in line) for panel in PANELS]
    assert starts == sorted(starts)
    shown = [line.split()[1] for line in lines[starts[0] :] if line.startswith("│ ") and line[2] != " "]
    assert [name for name in shown if name in COMMANDS] == list(COMMANDS)


def test_every_service_and_program_is_known() -> None:
    assert complete("logs ") == [service.name for service in services.SERVICES]
    assert RUN_PROGRAMS.keys() <= COMMANDS.keys()
