"""What a check is, what it finds, and what all checks look at."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from pipectl import json_text
from pipectl.airflow_health import AirflowHealth
from pipectl.database_errors import RENEW, password_variable
from pipectl.databases import Databases
from pipectl.engines import airflow_env
from pipectl.errors import LoginError, PipectlError
from pipectl.names import shell
from pipectl.pipeline.access import down_services
from pipectl.settings import LASTING, kept_path
from pipectl.wait import Aside

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipectl.engines.base import Engine
    from pipectl.models import DatabaseAddress, Service

UP = "pipectl up"
# How long a lock keeps a check waiting.
LOCK_SECONDS = 2


@dataclass(frozen=True)
class Finding:
    """What a check found. `ok` is null if it does not apply now: `found` then says why.

    `remedy` is the command to type, or one sentence where no command mends it; empty unless the check failed.
    """

    id: str
    ok: bool | None
    found: str
    remedy: str = ""
    # Whether --fix may run the remedy: it loses nothing, and stops nothing that runs.
    is_safe: bool = field(default=False, repr=False)


class NotNowError(Exception):
    """Says why a check does not apply: to this engine, or while the stack does not run."""


@dataclass(frozen=True)
class Check:
    """A thing to look at. `is_brief` marks those that `up` runs when it fails: causes, and not effects."""

    id: str
    look: Callable[[Desk], Finding]
    is_brief: bool = False

    @property
    def description(self) -> str:
        """What holds if all is well, in one line."""
        return (self.look.__doc__ or "").splitlines()[0]


# Every check by its id.
CHECKS: dict[str, Check] = {}


def check(
    name: str, *, brief: bool = False
) -> Callable[[Callable[[Desk], Finding]], Callable[[Desk], Finding]]:
    """Register a function as the check of this id. Its first line says what holds if all is well."""

    def registered(look: Callable[[Desk], Finding]) -> Callable[[Desk], Finding]:
        CHECKS[name] = Check(name, look, brief)
        return look

    return registered


def fine(found: str) -> Finding:
    """Return that all is well."""
    return Finding("", ok=True, found=found)


def bad(found: str, remedy: str, *, safe: bool = False) -> Finding:
    """Return what is wrong, and the command that mends it."""
    return Finding("", ok=False, found=found, remedy=remedy, is_safe=safe)


def of_error(error: PipectlError) -> Finding:
    """Return an error as what a check found."""
    return bad(error.message.removesuffix("."), error.hint)


class Desk:
    """The project that is looked at, and what several checks ask: asked once, side by side."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.settings = engine.settings
        self._services = Aside(engine.services)

    @cached_property
    def services(self) -> tuple[Service, ...]:
        """Every service. Raises NotNowError if the engine does not tell."""
        try:
            return self._services.result()
        except PipectlError as error:
            raise NotNowError(f"what runs is not known: {error.message}") from error

    @property
    def is_running(self) -> bool:
        """Whether any service is known to run."""
        try:
            return len(down_services(self.services)) < len(self.services)
        except NotNowError:
            return False

    def require(self, *names: str) -> None:
        """Raise NotNowError unless these services run, or any without names."""
        down = down_services(self.services)
        if not self.is_running:
            raise NotNowError("the stack does not run")
        if missing := [name for name in names if name in down]:
            verb = "does" if len(missing) == 1 else "do"
            raise NotNowError(f"{' and '.join(missing)} {verb} not run")

    def require_engine(self) -> None:
        """Raise NotNowError if the engine does not answer, as its own check says."""
        down_services(self.services)

    def require_user_settings(self) -> None:
        """Raise NotNowError unless a user's settings of Airflow can be read: their own check says why."""
        try:
            airflow_env.read(self.settings.project, self.settings.variables)
        except PipectlError as error:
            raise NotNowError(f"{airflow_env.OWN} cannot be used: see env-file") from error

    def airflow(self) -> AirflowHealth:
        """Return a connection to Airflow's API, for one check. Raises NotNowError."""
        # Without its metadata database the web server can answer nothing, and is not to blame.
        self.require("webserver", "postgres")
        return AirflowHealth(self.engine.airflow())

    def log_in(self, *names: str) -> list[tuple[DatabaseAddress, PipectlError | None]]:
        """Log in with every account of what runs, or of `names`, side by side: what each was told."""
        running = {service.name for service in self.services if service.state == "running"}
        asked = {
            address: Aside(partial(_told, self.engine, address))
            for address in self.engine.logins()
            if address.service in (running.intersection(names) if names else running)
        }
        return [(address, asking.result()) for address, asking in asked.items()]

    def refused(self, logins: list[tuple[DatabaseAddress, PipectlError | None]]) -> Finding | None:
        """Return the first password that a server refuses, and what mends it."""
        for address, error in logins:
            if isinstance(error, LoginError):
                return bad(error.message.removesuffix("."), self._new_password(address, error))
        return None

    def _new_password(self, address: DatabaseAddress, error: LoginError) -> str:
        settings, variable = self.settings, password_variable(address)
        if variable in settings.from_environment:
            return f"unset {variable}"
        if address.takes_password:
            return RENEW
        path = kept_path(settings.project)
        kept = json_text.read_object(path).get(variable)
        if kept and kept == settings.variables.get(variable):
            return error.hint
        default = without_line(settings.env_path, variable)
        if not kept or variable in LASTING:
            # A start takes what the copy has.
            return f"{default} && {UP}" if kept else default
        return f"Set {variable} in stack/.env to the value that {path} has of it."

    def databases(self, *names: str) -> Databases:
        """Return the business databases, of which those of `names` run. Raises NotNowError."""
        own = {service.name for service in self.services}
        # One that stack/.env places elsewhere need not run here.
        if wanted := [name for name in names if name in own]:
            self.require(*wanted)
        return Databases(*self.engine.databases(), lock_seconds=LOCK_SECONDS)


def _told(engine: Engine, address: DatabaseAddress) -> PipectlError | None:
    try:
        engine.log_in(address)
    except PipectlError as error:
        return error
    return None


def in_place(script: str, *paths: Path) -> str:
    """Return the command that edits files by a script of sed."""
    if sys.platform == "darwin":
        # Its sed knows no \\r.
        return shell("sed", "-i", "", script.replace("\\r", "\r"), *paths)
    return shell("sed", "-i", script, *paths)


def without_line(path: Path, name: str) -> str:
    """Return the command that deletes the line of a variable from a file."""
    return in_place(f"/^{name}=/d", path)
