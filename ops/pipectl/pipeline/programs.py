"""The user's own programs, run where the stack's services run: their exit code is the command's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipectl.errors import EngineError, UsageError
from pipectl.pipeline.access import HINT, unknown_service

if TYPE_CHECKING:
    from typing import NoReturn

    from pipectl.engines.base import Engine
    from pipectl.observer import Observer
    from pipectl.settings import Settings

# Where Airflow's commands run: where tasks do, or at least the same files are.
AIRFLOW = ("scheduler", "dag-processor", "webserver")
# A shell that reads no file of the user's, which may put another `python` first on PATH.
SHELL = 'command -v bash >/dev/null && PS1="pipectl:\\w\\$ " exec bash --norc "$@"; exec sh "$@"'


def run_client(engine: Engine, service: str, arguments: tuple[str, ...], observer: Observer) -> int:
    """Run psql or mysql on a database, logged in. EngineError if that does not run."""
    state = _states(engine).get(service)
    if state is not None:
        _require_running(service, state)
    return engine.client(service, arguments, observer)


def run_in_airflow(engine: Engine, words: tuple[str, ...]) -> int:
    """Run a program in Airflow's environment, as a task has it. EngineError if Airflow does not run."""
    states = _states(engine)
    for service in AIRFLOW:
        if states.get(service) == "running":
            return engine.execute(service, words)
    raise EngineError("This project's Airflow is not running.", hint=HINT)


def run_shell(engine: Engine, arguments: tuple[str, ...]) -> int:
    """Run a shell in Airflow's environment. EngineError if Airflow does not run."""
    return run_in_airflow(engine, ("sh", "-c", SHELL, "sh", *arguments))


def run_tests(engine: Engine, settings: Settings, words: tuple[str, ...], observer: Observer) -> NoReturn:
    """Become pytest in Airflow's environment, without the stack. EngineError if it cannot be installed."""
    from pipectl.engines import pytest_layer  # noqa: PLC0415  20 ms
    from pipectl.engines.foreground import become  # noqa: PLC0415

    command = engine.apart("run_tests.py", words, observer, pytest_layer.ensure(settings, observer))
    become(command.words, command.environment, command.folder)


def run_beside(engine: Engine, service: str, words: tuple[str, ...], observer: Observer) -> int:
    """Run a program beside a service. EngineError if that does not run, UsageError if there is none."""
    states = _states(engine)
    if service in {address.service for address in engine.databases()} - states.keys():
        raise UsageError(
            f"{service} runs elsewhere (stack/.env), where pipectl runs no programs.",
            hint="Its client is here: pipectl psql, pipectl mysql",
        )
    if service not in states:
        raise unknown_service(service, states)
    _require_running(service, states[service])
    return engine.execute(service, words, observer)


def _states(engine: Engine) -> dict[str, str]:
    return {service.name: service.state for service in engine.services()}


def _require_running(service: str, state: str) -> None:
    if state != "running":
        raise EngineError(f"{service} is not running in this project.", hint=HINT)
