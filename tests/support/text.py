"""What a command shows, as text, and what a guide says to type."""

from __future__ import annotations

import io
import re
import shlex
from typing import TYPE_CHECKING

from support import ROOT

if TYPE_CHECKING:
    from rich.console import RenderableType


def plain(content: RenderableType) -> str:
    """Return what Rich draws, without colours."""
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=140).print(content)
    return stream.getvalue()


def documented_words(service: str) -> list[str]:
    """Return the program and its options by which the guide dumps that service's database."""
    text = (ROOT / "docs" / "how-to" / "keep-or-move-data.md").read_text(encoding="utf-8")
    found = re.search(rf"^pipectl exec {service} -- (.*dump .*) > \S+$", text, re.MULTILINE)
    assert found, service
    return shlex.split(found[1])
