"""What to attach to a question: logs, versions, settings and checks of a project, with secrets masked."""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import tarfile
import time
import zlib
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from pipectl import __version__
from pipectl.airflow_facts import AirflowFacts
from pipectl.airflow_health import AirflowHealth
from pipectl.databases import Databases
from pipectl.documents import plain
from pipectl.engines.redaction import MASK, Redactor, documented_settings, is_open, secrets_of
from pipectl.errors import PipectlError, UsageError
from pipectl.overload import overload
from pipectl.pipeline.access import airflow_address
from pipectl.pipeline.explaining import explain
from pipectl.pipeline.readiness import HealthProbe
from pipectl.wait import Aside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipectl.engines.base import Engine
    from pipectl.models import DagRun, Service
    from pipectl.pipeline.doctor.checks import Finding
    from pipectl.pipeline.evidence import Explanation

FOLDER = "pipectl-doctor"
# The first file of an archive, by which one is known again.
FIRST = f"{FOLDER}/README.txt"
README = """\
Made by `pipectl doctor --bundle`: checks, versions, settings, services with their health, how busy the
machine is, the last lines of each service's log, on the local engine of the supervisor's too, and the latest
runs that failed with their tasks and what `pipectl explain` says of them.
Passwords, keys, tokens and everything of the user's own files of settings are masked. Rows of databases are
not in it, and of tasks' logs only the error and the last lines of output that explain a failed run. Read it
before you hand it on: what a DAG prints may be anything.
"""
LOG_LINES = 2000
# How long services that do not answer keep a bundle waiting.
HEALTH_SECONDS = 10
# How many runs that failed are looked at, and for how long.
FAILED_RUNS, EXPLAIN_SECONDS = 5, 15


def require_replaceable(path: Path) -> None:
    """Raise UsageError if a file is there that no `doctor --bundle` has written."""
    if not path.exists():
        return
    try:
        with tarfile.open(path, "r:gz") as archive:
            first = archive.next()
    except (OSError, tarfile.TarError, EOFError, zlib.error):
        first = None
    if first is None or first.name != FIRST:
        raise UsageError(
            f"{path} was not written by pipectl doctor, so it is left alone.", hint="Name another file."
        )


def bundle(engine: Engine, findings: tuple[Finding, ...]) -> bytes:
    """Return the archive, a tar.gz."""
    redact = Redactor(secrets_of(engine))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in _files(engine, findings):
            content = redact(text).encode(errors="replace")
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _files(engine: Engine, findings: tuple[Finding, ...]) -> Iterator[tuple[str, str]]:
    yield "README.txt", README
    yield "checks.json", json.dumps(plain(findings), indent=2, ensure_ascii=False)
    yield "versions.json", json.dumps(_versions(engine), indent=2, ensure_ascii=False)
    yield "settings.env", _settings(engine)
    yield "machine.json", json.dumps(_machine(), indent=2)
    if log := engine.supervisor_log(LOG_LINES):
        yield "logs/supervisord.log", f"{log}\n"
    try:
        yield "failed-runs.json", json.dumps(plain(_failed_runs(engine)), indent=2, ensure_ascii=False)
    except PipectlError as error:
        yield "failed-runs.txt", error.message
    try:
        services = _services(engine)
    except PipectlError as error:
        yield "services.txt", error.message
        return
    yield "services.json", json.dumps(plain(services), indent=2, ensure_ascii=False)
    for service in services:
        try:
            lines = [line.text for line in engine.logs((service.name,), tail=LOG_LINES, follow=False)]
        except PipectlError as error:
            lines = [error.message]
        yield f"logs/{service.name}.log", "\n".join(lines) + "\n"


def _services(engine: Engine) -> tuple[Service, ...]:
    """Return the services with their health, if they can be asked in time."""
    services = engine.services()
    with suppress(PipectlError):
        databases, health = Databases(*engine.databases()), AirflowHealth(engine.airflow())
        asking = Aside(lambda: HealthProbe(databases, health, engine.metadata_answers).check(services))
        if asking.is_known(HEALTH_SECONDS):
            return asking.result()
    return tuple(
        replace(service, health=service.health or "unknown") if service.state == "running" else service
        for service in services
    )


def _failed_runs(engine: Engine) -> list[dict[str, object]]:
    """Return the latest runs that failed, with their tasks and what `explain` says of them."""
    api, end = AirflowFacts(airflow_address(engine)), time.monotonic() + EXPLAIN_SECONDS
    return [
        {
            "run": run,
            "tasks": [each.task for each in api.instances(run.dag_id, run.run_id)],
            "explanation": _explanation(engine, run, end - time.monotonic()),
        }
        for run in api.failures(FAILED_RUNS)
    ]


def _explanation(engine: Engine, run: DagRun, seconds: float) -> Explanation | str:
    asking = Aside(lambda: explain(engine, engine.settings, run.dag_id, run.dag_id, run.run_id, None))
    try:
        return asking.result() if asking.is_known(seconds) else "no answer in time"
    except PipectlError as error:
        return error.message


def _machine() -> dict[str, object]:
    """Return how busy the machine is: its load of 1, 5 and 15 minutes, cores, and memory."""
    from pipectl.engines.local.processes import available_memory  # noqa: PLC0415  36 ms

    return {
        "load": [round(load, 2) for load in os.getloadavg()],
        "cores": os.cpu_count(),
        "available_memory_bytes": available_memory(),
        "overload": overload(),
    }


def _versions(engine: Engine) -> dict[str, object]:
    """Return versions; in the place of one that cannot be told, why."""
    told: dict[str, object] = {
        "pipectl": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        "engine": engine.name,
    }
    for name, tell in (
        ("about", engine.about),
        ("compose", engine.compose_version),
        ("software", engine.software),
    ):
        try:
            told[name] = tell()
        except PipectlError as error:
            told[name] = error.message
    return told


def _settings(engine: Engine) -> str:
    """Return stack/.env with what the environment overrides, every secret masked."""
    settings = engine.settings
    documented = documented_settings(settings)
    return "".join(
        f"{name}={value if is_open(name, documented) or not value else MASK}"
        f"{'  # from the environment' if name in settings.from_environment else ''}\n"
        for name, value in sorted(settings.variables.items())
    )
