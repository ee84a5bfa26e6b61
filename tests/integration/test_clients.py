"""`pipectl psql` and `pipectl mysql` on real servers: login, streams, exit codes, terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from pipectl.engines import clients
from pipectl.engines.local import client_programs, packages
from pipectl.models import DatabaseAddress
from pipectl.observer import Observer
from pipectl.settings import Settings, cache_dir
from support import ROOT
from support.needs import need
from support.text import documented_words
from support.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration
MANY_ROWS = "information_schema.COLUMNS AS one, information_schema.COLUMNS AS other"

# The account of the servers that has a password of its own.
USER, PASSWORD = "airbyte", "sesame"
# Each client's words for a statement, one that fails, one that takes long, and its exit code for a failure.
STATEMENT = {"psql": ("-Atc",), "mysql": ("-Ne",)}
SLEEP = {"psql": "SELECT pg_sleep(600)", "mysql": "SELECT SLEEP(600)"}
CLIENTS = sorted(STATEMENT)


@dataclass(frozen=True)
class Databases:
    """A project whose databases run elsewhere, and its user's home."""

    folder: Path
    home: Path

    def start(self, *words: str, **streams: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipectl", "--engine", "local", *words],
            cwd=self.folder,
            env={
                **os.environ,
                "HOME": str(self.home),
                "TERM": "xterm",
                "PIPECTL_CACHE_DIR": str(cache_dir()),
            },
            text=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
        )

    def run(self, *words: str, stdin: str = "") -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command to its end."""
        process = self.start(*words, stdin=subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=WAIT_SECONDS)
        return process.returncode, out, err


@pytest.fixture
def databases(servers: Servers, tmp_path: Path) -> Databases:
    folder, home = tmp_path / "project", tmp_path / "home"
    for path in (folder / "dags", folder / "stack", home):
        path.mkdir(parents=True)
    lock = "postgres-requirements.txt"
    (folder / "stack" / lock).write_bytes((ROOT / "stack" / lock).read_bytes())
    lines = [
        f"AIRBYTE_{name}_{variable}={value}"
        for name, port in (("POSTGRES", servers.postgres_port), ("MYSQL", servers.mysql_port))
        for variable, value in (("HOST", "127.0.0.1"), ("PORT", port), ("USER", USER), ("PASSWORD", PASSWORD))
    ]
    (folder / "stack" / ".env").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for find in (client_programs.find_psql, client_programs.find_mysql):
        need("databases", partial(find, Settings(ROOT, "local", cache_dir(), {}), Observer()))
    return Databases(folder, home)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_logged_in_and_gets_all_words_of_its_own(databases: Databases, client: str) -> None:
    assert databases.run(client, *STATEMENT[client], "SELECT 40 + 2") == (0, "42\n", "")
    assert databases.run(client, "--", *STATEMENT[client], "SELECT 'é'") == (0, "é\n", "")
    code, out, _ = databases.run(client, "--", "--help")
    assert code == 0
    assert "--host" in out


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reads_stdin(databases: Databases, client: str) -> None:
    words = {"psql": ("-At",), "mysql": ("-N",)}[client]
    assert databases.run(client, *words, stdin="SELECT 1;\nSELECT 2;\n") == (0, "1\n2\n", "")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("psql", "-c", "SELECT 1/0"), 1),
        (("psql", "-v", "ON_ERROR_STOP=1", "-f", "-"), 3),
        (("mysql", "-e", "SELECT nonsense"), 1),
    ],
)
def test_its_exit_code_is_the_clients(databases: Databases, words: tuple[str, ...], code: int) -> None:
    found, out, err = databases.run(*words, stdin="SELECT 1/0;\n")
    assert (found, out) == (code, "")
    assert "ERROR" in err
    assert "pipectl" not in err


@pytest.mark.parametrize(
    "words",
    [
        ("psql", "-Atc", "SELECT generate_series(1, 200000)"),
        ("mysql", "--quick", "-Ne", f"SELECT 1 FROM {MANY_ROWS} LIMIT 200000"),
    ],
)
def test_a_reader_that_has_enough_ends_it_in_silence(databases: Databases, words: tuple[str, ...]) -> None:
    process = databases.start(*words)
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline() == "1\n"
    process.stdout.close()
    assert process.wait(WAIT_SECONDS) in {0, 1, 2, -signal.SIGPIPE}
    assert process.stderr.read() in {"", "could not print result table: Broken pipe\n"}


@pytest.fixture
def asleep(request: pytest.FixtureRequest, databases: Databases) -> Iterator[subprocess.Popen[str]]:
    """A client in the midst of a statement."""
    client: str = request.param
    process = databases.start(client, *STATEMENT[client], SLEEP[client])
    started = psutil.Process(process.pid)
    try:
        until(lambda: process.poll() is not None or SLEEP[client] in started.cmdline()[-1:], "the client")
        until(lambda: "python" not in started.name(), "the client in pipectl's place")
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("asleep", CLIENTS, indirect=True)
def test_no_password_is_an_argument(asleep: subprocess.Popen[str]) -> None:
    client = psutil.Process(asleep.pid)
    # Some distributions' psql is a script that starts another; in between a process has no environment.
    until(lambda: PASSWORD in client.environ().values(), "the password among the environment")
    assert not [word for word in client.cmdline() if PASSWORD in word]


@pytest.mark.parametrize("asleep", CLIENTS, indirect=True)
def test_signals_are_the_clients(asleep: subprocess.Popen[str]) -> None:
    asleep.send_signal(signal.SIGTERM)
    assert asleep.wait(WAIT_SECONDS) != 0
    assert asleep.stderr
    assert "Traceback" not in asleep.stderr.read()


@pytest.mark.parametrize("client", CLIENTS)
def test_files_and_variables_of_the_user_lead_nowhere_else(
    databases: Databases, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (databases.home / ".my.cnf").write_text("[client]\nhost=192.0.2.1\npassword=x\nnonsense\n")
    (databases.home / ".pgpass").write_text("*:*:*:*:x\n")
    (databases.home / ".pgpass").chmod(0o600)
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGOPTIONS", "MYSQL_HOST", "MYSQL_PWD", "LIBMYSQL_X"):
        monkeypatch.setenv(name, "192.0.2.1")
    assert databases.run(client, *STATEMENT[client], "SELECT 1") == (0, "1\n", "")


@pytest.mark.parametrize(
    ("client", "prompt", "typed", "answer"),
    [
        ("psql", "airbyte=>", "SELECT 'on a ' || 'terminal';\n", "on a terminal"),
        ("mysql", "]>", "SELECT CONCAT('on a ', 'terminal');\n", "on a terminal"),
    ],
)
def test_on_a_terminal_it_is_interactive(
    databases: Databases, client: str, prompt: str, typed: str, answer: str
) -> None:
    here, there = pty.openpty()
    termios.tcsetwinsize(here, (50, 200))  # or psql starts a pager
    process = databases.start(client, stdin=there, stdout=there, stderr=there)
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
        os.write(here, typed.encode())
        until(lambda: shows(answer), answer)
        os.write(here, b"\\q\n")
        assert process.wait(WAIT_SECONDS) == 0
    finally:
        process.kill()
        os.close(here)


def test_a_database_that_does_not_answer_is_no_riddle(databases: Databases) -> None:
    env = databases.folder / "stack" / ".env"
    env.write_text(re.sub("(?<=_POSTGRES_PORT=).*", "1", env.read_text()))
    code, out, err = databases.run("psql", "--json", "-c", "SELECT 1")
    assert (code, out) == (5, "")
    assert "does not answer" in json.loads(err)["error"]["message"]


def test_the_wheel_brings_psql(
    servers: Servers, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    settings = Settings(databases.folder, "local", databases.home / "cache", {})
    found = need("databases", partial(client_programs.find_psql, settings, Observer()))
    assert databases.home in found.parents
    login = clients.postgres_login(servers.addresses[0])
    told = subprocess.run([found, "-Atc", "SELECT 1"], env=login, capture_output=True, text=True, check=False)
    assert (told.stdout, told.stderr) == ("1\n", "")


def test_the_distribution_brings_mariadbs_client(
    servers: Servers, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packages.available():
        pytest.skip("no packages of Debian or Ubuntu here")
    monkeypatch.setattr(client_programs, "_programs", lambda *_: iter(()))
    settings = Settings(databases.folder, "local", databases.home / "cache", {})
    client = need("databases", partial(client_programs.find_mysql, settings, Observer()))
    assert databases.home in client.program.parents
    address = servers.addresses[1]
    words = (*clients.mysql_words(client, address), "-Ne", "SELECT 1")
    variables = {**clients.mysql_login(address), **client.environment}
    told = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    assert (told.stdout, told.stderr) == ("1\n", "")
    assert client_programs.find_mysql(settings, Observer()) == client


def test_the_distribution_brings_mysqls_tools(
    servers: Servers, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packages.available():
        pytest.skip("no packages of Debian or Ubuntu here")
    monkeypatch.setattr(client_programs, "_programs", lambda *_: iter(()))
    (databases.home / ".my.cnf").write_text("[client]\nhost=192.0.2.1\npassword=x\nnonsense\n")
    settings = Settings(databases.folder, "local", databases.home / "cache", {})
    assert servers.run("detection_generator")[0] == 0
    address = servers.addresses[1]
    find = partial(clients.mysql_tools, settings, address, Observer(), None, "mysqldump")
    folder = need("databases", find)

    def run(*words: str, stdin: str = "") -> tuple[str, str]:
        told = subprocess.run(
            (folder / words[0], *words[1:]),
            input=stdin,
            env={**clients.mysql_login(address), "HOME": str(databases.home), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )
        return told.stdout, told.stderr

    dumped, failed = run("mysqldump", "data")
    assert "CREATE TABLE `fraud_labels`" in dumped, failed
    assert f"Host: {address.host}" in dumped
    # As is the case with all of them that came with it.
    assert run("mysqladmin", "ping") == ("mysqld is alive\n", "")
    assert "fraud_labels" in run("mysqlshow", "data")[0]
    clients.mysql_tools(settings, address, Observer(), None, "mysql")
    assert run("mysql", "-Ne", "SELECT SUBSTRING_INDEX(USER(), '@', 1)") == (f"{address.user}\n", "")
    assert "'someone'@" in run("mysqldump", "--user=someone", "data")[1]
    # What the guide says to type goes into tables that are empty, full, and gone.
    dumped, failed = run(*documented_words("airbyte-mysql"))
    assert all("unknown variable 'loose-" in line for line in failed.splitlines()), failed
    content = "SELECT * FROM fraud_labels ORDER BY transaction_id"
    rows = servers.ask_mysql(content)
    for statement in ("DELETE FROM fraud_labels", "DO 0", "DROP TABLE fraud_labels, label_progress"):
        servers.ask_mysql(statement)
        assert run("mysql", "data", stdin=dumped) == ("", "")
        assert servers.ask_mysql(content) == rows


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_a_client_takes_the_mode_of_encryption(databases: Databases, servers: Servers, mode: str) -> None:
    settings = Settings(databases.folder, "local", databases.home / "cache", {})
    address = DatabaseAddress("airbyte-mysql", "127.0.0.1", servers.mysql_port, "data", USER, PASSWORD, mode)
    client = client_programs.find_mysql(settings, Observer())
    told = subprocess.run(
        (*clients.mysql_words(client, address), "-Ne", "SELECT 1"),
        env={**clients.mysql_login(address), **client.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.stdout, told.stderr) == ("1\n", "")
