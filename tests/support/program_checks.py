"""What holds for the user's own programs on every engine: a class of tests, for a module with a stack."""

from __future__ import annotations

import json
import os
import pty
import secrets
import signal
import termios
from typing import TYPE_CHECKING

import psutil
import pytest

from pipectl.errors import ExitCode
from support import shell_completion, sql_checks
from support.command_lines import command_lines
from support.project_copy import DAG_ID
from support.text import documented_words
from support.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from pathlib import Path

    from support.project_copy import Project

SLEEPS = "SELECT pg_sleep(600)"
SLEEPERS = f"SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '{SLEEPS}'"
# What ends with which exit code, fed with a statement that fails.
CODES = {
    "psql -v ON_ERROR_STOP=1": 3,
    "mysql": 1,
    "psql --nonsense": 1,
    "airflow nonsense": 2,
    "python -c exit(7)": 7,
    "python /nowhere.py": 2,
    "shell -c nonsense": 127,
    "exec scheduler -- nonsense": 127,
    "exec scheduler -- /": 126,
    "exec airbyte-postgres -- nonsense": 127,
    "exec airbyte-mysql -- sh -c exit": 0,
}


TASKS = 4
TESTED = f"""
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("tested", schedule=None, max_active_runs=1):
    for number in range({TASKS}):
        BashOperator(task_id=f"task_{{number}}", bash_command="sleep 1")
"""


class ProgramChecks:
    """Tests that a module inherits; its fixture `project` is a stack that runs."""

    def test_databases_are_asked_by_their_own_clients(self, project: Project) -> None:
        login = project.feed("", "psql", "-Atc", "SELECT current_user, current_database()")
        assert login == (0, "docker|airbyte\n", "")
        metadata = project.feed("", "psql", "--metadata", "-Atc", "SELECT count(*) FROM alembic_version")
        assert metadata == (0, "1\n", "")
        assert project.feed("", "mysql", "-Ne", "SELECT DATABASE()") == (0, "data\n", "")
        code, _, err = project.feed("", "mysql", "-e", "SHOW TABLES IN data;")
        assert (code, err) == (0, "")
        assert project.feed("", "psql", "-c", r"\dt")[0] == 0

    def test_clients_read_stdin_and_write_characters_of_any_kind(self, project: Project) -> None:
        assert project.feed("SELECT 'é😀';\nSELECT 2;\n", "psql", "-At") == (0, "é😀\n2\n", "")
        assert project.feed("SELECT 'é😀';\nSELECT 2;\n", "mysql", "-N") == (0, "é😀\n2\n", "")

    def test_exit_codes_are_the_programs(self, project: Project) -> None:
        assert {words: project.feed("SELECT nonsense;\n", *words.split())[0] for words in CODES} == CODES

    def test_airflows_commands_act_on_this_airflow(self, project: Project) -> None:
        code, out, _ = project.feed("", "airflow", "dags", "list", "--output", "json")
        assert code == 0
        assert DAG_ID in {dag["dag_id"] for dag in json.loads(out)}
        assert project.feed("", "airflow", "variables", "set", "colour", "blue")[0] == 0
        query = "SELECT key FROM variable WHERE key = 'colour'"
        assert project.feed("", "psql", "--metadata", "-Atc", query)[1] == "colour\n"
        assert project.feed("", "airflow", "variables", "get", "colour")[1].splitlines()[-1] == "blue"

    def test_a_dag_under_test_is_left_alone_by_the_scheduler(self, project: Project) -> None:
        """Of tasks that may start at once, all but the first stand there to be started by anybody."""
        project.dag("tested.py", TESTED)
        assert project.json("trigger", "tested")["unpaused"]
        code, out, err = project.feed("", "airflow", "dags", "test", "tested")
        assert code == 0, out + err
        facts = "SELECT count(*), sum(try_number), count(queued_by_job_id) FROM task_instance"
        of_the_test = f"{facts} WHERE dag_id = 'tested' AND run_id LIKE 'manual%'"
        answer = project.feed("", "psql", "--metadata", "-Atc", of_the_test)
        assert answer == (0, f"{TASKS}|{TASKS}|0\n", "")
        # No run of the schedule waits for one that a killed test has left.
        running = "UPDATE dag_run SET state = 'running' WHERE dag_id = 'tested' AND run_id LIKE 'manual%'"
        assert project.feed("", "psql", "--metadata", "-c", running)[0] == 0
        assert project.json("trigger", "tested")["state"] == "success"

    def test_python_has_what_tasks_have(self, project: Project) -> None:
        script = "import os, airflow\nprint(os.environ['AIRBYTE_MYSQL_DATABASE'], 'X' in os.environ)\n"
        assert project.feed(script, "python", "-") == (0, "data False\n", "")
        assert project.feed("", "python", "dags/generate_data_dag.py")[0] == 0
        names = project.feed("", "python", "-c", "import os; print(*os.environ)")[1].split()
        assert "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" in names
        assert not {"AIRFLOW_ADMIN_PASSWORD", "PIPECTL_STATE_DIR"} & set(names)

    def test_a_shell_reads_a_script(self, project: Project) -> None:
        code, out, _ = project.feed("echo $AIRBYTE_POSTGRES_DATABASE; which airflow\nexit 5\n", "shell")
        assert code == 5
        assert out.splitlines()[0] == "airbyte"
        assert out.splitlines()[1].endswith("/airflow")

    def test_beside_a_database_its_tools_are_logged_in(self, project: Project) -> None:
        code, out, err = project.feed("", "exec", "airbyte-postgres", "--", "pg_dump", "--schema-only")
        assert (code, err) == (0, "")
        assert "PostgreSQL database dump" in out
        words = ("mysqldump", "--user=docker", "--no-tablespaces", "data")
        code, out, err = project.feed("", "exec", "airbyte-mysql", "--", *words)
        assert code == 0, err
        assert "Dump completed" in out
        assert (
            project.feed("SELECT 1", "exec", "airbyte-mysql", "--", "mysql", "--user=docker", "-N")[1]
            == "1\n"
        )

    def test_the_documented_dumps_replace_what_is_there(self, project: Project) -> None:
        assert project.feed("", "load", "--transactions", "2000", "--days", "1")[0] == 0
        dumps = {}
        for service in ("airbyte-postgres", "airbyte-mysql"):
            code, dumps[service], err = project.feed("", "exec", service, "--", *documented_words(service))
            assert code == 0, err
        restore = {"airbyte-postgres": ("psql", "-qv", "ON_ERROR_STOP=1"), "airbyte-mysql": ("mysql",)}
        rows = project.feed("", "psql", "-Atc", "SELECT count(*) FROM public.transactions")
        assert project.feed("", "reset", "--data-only", "--yes")[0] == 0
        for service in (*restore, *restore):  # emptied, then full
            code, _, err = project.feed(dumps[service], *restore[service])
            assert (code, "ERROR" in err) == (0, False), err
        assert project.feed("", "psql", "-Atc", "SELECT count(*) FROM public.transactions") == rows
        code, out, err = project.feed("", "verify-db", "--expect", "reconciled")
        assert code == 0, out + err

    def test_a_reader_that_has_enough_leaves_nothing_at_work(self, project: Project) -> None:
        rows = "SELECT repeat('x', 1000) FROM generate_series(1, 300000)"
        process = project.start("psql", "-At", "-v", "FETCH_COUNT=100", "-c", rows)
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "x" * 1000 + "\n"
        process.stdout.close()
        process.wait(WAIT_SECONDS)
        assert "Traceback" not in process.stderr.read()
        others = "application_name = 'psql' AND pid <> pg_backend_pid()"
        sessions = f"SELECT count(*) FROM pg_stat_activity WHERE {others}"
        until(lambda: project.feed("", "psql", "-Atc", sessions)[1] == "0\n", "the session's end")

    def test_an_interrupted_statement_ends_in_the_server_too(self, project: Project) -> None:
        process = project.start("psql", "-c", SLEEPS)
        asked = ("psql", "-Atc", SLEEPERS)
        until(lambda: project.feed("", *asked)[1] == "1\n", "the statement")
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_SECONDS) != 0
        assert process.stderr
        assert "Traceback" not in process.stderr.read()
        until(lambda: project.feed("", *asked)[1] == "0\n", "the statement's end")

    @pytest.mark.parametrize(
        ("service", "number"),
        [("scheduler", signal.SIGINT), ("airbyte-mysql", signal.SIGTERM), ("scheduler", signal.SIGHUP)],
    )
    def test_a_signal_ends_a_program_where_it_works(
        self, project: Project, service: str, number: int
    ) -> None:
        mark = f"{secrets.randbelow(10**9)}.5"
        process = project.start("exec", service, "--", "sh", "-c", f"echo ready; exec sleep {mark}")
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(WAIT_SECONDS) != 0
        until(lambda: not running_with(mark), "the end where it works")

    def test_no_password_is_an_argument(self, project: Project) -> None:
        process = project.start("psql", "--metadata", "-c", SLEEPS)
        asked = ("psql", "--metadata", "-Atc", SLEEPERS)
        try:
            until(lambda: project.feed("", *asked)[1] == "1\n", "the statement")
            password = project.variable("AIRFLOW_POSTGRES_PASSWORD")
            assert password
            assert running_with(password) == []
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(WAIT_SECONDS)

    @pytest.mark.parametrize(
        ("words", "prompt", "typed", "answer"),
        [
            ("shell", "pipectl:", "test -t 0 && echo a ter''minal; exit 3", "a terminal"),
            ("psql", "airbyte=", r"SELECT 'a ter' || 'minal'; \q", "a terminal"),
            (
                "python",
                ">>> ",
                "import os; print('a ter' + 'minal', os.isatty(1)); exit(3)",
                "a terminal True",
            ),
        ],
    )
    def test_on_a_terminal_it_is_interactive(
        self, project: Project, words: str, prompt: str, typed: str, answer: str
    ) -> None:
        here, there = pty.openpty()
        termios.tcsetwinsize(here, (50, 200))  # or psql starts a pager
        process = project.start(words, stdin=there, stdout=there, stderr=there)
        os.close(there)
        shown = ""

        def shows(text: str) -> bool:
            nonlocal shown
            try:
                shown += os.read(here, 4096).decode(errors="replace")
            except OSError:  # the other end is closed
                assert text in shown, shown
            return text in shown

        try:
            until(lambda: shows(prompt), prompt)
            os.write(here, f"{typed}\n".encode())
            until(lambda: shows(answer), answer)
            assert process.wait(WAIT_SECONDS) == (0 if words == "psql" else 3)
        finally:
            process.kill()
            os.close(here)

    def test_checks_change_nothing_whatever_they_try(self, project: Project, tmp_path: Path) -> None:
        sql_checks.check_a_stack(project, tmp_path / "checks")

    def test_a_dag_runs_the_checks_that_the_command_runs(self, populated: Project) -> None:
        sql_checks.check_by_command_and_dag(populated)

    def test_a_shell_completes_ids_of_what_runs(self, project: Project) -> None:
        shell_completion.check_ids_of_a_stack(project)

    def test_of_a_stopped_stack_the_next_step_is_named(self, project: Project) -> None:
        project.run("runs")
        assert shell_completion.completed(project, "trigger ")
        project.run("down")
        assert shell_completion.completed(project, "trigger ") == []
        for words in (
            "psql",
            "psql --metadata",
            "mysql",
            "airflow version",
            "python",
            "shell",
            "exec scheduler -- ls",
        ):
            done = project.run(*words.split(), code=ExitCode.ENGINE)
            assert done.stdout == ""
            assert "not running" in done.stderr
            assert "pipectl up" in done.stderr


def running_with(word: str) -> list[str]:
    """The programs of this machine's processes that have this in their command line."""
    lines = command_lines(psutil.process_iter()).values()
    return [words[0] for words in lines if word in " ".join(words)]
