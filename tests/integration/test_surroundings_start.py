"""A stack that is started, and a server that is made, among settings of the caller for other programs."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support import ROOT
from support.needs import missing, need_airflow, need_postgres
from support.project_copy import Project, new_local_project

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.integration
HOSTILE = {
    "http_proxy": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "all_proxy": "socks5://127.0.0.1:9",
    "no_proxy": "intra.example,[::1],fe80::/10",
    "PGHOSTADDR": "192.0.2.1",
    "PGSSLMODE": "require",
    "PGOPTIONS": "-c statement_timeout=1",
    "PGTZ": "nonsense",
    "MYSQL_HOST": "192.0.2.1",
    "PYTHONWARNINGS": "error",
    "PYTHONPATH": "/nowhere",
    "PYTHONOPTIMIZE": "2",
    "BASH_ENV": "/nowhere",
    "SHELLOPTS": "xtrace",
    "UV_CONSTRAINT": "/nowhere",
    "PIP_USER": "1",
    "AIRFLOW__CORE__DAGS_FOLDER": "/nowhere",
    "SUPERVISOR_ENABLED": "1",
    "LC_ALL": "xx",
    "TZ": "nonsense",
    "TMPDIR": "/nowhere",
    "COLUMNS": "nonsense",
    "SECRET_OF_THE_SHELL": "sesame",
}
TELLING = """
import json, os, pathlib

from airflow.sdk import DAG, task

with DAG("telling"):

    @task
    def tell():
        pathlib.Path(os.environ["PIPECTL_SCRIPTS"]).parent.joinpath("told.json").write_text(json.dumps(dict(os.environ)))

    tell()
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("awkward") / "a 'quoted' \"folder\" at 100%s, ünïcode"
    with new_local_project(folder) as project:
        yield project


def run(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            "sh",
            "-c",
            'umask 077; exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "pipectl",
            "--engine",
            "local",
            *arguments,
        ],
        cwd=project.folder,
        env={**os.environ, **HOSTILE},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_a_stack_starts_and_runs_its_tasks_among_all_of_them(stack: Project) -> None:
    stack.dag("telling.py", TELLING)
    up = run(stack, "up")
    assert up.returncode == 0, up.stderr
    for dag in ((), ("telling",)):
        triggered = run(stack, "trigger", *dag, "--json")
        assert triggered.returncode == 0, triggered.stderr
        assert json.loads(triggered.stdout)["state"] == "success"
    assert run(stack, "verify-db", "--expect", "reconciled").returncode == 0
    told = json.loads((stack.folder / "told.json").read_text(encoding="utf-8"))
    # The caller's proxies are there for what tasks run, but for one that Airflow's httpx does not take.
    assert told["http_proxy"] == told["HTTPS_PROXY"] == "http://127.0.0.1:9"
    assert "all_proxy" not in told
    exempt = told["no_proxy"].split(",")
    assert exempt[:2] == ["intra.example", "::1"]
    assert {"localhost", "127.0.0.1"} <= set(exempt)
    assert "fe80::/10" not in exempt
    left = {"http_proxy", "HTTPS_PROXY", "no_proxy", "LC_ALL", "TZ", "AIRFLOW__CORE__DAGS_FOLDER"}
    assert {name for name in HOSTILE.keys() - left if told.get(name) == HOSTILE[name]} == set()
    # The login's file is where the project is, and nowhere else.
    assert list((stack.folder / ".pipectl" / "airflow").glob("*passwords*"))


READER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import httpx, proxies
refused = []
for settings in json.load(sys.stdin):
    os.environ.update(settings)
    proxies.exempt_own_addresses()
    try:
        client = httpx.Client(verify=False)
        for host in ("127.0.0.1", "localhost", "webserver"):
            address = httpx.URL(f"http://{host}:8080/execution/")
            if client._transport_for_url(address) is not client._transport:
                refused.append((settings, host))
    except Exception as error:
        refused.append((settings, repr(error)))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "NO_PROXY"):
        os.environ.pop(name, None)
print(json.dumps(refused))
"""
PARTS = (
    "[::1]",
    "::1",
    "fe80::/10",
    "*.x",
    ".x",
    "a..b",
    "x:80",
    "x:y",
    "é",
    "10.0.0.0/8",
    "http://x",
    " ",
    "%",
    "a" * 70,
)
PROXY = (
    "",
    "http://x:1",
    "x",
    "socks5://x",
    "ftp://x",
    "http://[x",
    "http://x:y",
    "\u00e9",
    "http://a b",
    "://",
    "HTTP://x",
)


def test_airflows_httpx_reads_whatever_is_left(tmp_path: Path) -> None:
    """Settings at random: no client fails, and none asks the stack's addresses through a proxy."""
    choose = random.Random(7)  # noqa: S311  the same settings in each run
    settings = [
        {
            "no_proxy": ",".join(choose.choices(PARTS, k=choose.randint(0, 4))),
            "http_proxy": choose.choice(PROXY),
            "all_proxy": choose.choice(PROXY),
        }
        for _ in range(400)
    ]
    done = subprocess.run(
        [str(need_airflow().python), "-c", READER, str(ROOT / "stack" / "airflow")],
        input=json.dumps(settings),
        env={"PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(done.stdout) == []


MAKE = """
import sys
from pathlib import Path
from pipectl.engines.local import binaries, postgres
from pipectl.errors import EngineError
lock = Path(sys.argv[2])
try:
    server = binaries.find_postgres(Path("cache"), print, lock)
    made = postgres.prepare(server, Path("data").resolve(), postgres.Accounts("docker", "x", "airbyte"))
    print("made", made)
except EngineError as error:
    print(error, error.hint)
"""


def test_a_user_without_an_entry_in_passwd_makes_a_database() -> None:
    need_postgres()
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        missing("databases", "only root can become a user without a name")
    # Other users do not get into pytest's folders.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        os.chown(folder, 54321, 54321)
        done = subprocess.run(
            [
                *("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"),
                # This interpreter may be root's own.
                *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
                *(sys.executable, "-P", "-c", MAKE, "x", str(ROOT / "stack" / "postgres-requirements.txt")),
            ],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "made True" in done.stdout or "uid 54321, has no entry in /etc/passwd" in done.stdout
        assert "made True" not in done.stdout or (folder / "data" / "PG_VERSION").is_file()
