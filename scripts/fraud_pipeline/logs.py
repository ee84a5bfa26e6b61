"""Structured log lines, one style everywhere: logfmt (`event=… key=value`), for people and log stores."""

from __future__ import annotations

import logging
import re
import sys
import time

# What a reader of logfmt would split or misread unless it stands in quotation marks.
_NEEDS_QUOTES = re.compile(r'[\s="\\]|^$')


def logfmt(event: str, **fields: object) -> str:
    """One line `event=… key=value …`; fields that are None are left out, seconds keep milliseconds."""
    pairs = [f"event={event}"]
    pairs += [f"{key}={_value(value)}" for key, value in fields.items() if value is not None]
    return " ".join(pairs)


def configure() -> None:
    """Send the process's log to standard error with time (UTC), level and message as one logfmt line."""
    formatter = logging.Formatter(
        "time=%(asctime)s.%(msecs)03dZ level=%(lowerlevel)s %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(_lower_level)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # The pure driver announces its authentication plugin at INFO, in lines of another style.
    logging.getLogger("mysql.connector").setLevel(logging.WARNING)


def _lower_level(record: logging.LogRecord) -> bool:
    record.lowerlevel = record.levelname.lower()
    return True


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    if not _NEEDS_QUOTES.search(text):
        return text
    escaped = (
        text.replace("\\", "\\\\")
        .replace('"', '\\"')
        .replace("\n", "\\n")
        .replace("\r", "\\r")
        .replace("\t", "\\t")
    )
    return f'"{escaped}"'
