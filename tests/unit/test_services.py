"""The list of services: what describes the stack agrees with it, and a new entry is all pipectl needs."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from pipectl import services
from pipectl.airflow_health import AirflowHealth
from pipectl.engines.docker.engine import INIT, DockerEngine
from pipectl.engines.local import privileges
from pipectl.engines.local.airflow_install import AirflowRuntime
from pipectl.engines.local.binaries import MariadbBinaries, PostgresBinaries
from pipectl.engines.local.engine import LocalEngine
from pipectl.engines.local.start import Software, Start
from pipectl.engines.local.supervisor.supervisor import ProcessState
from pipectl.engines.project import SECRETS
from pipectl.errors import WaitTimeoutError
from pipectl.models import AirflowAddress, Service
from pipectl.observer import Observer
from pipectl.pipeline.readiness import HealthProbe, wait_until_healthy, with_health
from pipectl.services import AIRFLOW, ENGINE, SERVICES, Definition
from pipectl.settings import Settings
from support.fake_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pipectl.databases import Databases
    from pipectl.engines.base import Engine
    from pipectl.models import LogLine

STACK = Path(__file__).resolve().parents[2] / "stack"
WATCHER = Definition("watcher", AIRFLOW, "watcher", prefix="AIRFLOW_WATCHER", default_port=8794)
HEALTHY = dict.fromkeys(("metadatabase", "scheduler", "dag_processor", "triggerer"), "healthy")


def settings(folder: Path, **variables: str) -> Settings:
    return Settings(project=folder, engine="auto", cache_dir=folder / "cache", variables=variables)


class StartingEngine(FakeEngine):
    """Fills in the settings too, as every engine does at its start."""

    def start(self, observer: Observer, only: Collection[str] = ()) -> tuple[str, ...]:
        self._fill_in_settings(observer)
        return super().start(observer, only)

    def logs(self, services: tuple[str, ...], *, tail: int, follow: bool) -> Iterator[LogLine]:
        assert tail
        assert not follow
        return super().logs(services, tail=tail, follow=follow)


class FakeDatabases:
    def ping(self, service: str) -> None:
        assert service in {database.name for database in services.business_databases()}


@pytest.fixture
def health(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str | None]]:
    """Airflow's answer about its health, which the test may change."""
    body: dict[str, dict[str, str | None]] = {name: {"status": "healthy"} for name in HEALTHY}
    monkeypatch.setattr(AirflowHealth, "_request", lambda *_: (200, body))
    return body


def wait(engine: Engine, seconds: float) -> None:
    probe = HealthProbe(
        cast("Databases", FakeDatabases()),
        AirflowHealth(AirflowAddress("http://127.0.0.1:1", "", "")),
        engine.metadata_answers,
    )
    wait_until_healthy(engine, probe, deadline=time.monotonic() + seconds, observer=Observer())


@pytest.mark.parametrize(
    ("name", "airflow", "tasks"),
    [
        ("scheduler", True, True),
        ("worker", True, True),
        ("worker-2", True, True),
        ("webserver", True, False),
        ("dag-processor", True, False),
        ("airbyte-mysql", False, False),
        ("redis", False, False),
        ("unknown-1", False, False),
    ],
)
def test_a_service_and_each_of_its_containers_run_airflow_or_tasks(
    name: str, *, airflow: bool, tasks: bool
) -> None:
    assert (services.runs_airflow(name), services.runs_tasks(name)) == (airflow, tasks)


def test_an_entry_in_the_list_is_all_that_pipectl_needs_of_a_new_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, health: dict[str, dict[str, str | None]]
) -> None:
    engine = StartingEngine(settings(tmp_path))
    wait(engine, seconds=5)

    monkeypatch.setattr(services, "SERVICES", [*SERVICES, WATCHER])
    assert "watcher" in engine.start(Observer())
    assert engine.ports()["watcher"] == 8794
    assert settings(tmp_path, AIRFLOW_WATCHER_PORT="8795").port("watcher") == 8795
    assert "watcher" in services.components()
    for changed in (
        LocalEngine(settings(tmp_path)),
        DockerEngine(settings(tmp_path), cast("Any", NoDocker())),
    ):
        assert "watcher" in {service.name for service in changed.services()}

    # Airflow's answer has the component even if there is no watcher.
    health["watcher"] = {"status": None}
    with pytest.raises(WaitTimeoutError, match=r"Not healthy in time: watcher\."):
        wait(engine, seconds=0.2)
    health["watcher"] = {"status": "healthy"}
    wait(engine, seconds=5)


class NoDocker:
    """A Docker engine without containers."""

    host = "unix:///nowhere"

    def containers(self, _: dict[str, str]) -> tuple[()]:
        return ()

    def version(self) -> dict[str, str]:
        return {}


@pytest.mark.parametrize(
    "definition", [None, Definition("mystery", ENGINE)], ids=["not in the list", "engine does not tell"]
)
def test_a_service_whose_health_nothing_tells_is_not_healthy(
    monkeypatch: pytest.MonkeyPatch, definition: Definition | None
) -> None:
    monkeypatch.setattr(services, "SERVICES", [*SERVICES, *([definition] if definition else [])])
    (service,) = with_health((Service("mystery", "running"),), HEALTHY, ())
    assert service.health == "unknown"


def test_what_gives_no_heartbeat_long_after_its_start_is_unhealthy_and_not_starting() -> None:
    silent = {**HEALTHY, "scheduler": "unhealthy"}
    for minutes, health in ((1, "starting"), (30, "unhealthy")):
        started = datetime.now(UTC) - timedelta(minutes=minutes)
        (service,) = with_health((Service("scheduler", "running", started=started),), silent, ())
        assert service.health == health
        (service,) = with_health((Service("scheduler", "running", started=started),), HEALTHY, ())
        assert service.health == "healthy"


def test_up_says_of_which_service_nothing_tells_the_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, health: dict[str, dict[str, str | None]]
) -> None:
    assert health
    monkeypatch.setattr(services, "SERVICES", [*SERVICES, Definition("mystery", ENGINE)])
    with pytest.raises(WaitTimeoutError, match="Nothing tells the health of mystery"):
        wait(StartingEngine(settings(tmp_path)), seconds=0.2)


def compose(*names: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        found |= yaml.safe_load((STACK / name).read_text(encoding="utf-8"))["services"]
    return found


@pytest.mark.parametrize(
    ("executor", "files"),
    [
        ("LocalExecutor", ("docker-compose.yml",)),
        ("CeleryExecutor", ("docker-compose.yml", "docker-compose.celery.yml")),
    ],
)
def test_the_list_names_the_services_of_the_compose_files(executor: str, files: tuple[str, ...]) -> None:
    listed = {service.name for service in services.of_executor(executor)}
    assert set(compose(*files)) == {*listed, INIT}


def test_compose_publishes_the_listed_ports_under_the_listed_variables() -> None:
    published = {}
    for name, service in compose("docker-compose.yml").items():
        for port in service.get("ports", ()):
            variable, default = re.search(r"\$\{(\w+):-(\d+)\}", port).groups()  # type: ignore[union-attr]
            published[name] = (variable, int(default))
    assert published == {
        service.name: (service.port_variable, service.default_port)
        for service in SERVICES
        if service.default_port and service.published
    }


def test_compose_gives_business_databases_the_listed_names_and_scales() -> None:
    text = (STACK / "docker-compose.yml").read_text(encoding="utf-8")
    for service in services.business_databases():
        assert f"${{{service.prefix}_DATABASE:-{service.database}}}" in text
        assert compose("docker-compose.yml")[service.name]["scale"] == f"${{{service.prefix}_SCALE:-1}}"


def test_services_that_only_the_engine_can_judge_have_a_health_check_there() -> None:
    containers = compose("docker-compose.yml", "docker-compose.celery.yml")
    judged = [service.name for service in SERVICES if service.health == ENGINE]
    assert judged
    assert all("healthcheck" in containers[name] for name in judged)


def software_of(folder: Path) -> Software:
    return Software(
        AirflowRuntime(folder, folder / "python", "3.3.2", "key", "head"),
        PostgresBinaries(folder, (17, 0), "here"),
        MariadbBinaries(folder, folder, folder, "mariadb", (11, 0, 0), "here"),
    )


def start_of(engine: LocalEngine, chosen: Settings) -> Start:
    software = software_of(chosen.project)
    return Start(chosen, engine._supervisor, engine._claims, software, Observer(), engine)


def test_the_local_engine_has_a_program_for_every_listed_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by os.geteuid: the answer is kept for the whole process, so for later tests too.
    monkeypatch.setattr(privileges, "privileges", lambda: privileges.Privileges((), 1000))
    ignored = shutil.ignore_patterns("user.env", "plugins", "__pycache__", "*.txt")
    shutil.copytree(STACK, tmp_path / "stack", ignore=ignored)
    engine = LocalEngine(settings(tmp_path))
    start = start_of(engine, settings(tmp_path, **dict.fromkeys(SECRETS, "secret")))
    listed = [service.name for service in services.of_executor("LocalExecutor")]
    programs = {program.name: program for program in start.programs(tuple(listed))}
    assert sorted(programs) == sorted(listed)
    listening = {each.name: each.port_variable for each in SERVICES if each.default_port}
    assert set(programs["scheduler"].ports) == set(listening.values())
    for name in services.databases():
        assert programs[name].ports == {listening[name]: programs[name].port}


def test_a_plan_of_what_runs_moves_a_changed_port_that_is_taken_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privileges, "privileges", lambda: privileges.Privileges((), 1000))
    monkeypatch.setattr(
        "pipectl.engines.local.start.look_for_software", lambda _: (software_of(tmp_path), (), (), set())
    )
    shutil.copytree(STACK, tmp_path / "stack", ignore=shutil.ignore_patterns("user.env", "*.txt"))
    listening = [each for each in services.of_executor("LocalExecutor") if each.default_port]
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in [*listening, "taken"]]
        *used, taken = [each.getsockname()[1] for each in sockets]
        ports = dict(zip([each.name for each in listening], used, strict=True))
        variables = {services.get(name).port_variable: str(port) for name, port in ports.items()}
        variables |= {name: secret.make() for name, secret in SECRETS.items()}
        variables |= {"AIRBYTE_POSTGRES_SUPERUSER_PASSWORD": "secret"}
        wanted = {**variables, "AIRBYTE_MYSQL_PORT": str(taken)}
        engine = LocalEngine(settings(tmp_path, **wanted))
        supervisor = engine._supervisor
        names = [each.name for each in services.of_executor("LocalExecutor")]
        supervisor.run_dir.mkdir(parents=True)
        for program in start_of(engine, settings(tmp_path, **variables)).programs(tuple(names)):
            supervisor.describe(program)
        # This process listens on the ports of all of them.
        running = tuple(ProcessState(name, "RUNNING", os.getpid(), "") for name in names)
        monkeypatch.setattr(supervisor, "processes", lambda: running)
        plan = engine.plan(Observer(), executor=None, workers=None)
    [(name, (asked, instead))] = plan.moves.items()
    assert (name, asked) == ("airbyte-mysql", taken)
    assert instead not in {taken, *used}
    changed = f"AIRBYTE_MYSQL_PORT ({ports['airbyte-mysql']} → {taken}) changed"
    assert plan.restarts == dict.fromkeys(["airbyte-mysql", *services.airflow_programs()], changed)
    assert plan.starts == ()
