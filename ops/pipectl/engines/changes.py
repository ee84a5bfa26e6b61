"""What a service was started with, and what it would start with now: `up` applies the difference."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipectl.engines.airflow_env import OWN
from pipectl.services import METADATA, databases, find, runs_airflow, runs_tasks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

# Files that a service reads at its start and at no other time, by patterns from the project's folder; each
# engine adds its own. A folder counts with all that is in it.
LAUNCHED = [
    "connections",
    "dag_tests",
    "file_changes",
    "forks",
    "launcher",
    "liveness",
    "login",
    "metadata_database",
    "notifications",
    "proxies",
    "shortcuts",
    "task_processes",
    "triggers",
]
REQUIREMENTS = "requirements.txt"
AIRFLOW_FILES = (
    REQUIREMENTS,
    *(f"stack/airflow/{name}.py" for name in LAUNCHED),
    *(f"stack/airflow/{name}" for name in ("config", "plugins")),
)
DATABASE_FILES = {
    "postgres": ("stack/postgres/*.conf", "business.conf"),
    "airbyte-postgres": ("stack/postgres/*.conf", "metadata.conf"),
    "airbyte-mysql": ("stack/mysql/*.cnf", ""),
}
DIGEST_DIGITS = 12
MOST_SHOWN = 4
# The time that tasks get to end, and what happens to those that do not.
TASK_SECONDS = 10
TASKS_FAIL = "Tasks that this interrupts fail, and are tried again if their DAG allows retries."


@dataclass(frozen=True)
class StartPlan:
    """What a start would do now.

    `installs` says what is missing on this machine, `restarts` has services that run with what has changed
    for each, `removes` those that run and are no part of the stack any more, and packages that
    requirements.txt no longer needs, `moves` the services whose port is taken with the wanted one and the
    next. `notes` are sentences.
    """

    installs: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    restarts: Mapping[str, str] = field(default_factory=dict)
    removes: tuple[str, ...] = ()
    moves: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StartState:
    """Settings by name, files by path with a digest, and all else by what messages call it.

    `ports` are ports of the stack by their variables in stack/.env: a difference that follows from one of
    them is told by its name.
    """

    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, str] = field(default_factory=dict)
    rest: Mapping[str, object] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)

    def changes(self, now: StartState, user_settings: Collection[str]) -> tuple[str, ...]:
        """Return what is different now, in words; `user_settings` are the names that user.env sets."""
        files = _different(self.files, now.files)
        settings = [
            self._port_behind(now, self.settings.get(name), now.settings.get(name))
            or (f"{name} of {OWN}" if name in user_settings else name)
            for name in _different(self.settings, now.settings)
        ]
        rest = {
            name: self._port_behind(now, self.rest.get(name), now.rest.get(name))
            for name in _different(self.rest, now.rest)
        }
        # A changed file or setting explains a changed command.
        return tuple(dict.fromkeys([*files, *settings, *filter(None, rest.values())])) or tuple(rest)

    def _port_behind(self, now: StartState, before: object, after: object) -> str:
        """Return the changed port that alone makes two values differ, with its numbers; empty without one."""
        for variable, old in self.ports.items():
            new = now.ports.get(variable, old)
            numbers = re.compile(rf"(?<!\d)({old}|{new})(?!\d)")
            if new != old and numbers.sub("", str(before)) == numbers.sub("", str(after)):
                return f"{variable} ({old} → {new})"
        return ""


def digests(project: Path, service: str, *more: str) -> dict[str, str]:
    """Return the digests of the files that `service` reads at its start, `more` patterns among them."""
    if service in databases():
        pattern, left_out = DATABASE_FILES[service]
        paths = [path for path in project.glob(pattern) if path.name != left_out]
    else:
        paths = [project / name for name in AIRFLOW_FILES]
    paths += [path for pattern in more for path in project.glob(pattern)]
    return {path.relative_to(project).as_posix(): _digest(path) for path in sorted(paths) if path.exists()}


def restart_sentences(restarts: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield what is said of services and what changed for each; one sentence for the same changes.

    A service without a change restarts because the user asks for it.
    """
    by_changes: dict[tuple[str, ...], list[str]] = {}
    for service, changes in restarts.items():
        by_changes.setdefault(changes, []).append(service)
    for changes, services in by_changes.items():
        yield f"Restarting {', '.join(services)}{f': {describe(changes)}' if changes else ''}"
    if any(map(runs_tasks, restarts)):
        yield TASKS_FAIL


def describe(changes: tuple[str, ...]) -> str:
    """Return what changed as one clause, without the tail of a long list."""
    if all(find(change) for change in changes):
        return f"{' and '.join(changes)} restart{'s' if len(changes) == 1 else ''}"
    more = [f"{len(changes) - MOST_SHOWN} more"] if len(changes) > MOST_SHOWN else []
    return f"{', '.join([*changes[:MOST_SHOWN], *more])} changed"


def with_dependents(
    restarts: dict[str, tuple[str, ...]], running: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Add Airflow's running services if the metadata database restarts, without which they end."""
    if METADATA not in restarts:
        return restarts
    dependents = filter(runs_airflow, running)
    return dict.fromkeys(dependents, (METADATA,)) | restarts


def _different(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(path.parent)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:DIGEST_DIGITS]
