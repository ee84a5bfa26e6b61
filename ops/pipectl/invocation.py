"""What every command needs: the console, the settings and the engine of this invocation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.console import Console
    from pipectl.engines.base import Engine
    from pipectl.settings import Settings


@dataclass
class Invocation:
    """The global options of one call; settings and engine are read when a command asks for them.

    A command sets `if_interrupted` before it changes anything: what Ctrl-C leaves, and what to type then.
    """

    console: Console
    project: Path | None = None
    engine_name: str | None = None
    if_interrupted: str = ""

    @cached_property
    def settings(self) -> Settings:
        """The project's settings; UsageError outside a project."""
        from pipectl import settings  # noqa: PLC0415  30 ms

        return settings.load(self.project, self.engine_name)

    def dag_id(self, argument: str | None) -> str:
        """The DAG that a command is about: its argument, or the pipeline's; DagError for what can be none."""
        from pipectl.errors import DagError  # noqa: PLC0415
        from pipectl.names import DAG_ID_RULE, is_dag_id  # noqa: PLC0415

        if argument and not is_dag_id(argument):
            raise DagError(f"There can be no DAG {argument!r}.", hint=f"A DAG's id has {DAG_ID_RULE}.")
        return argument or self.settings.dag_id

    @cached_property
    def engine(self) -> Engine:
        """The engine that runs this project's services."""
        from pipectl.engines.choice import choose  # noqa: PLC0415  engines are heavy

        return choose(self.settings)
