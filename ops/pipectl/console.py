"""The only module that prints: data to stdout, everything else to stderr."""

from __future__ import annotations

import dataclasses
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import rich.console
    from rich.console import RenderableType

    from pipectl.errors import PipectlError

# What a table is wide where no terminal says otherwise: a pipe or a file should not cut names.
WIDTH_WITHOUT_TERMINAL = 140


@dataclasses.dataclass
class Console:
    """Where one invocation writes, and in which form."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def emit(self, data: object, text: Callable[[], RenderableType]) -> None:
        """Write what was asked for: `data` as one JSON document, or else `text` for people."""
        if self.json:
            sys.stdout.write(_dump(data, indent=2) + "\n")
        else:
            self._out.print(text())
        sys.stdout.flush()

    def line(self, data: object, text: str) -> None:
        """Write one of many: `data` as a line of JSON, or else `text` as it is."""
        sys.stdout.write((_dump(data) if self.json else text) + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Tell the user how it goes, unless --quiet."""
        if not self.quiet:
            self._err.print(text, markup=False, highlight=False)

    def show(self, what: RenderableType) -> None:
        """Show what a question is about."""
        self._err.print(what)

    def error(self, error: PipectlError) -> None:
        """Say what went wrong, with its evidence, and what to type next."""
        if self.json:
            problem = {
                "code": int(error.code),
                "kind": error.code.name.lower(),
                "message": error.message,
                "hint": error.hint,
                "detail": error.detail,
            }
            sys.stderr.write(_dump({"error": problem}) + "\n")
            return
        if error.detail:
            self._err.print(_indent(error.detail), style="dim", markup=False, highlight=False)
        self._err.print(f"Error: {error.message}", style="bold red", markup=False, highlight=False)
        if error.hint:
            self._err.print(error.hint, markup=False, highlight=False)

    def confirm(self, question: str) -> bool | None:
        """Ask a question that `y` or `yes` answers; None where nobody can be asked."""
        if not sys.stdin.isatty():
            return None
        self._err.print(f"{question} [y/N] ", end="", markup=False, highlight=False)
        return sys.stdin.readline().strip().lower() in {"y", "yes"}

    @contextmanager
    def live(self, render: Callable[[], RenderableType]) -> Iterator[Callable[[], None]]:
        """Redraw `render` on stderr while the block runs, where that is a terminal; yields the redraw."""
        if self.quiet or self.json or not self._err.is_terminal:
            yield lambda: None
            return
        from rich.live import Live  # 70 ms, for terminals alone

        with Live(render(), console=self._err, refresh_per_second=8, transient=True) as live:
            yield lambda: live.update(render())

    @property
    def is_live(self) -> bool:
        """Whether `live` draws, so that lines of progress would only repeat it."""
        return not self.quiet and not self.json and self._err.is_terminal

    @cached_property
    def _out(self) -> rich.console.Console:
        return _console(stderr=False)

    @cached_property
    def _err(self) -> rich.console.Console:
        return _console(stderr=True)


def _console(*, stderr: bool) -> rich.console.Console:
    from rich.console import Console as RichConsole  # 25 ms

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return RichConsole(
        stderr=stderr,
        width=None if terminal else WIDTH_WITHOUT_TERMINAL,
        soft_wrap=not terminal,
        highlight=False,
    )


def table(*headers: str, rows: list[tuple[object, ...]], title: str = "") -> RenderableType:
    """Return rows under headers; numbers stand right."""
    from rich import box  # 25 ms
    from rich.table import Table
    from rich.text import Text

    found = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for index, header in enumerate(headers):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        found.add_column(header, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        found.add_row(*(Text(_cell(value), style=STATE_STYLES.get(str(value), "")) for value in row))
    return found


def group(*parts: RenderableType) -> RenderableType:
    """Return several renderables one below the other."""
    from rich.console import Group  # 25 ms

    return Group(*parts)


def words(text: str, style: str = "") -> RenderableType:
    """Return text in which brackets are brackets."""
    from rich.text import Text  # 25 ms

    return Text(text, style=style)


STATE_STYLES = {
    "healthy": "green",
    "running": "green",
    "success": "green",
    "starting": "yellow",
    "queued": "yellow",
    "up_for_retry": "yellow",
    "stopped": "dim",
    "crashed": "bold red",
    "failed": "bold red",
    "unhealthy": "bold red",
}


def plain(data: object) -> Any:  # noqa: ANN401  any JSON value
    """Return `data` as JSON knows it: dataclasses as objects, times in ISO 8601, paths as text.

    A field without repr is a secret and stays out.
    """
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return {
            field.name: plain(getattr(data, field.name)) for field in dataclasses.fields(data) if field.repr
        }
    if isinstance(data, dict):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if isinstance(data, datetime):
        return data.isoformat()
    if isinstance(data, Path):
        return str(data)
    return data


def elapsed(since: float) -> str:
    """Return the time since `since` (of time.monotonic) as people read it."""
    return f"{time.monotonic() - since:.0f} s"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _dump(data: object, indent: int | None = None) -> str:
    import json  # noqa: PLC0415  20 ms

    return json.dumps(plain(data), indent=indent, ensure_ascii=False)


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
