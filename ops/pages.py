"""Write the pages of docs/ that say what the code knows: commands, settings, exit codes, checks, causes.

`make docs` runs it. Each page begins with words of its own; what follows MARK is written here.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipectl import cli
from pipectl.commands import PANELS, RUN_PROGRAMS
from pipectl.errors import ExitCode
from pipectl.pipeline.causes import Cause
from pipectl.pipeline.doctor import ORDERED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MARK = "<!-- `make docs` writes what follows. -->\n"
# A line of stack/.env.example or airflow.env that sets a variable, or shows its default.
VARIABLE = re.compile(r"(?:# )?([A-Z][A-Z_]+)=(.*)")
SECTION = "# --- "


def files() -> dict[str, str]:
    """Return the whole text of each page by its path below docs/."""
    written = {
        "reference/commands.md": "\n".join(_commands()),
        "reference/settings.md": "\n".join(_settings()),
        "reference/exit-codes.md": "\n".join(_exit_codes()),
        "troubleshooting.md": "\n".join(_troubles()),
    }
    return {name: _beginning(DOCS / name) + text + "\n" for name, text in written.items()}


def _beginning(path: Path) -> str:
    before, mark, _ = path.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise ValueError(f"{path} has no line {MARK.strip()}")
    return before + mark + "\n"


def _commands() -> Iterator[str]:
    root = typer.main.get_command(cli.app)
    yield "## Global options\n"
    yield "They stand before or after the command's name.\n"
    yield from _parameters(root, "pipectl")
    for panel, names in PANELS.items():
        yield f"\n## {panel}"
        for name in names:
            yield from _command(name)


def _command(name: str) -> Iterator[str]:
    command = cli.import_command(name)
    text, _, examples = (command.help or "").partition(cli.EXAMPLES)
    yield f"\n### {name}\n"
    # One paragraph a line: Markdown has no use for breaks that only fill a terminal.
    yield "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))
    yield "\n```sh"
    yield from re.findall("`([^`]+)`", examples)
    yield "```\n"
    yield from _parameters(command, f"pipectl {name}")
    if name not in RUN_PROGRAMS:
        yield f"\nWhat `--json` prints: [{name}.json](../schema/{name}.json)"


def _parameters(command: Any, path: str) -> Iterator[str]:  # noqa: ANN401  Typer's own command
    context = command.context_class(command, info_name=path)
    records = [parameter.get_help_record(context) for parameter in command.params]
    rows = [(_code(names), _cell(text)) for names, text in filter(None, records)]
    yield from _table(("argument or option", "meaning"), rows)


def _settings() -> Iterator[str]:
    yield "## stack/.env"
    yield from _variables((ROOT / "stack" / ".env.example").read_text(encoding="utf-8"))
    yield "\n## Settings of Airflow's processes\n"
    yield "From `stack/airflow/airflow.env`. A line of `stack/airflow/user.env` overrides one of these."
    yield from _variables((ROOT / "stack" / "airflow" / "airflow.env").read_text(encoding="utf-8"))


def _variables(text: str) -> Iterator[str]:
    """Yield a heading and a table for each part of a file of settings."""
    for part in text.split(f"\n{SECTION}")[1:]:
        heading, rows, comment = _part(part)
        title, *more = re.split(r"[.:] ", heading, maxsplit=1)
        yield f"\n### {title.rstrip('.')}\n"
        for sentence in filter(None, (*more, comment)):
            yield f"{sentence[0].upper()}{sentence[1:]}\n"
        yield from _table(("variable", "default", "meaning"), rows)


def _part(part: str) -> tuple[str, list[tuple[str, str, str]], str]:
    """Return heading, rows, and the comment at the end, of one part of a file of settings."""
    first, *lines = part.splitlines()
    heading, comment = first, ""
    rows: list[tuple[str, str, str]] = []
    for line in lines:
        if assigned := VARIABLE.fullmatch(line):
            name, value = assigned.groups()
            rows.append((f"`{name}`", _code(value) if value else "", _cell(comment)))
            comment = ""
        elif line.startswith("#"):
            words = line.removeprefix("#").strip()
            # What goes on with the heading, and what begins a comment of its own.
            if not rows and not comment and (line.startswith("#   ") or not heading.endswith(".")):
                heading += f" {words}"
            else:
                comment = f"{comment} {words}".strip()
    return heading, rows, comment


def _exit_codes() -> Iterator[str]:
    yield from _table(
        ("code", "name in the code", "meaning"),
        [(str(int(code)), code.name, code.meaning) for code in ExitCode],
    )


def _troubles() -> Iterator[str]:
    yield "## What `pipectl doctor` looks at\n"
    yield "A check that fails says what it found, and the command that mends it. `up` adds those"
    yield "with a star to its own errors. `pipectl doctor --only` takes their names.\n"
    rows = [(f"`{check.id}`{' *' if check.is_brief else ''}", _cell(check.description)) for check in ORDERED]
    yield from _table(("check", "what holds if all is well"), rows)
    yield "\n## Causes that `pipectl explain` names\n"
    yield "With `--json` programs decide by `cause`. The text says more: what was looked at, and the next"
    yield "command.\n"
    yield from _table(("cause", "meaning"), [(f"`{cause}`", _cell(cause.meaning)) for cause in Cause])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |".replace("|  |", "| |")


def _code(text: str) -> str:
    """Return code for a table: of a pipe in backticks GitHub hides the backslash, and the site shows it."""
    if "|" not in text:
        return f"`{_cell(text)}`"
    return f"<code>{html.escape(' '.join(text.split())).replace('|', '&#124;')}</code>"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> int:
    """Write all pages."""
    for name, text in files().items():
        (DOCS / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
