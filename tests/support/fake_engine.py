"""An engine whose services all run, and which does nothing for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipectl.engines.base import Engine
from pipectl.engines.changes import StartPlan
from pipectl.engines.data import Data
from pipectl.engines.foreground import Command
from pipectl.models import LogLine, Service, Usage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from pipectl.engines.data import Beside
    from pipectl.models import Volume
    from pipectl.observer import Observer


class FakeData(Data):
    """No volume of the engine's is anything else, and nothing lies beside them."""

    def volumes(self) -> tuple[Volume, ...]:
        return self._engine.volumes()

    def copy_to(self, folder: Path) -> None:
        folder.mkdir()

    def slots_in(self, folder: Path) -> tuple[str, ...]:
        del folder
        return ()

    def lay_beside(self, folder: Path | None, settings: Mapping[str, str]) -> None:
        pass

    def exchange(self) -> None:
        pass

    def beside(self) -> Beside:
        return ""

    def _drop_beside(self) -> None:
        pass


class FakeEngine(Engine):
    """All services run, and nothing else happens; a log is one line."""

    name = "fake"
    executor = "LocalExecutor"
    health = ""

    def _plan(self) -> StartPlan:
        return StartPlan()

    def install(self, observer: Observer) -> None:
        pass

    def start(self, observer: Observer, only: Collection[str] = ()) -> tuple[str, ...]:
        del observer
        return tuple(name for name in self._names if not only or name in only)

    def rest(self, names: Collection[str]) -> tuple[str, ...]:
        return tuple(names)

    def wake(self, names: Collection[str]) -> None:
        pass

    def versions(self) -> dict[str, str]:
        return {}

    @property
    def data(self) -> Data:
        return FakeData(self)

    def resize(self, *, executor: str | None, workers: int | None) -> None:
        pass

    def restart(self, names: Collection[str], observer: Observer) -> dict[str, str]:
        del observer
        return dict.fromkeys(names, "")

    def stop(self) -> tuple[str, ...]:
        return self._names

    def services(self) -> tuple[Service, ...]:
        return tuple(Service(name, "running", self.health, pid=1) for name in self._names)

    def usage(self) -> dict[str, Usage]:
        return {name: Usage(1.5, 12_000_000) for name in self._names}

    @property
    def memory_kind(self) -> str:
        return "guessed"

    def holds(self, service: str, port: int) -> bool:
        return bool(service and port)

    def _ports_in_use(self) -> dict[str, int]:
        return {}

    def _mark(self, service: str) -> str:
        return service

    def volumes(self) -> tuple[Volume, ...]:
        return ()

    def delete_volumes(self) -> None:
        pass

    def execute(self, service: str, words: tuple[str, ...], observer: Observer | None = None) -> int:
        del service, words, observer
        return 0

    def apart(
        self,
        program: str,
        words: tuple[str, ...],
        observer: Observer,
        pytest: Path | None = None,
        *,
        tolerant: bool = False,
    ) -> Command:
        del observer, pytest, tolerant
        return Command((program, *words), {}, self._settings.project)

    def tool(self, service: str, words: tuple[str, ...], observer: Observer) -> Command:
        del service, observer
        return Command(words, {}, self._settings.project)

    def client(self, service: str, arguments: tuple[str, ...], observer: Observer) -> int:
        del service, arguments, observer
        return 0

    def started_with(self) -> dict[str, dict[str, str]]:
        return {}

    def tasks_api_problem(self) -> str:
        return ""

    def logs(self, services: tuple[str, ...], *, tail: int, follow: bool) -> Iterator[LogLine]:
        del tail, follow
        yield LogLine(services[0], "its log")
