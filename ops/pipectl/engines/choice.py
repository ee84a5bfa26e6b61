"""Which engine runs a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipectl.engines.project import remembered_engine

if TYPE_CHECKING:
    from pipectl.engines.base import Engine
    from pipectl.settings import Settings


def choose(settings: Settings) -> Engine:
    """Return the engine that `settings` names, for `auto` the one that `automatic` finds."""
    name = automatic(settings) if settings.engine == "auto" else settings.engine
    if name == "docker":
        from pipectl.engines.docker.engine import DockerEngine  # noqa: PLC0415  one engine of several

        return DockerEngine(settings)
    from pipectl.engines.local.engine import LocalEngine  # noqa: PLC0415  one engine of several

    return LocalEngine(settings)


def automatic(settings: Settings) -> str:
    """Return the engine that a project goes on with, or else Docker where an engine answers.

    1. The engine that ran the project last, until its data is deleted: a project is never switched silently
       to empty databases, not even while Docker is stopped.
    2. The local engine where its data lies in .pipectl, from before engines were remembered.
    3. Docker, where an engine answers that this user may use (a connect and one request, 2 to 5 ms).
    4. The local engine.
    """
    if (remembered := remembered_engine(settings)) in {"docker", "local"}:
        return remembered
    if any((settings.state_dir / "volumes").glob("*/data")):
        return "local"
    from pipectl.engines.docker.api import DockerApi  # noqa: PLC0415  25 ms

    return "docker" if DockerApi().answers() else "local"
