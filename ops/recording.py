"""Record docs/images/recording.svg: a new project, its start and a run, on a real terminal, at its real pace.

`make recording` runs it in a folder of its own. Rich draws the picture; lines appear as they came, without
long pauses.
"""

from __future__ import annotations

import codecs
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "recording.svg"
COLUMNS = 100
# What is typed, in order; the project is thrown away afterwards.
COMMANDS = (
    "pipectl init fraud",
    "cd fraud",
    "pipectl up",
    "pipectl trigger",
    "pipectl psql -c 'SELECT channel, count(*), sum(amount) FROM transactions GROUP BY 1'",
)
LONGEST_PAUSE = 1.5
TYPING_SECONDS = 0.6
ERASE = "\x1b[2K"
UP = re.compile(r"\x1b\[(\d*)A")
# The cursor hidden and shown.
HIDDEN = re.compile(r"\x1b\[\?25[hl]")
CONTROL = re.compile(r"(\r|\n|\x1b\[2K|\x1b\[\d*A|\x1b\[\?25[hl])")
# Lines after each other; without animations, or if a reader wants none, all are there at once.
STYLE = """
    @keyframes come { from { opacity: 0 } to { opacity: 0 } }
    .NAME-matrix text { animation: come 0.01s backwards }
    @media (prefers-reduced-motion) { .NAME-matrix text { animation: none } }
"""


def typed(command: str, folder: Path, environment: dict[str, str]) -> Iterator[tuple[float, str]]:
    """Run a command on a terminal of its own; yield the times at which it wrote, and what."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    decode = codecs.getincrementaldecoder("utf-8")().decode
    # A terminal whose last process has ended answers with an error.
    with suppress(OSError):
        while part := os.read(leader, 65536):
            yield time.monotonic(), decode(part)
    os.close(leader)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)


def lines_left(written: Iterable[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return the lines that stay on the terminal, each with the time of its last change.

    Progress moves up and erases what it wrote before.
    """
    rows: list[tuple[float, str]] = [(0.0, "")]
    row = 0
    for when, text in written:
        for piece in CONTROL.split(text):
            if piece == "\n":
                row += 1
                if row == len(rows):
                    rows.append((when, ""))
            elif piece == "\r" or HIDDEN.fullmatch(piece):
                continue
            elif up := UP.fullmatch(piece):
                row = max(row - int(up[1] or 1), 0)
            elif piece == ERASE:
                rows[row] = (when, "")
            elif piece:
                rows[row] = (when, rows[row][1] + piece)
    # Of progress that was erased, empty rows are left.
    while rows and not rows[-1][1]:
        rows.pop()
    return rows


def record(folder: Path) -> list[tuple[float, str]]:
    """Type the commands in a folder; return lines and the seconds at which they are shown."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIPECTL_", "VIRTUAL"))
    }
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TERM": "xterm-256color",
        "COLUMNS": str(COLUMNS),
        "PIPECTL_ENGINE": "local",
    }
    now, shown = 0.0, []
    for command in COMMANDS:
        now += TYPING_SECONDS
        shown.append((now, f"\x1b[1;32m$\x1b[0m \x1b[1m{command}\x1b[0m"))
        if command.startswith("cd "):
            folder /= command.removeprefix("cd ")
            continue
        start = time.monotonic()
        lines = [(start, ""), *lines_left(typed(command, folder, environment))]
        for (before, _), (came, line) in pairwise(lines):
            now += min(max(came - before, 0.0), LONGEST_PAUSE)
            # The folder of this recording is nobody's.
            shown.append((now, line.replace(str(folder), "fraud").replace("fraud/fraud", "fraud")))
    return shown


def draw(shown: list[tuple[float, str]]) -> str:
    """Return the picture: Rich's own of a terminal, with a time for each line and no font from elsewhere."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: PTH123, SIM115
    times = []
    for when, line in shown:
        text = Text.from_ansi(line)
        for part in text.wrap(console, COLUMNS) or [text]:
            times.append(when)
            console.print(part)
    name = "recording"
    picture = console.export_svg(title="pipectl", unique_id=name)
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    picture = picture.replace("<style>", f"<style>{STYLE.replace('NAME', name)}", 1)
    return re.sub(
        rf'clip-path="url\(#{name}-line-(\d+)\)"',
        lambda found: f'{found[0]} style="animation-delay:{times[int(found[1])]:.1f}s"',
        picture,
    )


def main() -> int:
    """Record, draw, and throw the project away."""
    folder = Path(tempfile.mkdtemp(prefix="recording-"))
    try:
        shown = record(folder)
    finally:
        if (folder / "fraud").exists():
            subprocess.run(
                [
                    Path(sys.executable).with_name("pipectl"),
                    "--project",
                    folder / "fraud",
                    "down",
                    "--volumes",
                    "--yes",
                ],
                check=True,
            )
        shutil.rmtree(folder)
    PICTURE.write_text(draw(shown), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
