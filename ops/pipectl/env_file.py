"""stack/.env: ports and secrets of one project, readable by its owner alone."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl import ordinary
from pipectl.errors import EngineError, UsageError, remedy

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class EnvFile:
    """A file of NAME=value lines, which Compose reads too. Comments and order survive a change."""

    path: Path

    def read(self) -> dict[str, str]:
        """Names and values, empty if there is no file.

        Raises UsageError, naming the line, if the file cannot be read or a line is no assignment.
        """
        try:
            text = ordinary.read_text(self.path)
        except FileNotFoundError:
            return {}
        except PermissionError as error:
            raise UsageError(
                f"{self.path} cannot be read: {error.strerror}.", hint="Make it readable for you."
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{ordinary.why_unreadable(self.path, error)}.", hint=f"Mend {self.path}."
            ) from error
        from io import StringIO  # noqa: PLC0415  needed only if there is a file

        from dotenv.parser import parse_stream  # 40 ms

        values: dict[str, str] = {}
        for binding in parse_stream(StringIO(text)):
            if binding.error or (binding.key is not None and binding.value is None):
                number = (
                    binding.original.line
                    + len(binding.original.string)
                    - len(binding.original.string.lstrip("\n"))
                )
                raise UsageError(
                    f"{self.path}, line {number}, is not NAME=value.",
                    hint=f"Mend line {number}, or delete it.",
                )
            if binding.key is not None and binding.value is not None:
                values[binding.key] = binding.value
        return values

    def expanded(self) -> tuple[str, ...]:
        """Return the names whose values Compose changes: those with a dollar sign outside single quotes."""
        try:
            text = ordinary.read_text(self.path)
        except FileNotFoundError:
            return ()
        assigned = re.findall(r"^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=[ \t]*([^'\s#].*)$", text, re.MULTILINE)
        return tuple(name for name, value in assigned if "$" in value)

    def update(self, changes: Mapping[str, str]) -> None:
        """Set `changes` at once, or not at all; EngineError if the folder is not writable.

        Values must be free of quotes, dollar signs and line ends: Compose and python-dotenv differ there.
        """
        try:
            lines = ordinary.read_text(self.path).splitlines() if self.path.exists() else []
            left = dict(changes)
            # Of two lines for one name the last counts.
            for index, line in reversed(list(enumerate(lines))):
                assigned = re.match(r"\s*(export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=", line)
                if assigned and (name := assigned[2]) in left:
                    lines[index] = f"{assigned[1] or ''}{name}={left.pop(name)}"
            lines += [f"{name}={value}" for name, value in left.items()]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # mkstemp makes the file 0600 from the start: no moment in which others can read it.
            descriptor, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=".env.")
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write("\n".join(lines) + "\n")
                Path(temporary).replace(self.path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise EngineError(
                f"{self.path} cannot be written: {error.strerror or error}.",
                hint=remedy(error, self.path.parent),
            ) from error
