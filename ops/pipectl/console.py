"""The only module that prints: data to stdout, everything else to stderr.

What databases, logs and DAG files hold may be anything: no character of it reaches a terminal that the
terminal would obey instead of showing it. The terminal wraps long lines: a line break put into a command
would be copied with it, and a shell would run its halves.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import rich.console
    from rich.console import RenderableType
    from rich.live import Live

    from pipectl.errors import PipectlError

# The width of a table without a terminal: a pipe or a file should not cut names.
WIDTH_WITHOUT_TERMINAL = 140
# Controls of the two old sets, what changes the direction of the text after it, and halves of pairs. Not tab
# and line feed.
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
# Controls that Rich leaves out of text.
LEFT_OUT = dict.fromkeys((0x07, 0x08, 0x0B, 0x0C, 0x0D))
# Variables that make Rich take for a terminal what is none.
FORCING = {"FORCE_COLOR", "TTY_COMPATIBLE"}
PICTURES = 0x2400  # of the first set, one after the other
OTHER = "\ufffd"
# How soon a resized terminal is drawn anew, and a key is heeded on one that has none ready.
RESIZED_SECONDS = 0.2


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
            self._write(sys.stdout, text())
            sys.stdout.flush()

    def line(self, document: object, text: str, *, indent: int | None = None) -> None:
        """Write one of many results: `document` as a line of JSON, or else `text` as it is."""
        if self.json:
            from pipectl.documents import dump  # noqa: PLC0415  10 ms, for --json alone

            text = dump(document, indent, sys.stdout.encoding)
        else:
            text = visible(text)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Tell the user how it goes, unless --quiet."""
        if not self.quiet:
            self._tell(text)

    def show(self, text: RenderableType) -> None:
        """Show what a question is about."""
        self._tell(text)

    def error(self, error: PipectlError) -> None:
        """Say what went wrong, with its evidence, and what to type next."""
        if self.json:
            from pipectl.documents import Failure, Problem, dump  # noqa: PLC0415  10 ms, for --json alone

            problem = Problem(
                int(error.code), error.code.name.lower(), error.message, error.hint, error.detail
            )
            self._tell(dump(Failure(problem), encoding=sys.stderr.encoding))
            return
        if error.detail:
            self._tell(_indent(error.detail), style="dim")
        self._tell(f"Error: {error.message}", style="bold red")
        if error.hint:
            self._tell(error.hint)

    def confirm(self, question: str) -> bool | None:
        """Ask a question that `y` or `yes` answers; None if nobody can be asked."""
        if not sys.stdin.isatty():
            return None
        self._tell(f"{question} [y/N] ", end="")
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

        with Live(
            get_renderable=lambda: _shown(render()),
            console=self._err,
            refresh_per_second=8,
            transient=True,
        ) as live:
            yield live.refresh

    @property
    def has_screen(self) -> bool:
        """Whether stdout is a terminal that `screen` can fill."""
        draws = not self.json and may_draw(sys.stdout)
        return draws and self._out.is_terminal and not self._out.is_dumb_terminal

    @contextmanager
    def screen(self) -> Iterator[Screen]:
        """Give the whole terminal for the time of the block: no cursor is seen, and no key is shown.

        What was on the terminal before is there again afterwards.
        """
        from rich.live import Live  # 70 ms, for terminals alone

        with _silent_keys(), Live(console=self._out, screen=True, auto_refresh=False) as live:
            yield Screen(self._out, live)

    @property
    def is_live(self) -> bool:
        """Whether `live` draws, so that lines of progress would only repeat it."""
        return not self.quiet and not self.json and may_draw(sys.stderr) and self._err.is_terminal

    def _tell(self, text: RenderableType, *, style: str = "", end: str = "\n") -> None:
        """Write to stderr. If that fails, nobody can be told, and the command goes on."""
        try:
            self._write(sys.stderr, text, style=style, end=end)
            sys.stderr.flush()
        except OSError:
            give_up(sys.stderr)

    def _write(self, stream: TextIO, content: RenderableType, *, style: str = "", end: str = "\n") -> None:
        """Write what Rich draws of `content`; without Rich, whose import takes 50 ms, if it is text alone."""
        text = None if may_draw(stream) else plain_text(content)
        if text is not None:
            stream.write(visible(text) + end)
            return
        console = self._err if stream is sys.stderr else self._out
        console.print(
            _shown(content), style=style or None, end=end, markup=False, highlight=False, soft_wrap=True
        )

    @cached_property
    def _out(self) -> rich.console.Console:
        return _console(stderr=False)

    @cached_property
    def _err(self) -> rich.console.Console:
        return _console(stderr=True)


@dataclass(frozen=True)
class Line:
    """Text in which brackets are brackets, in a style that terminals show."""

    text: str
    style: str = ""

    def __rich__(self) -> RenderableType:
        """Return what Rich draws."""
        from rich.text import Text  # 25 ms

        return Text(self.text, style=self.style)


@dataclass(frozen=True)
class Group:
    """Several contents, one below the other."""

    parts: tuple[RenderableType, ...]

    def __rich__(self) -> RenderableType:
        """Return what Rich draws."""
        from rich.console import Group as RichGroup  # 25 ms

        return RichGroup(*self.parts)


@dataclass
class Screen:
    """A terminal that is redrawn at once, and without a gap."""

    terminal: rich.console.Console
    live: Live

    def draw(self, content: RenderableType) -> None:
        """Show `content`, which is told the size that there is."""
        self.live.update(_shown(content), refresh=True)

    def wait(self, seconds: float) -> bool:
        """Draw again whenever the size changes; return whether so much time has passed before a `q`."""
        deadline, size = time.monotonic() + seconds, self.terminal.size
        while (left := deadline - time.monotonic()) > 0:
            if _pressed(min(left, RESIZED_SECONDS)) in {b"q", b"Q", b""}:
                return False
            if self.terminal.size != size:
                size = self.terminal.size
                self.live.refresh()
        return True


def _pressed(seconds: float) -> bytes | None:
    """Return the key that is pressed within so much time, None if none is; empty if the terminal is gone."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return None
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 1) if ready else None


@contextmanager
def _silent_keys() -> Iterator[None]:
    """Show no keys, and let Ctrl-Z do nothing, which would leave the screen behind as it is."""
    if not sys.stdin.isatty():
        yield
        return
    import termios  # noqa: PLC0415  for `screen` alone

    descriptor = sys.stdin.fileno()
    before, silent = termios.tcgetattr(descriptor), termios.tcgetattr(descriptor)
    silent[3] &= ~(termios.ECHO | termios.ICANON)
    silent[6][termios.VSUSP] = bytes([os.fpathconf(descriptor, "PC_VDISABLE") & 0xFF])
    termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _console(*, stderr: bool) -> rich.console.Console:
    from rich.console import Console as RichConsole  # 25 ms

    class Patient(RichConsole):
        def on_broken_pipe(self) -> None:
            """Go on, where Rich ends the program."""
            give_up(sys.stderr)

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return (Patient if stderr else RichConsole)(
        stderr=stderr,
        width=None if terminal else int(os.environ.get("COLUMNS") or WIDTH_WITHOUT_TERMINAL),
        soft_wrap=not terminal,
        highlight=False,
    )


def may_draw(stream: TextIO) -> bool:
    """Whether Rich may take a stream for a terminal; which of these variables counts how, it knows itself."""
    return stream.isatty() or not FORCING.isdisjoint(os.environ)


def plain_text(content: RenderableType) -> str | None:
    """Return what Rich would write of text without a terminal; None for what it has to draw."""
    lines = [content] if isinstance(content, str) else _lines(content)
    # Tabs end at columns, which Rich knows of wide characters too.
    if not lines or any("\t" in line for line in lines):
        return None
    return "\n".join(lines).translate(LEFT_OUT)


def _lines(content: RenderableType) -> list[str] | None:
    """Return the texts that contents consist of; None if there is any other among them."""
    if isinstance(content, Line):
        return [content.text]
    if not isinstance(content, Group):
        return None
    parts = [_lines(part) for part in content.parts]
    return [line for part in parts if part for line in part] if all(parts) else None


def visible(text: str) -> str:
    """Return a text with a picture in the place of each character that a terminal obeys."""

    def picture(control: re.Match[str]) -> str:
        number = ord(control[0])
        return chr(PICTURES + number) if number < ord(" ") else OTHER

    return CONTROL.sub(picture, text.replace("\r\n", "\n"))


def give_up(stream: TextIO) -> None:
    """Let a stream go nowhere: it cannot be written, and Python writes what is left once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _shown(content: RenderableType) -> RenderableType:
    """Return what Rich draws of `content`, its text made visible; Rich's own colours and moves stay."""
    from rich.segment import Segment
    from rich.text import Text

    class Shown:
        def __rich_console__(self, console: Any, options: Any) -> Iterator[Segment]:  # noqa: ANN401  Rich's
            for segment in console.render(Text(content) if isinstance(content, str) else content, options):
                yield segment if segment.control else Segment(visible(segment.text), segment.style)

    return Shown()


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines())
