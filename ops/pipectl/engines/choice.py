"""Which engine runs a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipectl.errors import EngineError

if TYPE_CHECKING:
    from pipectl.engines.base import Engine
    from pipectl.settings import Settings


def choose(settings: Settings) -> Engine:
    """Return the engine that `settings` names; EngineError where it cannot work here."""
    if settings.engine == "docker":
        raise EngineError(
            "The docker engine is not part of this version.", hint="Run the stack without it: --engine local"
        )
    from pipectl.engines.local.engine import LocalEngine  # noqa: PLC0415  one engine of several

    return LocalEngine(settings)
