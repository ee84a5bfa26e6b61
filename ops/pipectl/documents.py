"""JSON documents: what --json prints. Each is a frozen dataclass, and docs/schema describes it.

A property is a dataclass's field, but for these exceptions:
- a field without repr is a secret, and no property;
- `metadata={"property": NAME}` gives a name that Python cannot spell;
- `metadata={"optional": True}` leaves the property out while it has its default;
- `computed`, a tuple of names at the class, adds properties of the Python kind.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

# Outside of strings JSON has only line ends of these.
CONTROL = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Problem:
    """What went wrong: `code` is the exit code and `kind` its name; the hint says what to type next."""

    code: int
    kind: str
    message: str
    hint: str
    detail: str


@dataclass(frozen=True)
class Failure:
    """The one line on stderr of a command that failed."""

    error: Problem


class Property(NamedTuple):
    """A property of a document: its name, the attribute with its value, and the value that is left out."""

    name: str
    attribute: str
    is_optional: bool = False
    default: object = None


@cache
def properties(kind: type) -> tuple[Property, ...]:
    """Return the properties of a dataclass, in the order in which they are written."""
    declared = tuple(
        Property(
            field.metadata.get("property", field.name),
            field.name,
            field.metadata.get("optional", False),
            field.default,
        )
        for field in fields(kind)
        if field.repr
    )
    return declared + tuple(Property(name, name) for name in getattr(kind, "computed", ()))


def plain(data: object) -> Any:  # noqa: ANN401  any JSON value
    """Return `data` as JSON knows it: dataclasses as objects, times in ISO 8601, paths as text."""
    if is_dataclass(data) and not isinstance(data, type):
        values = ((entry, getattr(data, entry.attribute)) for entry in properties(type(data)))
        return {
            entry.name: plain(value)
            for entry, value in values
            if not entry.is_optional or value != entry.default
        }
    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if isinstance(data, datetime):
        return data.isoformat()
    if isinstance(data, Path):
        return str(data)
    return data


def dump(data: object, indent: int | None = None, encoding: str | None = None) -> str:
    """Return the text of a document, in ASCII if `encoding` cannot spell it.

    Characters that a terminal obeys are escaped, which is the same document.
    """
    content = plain(data)
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    try:
        text.encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        text = json.dumps(content, indent=indent)
    return CONTROL.sub(lambda control: f"\\u{ord(control[0]):04x}", text)
