"""What a command shows, as text."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


def plain(content: RenderableType) -> str:
    """Return what Rich draws, without colours."""
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=140).print(content)
    return stream.getvalue()
