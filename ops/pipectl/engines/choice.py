"""Which engine runs a project."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pipectl.errors import UsageError

if TYPE_CHECKING:
    from pipectl.engines.base import Engine
    from pipectl.settings import Settings

AUTO = "auto"
# Name and class of every engine. The class is that of engines/NAME/engine.py, imported when it is used.
ENGINES = {"docker": "DockerEngine", "local": "LocalEngine"}


def choose(settings: Settings) -> Engine:
    """Return the engine that `settings` names, for `auto` the one that `automatic` finds.

    Raises UsageError for a name that is none of ENGINES.
    """
    name = automatic(settings) if settings.engine == AUTO else settings.engine
    if name not in ENGINES:
        raise unknown_engine(name)
    engine: Engine = getattr(import_module(f"pipectl.engines.{name}.engine"), ENGINES[name])(settings)
    return engine


def unknown_engine(name: str) -> UsageError:
    """Return the error for a name that is none of ENGINES."""
    return UsageError(
        f"There is no engine {name!r}.", hint=f"--engine takes one of {', '.join((AUTO, *ENGINES))}."
    )


def automatic(settings: Settings) -> str:
    """Return the engine that a project goes on with; without one, Docker if an engine answers.

    1. The engine that ran the project last, until its data is deleted: a project is never switched silently
       to empty databases, not even while Docker is stopped.
    2. The local engine if its data lies in .pipectl, from before engines were remembered.
    3. Docker if an engine answers that this user may use (a connect and one request, 2 to 5 ms).
    4. The local engine.
    """
    from pipectl.engines.project import remembered_engine  # noqa: PLC0415  `--help` reads ENGINES alone

    if (remembered := remembered_engine(settings)) in ENGINES:
        return remembered
    if any((settings.state_dir / "volumes").glob("*/data")):
        return "local"
    from pipectl.engines.docker.api import DockerApi  # noqa: PLC0415  25 ms

    return "docker" if DockerApi().answers() else "local"
