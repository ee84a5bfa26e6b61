"""The commands of the documentation: what a reader types, as one script for each page, and as words."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCS = ROOT / "docs"
# In this order: the tutorial makes the project that the guides go on with.
GUIDES = (
    "tutorial",
    "how-to/look-inside",
    "how-to/packages",
    "how-to/dags",
    "how-to/settings",
    "how-to/ci",
    "how-to/airbyte",
    "how-to/keep-or-move-data",
    "how-to/second-project",
    "how-to/docker",
    "how-to/celery",
    "how-to/existing-database",
    "how-to/two-machines",
    "how-to/upgrade",
)
# A comment above a block says more: `not run: WHY`, `engine: NAME`, `file: PATH`, `file: PATH from PAGE`.
BLOCK = re.compile(r"^((?:<!-- [^\n]* -->\n)*)```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!-- (not run|engine|file): (\S.*) -->")
SHELL = {"", "sh"}
INLINE = re.compile(r"(?<!`)`(pipectl [^`]+)`(?!`)", re.DOTALL)
# Between commands, and before what a command does not get as words.
BETWEEN = {"&&", "||", "|", ";", "&"}
END = "END_OF_FILE"


@dataclass(frozen=True)
class Block:
    """A block of code, and what the comments above it say."""

    language: str
    text: str
    said: dict[str, str]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(language, content, dict(COMMENT.findall(comments)))
        for comments, language, content in BLOCK.findall(text)
    ]


def script(guide: str, engine: str) -> str:
    """Return what a reader of a guide types on this engine, with the files that the guide says to write."""
    return "".join(_steps(DOCS / f"{guide}.md", engine))


def _steps(page: Path, engine: str) -> Iterator[str]:
    for block in blocks(page):
        if "not run" in block.said or block.said.get("engine", engine) != engine:
            continue
        path, _, other = block.said.get("file", "").partition(" from ")
        if path:
            origin = blocks(page.parent / other) if other else [block]
            [content] = [
                each.text for each in origin if each.said.get("file", "").partition(" from ")[0] == path
            ]
            yield f"cat > {path} <<'{END}'\n{content}{END}\n"
        if block.language == "sh":
            yield block.text


def calls(page: Path) -> Iterator[tuple[list[str], bool]]:
    """Yield the words after `pipectl` of each call that a page shows, and whether a reader types it as it is.

    Sentences may name a command without what it needs.
    """
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        if block.language in SHELL:
            for line in block.text.replace("\\\n", "").splitlines():
                yield from ((words, True) for words in _calls(line))
    for call in INLINE.findall(BLOCK.sub("", text)):
        text = " ".join(call.replace("\\|", "|").split())
        yield from ((words, False) for words in _calls(text))


def _calls(line: str) -> Iterator[list[str]]:
    if "pipectl " not in line:
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.commenters = "#"
    lexer.wordchars += "[]…{}$=%@,:+!"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word in BETWEEN:
            # Variables before it, and a folder.
            at = next(
                (place for place, each in enumerate(words) if each.rpartition("/")[2] == "pipectl"), None
            )
            if at is not None and all("=" in each for each in words[:at]):
                arguments = words[at + 1 :]
                redirected = next((n for n, each in enumerate(arguments) if each in {"<", ">", ">>"}), None)
                yield arguments[:redirected]
            words = []
        else:
            words.append(word)
