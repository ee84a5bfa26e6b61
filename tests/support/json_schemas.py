"""Whether what a command prints with --json is what docs/schema says."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jsonschema import Draft202012Validator, FormatChecker

from pipectl.commands import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schema"


def is_time_with_zone(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


FORMATS = FormatChecker(formats=())
FORMATS.checks("date-time", raises=ValueError)(is_time_with_zone)


def validate(name: str, document: object) -> None:
    """Check a document against the schema of a command, or against `error`; ValidationError if it differs.

    Stricter than the file, which leaves objects open for later versions: other properties are refused.
    """
    _validator(name).validate(document)


def check_output(arguments: Sequence[str], out: str, err: str) -> None:
    """Check all that a command with --json wrote to stdout, and its error on stderr."""
    command = next(argument for argument in arguments if argument in COMMANDS)
    if out:
        by_line = command in {"logs", "task-log"} or "--watch" in arguments
        for text in out.splitlines() if by_line else [out]:
            validate(command, json.loads(text))
    for line in err.splitlines():
        if line.startswith('{"error":'):
            validate("error", json.loads(line))


@cache
def _validator(name: str) -> Draft202012Validator:
    schema = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    for definition in schema["$defs"].values():
        definition["additionalProperties"] = False
    return Draft202012Validator(schema, format_checker=FORMATS)
