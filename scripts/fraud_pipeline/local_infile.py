"""Text into MySQL by LOAD DATA LOCAL, through a named pipe that a thread feeds: no temporary file.

The server sees a file of the client's; what it asks for is checked against the pipe's folder by the driver,
so a hostile server gets nothing else.
"""

from __future__ import annotations

import os
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fraud_pipeline.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mysql.connector.abstracts import MySQLConnectionAbstract

# Of MySQL and of MariaDB, when the server or the driver refuses LOAD DATA LOCAL.
REFUSALS = frozenset({1148, 2068, 3948, 4166})
# A warning count has 16 bits. More lines than that, and it could not be compared with the duplicates.
MOST_LINES = 60_000


@contextmanager
def pipe_folder() -> Iterator[Path]:
    """A folder for pipes, of this user alone, gone at the end. Give it to `open_mysql` too."""
    with tempfile.TemporaryDirectory(prefix="fraud-labels-") as folder:
        yield Path(folder)


def load_lines(
    connection: MySQLConnectionAbstract,
    folder: Path,
    table: str,
    columns: Sequence[str],
    lines: Sequence[bytes],
    count: int,
) -> int:
    """Load `count` lines, at most MOST_LINES, into a table and return how many were new.

    A line whose key exists is left out, as LOCAL always does. LOCAL turns errors in the data into warnings as
    well: any warning beyond one for each line left out raises DatabaseError. Raises mysql.connector.Error.
    """
    pipe = folder / f"{table}-{threading.get_ident()}"
    os.mkfifo(pipe, 0o600)
    feeder = threading.Thread(target=_feed, args=(pipe, lines), daemon=True)
    feeder.start()
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                f"LOAD DATA LOCAL INFILE '{pipe}' INTO TABLE {table} CHARACTER SET utf8mb4"
                f" FIELDS TERMINATED BY '\\t' LINES TERMINATED BY '\\n' ({', '.join(columns)})"
            )
            new, warnings = cursor.rowcount, cursor.warning_count
    finally:
        _release(feeder, pipe)
        pipe.unlink()
    if warnings != count - new:
        raise DatabaseError(
            f"MySQL took {new} of {count} rows into {table} with {warnings} warnings: some do not fit."
        )
    return new


def _feed(pipe: Path, lines: Sequence[bytes]) -> None:
    # Opening waits for the reader. One that goes away early leaves a broken pipe, and tells its caller why.
    with suppress(BrokenPipeError), pipe.open("wb", buffering=1 << 18) as file:
        for line in lines:
            file.write(line)


def _release(feeder: threading.Thread, pipe: Path) -> None:
    """Let a feeder go whose reader never came, or went away: open the pipe for reading, and close it."""
    while feeder.is_alive():
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        feeder.join(0.02)
