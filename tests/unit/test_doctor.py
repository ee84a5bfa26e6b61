"""The doctor without a stack: what each check finds damaged, and that the remedy as printed mends it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest
from psycopg2 import OperationalError
from typer.testing import CliRunner

from pipectl import __version__, cli, disk
from pipectl.airflow_health import AirflowHealth
from pipectl.database_errors import explained, password_variable
from pipectl.databases import Databases
from pipectl.engines.docker.api import DockerApi
from pipectl.engines.docker.engine import DockerEngine
from pipectl.engines.local import processes
from pipectl.engines.local.airflow_install import environment_key
from pipectl.engines.local.engine import LocalEngine
from pipectl.engines.local.packages import SUMS
from pipectl.engines.project import RECORD
from pipectl.engines.redaction import MASK, Redactor, parts, secrets_of
from pipectl.errors import AirflowError, AirflowSilentError, EngineError, UsageError, WaitTimeoutError
from pipectl.models import DatabaseAddress, Service
from pipectl.names import CHECK_IDS
from pipectl.observer import Observer
from pipectl.pipeline import consumers, doctor, lifecycle
from pipectl.pipeline.agreement import Disagreement, disagreements
from pipectl.pipeline.consumers import BinaryLog, Slot
from pipectl.pipeline.doctor import bundle, machine
from pipectl.pipeline.doctor.checks import CHECKS, Check, Finding
from pipectl.pipeline.scaffold import Scaffold
from pipectl.services import of_executor
from pipectl.settings import load
from support import ROOT
from support.fake_engine import FakeEngine
from support.json_schemas import validate
from support.project_copy import copy_project
from support.server_process import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# What the doctor is asked to look at, and the checks that do.
ASKED = {
    "engine and versions": {"engine", "images", "airflow"},
    "Compose": {"compose"},
    "images": {"images"},
    "ports and who holds them": {"ports"},
    "memory": {"memory"},
    "disk": {"disk"},
    "file system": {"file-system"},
    "clock": {"clock"},
    "locale": {"locale"},
    "proxy": {"proxy"},
    ".env against what runs": {"env-running", "env-file", "env-modes"},
    ".env against existing volumes": {"env-volumes"},
    "mounts and run bits": {"mounts", "run-bits", "line-ends"},
    "secrets equal across services": {"secrets"},
    "cache integrity": {"cache"},
    "leftovers": {"leftovers"},
    "files of another version": {"scaffold"},
    "snapshots": {"snapshots"},
    "heartbeats": {"heartbeats", "services"},
    "tasks' API path": {"tasks-api"},
    "DAG import errors": {"dag-imports"},
    "triggerer needed": {"triggerer"},
    "replication slots and binlog": {"replication-slots", "binary-log", "databases"},
    "label lag": {"label-lag"},
    "pools": {"pools"},
    "retention": {"retention"},
}
# What this machine lacks, or has little of, is none of these tests' business.
OF_THE_MACHINE = {"memory", "disk", "clock"}
OF_THE_STACK = {
    *("secrets", "env-running", "services", "airflow", "heartbeats", "tasks-api", "dag-imports", "triggerer"),
    *("pools", "retention", "databases", "replication-slots", "binary-log", "label-lag"),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project that never ran, and a shell without proxies."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIPECTL_CACHE_DIR", str(tmp_path / "cache"))
    folder = copy_project(tmp_path / "a project").folder
    env = folder / "stack" / ".env"
    ports = [service.port_variable for service in of_executor("LocalExecutor") if service.default_port]
    env.write_text("".join(f"{variable}={free_port()}\n" for variable in ports))
    env.chmod(0o600)
    return folder


def engine_of(project: Path) -> LocalEngine:
    return LocalEngine(load(project, "local"))


def examine(project: Path, *only: str) -> dict[str, Finding]:
    return {finding.id: finding for finding in doctor.examine(engine_of(project), only)}


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipectl", "--project", str(project), "--engine", "local", *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_everything_that_was_asked_for_is_looked_at() -> None:
    assert set().union(*ASKED.values()) == set(CHECKS)
    # By which shells complete `--only`.
    assert [each.id for each in doctor.ORDERED] == [*CHECK_IDS]
    for check in CHECKS.values():
        assert check.description.endswith("."), check.id
        assert 15 < len(check.description) < 105, check.id


def test_without_a_stack_nothing_of_it_is_called_right_or_wrong(project: Path) -> None:
    before = sorted(project.rglob("*"))
    found = examine(project)
    assert sorted(project.rglob("*")) == before
    assert set(found) == set(CHECKS)
    assert {name for name, finding in found.items() if finding.ok is None} >= OF_THE_STACK
    assert not {name: finding for name, finding in found.items() if finding.ok is False} or (
        {name for name, finding in found.items() if finding.ok is False} <= OF_THE_MACHINE
    )


def with_crlf(project: Path) -> None:
    path = project / "stack" / "mysql" / "server.cnf"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def with_leftovers(project: Path) -> None:
    (project / ".pipectl" / "volumes" / ".postgres.new-abc").mkdir(parents=True)


def add(text: str) -> Callable[[Path], None]:
    def added(project: Path) -> None:
        with (project / "stack" / ".env").open("a") as file:
            file.write(text)

    return added


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "an unknown setting": ("env-file", add("AIRFLOW_PROT=1\n"), "AIRFLOW_PROT"),
    "a value": ("env-file", add("PIPECTL_RETENTION_DAYS=soon\n"), "PIPECTL_RETENTION_DAYS='soon'"),
    "a mode": ("env-modes", lambda project: (project / "stack/.env").chmod(0o644), "stack/.env"),
    "line ends": ("line-ends", with_crlf, "stack/mysql/server.cnf"),
    "a run bit": ("run-bits", lambda project: (project / "entrypoint.sh").chmod(0o644), "entrypoint.sh"),
    "a draft": ("leftovers", with_leftovers, ".postgres.new-abc"),
}


@pytest.mark.parametrize(
    ("version", "found", "remedy"),
    [
        ("9.0.0", f"of pipectl 9.0.0, and this pipectl is {__version__}, which is older", "pipectl>=9.0.0"),
        ("0.0.9", f"of pipectl 0.0.9, and this pipectl is {__version__}", " upgrade"),
        (__version__, "stack/.env.example.new is not merged yet", "stack/.env.example, and delete it."),
    ],
)
def test_files_of_another_version_are_named_with_the_command_that_brings_both_together(
    project: Path, version: str, found: str, remedy: str
) -> None:
    assert examine(project, "scaffold")["scaffold"].ok is None
    (project / RECORD).write_bytes(Scaffold(version, {}).packed())
    if version == __version__:
        assert examine(project, "scaffold")["scaffold"].ok is True
        (project / "stack" / ".env.example.new").write_text("")
    finding = examine(project, "scaffold")["scaffold"]
    assert finding.ok is False
    assert finding.found.endswith(found)
    assert remedy in finding.remedy


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_named_and_the_remedy_as_printed_mends_it(project: Path, name: str) -> None:
    check, damage, named = DAMAGES[name]
    before = examine(project, check)[check]
    assert before.ok is True, before
    damage(project)
    found = examine(project, check)[check]
    assert found.ok is False
    assert named in found.found
    subprocess.run(["sh", "-c", found.remedy], check=True)
    assert examine(project, check)[check].ok is True


def test_a_line_that_is_no_assignment_is_named_and_its_remedy_deletes_it(project: Path) -> None:
    add("sesame\n")(project)
    asked = run(project, "doctor", "--json")
    [finding] = json.loads(asked.stdout)["checks"]
    assert (asked.returncode, finding["id"], finding["ok"]) == (3, "env-file", False)
    assert "sesame" not in asked.stdout + asked.stderr
    subprocess.run(["sh", "-c", finding["remedy"]], check=True)
    assert examine(project, "env-file")["env-file"].ok is True


@pytest.mark.parametrize(
    ("check", "variable", "value", "named"),
    [
        ("locale", "LC_ALL", "xx_XX.UTF-8", "xx_XX.UTF-8"),
        ("locale", "TZ", "Mars/Olympus", "Mars/Olympus"),
        ("proxy", "HTTPS_PROXY", "http://me:sesame@127.0.0.1:1", "127.0.0.1:1"),
        ("proxy", "HTTP_PROXY", "socks5://me:sesame@127.0.0.1:1", "which Airflow's client cannot read"),
    ],
)
def test_a_shell_that_services_cannot_use_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch, check: str, variable: str, value: str, named: str
) -> None:
    monkeypatch.setenv(variable, value)
    found = examine(project, check)[check]
    assert found.ok is False
    assert named in found.found
    assert variable in found.remedy
    assert "sesame" not in found.found + found.remedy


@contextmanager
def listening() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_proxy_that_answers_and_that_tasks_go_without_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as port:
        monkeypatch.setenv("all_proxy", f"socks5h://127.0.0.1:{port}")
        found = examine(project, "proxy")["proxy"]
    assert found.ok
    assert "all_proxy is a socks5h:// proxy, which Airflow's client cannot read" in found.found


def test_who_holds_a_port_is_named_with_its_process(project: Path) -> None:
    with listening() as port:
        path = project / "stack" / ".env"
        path.write_text(re.sub(r"(?<=AIRBYTE_MYSQL_PORT=)\d+", str(port), path.read_text()))
        first = examine(project, "ports")["ports"]
        (project / ".pipectl" / "volumes" / "postgres" / "data").mkdir(parents=True)
        found = examine(project, "ports")["ports"]
    # As `up` does it: the first one takes another port.
    assert first.ok
    assert f"port {port} of airbyte-mysql is held by process {os.getpid()}" in first.found
    assert "the first pipectl up takes the next one that is free" in first.found
    assert found.ok is False
    assert f"port {port} of airbyte-mysql is held by process {os.getpid()}" in found.found
    assert found.remedy == "pipectl up"


def test_what_is_lost_of_the_settings_is_told_while_the_data_are_there(project: Path) -> None:
    data = project / ".pipectl" / "volumes" / "postgres" / "data"
    data.mkdir(parents=True)
    found = examine(project, "env-volumes")["env-volumes"]
    assert found.ok is False
    assert "AIRFLOW_JWT_SECRET" in found.found
    (project / ".pipectl" / "settings.json").write_text('{"AIRFLOW_JWT_SECRET": "sesame"}')
    found = examine(project, "env-volumes")["env-volumes"]
    assert (found.ok, found.remedy) == (False, "pipectl up")
    assert "sesame" not in found.found


def test_missing_files_are_named_with_what_brings_them_back(project: Path) -> None:
    (project / "requirements.txt").unlink()
    found = examine(project, "mounts")["mounts"]
    assert (found.ok, found.found) == (False, "missing: requirements.txt")
    (project / "requirements.txt").mkdir()
    found = examine(project, "mounts")["mounts"]
    assert (found.ok, found.found) == (False, "requirements.txt is a folder")


def install(folder: Path) -> Path:
    """Make an installation of one file, with its hash as a wheel brings it."""
    site = folder / "lib" / "python3.11" / "site-packages"
    (site / "shop-1.dist-info").mkdir(parents=True)
    (site / "shop.py").write_bytes(b"price = 1\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"price = 1\n").digest()).rstrip(b"=").decode()
    (site / "shop-1.dist-info" / "RECORD").write_text(
        f"shop.py,sha256={digest},10\nshop-1.dist-info/RECORD,,\n"
    )
    return site / "shop.py"


def test_a_damaged_file_of_the_cache_is_named_by_its_hash(project: Path, tmp_path: Path) -> None:
    key = environment_key((ROOT / "stack" / "airflow-requirements.txt").read_bytes())
    folder = tmp_path / "cache" / f"airflow-{key}"
    module = install(folder)
    tool = tmp_path / "cache" / "mariadb" / "usr" / "sbin" / "mariadbd"
    tool.parent.mkdir(parents=True)
    tool.write_bytes(b"server")
    sums = f"{hashlib.md5(b'server', usedforsecurity=False).hexdigest()}  usr/sbin/mariadbd\n"
    (tmp_path / "cache" / "mariadb" / SUMS).write_text(sums)
    assert examine(project, "cache")["cache"].found == "2 files as installed"
    tool.write_bytes(b"serves")
    assert "mariadbd" in examine(project, "cache")["cache"].found
    tool.write_bytes(b"server")
    module.write_bytes(b"price = 2\n")
    found = examine(project, "cache")["cache"]
    assert found.ok is False
    assert "shop.py" in found.found
    assert found.remedy == f"rm -r {shlex.quote(str(folder))} && pipectl up"


def test_fix_runs_what_is_safe_and_says_it_before(project: Path) -> None:
    with_crlf(project)
    (project / "stack" / ".env").chmod(0o644)
    add("AIRFLOW_PROT=1\n")(project)
    only = ("--only", "line-ends,env-modes,env-file")
    asked = run(project, "doctor", *only, "--fix", "--json")
    answer = json.loads(asked.stdout)
    validate("doctor", answer)
    assert asked.returncode == 3
    assert {each["id"]: each["ok"] for each in answer["checks"]} == {
        "line-ends": True,
        "env-modes": True,
        "env-file": False,
    }
    assert set(answer["fixed"]) == {"line-ends", "env-modes"}
    for command in answer["fixed"].values():
        assert f": {command}" in asked.stderr


def test_checks_are_chosen_by_their_ids_and_close_names_are_offered(project: Path) -> None:
    asked = run(project, "doctor", "--only", "locale, line-ends", "--json")
    assert [each["id"] for each in json.loads(asked.stdout)["checks"]] == ["locale", "line-ends"]
    mistyped = run(project, "doctor", "--only", "line-end")
    assert mistyped.returncode == 2
    assert "Did you mean line-ends?" in mistyped.stderr


def test_quiet_only_what_fails_is_shown(project: Path) -> None:
    done = run(project, "-q", "doctor", "--only", "env-modes,line-ends")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (project / "stack" / ".env").chmod(0o644)
    done = run(project, "-q", "doctor", "--only", "env-modes,line-ends")
    assert done.returncode == 3
    assert re.search("FAILED  env-modes +others may read", done.stdout)
    assert "chmod 600" in done.stdout
    assert "line-ends" not in done.stdout
    document = json.loads(run(project, "-q", "--json", "doctor", "--only", "env-modes,line-ends").stdout)
    assert [each["id"] for each in document["checks"]] == ["env-modes", "line-ends"]


def test_an_engine_that_does_not_answer_is_told_once(project: Path, tmp_path: Path) -> None:
    engine = DockerEngine(load(project, "docker"), DockerApi(f"unix://{tmp_path}/none.sock"))
    found = {each.id: each for each in doctor.examine(engine)}
    wrong = {name for name, each in found.items() if each.ok is False}
    # A machine without the docker command has no Compose either.
    assert "engine" in wrong
    assert wrong <= {"engine", "compose", *OF_THE_MACHINE}
    assert "none.sock" in found["engine"].found
    assert {name for name, each in found.items() if each.ok is None} >= {*OF_THE_STACK, "images", "mounts"}


def test_a_check_that_raises_stops_no_other(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(engine: object) -> str:
        del engine
        raise EngineError("The engine is gone.", hint="Start it.")

    monkeypatch.setattr(LocalEngine, "about", broken)
    found = examine(project, "engine", "line-ends")
    assert found["engine"] == Finding("engine", ok=False, found="The engine is gone", remedy="Start it.")
    assert found["line-ends"].ok is True


class FailingEngine(FakeEngine):
    def install(self, observer: Observer) -> None:
        del observer
        raise WaitTimeoutError("Not healthy in time: webserver.", hint="See why.", detail="its log")


def test_a_start_that_fails_says_which_checks_fail_and_stays_the_same_error(project: Path) -> None:
    with_crlf(project)
    with pytest.raises(WaitTimeoutError) as failure:
        lifecycle.up(FailingEngine(load(project)), "shop", timeout=1, observer=Observer())
    error = failure.value
    assert (error.message, error.code) == ("Not healthy in time: webserver.", 8)
    assert error.hint.startswith("See why.") or error.hint.endswith("See why.")
    assert error.detail.startswith(f"its log\n{lifecycle.FAILED_CHECKS}\n")
    assert "line-ends: stack/mysql/server.cnf has Windows line ends" in error.detail


def test_a_doctor_that_fails_hides_no_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(doctor, "examine_briefly", broken)
    with pytest.raises(WaitTimeoutError) as failure:
        lifecycle.up(FailingEngine(load(project)), "shop", timeout=1, observer=Observer())
    assert failure.value.detail == "its log"


# --- What Airflow and the databases tell, and what a machine lacks.

NOW = datetime.now(UTC)
OLD = (NOW - timedelta(days=90)).isoformat()
HEALTHY = {"status": "healthy"}
HEALTH = {
    "metadatabase": HEALTHY,
    "scheduler": {**HEALTHY, "latest_scheduler_heartbeat": NOW.isoformat()},
    "dag_processor": {**HEALTHY, "latest_dag_processor_heartbeat": NOW.isoformat()},
    "triggerer": {**HEALTHY, "latest_triggerer_heartbeat": NOW.isoformat()},
}
SILENT = {"status": "unhealthy", "latest_scheduler_heartbeat": None}
DEAD = {"status": "unhealthy", "latest_triggerer_heartbeat": OLD}
POOL = {"name": "a pool", "slots": 4, "open_slots": 4}
FULL = {**POOL, "open_slots": 0, "queued_slots": 3}
BROKEN = {"filename": "shop.py", "stack_trace": "Traceback\nSyntaxError: it", "timestamp": NOW.isoformat()}
RUNS = [
    {"dag_id": "shop", "dag_run_id": f"run {number}", "start_date": OLD, "end_date": OLD} for number in (1, 2)
]
ANSWERS: dict[str, dict[str, Any]] = {
    "/monitor/health": HEALTH,
    "/importErrors": {"import_errors": []},
    "state=deferred": {"total_entries": 0},
    "/pools": {"pools": [POOL]},
    "start_date_lte": {"dag_runs": []},
    "/dagRuns": {"dag_runs": RUNS[:1]},
    "/version": {"version": "3.3.2"},
    "/dags": {"dag_id": "generate_transaction_and_labels", "dags": [], "is_paused": True},
}
LOST_SLOT = Slot("airbyte_slot", False, "lost", None, 100, None)


class Engine(FakeEngine):
    """All services are healthy; a test changes what it tells."""

    health = "healthy"


def finding(
    project: Path, monkeypatch: pytest.MonkeyPatch, check: str, answers: dict[str, dict[str, Any]]
) -> Finding:
    """What a check finds if Airflow answers so."""

    def answer(_: object, method: str, path: str, content: object = None) -> tuple[int, dict[str, Any]]:
        del method, content
        return 200, next(body for words, body in (*answers.items(), *ANSWERS.items()) if words in path)

    monkeypatch.setattr(AirflowHealth, "_request", answer)
    monkeypatch.setattr(AirflowHealth, "token", lambda _: "token")
    [found] = doctor.examine(Engine(load(project)), (check,))
    return found


@pytest.mark.parametrize(
    ("check", "answers", "named", "remedy"),
    [
        (
            "heartbeats",
            {"/monitor/health": {**HEALTH, "scheduler": SILENT}},
            "scheduler",
            "pipectl restart scheduler",
        ),
        ("dag-imports", {"/importErrors": {"import_errors": [BROKEN]}}, "shop.py", "pipectl check"),
        (
            "dag-imports",
            {"/plugins/importErrors": {"import_errors": [{"source": "p/menu.py", "error": "No\nmodule"}]}},
            "the plugin p/menu.py cannot be imported: No module",
            "pipectl up",
        ),
        (
            "triggerer",
            {"state=deferred": {"total_entries": 2}, "health": {**HEALTH, "triggerer": DEAD}},
            "2 t",
            "pipectl restart triggerer",
        ),
        ("triggerer", {"health": {**HEALTH, "triggerer": DEAD}}, "is unhealthy", "pipectl restart triggerer"),
        ("pools", {"/pools": {"pools": [{**POOL, "slots": 0}]}}, "a pool has no slots", "set 'a pool' 16"),
        ("pools", {"/pools": {"pools": [FULL]}}, "all 4 slots", "pipectl airflow pools set 'a pool' 8"),
        ("retention", {"start_date_lte": {"dag_runs": RUNS}}, "1 run older", "pipectl airflow db clean"),
        ("airflow", {"/monitor/health": {"metadatabase": {"status": "unhealthy"}}}, "Airflow", "pipectl"),
    ],
)
def test_what_airflow_tells_is_judged(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    check: str,
    answers: dict[str, dict[str, Any]],
    named: str,
    remedy: str,
) -> None:
    assert finding(project, monkeypatch, check, {}).ok is True
    found = finding(project, monkeypatch, check, answers)
    assert found.ok is False, found
    assert named in found.found
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("check", "place", "value", "named", "remedy"),
    [
        ("tasks-api", (Engine, "tasks_api_problem"), "ConnectError: refused", "refused", "proxies"),
        ("replication-slots", (consumers, "slots"), (LOST_SLOT,), "airbyte_slot is lost", "--drop-slot"),
        ("binary-log", (consumers, "binary_log"), BinaryLog(5 << 30, None), "5.4 GB", "server.cnf"),
        ("label-lag", (Databases, "label_lag"), (7, 9000.0), "7 transactions wait", "pipectl trigger"),
        (
            "services",
            (Engine, "services"),
            (Service("redis", "crashed"), Service("x", "running")),
            "redis",
            "up",
        ),
        ("clock", (Engine, "clock_ahead"), -60.0, "60 s behind", "Set the clock"),
        ("memory", (processes, "available_memory"), 1 << 20, "1.0 MB left", "AIRFLOW_PARALLELISM"),
        ("disk", (disk, "spaces"), (disk.Space(ROOT, 1 << 20, None),), str(ROOT), "du"),
        ("disk", (disk, "spaces"), (disk.Space(ROOT, 1 << 40, 5),), "5 files left", "du"),
        ("file-system", (machine, "_kind"), "nfs4", "nfs4", "disk of this machine"),
        ("images", (Engine, "software"), (("Airflow 3",), ("MariaDB",)), "MariaDB", "pipectl up"),
    ],
)
def test_what_is_not_in_order_is_named(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    check: str,
    place: tuple[object, str],
    value: object,
    named: str,
    remedy: str,
) -> None:
    monkeypatch.setattr(*place, lambda *_: value)
    found = finding(project, monkeypatch, check, {})
    assert found.ok is False, found
    assert named in found.found
    assert remedy in found.remedy


def test_what_is_too_short_to_be_masked_everywhere_is_masked_beside_its_name(project: Path) -> None:
    (project / "stack/airflow").mkdir(parents=True, exist_ok=True)
    (project / "stack/airflow/user.env").write_text("SHORT=ab1\n")
    redact = Redactor(secrets_of(Engine(load(project))))
    for text in ("SHORT=ab1", "('SHORT', 'ab1')", "{'SHORT': 'ab1'}", '{"SHORT": "ab1"}'):
        assert "ab1" not in redact(text), text
    assert redact("cab1n") == "cab1n"


def test_a_dags_exception_is_shown_without_secrets_and_in_few_words(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "stack/airflow").mkdir(parents=True, exist_ok=True)
    (project / "stack/airflow/user.env").write_text("MINE=sesame-sesame\n")
    trace = f"Traceback\nRuntimeError: sesame-sesame {'x' * 900}"
    errors = {"/importErrors": {"import_errors": [{**BROKEN, "stack_trace": trace}]}}
    found = finding(project, monkeypatch, "dag-imports", errors).found
    assert f"RuntimeError: {MASK} x" in found
    assert "sesame" not in found
    assert len(found) < 400


def test_a_file_of_which_one_line_is_refused_is_masked_as_ever(project: Path) -> None:
    (project / "stack/airflow").mkdir(parents=True, exist_ok=True)
    (project / "stack/airflow/user.env").write_text('PEM="begins here\\nand ends"\nBROKEN="abc\n')
    redact = Redactor(secrets_of(Engine(load(project))))
    for text in ("begins here\nand ends", quote("begins here\nand ends"), repr("begins here\nand ends")):
        assert "begins" not in redact(text), text


def test_compose_is_not_blamed_for_an_engine_that_cannot_be_asked(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> str:
        raise EngineError("No Docker engine answers.")

    monkeypatch.setattr(Engine, "compose_version", fail)
    assert finding(project, monkeypatch, "compose", {}).ok is False
    monkeypatch.setattr(Engine, "about", fail)
    found = finding(project, monkeypatch, "compose", {})
    assert (found.ok, found.found) == (None, "it cannot be asked: see engine")


def test_a_machine_that_is_overloaded_is_named_before_a_restart(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = {"/monitor/health": {**HEALTH, "scheduler": {**SILENT, "latest_scheduler_heartbeat": OLD}}}
    monkeypatch.setattr("os.getloadavg", lambda: (34.2, 20.0, 9.0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    found = finding(project, monkeypatch, "heartbeats", silent)
    assert found.found.endswith("s ago, and this machine has a load of 34 on 2 cores")
    assert found.remedy.startswith("Wait until it has less to do.")
    beat = datetime.now(UTC) - timedelta(seconds=20)
    late = {**SILENT, "latest_scheduler_heartbeat": beat.isoformat()}
    found = finding(project, monkeypatch, "heartbeats", {"/monitor/health": {**HEALTH, "scheduler": late}})
    assert found.ok
    assert "late, for this machine has a load of 34 on 2 cores" in found.found
    monkeypatch.setattr("os.getloadavg", lambda: (1.0, 20.0, 9.0))
    assert finding(project, monkeypatch, "heartbeats", silent).remedy == "pipectl restart scheduler"


def test_a_service_that_was_just_started_has_given_no_heartbeat_yet(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = NOW + timedelta(seconds=1)
    services = tuple(replace(each, started=started) for each in Engine(load(project)).services())
    monkeypatch.setattr(Engine, "services", lambda _: services)
    assert "since it was started" in finding(project, monkeypatch, "heartbeats", {}).found


def test_a_mistake_in_the_users_file_is_told_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "stack/airflow").mkdir(parents=True, exist_ok=True)
    (project / "stack/airflow/user.env").write_text("PEM='a' b\n")
    assert finding(project, monkeypatch, "env-file", {}).ok is False
    for check in ("env-running", "tasks-api"):
        found = finding(project, monkeypatch, check, {})
        assert (found.ok, found.found) == (None, "stack/airflow/user.env cannot be used: see env-file")


def test_what_does_not_answer_is_told_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        raise AirflowSilentError("Airflow does not answer.")

    monkeypatch.setattr(AirflowHealth, "_request", silent)
    checks = ("airflow", "heartbeats", "dag-imports", "pools", "retention", "triggerer")
    found = {each.id: each.ok for each in doctor.examine(Engine(load(project)), checks)}
    assert found == {**dict.fromkeys(checks), "airflow": False}


def test_without_the_metadata_database_what_needs_it_is_not_blamed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [Service(name, "running", "healthy", pid=1) for name in ("webserver", "dag-processor")]
    services = (Service("postgres", "crashed"), *others)
    monkeypatch.setattr(Engine, "services", lambda _: services)
    checks = ("airflow", "dag-imports", "services")
    found = {each.id: each.ok for each in doctor.examine(Engine(load(project)), checks)}
    assert found == {"airflow": None, "dag-imports": None, "services": False}


def test_a_web_server_that_does_not_answer_is_no_fault_of_a_proxy(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "tasks_api_problem", lambda _: "ConnectError: Connection refused")
    unhealthy = {"/monitor/health": {"metadatabase": {"status": "unhealthy"}}}
    found = finding(project, monkeypatch, "tasks-api", unhealthy)
    assert (found.ok, found.remedy) == (None, "")
    assert found.found.startswith("Airflow does not answer")


def refusing(*variables: str) -> Callable[[Engine, DatabaseAddress], None]:
    """What logs in to servers that refuse the passwords of these variables."""

    def log_in(_: Engine, address: DatabaseAddress) -> None:
        if password_variable(address) in variables:
            raise explained(address, OperationalError("FATAL: authentication failed"), refusal="auth")

    return log_in


ACCOUNTS = {
    "AIRFLOW_POSTGRES_PASSWORD": ("postgres", "airflow"),
    "AIRBYTE_POSTGRES_PASSWORD": ("airbyte-postgres", "docker"),
    "AIRBYTE_POSTGRES_SUPERUSER_PASSWORD": ("airbyte-postgres", "postgres"),
    "AIRBYTE_MYSQL_PASSWORD": ("airbyte-mysql", "docker"),
    "AIRBYTE_REPLICATION_PASSWORD": ("airbyte-postgres", "airbyte"),
}


@pytest.mark.parametrize("variable", ACCOUNTS)
def test_each_password_is_tried_and_the_wrong_one_is_named_with_what_deletes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with (project / "stack" / ".env").open("a") as env:
        env.writelines(f"{name}=sesame\n" for name in {*engine_of(project).lost_secrets(), *ACCOUNTS})
    engine = engine_of(project)
    running = tuple(Service(name, "running") for name in ("postgres", "airbyte-postgres", "airbyte-mysql"))
    monkeypatch.setattr(engine, "services", lambda: running)
    monkeypatch.setattr(engine, "holds", lambda *_: True)
    monkeypatch.setattr(engine, "volumes", lambda: ("data",))
    monkeypatch.setattr(LocalEngine, "log_in", refusing())
    [found] = doctor.examine(engine, ["env-volumes"])
    assert (found.ok, found.remedy) == (True, "")
    assert "logged in to airbyte-postgres, airbyte-mysql and postgres" in found.found
    monkeypatch.setattr(LocalEngine, "log_in", refusing(variable))
    [found] = doctor.examine(engine, ["env-volumes"])
    service, user = ACCOUNTS[variable]
    assert found.ok is False
    assert f"{service!r} at " in found.found
    assert f"refused the password of user {user!r}" in found.found
    assert f"({variable})" in found.found
    if service == "airbyte-mysql":
        assert found.remedy.startswith("sed -i")
    else:
        assert found.remedy == "pipectl down && pipectl up"
    assert {password_variable(each) for each in engine.logins()} == {*ACCOUNTS}
    # A start has used it already.
    (project / ".pipectl").mkdir()
    (project / ".pipectl" / "settings.json").write_text(json.dumps({variable: "sesame"}))
    [found] = doctor.examine(engine, ["env-volumes"])
    assert found.remedy.startswith(
        f"Set {variable} in stack/.env to" if service == "airbyte-mysql" else "pipectl down"
    )


def test_airflow_is_not_restarted_for_a_password_that_its_database_refuses(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = DatabaseAddress("postgres", "127.0.0.1", 1, "airflow", "airflow", "x", takes_password=True)
    monkeypatch.setattr(Engine, "logins", lambda _: (address,))
    monkeypatch.setattr(Engine, "log_in", refusing("AIRFLOW_POSTGRES_PASSWORD"))
    unhealthy = {"/monitor/health": {"metadatabase": {"status": "unhealthy"}}}
    found = finding(project, monkeypatch, "airflow", unhealthy)
    assert found.ok is False
    assert "Airflow does not answer" in found.found
    assert "(AIRFLOW_POSTGRES_PASSWORD)" in found.found
    assert found.remedy == "pipectl down && pipectl up"


# --- Secrets that services share.


def test_services_with_other_secrets_are_named() -> None:
    variables = {"AIRFLOW_JWT_SECRET": "new", "AIRFLOW_POSTGRES_PASSWORD": "p/w"}
    name, login = "AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
    address = "postgresql+psycopg2://airflow:p%2Fw@127.0.0.1:5433/airflow"
    started = {"webserver": {name: "new", login: address}, "scheduler": {name: "old", login: address}}
    assert disagreements(started, variables, ()) == (
        Disagreement("AIRFLOW_JWT_SECRET", ("scheduler",), among_themselves=True),
    )
    same = {service: {**values, name: "old"} for service, values in started.items()}
    assert [found.services for found in disagreements(same, variables, ())] == [("webserver", "scheduler")]
    assert disagreements(same, variables, {name}) == ()
    assert disagreements({}, variables, ()) == ()


# --- The bundle.

PASSWORD = "s3same/&+öpen 'me'"
OWN = "user's-own=value%1"
SECRETS = {
    "AIRFLOW_ADMIN_PASSWORD": "open/sesame+1",
    "AIRFLOW_JWT_SECRET": "jwt-secret-of-this-project",
    "AIRFLOW_FERNET_KEY": "Zm9yIHRlc3RzIGFsb25lLCAzMiBieXRlcyBvZiBpdCE=",
    "AIRBYTE_MYSQL_PASSWORD": "xyz",
    "PIPECTL_ALERT_WEBHOOK": "https://hooks.example.com/T0KEN/abcdefgh",
    "MODEL_TOKEN": "token-of-a-model",
}


def encoded(secret: str) -> set[str]:
    """A secret as it may turn up in logs and settings, written by other means than the doctor's."""
    spelt = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    for user in ("", "admin:", "docker:", "a:"):
        for end in ("", "@host", "\n"):
            login = base64.b64encode(f"{user}{secret}{end}".encode()).decode().rstrip("=")
            # The last characters stand for what follows, the first ones for what goes before.
            first, last = -(-8 * len(user) // 6), 8 * (len(user) + len(secret.encode())) // 6
            spelt |= {login[first:last], login[first:last].translate(str.maketrans("+/", "-_"))}
    spelt |= odd(secret)
    spelt |= {f"{text[:5]}\n  {text[5:]}" for text in spelt if len(text) > 8}
    return {text for text in spelt if len(text) > 3} | {secret}


def odd(secret: str) -> set[str]:
    """A secret as Python, HTML and tools that show bytes write it."""
    content = secret.encode()
    numbers = [ord(character) for character in secret]
    jinja = secret.replace("&", "&amp;").replace("<", "&lt;").replace("'", "&#39;").replace('"', "&#34;")
    return {
        str(content)[2:-1],
        str({"both": [secret, "'\""]}).partition("[")[2].partition(", ")[0][1:-1],
        ascii(secret)[1:-1],
        "".join(f"&#{number};" for number in numbers),
        "".join(f"&#x{number:x};" for number in numbers),
        jinja,
        jinja.encode("ascii", "xmlcharrefreplace").decode(),
        content.hex(),
        content.hex(":"),
        content.hex(" ").upper(),
        content.hex("-"),
        "".join(f"\\x{byte:02x}" for byte in content),
    }


@pytest.fixture
def secretive(project: Path) -> Path:
    """A project with secrets in its files, and logs that tell them in every way."""
    (project / "stack" / ".env").write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
    connection = json.dumps({"conn_type": "postgres", "host": "db.example.com", "password": PASSWORD})
    user_env = project / "stack" / "airflow" / "user.env"
    user_env.write_text(f'AIRFLOW_CONN_SHOP={json.dumps(connection)}\nOWN_VALUE="{OWN}"\n')
    (project / "stack" / "airflow" / "install.env").write_text(
        "UV_DEFAULT_INDEX=https://me:index-sesame@packages.example.com/simple\n"
    )
    logs = project / ".pipectl" / "logs"
    logs.mkdir(parents=True)
    all_of_them = [*SECRETS.values(), PASSWORD, OWN, "index-sesame"]
    lines = [f"it says {text} here" for secret in all_of_them for text in encoded(secret)]
    (logs / "scheduler.log").write_text("An ordinary line\n" + "\n".join(lines) + "\n")
    address = {"AIRFLOW__API__BASE_URL": "http://127.0.0.1:8080"}
    state = {"environment": {"AIRFLOW__CORE__FERNET_KEY": "an-earlier-fernet-key", **address}}
    (project / ".pipectl" / "run").mkdir()
    (project / ".pipectl" / "run" / "webserver.json").write_text(json.dumps(state))
    (logs / "webserver.log").write_text(
        "key an-earlier-fernet-key\nGET http://user:an-unknown-password@example.com/\n"
        "Uvicorn running on http://127.0.0.1:8080\n"
        "Authorization: Bearer abcdefgh.ijklmnop\n"
    )
    (project / ".pipectl" / "run" / "supervisord.log").write_text("INFO supervisord started with pid 7\n")
    return project


def test_no_secret_is_in_the_bundle_in_no_spelling(secretive: Path, tmp_path: Path) -> None:
    path = tmp_path / "help.tar.gz"
    done = run(secretive, "doctor", "--only", "line-ends", "--bundle", str(path))
    assert done.returncode == 0, done.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        members = {entry.name: archive.extractfile(entry) for entry in archive.getmembers()}
        texts = {name: file.read().decode() for name, file in members.items() if file}
    whole = "\n".join(texts.values())
    for secret in (*SECRETS.values(), PASSWORD, OWN, "index-sesame"):
        assert [text for text in encoded(secret) if text in whole] == [], secret
    assert "an-earlier-fernet-key" not in whole
    assert "an-unknown-password" not in whole
    assert "abcdefgh.ijklmnop" not in whole
    assert set(texts) >= {
        f"{bundle.FOLDER}/{name}"
        for name in ("README.txt", "checks.json", "versions.json", "settings.env", "logs/scheduler.log")
    }
    assert {each["health"] for each in json.loads(texts[f"{bundle.FOLDER}/services.json"])} == {""}
    assert len(json.loads(texts[f"{bundle.FOLDER}/machine.json"])["load"]) == 3
    assert "INFO supervisord started" in texts[f"{bundle.FOLDER}/logs/supervisord.log"]
    assert "http://127.0.0.1:8080\n" in texts[f"{bundle.FOLDER}/logs/webserver.log"]
    assert "An ordinary line" in texts[f"{bundle.FOLDER}/logs/scheduler.log"]
    assert f"AIRFLOW_JWT_SECRET={MASK}" in texts[f"{bundle.FOLDER}/settings.env"]
    assert json.loads(texts[f"{bundle.FOLDER}/checks.json"])[0]["id"] == "line-ends"
    assert json.loads(texts[f"{bundle.FOLDER}/versions.json"])["engine"] == "local"


def test_a_bundle_tells_the_health_of_services(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = dict.fromkeys(("metadatabase", "scheduler", "dag_processor", "triggerer"), "healthy")
    monkeypatch.setattr(AirflowHealth, "components", lambda *_: healthy)
    monkeypatch.setattr("pipectl.databases.Databases.ping", lambda *_: None)
    engine = FakeEngine(load(project))
    health = {each.name: each.health for each in bundle._services(engine)}
    assert set(health.values()) == {"healthy"}

    def silent(*_: object) -> dict[str, str]:
        raise AirflowError("It does not answer.")

    monkeypatch.setattr(AirflowHealth, "components", silent)
    assert {each.name: each.health for each in bundle._services(engine)}["webserver"] == "starting"


def test_a_bundle_tells_which_runs_failed_and_why(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(load(project))
    failed = {"dag_id": "shop", "state": "failed", "start_date": OLD, "end_date": OLD}
    answers: dict[str, dict[str, Any]] = {
        "state=failed": {
            "dag_runs": [
                {**failed, "dag_run_id": "cancelled", "start_date": None},
                *({**failed, "dag_run_id": name} for name in ("a", "b")),
            ]
        },
        "taskInstances": {"task_instances": [{"task_id": "load", "state": "failed"}]},
        "eventLogs": {"event_logs": []},
    }

    def answer(_: object, method: str, path: str, content: object = None) -> tuple[int, dict[str, Any]]:
        del method, content
        return 200, next((body for words, body in answers.items() if words in path), {})

    def explain(*asked: Any) -> str:
        if asked[4] == "b":
            raise AirflowError("It does not answer.")
        return f"{asked[3]} failed"

    monkeypatch.setattr(AirflowHealth, "_request", answer)
    monkeypatch.setattr(AirflowHealth, "token", lambda _: "token")
    monkeypatch.setattr(bundle, "explain", explain)
    texts = dict(bundle._files(engine, ()))
    first, second = json.loads(texts["failed-runs.json"])
    assert (first["run"]["run_id"], first["tasks"][0]["id"]) == ("a", "load")
    assert [each["explanation"] for each in (first, second)] == ["shop failed", "It does not answer."]


def test_what_is_found_is_told_while_other_checks_take_long(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[list[str], list[str]]] = []
    released = threading.Event()

    def look(_: object) -> Finding:
        released.wait(60)
        return Finding("", ok=True, found="fine")

    def report(findings: list[Finding], late: list[str]) -> None:
        told.append(([each.id for each in findings], late))
        if findings:
            released.set()

    monkeypatch.setattr(doctor, "SLOW_SECONDS", 0.01)
    checks = [Check("cache", look), Check("disk", lambda _: Finding("", ok=True, found="room"))]
    monkeypatch.setattr(doctor, "ORDERED", checks)
    found = doctor.examine(engine_of(project), (), report)
    assert [each.found for each in found] == ["fine", "room"]
    assert told[-1] == (["disk"], ["cache"])


def test_what_has_been_shown_is_not_shown_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = (Finding("disk", True, "room"), Finding("cache", True, "fine"), Finding("ports", None, "why"))

    def examined(_: object, __: object, report: doctor.Report) -> tuple[Finding, ...]:
        for _ in range(2):
            report([found[0], found[2]], ["cache"])
        return found

    monkeypatch.setattr(doctor, "examine", examined)
    words = ["--project", str(project), "--engine", "local", "doctor"]
    done = CliRunner().invoke(cli.app, words)
    lines = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("ok")]
    assert lines == ["disk", "cache"]
    assert done.stdout.count(str(project)) == 1
    assert done.stdout.endswith("skipped ports: why\n")
    assert done.stderr.count("Still looking: cache\n") == 2
    document = json.loads(CliRunner().invoke(cli.app, [*words, "--json"]).stdout)
    assert [each["id"] for each in document["checks"]] == ["disk", "cache", "ports"]


def test_help_names_all_checks() -> None:
    done = CliRunner().invoke(cli.app, ["doctor", "--help"], env={"COLUMNS": "400"})
    assert f"of: {', '.join(CHECK_IDS)}." in " ".join(done.output.split())


def test_a_bundle_replaces_a_bundle_and_nothing_else(project: Path, tmp_path: Path) -> None:
    path = tmp_path / "help.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("somebody's"), io.BytesIO())
    before = path.read_bytes()
    for content in (before, b"a letter", b"\x1f\x8b", b""):
        path.write_bytes(content)
        done = run(project, "doctor", "--only", "line-ends", "--bundle", str(path))
        assert (done.returncode, path.read_bytes()) == (2, content)
        assert "was not written by pipectl doctor" in done.stderr
    path.unlink()
    for _ in range(2):
        assert run(project, "doctor", "--only", "line-ends", "--bundle", str(path)).returncode == 0
    assert not list(tmp_path.glob(".help*"))


def test_the_working_directory_is_no_secret(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PWD", "OLDPWD"):
        monkeypatch.setenv(name, str(project))
    trace = f'File "{project}/dags/a.py", line 1'
    assert engine_of(project).masked(trace) == trace


def test_documented_defaults_are_no_secrets(project: Path) -> None:
    redact = Redactor(secrets_of(engine_of(project)))
    line = "user docker logs in to airbyte as admin at 10:00"
    assert redact(line) == line


@pytest.mark.parametrize(
    ("value", "inside"),
    [
        ("postgres://me:p%2Fw@host/db", {"p%2Fw", "p/w"}),
        ("https://a-token@host/simple", {"a-token"}),
        ('{"password": "sesame", "extra": {"key_file": "abcd"}}', {"sesame", "abcd"}),
        ("host=db password='sesame' user=me", {"sesame"}),
        ("https://example.com/?token=sesame", {"sesame"}),
    ],
)
def test_secrets_inside_a_value_are_found(value: str, inside: set[str]) -> None:
    assert inside <= set(parts("ANY", value))


def test_a_folder_outside_a_project_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        load()
    done = subprocess.run(
        [sys.executable, "-m", "pipectl", "doctor"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
