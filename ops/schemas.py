"""Write docs/schema: a JSON Schema for what --json prints, per command, made from the dataclasses.

`make docs` runs it. pydantic's TypeAdapter makes schemas of dataclasses too, but raises PydanticUserError for
types imported under TYPE_CHECKING, and does not know the exceptions of pipectl.documents.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import types
import typing
from dataclasses import is_dataclass
from datetime import datetime
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

from pipectl.commands import COMMANDS, RUN_PROGRAMS
from pipectl.documents import properties

# The rule for the next version stands in docs/schema/README.md.
VERSION = 1
FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schema"
LINE_BY_LINE = {"logs", "task-log"}
SCALARS: dict[object, dict[str, str]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    Path: {"type": "string"},
    datetime: {"type": "string", "format": "date-time"},
    types.NoneType: {"type": "null"},
}

Schema = dict[str, Any]


def files() -> dict[str, str]:
    """Return the text of each schema file by its name."""
    documents = {
        command: ("stdout", f"pipectl.commands.{module}", "Document")
        for command, module in COMMANDS.items()
        if command not in RUN_PROGRAMS
    }
    documents["error"] = ("stderr", "pipectl.documents", "Failure")
    return {
        f"{name}.json": json.dumps(schema(name, *source), indent=2, ensure_ascii=False) + "\n"
        for name, source in documents.items()
    }


def schema(name: str, stream: str, module: str, document: str) -> Schema:
    """Return the schema of the type that a module calls `document`."""
    subject = "any command" if name == "error" else f"`pipectl {name}`"
    text = f"What {subject} writes to {stream} with --json{', line by line' if name in LINE_BY_LINE else ''}."
    definitions: dict[type, Schema] = {}
    names = names_of(module)
    # The name's value is a class, or the text of a type alias.
    kind = names[document]
    root = schema_of(eval(kind, names) if isinstance(kind, str) else kind, definitions)  # noqa: S307  own code
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:pipectl:schema:{VERSION}:{name}",
        "title": f"pipectl {name}, version {VERSION}",
        "description": text,
        **root,
        "$defs": by_name(definitions),
    }


def by_name(definitions: dict[type, Schema]) -> dict[str, Schema]:
    """Return definitions under the names of their classes. ValueError if two have the same."""
    named = {kind.__name__: definition for kind, definition in definitions.items()}
    if len(named) < len(definitions):
        raise ValueError(f"Two dataclasses of one document have the same name: {sorted(named)}.")
    return dict(sorted(named.items()))


def schema_of(kind: Any, definitions: dict[type, Schema]) -> Schema:  # noqa: ANN401  any type annotation
    """Return the schema of a type; those of dataclasses go to `definitions`. TypeError for others."""
    if kind in SCALARS:
        return dict(SCALARS[kind])
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {types.UnionType, typing.Union}:
        parts = [schema_of(argument, definitions) for argument in arguments]
        if all(part.keys() == {"type"} for part in parts):
            return {"type": [part["type"] for part in parts]}
        return {"anyOf": parts}
    if origin is tuple and arguments[1:] == (...,):
        return {"type": "array", "items": schema_of(arguments[0], definitions)}
    if origin is dict and arguments[0] is str:
        return {"type": "object", "additionalProperties": schema_of(arguments[1], definitions)}
    return schema_of_class(kind, definitions)


def schema_of_class(kind: Any, definitions: dict[type, Schema]) -> Schema:  # noqa: ANN401  any type annotation
    """Return the schema of an enumeration or a dataclass. TypeError for others."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"type": "string", "enum": [str(member) for member in kind]}
    if isinstance(kind, type) and is_dataclass(kind):
        if kind not in definitions:
            definitions[kind] = {}  # so that a dataclass may hold its own kind
            definitions[kind] = schema_of_dataclass(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    raise TypeError(f"No JSON Schema is known for {kind!r}.")


def schema_of_dataclass(kind: Any, definitions: dict[type, Schema]) -> Schema:  # noqa: ANN401  any dataclass
    """Return the schema of an object. It stays open: a later pipectl may add properties."""
    hints = typing.get_type_hints(kind, names_of(kind.__module__))
    described: dict[str, Schema] = {}
    required = []
    for entry in properties(kind):
        value = hints.get(entry.attribute) or return_type(kind, entry.attribute)
        if not entry.is_optional:
            required.append(entry.name)
        elif entry.default is None:
            value = typing.Union[  # noqa: UP007  a union of the remaining types, made at run time
                tuple(part for part in typing.get_args(value) if part is not types.NoneType)
            ]
        described[entry.name] = schema_of(value, definitions)
    description = " ".join((inspect.getdoc(kind) or "").split())
    return {"type": "object", "description": description, "properties": described, "required": required}


def return_type(kind: type, name: str) -> Any:  # noqa: ANN401  any type annotation
    """Return the type of a computed property."""
    return typing.get_type_hints(vars(kind)[name].fget, names_of(kind.__module__))["return"]


def names_of(module: str) -> dict[str, Any]:
    """Return the names that a module's annotations may use, with its imports under TYPE_CHECKING."""
    imported = import_module(module)
    names = dict(vars(imported))
    for node in ast.parse(inspect.getsource(imported)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), module, "exec"), names)  # noqa: S102  pipectl's own imports
    return names


def main() -> int:
    """Write all files, and delete those of commands that no longer exist."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    texts = files()
    for path in FOLDER.glob("*.json"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
