"""Programs that take the place of a command: which words are theirs, where they run, what they end with."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

import command
from pipectl import cli, surroundings
from pipectl.commands import RUN_PROGRAMS
from pipectl.database_connections import postgres_encryption
from pipectl.engines import clients
from pipectl.engines.docker import execute as docker_execute
from pipectl.engines.docker.execute import words_in_container
from pipectl.engines.foreground import attend
from pipectl.engines.local import client_programs, programs
from pipectl.engines.local.client_programs import MysqlClient
from pipectl.engines.local.engine import LocalEngine
from pipectl.engines.local.supervisor.supervisor import ProcessState, Started, Supervisor
from pipectl.errors import (
    DatabaseError,
    DatabaseSilentError,
    EngineError,
    ExitCode,
    ForeignDatabaseError,
    LoginError,
)
from pipectl.models import VERIFYING, DatabaseAddress, Service
from pipectl.observer import Observer
from pipectl.settings import SSL_MODES, Settings
from support import ROOT
from support.fake_engine import FakeEngine
from support.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = ROOT / "stack" / "airflow" / "command.py"
ADDRESS = DatabaseAddress("airbyte-mysql", "127.0.0.1", 3307, "data", "docker", "sesame")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("psql -c x -q", "psql -- -c x -q"),
        ("psql -- -c x --json", "psql -- -c x --json"),
        ("psql --metadata -c --metadata", "psql --metadata -- -c --metadata"),
        ("psql --engine local --json -c x --engine y", "--engine local --json psql -- -c x --engine y"),
        ("--json --engine=local psql", "--json --engine=local psql"),
        ("-v psql -v ON_ERROR_STOP=1", "-v psql -- -v ON_ERROR_STOP=1"),
        ("mysql -h other", "mysql -- -h other"),
        ("airflow dags list --verbose", "airflow -- dags list --verbose"),
        ("airflow -- --help", "airflow -- --help"),
        ("airflow --help", "airflow --help"),
        ("python --version", "python -- --version"),
        ("python -c x --quiet", "python -- -c x --quiet"),
        ("exec scheduler ls -v --json", "exec scheduler -- ls -v --json"),
        ("exec --quiet scheduler --json -- ls -- --json", "--quiet --json exec scheduler -- ls -- --json"),
        ("exec --help", "exec --help"),
        ("shell", "shell"),
        # Names of commands are nothing special as the words of another.
        ("logs exec --json -v", "--json -v logs exec"),
        ("trigger python --quiet", "--quiet trigger python"),
    ],
)
def test_a_program_gets_all_words_from_the_first_that_is_not_pipectls(typed: str, expected: str) -> None:
    assert cli.hoist(typed.split()) == expected.split()


class NotingEngine(FakeEngine):
    """Notes what it is to run, and ends as it is told."""

    states: dict[str, str] = {}  # noqa: RUF012  a test replaces it
    ran: list[tuple[str, ...]] = []  # noqa: RUF012  as above
    code = 0

    def services(self) -> tuple[Service, ...]:
        return tuple(
            replace(service, state=self.states.get(service.name, "running")) for service in super().services()
        )

    def execute(self, service: str, words: tuple[str, ...], observer: Observer | None = None) -> int:
        del observer
        self.ran.append((service, *words))
        return self.code

    def client(self, service: str, arguments: tuple[str, ...], observer: Observer) -> int:
        del observer
        self.ran.append((f"client of {service}", *arguments))
        return self.code


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[NotingEngine]:
    for name in ("dags", "stack"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipectl.engines.choice.choose", NotingEngine)
    for name, value in (("states", {}), ("ran", []), ("code", 0)):
        monkeypatch.setattr(NotingEngine, name, value)
    return NotingEngine


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, words)
    return done.exit_code, " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "ran"),
    [
        ("psql -c x", "client of airbyte-postgres|-c|x"),
        ("psql --metadata -- -c x", "client of postgres|-c|x"),
        ("mysql", "client of airbyte-mysql"),
        ("airflow dags list --output json", "scheduler|airflow|dags|list|--output|json"),
        ("python -m this --help", "scheduler|python|-m|this|--help"),
        ("exec webserver -- env -i", "webserver|env|-i"),
    ],
)
@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
def test_a_command_runs_its_program_and_ends_with_its_exit_code(
    engine: type[NotingEngine], words: str, ran: str, code: int
) -> None:
    engine.code = code
    assert run(*words.split()) == (code, "")
    assert engine.ran == [tuple(ran.split("|"))]


def test_a_shell_passes_words_on(engine: type[NotingEngine]) -> None:
    assert run("shell", "-c", "exit 3") == (0, "")
    [(service, program, *_, first, second)] = engine.ran
    assert (service, program, first, second) == ("scheduler", "sh", "-c", "exit 3")


@pytest.mark.parametrize(
    "words", ["psql", "psql --metadata", "mysql", "airflow", "python", "shell", "exec redis ls"]
)
@pytest.mark.parametrize("state", ["stopped", "crashed"])
def test_what_does_not_run_is_exit_3_with_the_next_step(
    engine: type[NotingEngine], monkeypatch: pytest.MonkeyPatch, words: str, state: str
) -> None:
    monkeypatch.setattr(engine, "executor", "CeleryExecutor")
    engine.states = dict.fromkeys((service.name for service in FakeEngine.services(engine(ANY))), state)
    code, told = run(*words.split())
    assert (code, engine.ran) == (ExitCode.ENGINE, [])
    assert "not running" in told
    assert "pipectl up" in told


def test_airflows_commands_run_wherever_airflow_does(engine: type[NotingEngine]) -> None:
    engine.states = {"scheduler": "crashed", "dag-processor": "stopped"}
    assert run("airflow", "version") == (0, "")
    assert engine.ran == [("webserver", "airflow", "version")]


@pytest.mark.parametrize(
    ("words", "told"),
    [("exec nonsense -- ls", "There is no service 'nonsense'"), ("exec scheduler", "no program to run")],
)
def test_a_mistyped_call_is_a_usage_error(engine: type[NotingEngine], words: str, told: str) -> None:
    code, said = run(*words.split())
    assert (code, engine.ran) == (ExitCode.USAGE, [])
    assert told in said


def test_there_is_no_beside_for_a_database_elsewhere(
    engine: type[NotingEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = FakeEngine.services(engine(ANY))
    monkeypatch.setattr(FakeEngine, "services", lambda _: tuple(s for s in here if s.name != "airbyte-mysql"))
    code, said = run("exec", "airbyte-mysql", "--", "ls")
    assert (code, engine.ran) == (ExitCode.USAGE, [])
    assert "airbyte-mysql runs elsewhere" in said
    assert "pipectl mysql" in said
    assert run("mysql") == (0, "")


def test_every_command_that_runs_a_program_says_so_in_its_help() -> None:
    for name in RUN_PROGRAMS:
        words = {option for parameter in cli.import_command(name).params for option in parameter.opts}
        assert "arguments" in words
        assert {word for word in words if word.startswith("--")} <= cli.OWN_OPTIONS


# --- A program in the place of pipectl, and one beside it.

BECOME = """
import os, sys
from pathlib import Path
from pipectl.engines.foreground import become
become(tuple(sys.argv[2:]), {"PATH": os.environ["PATH"], "ONLY": "this"}, Path(sys.argv[1]))
"""
ATTEND = """
import os, sys
from pipectl.engines.foreground import attend
def end(number):
    print("end", number, flush=True)
    open(sys.argv[1], "w").close()
sys.exit(attend(tuple(sys.argv[2:]), dict(os.environ), end))
"""
# Ends once the file is there, whatever it is sent.
STUBBORN = "trap '' INT TERM HUP; echo ready; until [ -e \"$0\" ]; do sleep 0.05; done; exit 5"


def python(code: str, *words: str, **streams: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], text=True, **{"stdout": subprocess.PIPE, **streams}
    )


def test_a_program_takes_the_place_of_pipectl(tmp_path: Path) -> None:
    script = 'pwd; echo "$ONLY $$"; kill -PIPE $$; echo "SIGPIPE is ignored"'
    process = python(BECOME, str(tmp_path), "sh", "-c", script)
    out, _ = process.communicate(timeout=WAIT_SECONDS)
    assert out.split("\n") == [str(tmp_path.resolve()), f"this {process.pid}", ""]
    assert process.returncode == -signal.SIGPIPE


def test_a_program_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    code = f"{BECOME.partition('become(tuple')[0]}become(('nonsense',), {{}})"
    process = python(code, str(tmp_path), stderr=subprocess.PIPE)
    _, err = process.communicate(timeout=WAIT_SECONDS)
    assert "EngineError: nonsense cannot be started: No such file or directory." in err


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 9", 9)])
def test_an_attended_programs_exit_code_is_returned(script: str, code: int) -> None:
    asked_to_end: list[int] = []
    assert attend(("sh", "-c", script), surroundings.environment(), asked_to_end.append) == code
    assert asked_to_end == []


def test_what_a_signal_has_ended_is_ended_where_it_works_too() -> None:
    asked_to_end: list[int] = []
    code = attend(("sh", "-c", "kill -PIPE $$"), surroundings.environment(), asked_to_end.append)
    assert (code, asked_to_end) == (128 + signal.SIGPIPE, [signal.SIGPIPE])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_an_attended_program_where_it_works(tmp_path: Path, number: int) -> None:
    flag = tmp_path / "flag"
    process = python(ATTEND, str(flag), "sh", "-c", STUBBORN, str(flag))
    assert process.stdout
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"end {number:d}\n"
        assert process.wait(WAIT_SECONDS) == 5
    finally:
        flag.touch()


def test_after_it_signals_are_pipectls_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    attend(("true",), surroundings.environment(), lambda _: None)
    assert signal.getsignal(signal.SIGTERM) is before


# --- In containers.


def test_a_programs_words_are_no_shells(tmp_path: Path) -> None:
    nasty = ("echo", "$HOME", "a  b", "'", '"; exit 1')
    words = words_in_container("redis", nasty)
    told = subprocess.run(words, env=surroundings.environment(), capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, f"{' '.join(nasty[1:])}\n")
    missing = ("/bin/sh", *words_in_container("redis", ("nonsense",))[1:])
    assert (
        subprocess.run(missing, env={"PATH": str(tmp_path)}, capture_output=True, check=False).returncode
        == 127
    )


@pytest.mark.parametrize("service", ["postgres", "airbyte-postgres", "airbyte-mysql"])
def test_beside_a_database_a_program_is_logged_in(service: str) -> None:
    made_with = {
        "PATH": os.environ["PATH"],
        "POSTGRES_USER": "a user",
        "POSTGRES_PASSWORD": 'pa$s"word',
        "POSTGRES_DB": "db",
        "MYSQL_PASSWORD": 'pa$s"word',
    }
    words = words_in_container(service, ("env",))
    told = subprocess.run(
        words, env=made_with, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    login = {"PGUSER=a user", 'PGPASSWORD=pa$s"word', "PGDATABASE=db", "PGHOST=127.0.0.1"}
    if service == "airbyte-mysql":
        login = {'MYSQL_PWD=pa$s"word', "MYSQL_HOST=127.0.0.1"}
    assert login <= set(told)


def test_mysql_in_a_container_takes_its_login_from_variables(tmp_path: Path) -> None:
    fake = tmp_path / "mysql"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@" "$MYSQL_PWD"\n')
    fake.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MYSQL_PASSWORD": "sesame", "MYSQL_USER": "u"}
    words = words_in_container("airbyte-mysql", (*docker_execute.CLIENTS["airbyte-mysql"], "-e", "SELECT 1"))
    assert not [word for word in words if "sesame" in word]
    told = subprocess.run(
        words, env=variables | {"MYSQL_DATABASE": "data"}, capture_output=True, text=True, check=True
    )
    assert told.stdout.splitlines() == [
        "--user=u",
        "--database=data",
        "--default-character-set=utf8mb4",
        "-e",
        "SELECT 1",
        "sesame",
    ]


@pytest.fixture
def marked() -> Iterator[subprocess.Popen[str]]:
    """A program in a session of its own that bears a mark, with a child that has wiped its variables."""
    child = "env -i \"$0\" -c 'import signal; signal.pause()' & echo ready; wait"
    process = subprocess.Popen(
        ["sh", "-c", child, sys.executable],
        env=os.environ | {docker_execute.MARK: "0123"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc, as containers have")
@pytest.mark.parametrize(("mark", "ends"), [("0123", True), ("4567", False)])
def test_a_program_is_found_by_its_mark(marked: subprocess.Popen[str], mark: str, *, ends: bool) -> None:
    assert marked.stdout
    assert marked.stdout.readline() == "ready\n"
    subprocess.run(["sh", "-c", docker_execute.END, "sh", mark, "TERM"], check=False)
    if ends:
        assert marked.wait(WAIT_SECONDS) == -signal.SIGTERM
        # The child had the other end.
        assert marked.stdout.read() == ""
    else:
        assert marked.poll() is None


# --- On this machine.


def test_a_client_gets_its_password_by_a_variable_alone() -> None:
    client = MysqlClient(Path("/usr/bin/mysql"), "mysql")
    assert not [word for word in clients.mysql_words(client, ADDRESS) if ADDRESS.password in word]
    assert clients.mysql_words(client, ADDRESS)[:2] == ("/usr/bin/mysql", "--no-defaults")
    assert (
        clients.mysql_login(ADDRESS)["MYSQL_PWD"] == clients.postgres_login(ADDRESS)["PGPASSWORD"] == "sesame"
    )


@pytest.mark.parametrize(
    ("flavor", "mode", "expected"),
    [
        ("mysql", "disable", {"--ssl-mode=DISABLED"}),
        ("mysql", "prefer", {"--ssl-mode=PREFERRED"}),
        ("mysql", "require", {"--ssl-mode=REQUIRED"}),
        ("mysql", "verify-ca", {"--ssl-mode=VERIFY_CA", "--ssl-ca=/ca.pem"}),
        ("mysql", "verify-full", {"--ssl-mode=VERIFY_IDENTITY", "--ssl-ca=/ca.pem"}),
        ("mariadb", "disable", {"--skip-ssl"}),
        ("mariadb", "prefer", {"--ssl", "--disable-ssl-verify-server-cert"}),
        ("mariadb", "require", {"--ssl", "--disable-ssl-verify-server-cert"}),
        ("mariadb", "verify-ca", {"--ssl", "--ssl-verify-server-cert", "--ssl-ca=/ca.pem"}),
        ("mariadb", "verify-full", {"--ssl", "--ssl-verify-server-cert", "--ssl-ca=/ca.pem"}),
    ],
)
def test_encryption_is_that_of_the_settings(flavor: str, mode: str, expected: set[str]) -> None:
    certificate = "/ca.pem" if mode in VERIFYING else ""
    address = replace(ADDRESS, ssl_mode=mode, root_certificate=certificate)
    words = clients.mysql_words(MysqlClient(Path("mysql"), flavor), address)
    assert {word for word in words if "ssl" in word} == expected


@pytest.mark.parametrize("mode", sorted(SSL_MODES))
def test_psql_gets_the_encryption_that_pipectl_uses_itself(mode: str) -> None:
    chosen = postgres_encryption(replace(ADDRESS, ssl_mode=mode))
    login = clients.postgres_login(replace(ADDRESS, ssl_mode=mode))
    assert {login[f"PG{name.upper()}"] for name in chosen} == set(chosen.values())
    assert mode in clients.SSL_MODES


def fake(folder: Path, name: str, told: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{told}'\n")
    path.chmod(0o755)
    return path


MARIADB = "mariadb  Ver 15.1 Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)"
NEWER_MARIADB = "mariadb from 11.8.2-MariaDB, client 15.2 for debian-linux-gnu (x86_64)"
MYSQL = "mysql  Ver 8.4.2 for Linux on x86_64 (MySQL Community Server - GPL)"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without package tools, whose PATH is the folder bin."""
    folder = tmp_path / "bin"
    folder.mkdir()
    # For the scripts' own interpreter.
    (folder / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(client_programs, "MARIADB_FOLDERS", (f"{tmp_path}/opt/*/bin",))
    return folder


def settings(folder: Path) -> Settings:
    return Settings(folder, "local", folder / "cache", {})


ANY = Settings(ROOT, "local", ROOT, {})


@pytest.mark.parametrize("told", [MARIADB, NEWER_MARIADB])
def test_a_client_of_the_servers_kind_is_taken(machine: Path, tmp_path: Path, told: str) -> None:
    mysql, mariadb = fake(machine, "mysql", MYSQL), fake(tmp_path, "opt/mariadb@11/bin/mariadb", told)
    for server, expected in (("mysqld", mysql), ("mariadbd", mariadb)):
        found = client_programs.find_mysql(settings(tmp_path), Observer(), tmp_path / "sbin" / server)
        assert found.program == expected
    # Of a server elsewhere the kind is not known.
    assert client_programs.find_mysql(settings(tmp_path), Observer()).program == mysql


def test_a_client_of_the_other_kind_is_better_than_none(machine: Path, tmp_path: Path) -> None:
    mysql = fake(machine, "mysql", MYSQL)
    found = client_programs.find_mysql(settings(tmp_path), Observer(), tmp_path / "mariadbd")
    assert (found.program, found.flavor) == (mysql, "mysql")


def test_without_any_client_the_next_step_is_named(machine: Path, tmp_path: Path) -> None:
    fake(machine, "mysql", "nonsense")
    with pytest.raises(EngineError, match="No client of MariaDB or MySQL") as raised:
        client_programs.find_mysql(settings(tmp_path), Observer())
    assert "apt install mariadb-client" in raised.value.hint


def test_psql_is_the_servers_own(machine: Path, tmp_path: Path) -> None:
    on_path = fake(machine, "psql", "psql (PostgreSQL) 15.1")
    beside = fake(tmp_path, "server/psql", "psql (PostgreSQL) 18.1")
    assert (
        client_programs.find_psql(settings(tmp_path), Observer(), tmp_path / "server" / "postgres") == beside
    )
    assert (
        client_programs.find_psql(settings(tmp_path), Observer(), tmp_path / "other" / "postgres") == on_path
    )
    assert client_programs.find_psql(settings(tmp_path), Observer()) == on_path


def test_what_a_service_was_started_with_is_read_from_its_description(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.run_dir.mkdir()
    with pytest.raises(EngineError, match="does not say what scheduler was started with") as raised:
        supervisor.started("scheduler")
    assert "pipectl up" in raised.value.hint
    path = supervisor.run_dir / "scheduler.json"
    path.write_text('{"command": ["new"], "settings": {"A": "2"}, "environment": {}}')
    path.with_suffix(".started").write_text('{"command": ["old"], "settings": {"A": "1"}, "environment": {}}')
    assert supervisor.started("scheduler") == Started(("old",), {"A": "1"})


def test_the_server_is_found_behind_what_drops_its_rights() -> None:
    command = (
        "/usr/bin/python3",
        "-I",
        "/x/postgres_start.py",
        "/d/data",
        "unshare",
        "/usr/bin/postgres",
        "-D",
    )
    assert programs.server_of(Started(command, {})) == Path("/usr/bin/postgres")
    assert programs.server_of(Started(("redis",), {})) is None


class Became(Exception):  # noqa: N818  no error
    """Stands for this process's end: what it would have become."""

    def __init__(
        self, words: tuple[str, ...], environment: dict[str, str], folder: Path | None = None
    ) -> None:
        super().__init__(words)
        self.words, self.environment, self.folder = words, environment, folder


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    """A local engine all of whose services seem to run, on ports that the settings do not name."""
    descriptions: dict[str, dict[str, object]] = {
        "scheduler": {"command": ["/venv/bin/python", "x"], "settings": {"AIRFLOW_HOME": "/h", "LANG": "C"}},
        "postgres": {"command": ["/usr/lib/pg/postgres"], "settings": {}, "port": 6001},
        "airbyte-postgres": {"command": ["unshare", "/usr/lib/pg/postgres"], "settings": {}, "port": 6002},
        "airbyte-mysql": {"command": ["/usr/sbin/mariadbd"], "settings": {}, "port": 6003},
    }
    folder = tmp_path / ".pipectl" / "run"
    folder.mkdir(parents=True)
    for name, description in descriptions.items():
        (folder / f"{name}.json").write_text(json.dumps({"environment": {}, **description}))
    running = tuple(ProcessState(name, "RUNNING", 1, "") for name in descriptions)
    monkeypatch.setattr(Supervisor, "processes", lambda _: running)
    monkeypatch.setattr("pipectl.engines.local.engine.prove", lambda _: None)
    for module in (programs, clients):
        monkeypatch.setattr(module, "become", become)
    variables = {"AIRFLOW_POSTGRES_PASSWORD": "sesame", "AIRBYTE_MYSQL_PASSWORD": "0pen"}
    return LocalEngine(Settings(tmp_path, "local", tmp_path / "cache", variables))


def become(words: tuple[str, ...], environment: dict[str, str], folder: Path | None = None) -> None:
    raise Became(words, environment, folder)


def test_in_airflow_a_program_gets_what_the_service_was_started_with(
    local: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("AIRFLOW_HOME", "/the/shells")
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(Became) as became:
        local.execute("scheduler", ("airflow", "info"))
    words = ("/venv/bin/python", "-P", str(tmp_path / "stack/airflow/command.py"), "airflow", "info")
    assert (became.value.words, became.value.folder) == (words, tmp_path)
    expected = {"AIRFLOW_HOME": "/h", "PATH": "/venv/bin:/usr/bin", "TERM": "xterm"}
    assert expected.items() <= became.value.environment.items()


def test_nothing_runs_in_airflow_while_anothers_server_has_a_databases_port(
    local: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not answer, or refuses the password, is no stranger."""
    raised: dict[int, DatabaseError] = {6002: DatabaseSilentError("No answer."), 6001: LoginError("No.")}

    def prove(address: DatabaseAddress) -> None:
        if error := raised.get(address.port):
            raise error

    monkeypatch.setattr("pipectl.engines.local.engine.prove", prove)
    with pytest.raises(Became):
        local.execute("scheduler", ("python",))
    raised[6003] = ForeignDatabaseError("Another's.")
    with pytest.raises(ForeignDatabaseError):
        local.execute("scheduler", ("python",))
    for service, error in (
        ("airbyte-postgres", DatabaseSilentError),
        ("airbyte-mysql", ForeignDatabaseError),
    ):
        with pytest.raises(error):
            local.client(service, (), Observer())
        with pytest.raises(error):
            local.execute(service, ("ls",))


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        (
            "postgres",
            {"PGPORT": "6001", "PGUSER": "airflow", "PGDATABASE": "airflow", "PGPASSWORD": "sesame"},
        ),
        ("airbyte-postgres", {"PGPORT": "6002", "PGUSER": "docker", "PGDATABASE": "airbyte"}),
        ("airbyte-mysql", {"MYSQL_TCP_PORT": "6003", "MYSQL_PWD": "0pen"}),
    ],
)
def test_beside_a_database_a_program_has_its_login_and_its_tools(
    local: LocalEngine, service: str, expected: dict[str, str]
) -> None:
    with pytest.raises(Became) as became:
        local.execute(service, ("pg_dump", "-s"))
    assert became.value.words[-2:] == ("pg_dump", "-s")
    assert expected.items() <= became.value.environment.items()
    folders = became.value.environment["PATH"].split(":")
    assert folders.index("/usr/sbin" if service == "airbyte-mysql" else "/usr/lib/pg") < 2


def beside_mysql(local: LocalEngine, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program beside airbyte-mysql."""
    with pytest.raises(Became) as became:
        local.execute("airbyte-mysql", words)
    return subprocess.run(
        became.value.words, env=became.value.environment, capture_output=True, text=True, check=False
    )


def test_mysqls_tools_ask_this_projects_server_and_no_other(local: LocalEngine, machine: Path) -> None:
    fake(machine, "mysqldump", MYSQL)
    dump = machine / "mariadb-dump"
    dump.write_text(f"""#!/bin/sh
case "$*" in *--version) echo '{MARIADB}';; *) echo "$@"; echo "$MYSQL_PWD";; esac
""")
    dump.chmod(0o755)
    server = "--host=127.0.0.1 --port=6003 --protocol=tcp --ssl --disable-ssl-verify-server-cert"
    for name in ("mysqldump", "mariadb-dump"):
        done = beside_mysql(local, name, "--user=root", "data")
        # The last one counts.
        expected = f"--no-defaults {server} --user=docker --user=root data\n0pen\n"
        assert (done.stdout, done.stderr) == (expected, "")
    done = beside_mysql(local, "sh", "-c", "mysqldump --defaults-file=mine data")
    assert done.stdout.splitlines()[0] == f"--defaults-file=mine {server} data"


def test_a_tool_of_mysqls_that_nobody_has_is_named(local: LocalEngine, machine: Path) -> None:
    assert machine
    with pytest.raises(EngineError, match="No mysqldump of MariaDB or MySQL was found") as raised:
        local.execute("airbyte-mysql", ("mysqldump", "data"))
    assert "apt install mariadb-client" in raised.value.hint
    done = beside_mysql(local, "sh", "-c", "mysqldump data")
    assert done.returncode == 127
    assert done.stderr == (
        "mysqldump is not on this machine. To bring it: pipectl exec airbyte-mysql -- mysqldump --version\n"
    )


def test_a_tool_of_postgresqls_comes_from_wherever_psql_would(local: LocalEngine, machine: Path) -> None:
    dump = fake(machine, "pg_dump", "dumped")
    with pytest.raises(Became) as became:
        local.execute("airbyte-postgres", ("pg_dump",))
    assert became.value.environment["PATH"].split(":")[:2] == ["/usr/lib/pg", str(dump.parent)]


@pytest.mark.parametrize(("service", "port"), [("postgres", "6001"), ("airbyte-postgres", "6002")])
def test_psql_asks_at_the_port_that_is_in_use(
    local: LocalEngine, machine: Path, service: str, port: str
) -> None:
    psql = fake(machine, "psql", "psql (PostgreSQL) 15.1")
    with pytest.raises(Became) as became:
        local.client(service, ("-c", "x"), Observer())
    assert became.value.words == (str(psql), "-c", "x")
    assert became.value.environment["PGPORT"] == port


def test_mysqls_client_asks_at_the_port_that_is_in_use(local: LocalEngine, machine: Path) -> None:
    fake(machine, "mysql", MYSQL)
    mariadb = fake(machine, "mariadb", MARIADB)
    with pytest.raises(Became) as became:
        local.client("airbyte-mysql", ("-e", "x"), Observer())
    assert became.value.words[:4] == (str(mariadb), "--no-defaults", "--host=127.0.0.1", "--port=6003")
    assert became.value.words[-3:] == ("--database=data", "-e", "x")


# --- Within Airflow's environment.


def in_airflow(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", str(COMMAND), *words],
        env=surroundings.environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_program_gets_what_tasks_get() -> None:
    variables = {"AIRFLOW_ADMIN_PASSWORD": "sesame", "no_proxy": "[::1]", "OWN": "1"}
    done = in_airflow("sh", "-c", 'echo "$OWN $AIRFLOW_ADMIN_PASSWORD|$no_proxy"; exit 4', **variables)
    assert done.returncode == 4
    assert done.stdout.startswith("1 |::1,localhost,127.0.0.1")


def test_its_pipe_may_be_closed() -> None:
    done = in_airflow("sh", "-c", "kill -PIPE $$; echo ignored")
    assert (done.returncode, done.stdout) == (-signal.SIGPIPE, "")


@pytest.mark.parametrize(("name", "code"), [("nonsense", 127), ("/", 126), ("/etc/passwd/x", 127)])
def test_a_program_that_cannot_run_has_a_shells_exit_code(name: str, code: int) -> None:
    done = in_airflow(name)
    assert done.returncode == code
    assert done.stderr.startswith(f"pipectl: {name}: ")


def test_a_folder_of_path_that_is_closed_hides_no_missing_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("os.execvp", refuse)
    monkeypatch.setattr("command.neighbour", lambda _: SimpleNamespace(settle=lambda: None))
    handlers = {number: signal.getsignal(number) for number in command.DEFAULTS}
    try:
        assert (command.main("nonsense"), command.main("sh")) == (127, 126)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert capsys.readouterr().err.splitlines() == [
        "pipectl: nonsense: there is no such program",
        "pipectl: sh: Permission denied",
    ]


AIRFLOW = """
import sys
def main():
    print(sys.argv)
    {then}
"""


@pytest.fixture
def airflow(tmp_path: Path) -> Path:
    """A package that stands for Airflow, in a folder for PYTHONPATH."""
    (tmp_path / "airflow").mkdir()
    (tmp_path / "airflow" / "__init__.py").touch()
    return tmp_path


@pytest.mark.parametrize(("then", "code"), [("return", 0), ("sys.exit(3)", 3), ("raise BrokenPipeError", 0)])
def test_airflow_runs_in_the_same_process(airflow: Path, then: str, code: int) -> None:
    (airflow / "airflow" / "__main__.py").write_text(AIRFLOW.format(then=then))
    done = in_airflow("airflow", "dags", "list", PYTHONPATH=str(airflow))
    assert (done.returncode, done.stderr) == (code, "")
    if then != "raise BrokenPipeError":
        assert done.stdout == "['airflow', 'dags', 'list']\n"


def test_a_reader_that_has_enough_of_airflow_is_no_failure(airflow: Path) -> None:
    (airflow / "airflow" / "__main__.py").write_text(AIRFLOW.format(then="print('x' * 1000000)"))
    process = subprocess.Popen(
        [sys.executable, "-P", str(COMMAND), "airflow"],
        env=surroundings.environment(PYTHONPATH=str(airflow)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    assert until(lambda: process.poll() is not None, "its end")
    assert process.returncode == 0
