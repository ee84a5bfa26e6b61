"""What `restart` chooses, says and waits for."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pipectl.engines.changes import TASKS_FAIL, StartPlan
from pipectl.errors import EngineError, UsageError
from pipectl.models import Service
from pipectl.observer import Observer
from pipectl.pipeline import lifecycle
from pipectl.pipeline.readiness import HealthProbe
from pipectl.settings import Settings
from support.fake_docker import container, engine
from support.fake_engine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pipectl.engines.base import Engine
    from pipectl.engines.docker.api import Container


class Restarted(FakeEngine):
    """Says what it restarts; the services are `looks`, one look after the other, the last one for ever."""

    looks: list[tuple[Service, ...]]
    asked: tuple[str, ...] = ()

    def lock(self) -> AbstractContextManager[None]:
        return nullcontext()

    def restart(self, names: Collection[str], observer: Observer) -> dict[str, str]:
        del observer
        self.asked = tuple(names)
        return dict.fromkeys(names, "")

    def services(self) -> tuple[Service, ...]:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def _plan(self) -> StartPlan:
        return StartPlan(restarts={"redis": "REDIS changed", "scheduler": "stack/airflow/user.env changed"})


class Seen(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def report(self, sentence: str) -> None:
        self.sentences.append(sentence)


CELERY = tuple(
    Service(name, "running", "healthy", pid=1)
    for name in ("postgres", "webserver", "scheduler", "redis", "worker-1", "worker-2")
)
INIT = Service("airflow-init", "crashed")


@pytest.fixture
def restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Restarted:
    (tmp_path / "stack").mkdir()
    made = Restarted(Settings(tmp_path, "local", tmp_path / "cache", {}))
    made.looks = [(*CELERY, INIT)]
    monkeypatch.setattr(HealthProbe, "check", lambda _, services: services)
    return made


def restart(made: Engine, *names: str) -> lifecycle.RestartResult:
    return lifecycle.restart(made, names, timeout=5, observer=Observer())


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("scheduler",), ("scheduler",)),
        (("worker-2", "redis"), ("redis", "worker-2")),
        (("worker",), ("worker-1", "worker-2")),
        ((), tuple(service.name for service in CELERY)),
    ],
)
def test_one_several_and_all_services_are_meant(
    restarted: Restarted, names: tuple[str, ...], chosen: tuple[str, ...]
) -> None:
    assert tuple(restart(restarted, *names).restarted) == restarted.asked == chosen


@pytest.mark.parametrize(
    ("name", "hint"),
    [("shceduler", "Did you mean scheduler? There are: postgres, "), ("airflow-init", "There are")],
)
def test_a_name_that_no_service_has_is_a_usage_error(restarted: Restarted, name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"no service '{name}'") as raised:
        restart(restarted, "scheduler", name)
    assert raised.value.hint.startswith(hint)
    assert restarted.asked == ()


def test_a_database_elsewhere_is_not_restarted(restarted: Restarted) -> None:
    with pytest.raises(UsageError, match="airbyte-mysql runs elsewhere"):
        restart(restarted, "airbyte-mysql")


def test_a_stopped_stack_is_not_started(restarted: Restarted) -> None:
    restarted.looks = [tuple(replace(service, state="stopped", pid=None) for service in CELERY)]
    with pytest.raises(EngineError, match="not running") as raised:
        restart(restarted)
    assert raised.value.hint == "Start it: pipectl up"
    assert restarted.asked == ()


def test_only_what_restarts_is_waited_for(restarted: Restarted) -> None:
    others = tuple(replace(each, state="crashed", health="") for each in CELERY if each.name != "webserver")
    webserver = Service("webserver", "running", "starting", pid=2)
    restarted.looks = [
        (*others, replace(webserver, health="healthy", pid=1)),
        (*others, webserver),
        (*others, replace(webserver, health="healthy")),
    ]
    assert list(restart(restarted, "webserver").restarted) == ["webserver"]


def test_what_does_not_come_back_ends_with_its_log(restarted: Restarted) -> None:
    restarted.looks = [CELERY, (Service("webserver", "crashed"),)]
    with pytest.raises(EngineError, match="'webserver' ends as soon as it is started") as raised:
        restart(restarted, "webserver")
    assert raised.value.detail == "its log"


def test_what_a_restart_leaves_as_it_was_is_named(restarted: Restarted) -> None:
    [note] = restart(restarted, "scheduler").notes
    assert note == (
        "scheduler was started as before, and stack/airflow/user.env changed since: pipectl up applies that."
    )


class Recorded:
    """Keeps what is stopped and started, in order; what was stopped runs no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, made: Any) -> None:
        self.steps: list[tuple[str, str]] = []
        self._api = made._api
        for name in ("stop", "start"):
            monkeypatch.setattr(self._api, name, partial(self._step, name), raising=False)

    def _step(self, name: str, container: str) -> None:
        self.steps.append((name, container))
        changed = {"state": "exited", "pid": None} if name == "stop" else {"state": "running", "pid": 2}
        self._api.found = tuple(
            replace(each, **changed) if each.id == container else each for each in self._api.found
        )

    def of(self, step: str) -> set[str]:
        return {each for name, each in self.steps if name == step}


def stack() -> tuple[Container, ...]:
    names = ("postgres", "airbyte-mysql", "webserver", "scheduler", "dag-processor", "redis")
    worker: dict[str, Any] = {"labels": {"com.docker.compose.container-number": "2"}}
    return (*(container(name) for name in names), container("worker", **worker))


def test_containers_that_are_named_restart_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, seen = engine(tmp_path, *stack(), PIPECTL_EXECUTOR="celery"), Seen()
    recorded = Recorded(monkeypatch, made)
    assert made.restart(("redis", "worker-2"), seen) == {"redis": "", "worker-2": ""}
    assert recorded.of("stop") == recorded.of("start") == {"redis", "worker"}
    assert seen.sentences == ["Restarting redis, worker-2", TASKS_FAIL]


def test_airflow_restarts_with_its_metadata_database_which_stops_last_and_starts_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, seen = engine(tmp_path, *stack(), PIPECTL_EXECUTOR="celery"), Seen()
    recorded = Recorded(monkeypatch, made)
    found = made.restart(("postgres",), seen)
    airflow = {"webserver", "scheduler", "dag-processor", "worker-2"}
    assert found == {"postgres": "", **dict.fromkeys(airflow, "postgres restarts")}
    steps = [step for step in recorded.steps if step[1] == "postgres"]
    assert steps == [("stop", "postgres"), ("start", "postgres")]
    position = recorded.steps.index(("stop", "postgres"))
    assert {name for name, _ in recorded.steps[:position]} == {"stop"}
    assert recorded.steps[position + 1] == ("start", "postgres")
    assert seen.sentences[0] == "Restarting postgres"
    assert seen.sentences[1].endswith(": postgres restarts")


def test_a_service_without_a_container_is_made_by_up(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no container of redis") as raised:
        engine(tmp_path, *stack()[:5]).restart(("redis",), Observer())
    assert "pipectl up" in raised.value.hint
