"""The conf of a run: read as it was typed, and held against the DAG's params before anything starts."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipectl import json_text, ordinary
from pipectl.airflow_health import did_you_mean
from pipectl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipectl.models import DagParam, ParsedDag
    from pipectl.observer import Observer

# More than anybody means, and less than Python's own limit.
DEEPEST = 100
LONGEST_REASON = 200
# How like a param's name another key is if it can only be a typing error.
SURELY_MEANT = 0.8
EXAMPLE = (
    "A JSON object in quotes, a file with one, or a key and its value:"
    """ --conf '{"count": 100}', --conf @conf.json, --conf count=100"""
)
ASSIGNMENT = re.compile(r'([^\s{}\[\]"=@][^\s{}\[\]"=]*)=(.*)', re.DOTALL)
# Keywords of JSON Schema that limit a value, as a sentence names them.
LIMITS = {
    "enum": "one of {}",
    "const": "only {}",
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matching {}",
    "format": "a {}",
}

Object = dict[str, Any]
Assignment = tuple[str, str]  # a key, and its value as it was typed


def parse(texts: Sequence[str]) -> tuple[Object | Assignment, ...]:
    """Return what each --conf gives: a JSON object, KEY=VALUE, or @FILE. UsageError for anything else."""
    return tuple(
        (match[1], match[2]) if (match := ASSIGNMENT.fullmatch(text)) else _object_of(text) for text in texts
    )


def conf_for(dag: ParsedDag, given: tuple[Object | Assignment, ...], observer: Observer) -> Object | None:
    """Return the conf of a run of this DAG, None if none is given; a later part overrides an earlier one.

    Raises UsageError, with each wrong key and what was expected, for what Airflow would refuse.
    """
    conf: Object = {}
    for part in given:
        conf |= part if isinstance(part, dict) else {part[0]: _value(part[1], dag.params.get(part[0]))}
    _check_storable(conf)
    problems: dict[str, str] = {}
    hints = []
    for name, param in dag.params.items():
        if reason := _problem(conf, name, param):
            problems[name] = reason
            hints.append(f"{name} takes {_expected(param)}.")
    for name in sorted(conf.keys() - dag.params.keys()) if dag.params else ():
        if meant := did_you_mean(name, dag.params, SURELY_MEANT):
            problems[name] = "it has no such param"
            hints.append(meant.rstrip())
        else:
            observer.report(
                f"{dag.dag_id} has no param {name!r}: tasks find it in dag_run.conf alone."
                f" {did_you_mean(name, dag.params)}".rstrip()
            )
    if problems:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in problems.items())
        raise UsageError(f"{dag.dag_id} does not take this --conf: {reasons}.", hint=" ".join(hints))
    return conf if given else None


def _object_of(text: str) -> Object:
    if text.startswith("="):
        raise UsageError("--conf names no key before its equals sign.", hint=EXAMPLE)
    source, is_meant = "--conf", text.lstrip().startswith(("{", "["))
    if text.startswith("@"):
        source, is_meant = f"The file of --conf {text}", True
        try:
            text = ordinary.read_text(Path(text[1:]))
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else "") or error
            raise UsageError(f"{source} cannot be read: {reason}.", hint=EXAMPLE) from error
    try:
        value = _parse_json(text)
    except ValueError as error:
        reason = f"not JSON: {error}" if is_meant else "neither a JSON object nor KEY=VALUE"
        raise UsageError(f"{source} is {reason}.", hint=EXAMPLE) from error
    if not isinstance(value, dict):
        raise UsageError(f"{source} must be a JSON object.", hint=EXAMPLE)
    _check_storable(value)
    return value


def _parse_json(text: str) -> Any:  # noqa: ANN401  any JSON value
    """Return a JSON value; ValueError also for the numbers that JSON lacks and Python takes."""
    value = json_text.parse(text)
    for part, _ in _parts(value):
        if isinstance(part, float) and not math.isfinite(part):
            raise ValueError(f"{part} is no value that JSON has")
    return value


def _check_storable(conf: Object) -> None:
    """Raise UsageError for what neither JSON nor PostgreSQL stores."""
    try:
        # UTF-8 spells no half of a pair.
        json.dumps(conf, ensure_ascii=False).encode()
    except RecursionError as error:
        raise UsageError("--conf is nested too deeply.", hint=EXAMPLE) from error
    except ValueError as error:
        raise UsageError(f"--conf is not JSON: {error}.", hint=EXAMPLE) from error
    for part, level in _parts(conf):
        if level > DEEPEST:
            raise UsageError(f"--conf is nested more than {DEEPEST} levels deep.", hint=EXAMPLE)
        if isinstance(part, str) and "\0" in part:
            raise UsageError(
                "--conf holds the character U+0000, which PostgreSQL does not store.", hint=EXAMPLE
            )


def _parts(value: object) -> Iterator[tuple[object, int]]:
    """Yield all that a JSON value consists of, names too, each with the level at which it stands."""
    left = [(value, 0)]
    while left:
        part, level = left.pop()
        yield part, level
        inner = [*part.keys(), *part.values()] if isinstance(part, dict) else part
        left += [(entry, level + 1) for entry in inner] if isinstance(inner, list) else []


def _value(text: str, param: DagParam | None) -> Any:  # noqa: ANN401  any JSON value
    """Return a value that was typed: text if the param takes text, JSON otherwise if it is that."""
    if param and ("string" in _types(param) or (not _types(param) and isinstance(param.default, str))):
        return text
    try:
        return _parse_json(text)
    except ValueError:
        return text


def _types(param: DagParam) -> list[str]:
    types = param.schema.get("type", [])
    return types if isinstance(types, list) else [str(types)]


def _problem(conf: Object, name: str, param: DagParam) -> str:
    """Return why Airflow refuses a param's value, empty if it does not. It asks the same library."""
    from jsonschema import FormatChecker  # noqa: PLC0415  100 ms
    from jsonschema.validators import validator_for  # noqa: PLC0415

    validator = validator_for(param.schema)(param.schema, format_checker=FormatChecker())
    try:
        error = next(validator.iter_errors(conf.get(name, param.default)), None)
    except Exception:  # noqa: BLE001  a schema may hold anything; Airflow then decides
        return ""
    if error is None:
        return ""
    if name not in conf:
        return "it needs a value"
    reason = f"{'.'.join(map(str, error.path))}: {error.message}" if error.path else error.message
    return reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}…"


def _expected(param: DagParam) -> str:
    """Return what a param takes, as far as its schema says so in words that everybody knows."""
    types = " or ".join(map(str, _types(param))) or "a value"
    limits = [
        text.format(", ".join(map(str, limit)) if isinstance(limit, list) else limit)
        for keyword, text in LIMITS.items()
        if (limit := param.schema.get(keyword)) is not None
    ]
    default = [] if param.default is None else [f"by default {json.dumps(param.default, ensure_ascii=False)}"]
    return ", ".join([types, *limits, *default])
