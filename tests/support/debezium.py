"""The real Debezium as tests use it: its environment, its properties, and the events that it gives."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipectl.engines.local import uv
from pipectl.engines.local.folders import atomic_folder
from pipectl.errors import EngineError
from pipectl.published import PUBLICATION, SLOT
from pipectl.settings import cache_dir
from support import ROOT
from support.needs import need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.script_servers import Servers

REQUIREMENTS = ROOT / "tests" / "debezium" / "requirements.txt"
ENGINE = ROOT / "tests" / "debezium" / "engine.py"
# The tables that a connector reads, with their keys.
KEYS = {
    "postgres": {
        "transactions": "transaction_id",
        "customers": "customer_id",
        "terminals": "terminal_id",
    },
    "mysql": {"fraud_labels": "transaction_id"},
}


def need_debezium() -> Path:
    """Return the Python of Debezium's own environment, which the first call installs (200 MB)."""
    return need("debezium", _debezium)


def _debezium() -> Path:
    if shutil.which("java") is None:
        raise EngineError("There is no java. On Debian and Ubuntu: apt install default-jre-headless")
    key = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]
    target = cache_dir() / f"debezium-{key}"
    if not target.exists():
        failure = EngineError(f"{REQUIREMENTS} cannot be installed.")
        with atomic_folder(target) as folder:
            uv.run(("venv", "--quiet", "--relocatable", str(folder)), failure)
            python = str(folder / "bin" / "python")
            uv.run(
                (
                    "pip",
                    "install",
                    "--quiet",
                    "--python",
                    python,
                    "--require-hashes",
                    "-r",
                    str(REQUIREMENTS),
                ),
                failure,
            )
    return target / "bin" / "python"


@dataclass
class Copy:
    """A consumer's copy of a table, by key: what events make of it, and how many of each kind there were."""

    events: Path
    table: str
    key: str
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    _position: int = 0

    def go_on_from(self, earlier: Copy) -> None:
        """Begin with what another copy has of the same file."""
        self.rows, self.kinds, self.types = earlier.rows, earlier.kinds, earlier.types
        self._position = earlier._position

    def take(self) -> None:
        """Apply what has come since. AssertionError for a row that comes twice, or goes and was not."""
        with self.events.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                self._apply(json.loads(line))

    def _apply(self, event: dict[str, Any]) -> None:
        change, kind = event["payload"], event["payload"]["op"]
        if change["source"]["table"] != self.table:
            return
        row = change["before"] if kind == "d" else change["after"]
        identity = int(row[self.key])
        assert (kind in "rc") == (identity not in self.rows), f"{identity} of kind {kind}"
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if kind == "d":
            del self.rows[identity]
            return
        self.rows[identity] = row
        [after] = [part for part in event["schema"]["fields"] if part["field"] == "after"]
        types = {column["field"]: column.get("name") or column["type"] for column in after["fields"]}
        # Snapshot and stream must agree.
        assert self.types in ({}, types)
        self.types = types


@contextmanager
def debezium(
    servers: Servers, database: str, folder: Path, user: str = "airbyte", password: str = "sesame"
) -> Iterator[dict[str, Copy]]:
    """Run the connector of postgres or mysql until the block ends; in a folder it goes on where it was.

    Gives the copies of the tables that it reads, by their names.
    """
    python = need_debezium()
    common = {
        "name": "pipectl",
        "topic.prefix": "pipectl",
        "database.hostname": "127.0.0.1",
        "database.user": user,
        "database.password": password,
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": str(folder / "offsets"),
        "offset.flush.interval.ms": "100",
        "poll.interval.ms": "50",
        "snapshot.mode": "initial",
        "decimal.handling.mode": "string",
    }
    if database == "postgres":
        own = {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.port": str(servers.postgres_port),
            "database.dbname": "airbyte",
            "plugin.name": "pgoutput",
            "slot.name": SLOT,
            "publication.name": PUBLICATION,
            "publication.autocreate.mode": "disabled",
            "table.include.list": ",".join(f"public.{table}" for table in KEYS[database]),
        }
    else:
        own = {
            "connector.class": "io.debezium.connector.mysql.MySqlConnector",
            "database.port": str(servers.mysql_port),
            "database.server.id": "4000000002",
            "database.include.list": "data",
            "table.include.list": "data.fraud_labels",
            "snapshot.locking.mode": "none",
            "include.schema.changes": "false",
            "schema.history.internal": "io.debezium.storage.file.history.FileSchemaHistory",
            "schema.history.internal.file.filename": str(folder / "history"),
        }
    properties = folder / "properties.json"
    properties.write_text(json.dumps(common | own), encoding="utf-8")
    events, log = folder / "events", folder / "log"
    events.touch()
    with log.open("ab") as output:
        process = subprocess.Popen(
            (python, ENGINE, properties, events),
            cwd=folder,
            # It lives for seconds: compiled quickly rather than well, twice as fast until the first event.
            env={
                "PATH": os.environ["PATH"],
                "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx512m",
            },
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    try:
        yield {table: Copy(events, table, key) for table, key in KEYS[database].items()}
        assert process.poll() is None, log.read_text(errors="replace")[-5000:]
    finally:
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(30)
        finally:
            process.kill()
