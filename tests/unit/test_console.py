"""What is written without a terminal: text as Rich writes it, without Rich."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipectl import console as console_module
from pipectl.commands.shared import group, line, table
from pipectl.console import Console, plain_text
from pipectl.errors import PipectlError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

TEXTS = st.text(st.characters() | st.sampled_from("\n\r\t\a[]/ :"), max_size=30)
CONTENTS = st.recursive(
    st.builds(line, TEXTS, st.sampled_from(["", "bold red"])),
    lambda parts: st.lists(parts, max_size=3).map(lambda chosen: group(*chosen)),
    max_leaves=5,
)


def written(write: Callable[[Console], None]) -> tuple[str, str]:
    """Return what is written to stdout and stderr, which are no terminals."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        write(Console())
    return out.getvalue(), err.getvalue()


@given(content=CONTENTS, text=TEXTS)
def test_text_is_written_as_rich_writes_it(content: RenderableType, text: str) -> None:
    def write(console: Console) -> None:
        console.emit(None, lambda: content)
        console.say(text)
        console.error(PipectlError(text, hint=text, detail=text))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(console_module, "plain_text", lambda _: None)
        by_rich = written(write)
    assert written(write) == by_rich


@pytest.mark.parametrize("content", [table("a", rows=[(1,)]), group(line("a"), table("a", rows=[(1,)]))])
def test_what_has_to_be_drawn_is_drawn(content: RenderableType) -> None:
    assert plain_text(content) is None
    assert "a" in written(lambda console: console.emit(None, lambda: content))[0]


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_colours_that_somebody_insists_on_are_written(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv(variable, "1")
    assert "\x1b[" in written(lambda console: console.emit(None, lambda: line("up", "bold green")))[0]
    monkeypatch.delenv(variable)
    assert written(lambda console: console.emit(None, lambda: line("up", "bold green")))[0] == "up\n"
