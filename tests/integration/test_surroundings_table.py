"""What surrounds pipectl changes nothing: a table of variables and conditions, beside running stacks.

Every row is a real process. The rows of an engine run in two threads, and each test waits for its own.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from support.docker_project import new_docker_project
from support.project_copy import Project, new_local_project
from support.wheels import make_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1200)]
ROW_SECONDS = 120
THREADS = 2

STATUS = "status --json"
RUNS = "runs --json"
VERIFY = "verify-db --expect populated --json"
REPORT = "report"
CHECK = "connections --check --json"
LOGS = "logs --tail 1 webserver"
SERVICES = 6


@dataclass(frozen=True)
class Row:
    """A condition: variables (None takes one away), or a shell's line in which $PIPECTL is the command.

    `before` prepares the folder $HERE, which is the current one. `says` must be in the output.
    """

    name: str
    command: str
    variables: Mapping[str, str | None] = field(default_factory=dict)
    code: int = 0
    says: str = ""
    line: str = "$PIPECTL {command}"
    before: str = ":"


def variables(command: str, *settings: str, code: int = 0, says: str = "") -> list[Row]:
    """Rows with one variable each, written NAME=value."""
    return [Row(setting[:60], command, dict([setting.split("=", 1)]), code, says) for setting in settings]


def gone(command: str, *names: str) -> list[Row]:
    return [Row(f"no {name}", command, {name: None}) for name in names]


def shell(command: str, *lines: str, code: int = 0, says: str = "", before: str = ":") -> list[Row]:
    return [Row(f"{before} then {line}", command, {}, code, says, line, before) for line in lines]


STRAY = (
    "for name in json typing re encodings dataclasses rich typer psycopg2; "
    "do echo 'raise SystemExit(77)' >$name.py; done"
)
UV = (
    "$PYTHON -I -m pipectl.engines.local.uv pip install --python $PYTHON --quiet --no-deps --no-index "
    "--target target $WHEEL"
)

ROWS = [
    # --- libpq: one of each variable that it reads.
    *variables(
        VERIFY,
        "PGHOST=192.0.2.1",
        "PGHOSTADDR=192.0.2.1",
        "PGPORT=1",
        "PGDATABASE=nowhere",
        "PGUSER=nobody",
        "PGPASSWORD=wrong",
        "PGPASSFILE=/nowhere",
        "PGSERVICE=nowhere",
        "PGSERVICEFILE=/nowhere",
        "PGSYSCONFDIR=/nowhere",
        "PGLOCALEDIR=/nowhere",
        "PGREALM=nowhere",
        "PGOPTIONS=-c statement_timeout=1",
        "PGOPTIONS=-c default_transaction_read_only=nonsense",
        "PGOPTIONS=-c search_path=pg_catalog -c nonsense=1",
        "PGAPPNAME=another",
        "PGSSLMODE=require",
        "PGSSLMODE=verify-full",
        "PGSSLMODE=nonsense",
        "PGREQUIRESSL=1",
        "PGSSLNEGOTIATION=direct",
        "PGSSLCOMPRESSION=nonsense",
        "PGSSLCERT=/nowhere",
        "PGSSLKEY=/nowhere",
        "PGSSLCERTMODE=require",
        "PGSSLROOTCERT=/nowhere",
        "PGSSLROOTCERT=system",
        "PGSSLCRL=/nowhere",
        "PGSSLCRLDIR=/nowhere",
        "PGSSLSNI=nonsense",
        "PGSSLMINPROTOCOLVERSION=nonsense",
        "PGSSLMAXPROTOCOLVERSION=nonsense",
        "PGREQUIREPEER=nobody",
        "PGREQUIREAUTH=none",
        "PGCHANNELBINDING=require",
        "PGGSSENCMODE=require",
        "PGGSSLIB=nonsense",
        "PGGSSDELEGATION=nonsense",
        "PGKRBSRVNAME=nowhere",
        "PGCONNECT_TIMEOUT=nonsense",
        "PGCLIENTENCODING=nonsense",
        "PGCLIENTENCODING=SQL_ASCII",
        "PGTARGETSESSIONATTRS=standby",
        "PGLOADBALANCEHOSTS=nonsense",
        "PGMINPROTOCOLVERSION=nonsense",
        "PGMAXPROTOCOLVERSION=nonsense",
        "PGDATESTYLE=German",
        "PGDATESTYLE=nonsense",
        "PGTZ=Asia/Tokyo",
        "PGTZ=nonsense",
        "PGGEQO=nonsense",
    ),
    *variables(CHECK, "PGOPTIONS=-c statement_timeout=1", "PGSSLMODE=require", "PGHOSTADDR=192.0.2.1"),
    *variables(REPORT, "PGTZ=nonsense", "PGDATESTYLE=German", "PGOPTIONS=-c statement_timeout=1"),
    *variables(STATUS, "PGHOSTADDR=192.0.2.1", "PGSSLMODE=require", "PGSERVICE=nowhere"),
    *shell(
        VERIFY,
        "HOME=$HERE $PIPECTL {command}",
        before="mkdir .postgresql; cd .postgresql; touch root.crt postgresql.crt postgresql.key",
    ),
    *shell(
        VERIFY, "HOME=$HERE $PIPECTL {command}", before="echo '*:*:*:*:wrong' > .pgpass && chmod 600 .pgpass"
    ),
    *shell(
        VERIFY,
        "HOME=$HERE PGSERVICE=x $PIPECTL {command}",
        before="echo '[x]\nhost=192.0.2.1' > .pg_service.conf",
    ),
    # --- MySQL's clients.
    *variables(
        VERIFY,
        "MYSQL_HOST=192.0.2.1",
        "MYSQL_TCP_PORT=1",
        "MYSQL_UNIX_PORT=/nowhere",
        "MYSQL_PWD=wrong",
        "MYSQL_HOME=/nowhere",
        "MYSQL_GROUP_SUFFIX=_x",
        "MYSQL_TEST_LOGIN_FILE=/nowhere",
        "MYSQL_DEBUG=d:t",
        "MARIADB_TLS_DISABLE_PEER_VERIFICATION=0",
        "LIBMYSQL_PLUGIN_DIR=/nowhere",
        "LIBMYSQL_PLUGINS=nonsense",
        "LIBMYSQL_ENABLE_CLEARTEXT_PLUGIN=1",
    ),
    *variables(CHECK, "MYSQL_HOST=192.0.2.1", "MYSQL_UNIX_PORT=/nowhere"),
    *shell(
        VERIFY,
        "HOME=$HERE $PIPECTL {command}",
        before="printf '[client]\nhost=192.0.2.1\nssl-mode=VERIFY_CA\n[mysqld]\nnonsense=1\n' > .my.cnf",
    ),
    # --- Proxies: nothing that pipectl asks is beyond one.
    *variables(
        RUNS,
        "http_proxy=http://127.0.0.1:9",
        "HTTP_PROXY=http://127.0.0.1:9",
        "https_proxy=http://127.0.0.1:9",
        "all_proxy=http://127.0.0.1:9",
        "ALL_PROXY=socks5://127.0.0.1:9",
        "http_proxy=nonsense::",
        "http_proxy=http://user:secret@127.0.0.1:9",
        "no_proxy=[::1]",
        "no_proxy=fe80::/10",
        "no_proxy=*",
        "NO_PROXY=",
        "REQUEST_METHOD=GET",
    ),
    *variables(
        STATUS, "http_proxy=http://127.0.0.1:9", "all_proxy=socks5://127.0.0.1:9", "no_proxy=[::1],fe80::/10"
    ),
    *variables(VERIFY, "http_proxy=http://127.0.0.1:9"),
    Row("proxies and exemptions", RUNS, {"http_proxy": "http://127.0.0.1:9", "no_proxy": "[::1],fd00::/8"}),
    Row("both spellings", RUNS, {"http_proxy": "", "HTTP_PROXY": "http://127.0.0.1:9"}),
    *variables(RUNS, "SSL_CERT_FILE=/nowhere", "REQUESTS_CA_BUNDLE=/nowhere", "SSLKEYLOGFILE=/nowhere/x"),
    # --- Time.
    *variables(STATUS, "TZ=Asia/Kathmandu", "TZ=nonsense", "TZ=:/etc/passwd", "TZ=", "TZDIR=/nowhere"),
    *variables("runs", "TZ=nonsense", "TZ=Asia/Kathmandu"),
    *variables(REPORT, "TZ=Asia/Kathmandu"),
    # --- Shells, git, the loader.
    *variables(
        STATUS,
        "BASH_ENV=/nowhere",
        "ENV=/nowhere",
        "SHELLOPTS=xtrace",
        "CDPATH=/tmp",
        "IFS=x",
        "GIT_DIR=/nowhere",
        "GIT_WORK_TREE=/nowhere",
        "LD_PRELOAD=/nowhere.so",
        "LD_LIBRARY_PATH=/nowhere",
        "SUPERVISOR_ENABLED=1",
        "SUPERVISOR_SERVER_URL=http://127.0.0.1:9",
        "AIRFLOW_HOME=/nowhere",
        "AIRFLOW__CORE__DAGS_FOLDER=/nowhere",
        "DJANGO_SETTINGS_MODULE=nonsense",
        "PSYCOPG_IMPL=nonsense",
    ),
    # --- Docker's and Compose's.
    *variables(
        LOGS,
        "COMPOSE_FILE=/nowhere",
        "COMPOSE_PROFILES=nonsense",
        "COMPOSE_ANSI=nonsense",
        "COMPOSE_PROGRESS=nonsense",
        "COMPOSE_ENV_FILES=/nowhere",
        "COMPOSE_DISABLE_ENV_FILE=1",
        "COMPOSE_IGNORE_ORPHANS=1",
        "COMPOSE_PARALLEL_LIMIT=nonsense",
        "COMPOSE_PATH_SEPARATOR=,",
        "PYTHON_ON_WHALES_DEBUG=1",
        "DOCKER_BUILDKIT=nonsense",
        "DOCKER_CERT_PATH=/nowhere",
        "DOCKER_DEFAULT_PLATFORM=linux/s390x",
        "DOCKER_TLS=1",
        "DOCKER_TLS_VERIFY=1",
    ),
    # --- Files, folders, limits.
    *gone(STATUS, "HOME", "TMPDIR", "USER", "LOGNAME", "SHELL"),
    *variables(
        STATUS,
        "HOME=/nowhere",
        "HOME=",
        "HOME=/proc",
        "TMPDIR=/nowhere",
        "TMPDIR=/dev/null",
        "XDG_CACHE_HOME=/nowhere",
    ),
    *shell(
        STATUS,
        "umask 077; $PIPECTL {command}",
        "umask 000; $PIPECTL {command}",
        "ulimit -n 64; $PIPECTL {command}",
    ),
    *shell(STATUS, "rmdir $HERE; $PIPECTL {command}"),
    *shell(STATUS, "rmdir $HERE; $BARE {command}", code=2, says="The current folder does not exist any more"),
    *shell(STATUS, "chmod 0 $HERE; $PIPECTL {command}; code=$?; chmod 700 $HERE; exit $code"),
    *shell(STATUS, "trap '' PIPE; $PIPECTL {command}", "trap '' INT HUP TERM; $PIPECTL {command}"),
    *shell(STATUS, "$PIPECTL {command} <&-", "$PIPECTL {command} 2>&-", "$PIPECTL {command} </dev/full"),
    *shell(
        "status",
        "$PIPECTL {command} >&-",
        "$PIPECTL {command} <&- >&- 2>&-",
        "$PIPECTL {command} 2>/dev/full",
    ),
    *shell("status", "trap '' PIPE; $PIPECTL {command} | true", "$PIPECTL {command} 2>&1 | true"),
    *shell(
        "status",
        "$PIPECTL {command} >/dev/full",
        "$PIPECTL {command} --json >/dev/full",
        "$PIPECTL {command} --help >/dev/full",
        "PYTHONUNBUFFERED=1 $PIPECTL {command} >/dev/full",
        code=2,
        says="No space left on device",
    ),
    *shell("nonsense", "$PIPECTL {command} 2>/dev/full", code=2),
    *shell(
        "down --volumes",
        "$PIPECTL {command} <&-",
        "$PIPECTL {command} </dev/null",
        code=2,
        says="nothing was deleted",
    ),
    # --- pipectl's own variables with values that are none.
    *variables("status", "PIPECTL_JSON=nonsense", "PIPECTL_QUIET=nonsense", code=2),
    *variables("status", "PIPECTL_DAG_ID=a b", code=2, says="is not a DAG's id"),
    *variables("status", "AIRFLOW_PORT=abc", code=2, says="The environment variable AIRFLOW_PORT='abc'"),
    *variables("up", "AIRFLOW_PARALLELISM=many", code=2, says="AIRFLOW_PARALLELISM='many'"),
    *variables(REPORT, "COLUMNS=60", says="honest"),
    *shell(REPORT, "$PIPECTL {command} --html -", code=2, says="no page to stdout"),
    *shell(STATUS, "$PIPECTL {command} --nonsense", code=2, says='"kind": "usage"'),
    *shell(
        STATUS,
        f"$BARE --project {'x' * 300} {{command}}",
        "$BARE --project /nowhere {command}",
        code=2,
        says="There is no folder",
    ),
    *shell(
        "trigger",
        "$PIPECTL {command} --conf '{\"a\": NaN}'",
        '$PIPECTL {command} --conf "$($PYTHON -c \'print("[" * 100000)\')"',
        code=2,
        says="--conf",
    ),
]
# Of what no engine knows: beside the local one alone, to save time.
ROWS_OF_ANY_ENGINE = [
    # --- Python.
    *variables(
        STATUS,
        "PYTHONWARNINGS=error",
        "PYTHONWARNINGS=nonsense",
        "PYTHONOPTIMIZE=1",
        "PYTHONOPTIMIZE=2",
        "PYTHONHASHSEED=0",
        "PYTHONHASHSEED=bad",
        "PYTHONHOME=/nowhere",
        "PYTHONINTMAXSTRDIGITS=1",
        "PYTHONMALLOC=bad",
        "PYTHONTRACEMALLOC=bad",
        "PYTHONUTF8=bad",
        "PYTHONIOENCODING=nonsense",
        "PYTHONPLATLIBDIR=nowhere",
        "PYTHONEXECUTABLE=/nowhere",
        "__PYVENV_LAUNCHER__=/nowhere",
        "PYTHONNODEBUGRANGES=1",
        "PYTHONDONTWRITEBYTECODE=1",
        "PYTHONPYCACHEPREFIX=/dev/null/x",
        "PYTHONUNBUFFERED=1",
        "PYTHONINSPECT=1",
        "PYTHONSTARTUP=/nowhere",
        "PYTHONDEVMODE=1",
        "PYTHONASYNCIODEBUG=1",
        "PYTHONMALLOC=debug",
        "PYTHONFAULTHANDLER=1",
        "PYTHONTRACEMALLOC=1",
        "PYTHONSAFEPATH=1",
        "PYTHONNOUSERSITE=1",
        "PYTHONUSERBASE=/nowhere",
        "PYTHONCASEOK=1",
        "PYTHONBREAKPOINT=nonsense.x",
        "PYTHONCOERCECLOCALE=0",
        "PYTHONUTF8=0",
        "PYTHONUTF8=1",
        "PYTHONPATH=/nowhere",
        "PYTHONIOENCODING=ascii",
        "VIRTUAL_ENV=/nowhere",
    ),
    *variables(RUNS, "PYTHONWARNINGS=error"),
    *variables(REPORT, "PYTHONWARNINGS=error", "PYTHONIOENCODING=ascii", "PYTHONIOENCODING=latin-1"),
    *variables("status --help", "PYTHONOPTIMIZE=2", says="Examples"),
    *shell(STATUS, "PYTHONPATH=$HERE $PIPECTL {command}", "$PIPECTL {command}", before=STRAY),
    *shell(STATUS, "$PYTHON -m pipectl --engine $ENGINE --project $PROJECT {command}", before=STRAY),
    *shell(RUNS, "PYTHONPATH=$HERE $PIPECTL {command}", before=STRAY),
    # --- Words and signs.
    *variables(
        REPORT,
        "LANG=C",
        "LC_ALL=C",
        "LC_ALL=POSIX",
        "LC_ALL=xx",
        "LC_ALL=",
        "LANG=de_DE.ISO-8859-1",
        "LC_CTYPE=xx",
    ),
    Row("ASCII for certain", REPORT, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    Row("ASCII for certain, JSON", STATUS, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    *gone(STATUS, "LANG", "LC_ALL"),
    # --- The terminal.
    *variables(
        "status",
        "COLUMNS=0",
        "COLUMNS=1",
        "COLUMNS=-5",
        "COLUMNS=nonsense",
        "COLUMNS=²",
        f"COLUMNS={'1' * 5000}",
        "COLUMNS=1000000000",
        "COLUMNS=",
        "LINES=nonsense",
        "LINES=0",
        "TERMINAL_WIDTH=nonsense",
        "TERM=dumb",
        "TERM=nonsense",
        "TERM=",
        "NO_COLOR=1",
        "FORCE_COLOR=1",
        "CLICOLOR_FORCE=1",
        "PY_COLORS=1",
        "TTY_COMPATIBLE=1",
        "GITHUB_ACTIONS=1",
        says="webserver",
    ),
    *variables("--help", "COLUMNS=1", "COLUMNS=²", "TERMINAL_WIDTH=nonsense", says=""),
    *gone("status", "TERM"),
    # --- uv: what is installed is what the lock files pin.
    *[
        Row(setting, "", dict([setting.split("=", 1)]), line=UV)
        for setting in (
            "UV_CONSTRAINT=/nowhere",
            "UV_OVERRIDE=/nowhere",
            "UV_BUILD_CONSTRAINT=/nowhere",
            "UV_EXCLUDE=/nowhere",
            "UV_EXCLUDE_NEWER=2000-01-01",
            "UV_PRERELEASE=nonsense",
            "UV_RESOLUTION=nonsense",
            "UV_PYTHON=/nowhere",
            "UV_PREFIX=/nowhere",
            "UV_REQUIRE_HASHES=1",
            "UV_NO_BINARY=1",
            "UV_FORK_STRATEGY=nonsense",
            "UV_LINK_MODE=nonsense",
            "UV_TORCH_BACKEND=nonsense",
        )
    ],
    *[
        Row(f"{path}: {text}", "", {}, line=UV, before=f"printf '{text}' > {path}")
        for path, text in (
            ("uv.toml", "nonsense = 1"),
            ("uv.toml", "[pip]\\nrequire-hashes = true"),
            ("uv.toml", "no TOML at all"),
            ("pyproject.toml", "[tool.uv]\\nnonsense = 1"),
            ("pyproject.toml", "[tool.uv.pip]\\nrequire-hashes = true"),
        )
    ],
]


def test_the_table_is_long() -> None:
    assert len(ROWS) >= 150
    names = [(row.name, row.command) for row in (*ROWS, *ROWS_OF_ANY_ENGINE)]
    assert len(set(names)) == len(names)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of one module."""
    return make_wheel(tmp_path_factory.mktemp("wheel"), "tiny", "1.0")


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A stack that runs, holds data and rests."""
    new: Any = {"local": new_local_project, "docker": new_docker_project}[request.param]
    opened: AbstractContextManager[Project] = new(tmp_path_factory.mktemp(request.param) / "project")
    with opened as project:
        project.run("up")
        project.populate()
        project.settle()
        project.run("connections", "--create-slot")
        yield project


@dataclass(frozen=True)
class Outcome:
    """What a process did."""

    code: int
    out: str
    err: str


def outcome_of(row: Row, project: Project, folder: Path, wheel: Path) -> Outcome:
    folder.mkdir()
    bare = [os.path.join(os.path.dirname(sys.executable), "pipectl"), "--engine", project.engine]  # noqa: PTH118, PTH120
    environment = {
        **os.environ,
        "BARE": shlex.join(bare),
        "PIPECTL": shlex.join([*bare, "--project", str(project.folder)]),
        "PYTHON": sys.executable,
        "ENGINE": project.engine,
        "PROJECT": str(project.folder),
        "HERE": str(folder),
        "WHEEL": str(wheel),
    }
    line = row.line.replace("{command}", row.command)
    for name in ("PIPECTL", "BARE"):
        line = line.replace(f"${name} ", f"{environment.pop(name)} ")
    subprocess.run(["sh", "-ec", row.before], cwd=folder, check=True)
    exported = "".join(
        f"unset {name}; " if value is None else f"export {name}={shlex.quote(value)}; "
        for name, value in row.variables.items()
    )
    done = subprocess.run(
        ["sh", "-c", exported + line],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=ROW_SECONDS,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, stack: Project, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[int, Future[Outcome]]]:
    """What becomes of each row that is asked for."""
    items = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    chosen = {id(item.get("row")) for item in items if item.get("stack") == stack.engine}
    folder = tmp_path_factory.mktemp("rows")
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        yield {
            id(row): pool.submit(outcome_of, row, stack, folder / str(number), wheel)
            for number, row in enumerate((*ROWS, *ROWS_OF_ANY_ENGINE))
            if id(row) in chosen
        }
        pool.shutdown(cancel_futures=True)


def cases(engine: str, rows: list[Row]) -> list[Any]:
    marks = [pytest.mark.docker] if engine == "docker" else []
    return [
        pytest.param(engine, row, marks=marks, id=f"{engine}-{row.name[:40]}-{row.command[:20]}")
        for row in rows
    ]


@pytest.mark.parametrize(
    ("stack", "row"),
    [*cases("local", [*ROWS, *ROWS_OF_ANY_ENGINE]), *cases("docker", ROWS)],
    indirect=["stack"],
    scope="module",
)
def test_surroundings_change_nothing(row: Row, outcomes: dict[int, Future[Outcome]]) -> None:
    done = outcomes[id(row)].result()
    note = f"{row}\n{done.out}\n{done.err}"
    assert done.code == row.code, note
    assert "Traceback" not in done.err, note
    assert row.says in f"{done.out}{done.err}", note
    if row.code == 0 and row.command.endswith("--json"):
        content = json.loads(done.out)
        if row.command == STATUS:
            assert {service["health"] for service in content["services"]} <= {"healthy", "waiting"}, note
            assert len(content["services"]) == SERVICES
            assert content["airflow"]["reachable"], note
            assert all(database["reachable"] for database in content["databases"].values()), note
        if row.command == VERIFY:
            assert content["ok"], note


@pytest.mark.parametrize(
    "stack", ["local", pytest.param("docker", marks=pytest.mark.docker)], indirect=True, scope="module"
)
def test_a_login_through_a_forwarded_port_stays_there(stack: Project) -> None:
    """As `ssh -L 9999:127.0.0.1:8080` has it: the browser names another port than the server listens on."""
    import http.client

    port = stack.json("status")["airflow"]["url"].rsplit(":", 1)[1]
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
    elsewhere = "127.0.0.1:9999"
    for path in (
        "/",
        "/auth/login",
        f"/api/v2/auth/login?next=http%3A%2F%2F{elsewhere}%2Fdags",
        "/api/v2/auth/logout",
    ):
        connection.request("GET", path, headers={"Host": elsewhere})
        answer = connection.getresponse()
        answer.read()
        assert answer.status in {200, 307}, path
        assert (answer.getheader("Location") or "/").startswith("/"), path
