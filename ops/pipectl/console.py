"""The only module that prints: data to stdout, everything else to stderr."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import rich.console
    from rich.console import RenderableType

    from pipectl.errors import PipectlError

# The width of a table without a terminal: a pipe or a file should not cut names.
WIDTH_WITHOUT_TERMINAL = 140


@dataclass
class Console:
    """Where one invocation writes, and in which form."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def emit(self, document: object, text: Callable[[], RenderableType]) -> None:
        """Write the result: `document` as JSON, or else `text` for people."""
        if self.json:
            self.line(document, "", indent=2)
        else:
            self._out.print(text())
            sys.stdout.flush()

    def line(self, document: object, text: str, *, indent: int | None = None) -> None:
        """Write one of many results: `document` as a line of JSON, or else `text` as it is."""
        if self.json:
            from pipectl.documents import dump  # noqa: PLC0415  10 ms, for --json alone

            text = dump(document, indent)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Tell the user how it goes, unless --quiet."""
        if not self.quiet:
            self._err.print(text, markup=False, highlight=False)

    def show(self, text: RenderableType) -> None:
        """Show what a question is about."""
        self._err.print(text)

    def error(self, error: PipectlError) -> None:
        """Say what went wrong, with its evidence, and what to type next."""
        if self.json:
            from pipectl.documents import Failure, Problem, dump  # noqa: PLC0415  10 ms, for --json alone

            problem = Problem(
                int(error.code), error.code.name.lower(), error.message, error.hint, error.detail
            )
            sys.stderr.write(dump(Failure(problem)) + "\n")
            return
        if error.detail:
            self._err.print(_indent(error.detail), style="dim", markup=False, highlight=False)
        self._err.print(f"Error: {error.message}", style="bold red", markup=False, highlight=False)
        if error.hint:
            self._err.print(error.hint, markup=False, highlight=False)

    def confirm(self, question: str) -> bool | None:
        """Ask a question that `y` or `yes` answers; None if nobody can be asked."""
        if not sys.stdin.isatty():
            return None
        self._err.print(f"{question} [y/N] ", end="", markup=False, highlight=False)
        return sys.stdin.readline().strip().lower() in {"y", "yes"}

    @contextmanager
    def live(self, render: Callable[[], RenderableType]) -> Iterator[Callable[[], None]]:
        """Redraw `render` on stderr while the block runs, if that is a terminal; yields the redraw.

        It is redrawn by itself several times a second, so that a time in it runs.
        """
        if not self.is_live:
            yield lambda: None
            return
        from rich.live import Live  # 70 ms, for terminals alone

        with Live(get_renderable=render, console=self._err, refresh_per_second=8, transient=True) as live:
            yield live.refresh

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


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
