"""The DAG processor rests until a file changes. Airflow's own goes through all its work every second.

Once nothing is being parsed, a look a second at the folders of DAGs and one question to the metadata database
say whether there is work: a third of its CPU at rest. A new or changed file is noticed no later than before.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOK_SECONDS = 1.0
# How long it leaves out what else it does in a loop: to delete old warnings, to look for DAGs without a file.
LONGEST_SECONDS = 15.0
REQUESTED = """
    SELECT EXISTS (SELECT FROM dag_priority_parsing_request)
        OR EXISTS (SELECT FROM callback WHERE type = 'dag_processor')"""

Seen = frozenset[tuple[str, int, int]]


def rest_until_a_file_changes(connect: Callable[[], Any]) -> None:
    """Let the processor wait for work instead of going through its loop every second."""
    manager: Any = importlib.import_module("airflow.dag_processing.manager").DagFileProcessorManager
    local: Any = importlib.import_module("airflow.dag_processing.bundles.local").LocalDagBundle
    serve = manager._service_processor_sockets  # noqa: SLF001  there is no public place for it
    rest = Rest(connect)

    def serve_and_rest(self: Any, timeout: float | None = LOOK_SECONDS) -> None:  # noqa: ANN401  passed through
        serve(self, timeout)
        bundles = self._dag_bundles
        if all(isinstance(bundle, local) for bundle in bundles) and rest.until_work(self):
            # Without waiting for the next time at which it would look for files.
            self.request_bundle_refresh(bundle.name for bundle in bundles)

    manager._service_processor_sockets = serve_and_rest  # noqa: SLF001


class Rest:
    """What the processor has seen of its files."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None
        self._seen: Seen | None = None

    def until_work(self, manager: Any) -> bool:  # noqa: ANN401  Airflow's own
        """Wait until there may be work; say whether a file has changed."""
        ends = time.monotonic() + min(LONGEST_SECONDS, seconds_to_the_next_parse(manager))
        while is_at_rest(manager):
            seen = frozenset(entries(str(bundle.path) for bundle in manager._dag_bundles))  # noqa: SLF001
            changed, self._seen = seen != self._seen, seen
            if changed:
                return True
            if time.monotonic() >= ends or self._is_requested():
                return False
            time.sleep(LOOK_SECONDS)
            manager.heartbeat()
        return False

    def _is_requested(self) -> bool:
        """Whether somebody wants a file parsed or a callback run. True if the database cannot be asked."""
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._connection.autocommit = True
            with self._connection.cursor() as cursor:
                cursor.execute(REQUESTED)
                return bool(cursor.fetchone()[0])
        except Exception:  # noqa: BLE001  Airflow's own loop asks, and says what is wrong
            if self._connection is not None:
                with contextlib.suppress(Exception):
                    self._connection.close()
            self._connection = None
            return True


def is_at_rest(manager: Any) -> bool:  # noqa: ANN401  Airflow's own
    """Whether the processor has nothing to parse and nothing to hear of."""
    return not (manager._processors or manager._file_queue or manager._force_refresh_bundles)  # noqa: SLF001


def seconds_to_the_next_parse(manager: Any) -> float:  # noqa: ANN401  Airflow's own
    """How long it is until all files that have not changed are to be parsed once more, together.

    One by one they would end the rest as often as there are files. 0 if one has never been parsed.
    """
    ends = [stat.last_finish_time for stat in manager._file_stats.values()]  # noqa: SLF001
    if None in ends:
        return 0.0
    now = dt.datetime.now(dt.UTC)
    age = now - max(ends, default=now)
    return float(manager._file_process_interval - age.total_seconds())  # noqa: SLF001


def entries(folders: Iterator[str]) -> Iterator[tuple[str, int, int]]:
    """Yield path, time of change and size of all below `folders` but byte code, links followed."""
    waiting, known = list(folders), set[tuple[int, int]]()
    while waiting:
        folder = waiting.pop()
        with contextlib.suppress(OSError):
            found = os.stat(folder)  # noqa: PTH116  this runs every second
            if (found.st_dev, found.st_ino) in known:
                continue
            known.add((found.st_dev, found.st_ino))
            with os.scandir(folder) as listing:
                for entry in listing:
                    if entry.name == "__pycache__":
                        continue
                    with contextlib.suppress(OSError):
                        if entry.is_dir():
                            waiting.append(entry.path)
                        found = entry.stat()
                        yield entry.path, found.st_mtime_ns, found.st_size
