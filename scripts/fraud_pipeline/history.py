"""A history of millions of transactions, in chunks: each is a batch, so what is killed is taken up again.

A load is a row of `sim.loads`; its chunks are batches `<load>/<number>`. Which rows a chunk has depends on
the load and the chunk's number alone, not on who writes it: shards may come, go and differ in number.
"""

from __future__ import annotations

import math
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fraud_pipeline import rhythm, slots
from fraud_pipeline.batches import Encoded, copy_batch, prepare_batch
from fraud_pipeline.errors import DatabaseError
from fraud_pipeline.transactions import BatchRequest, blocks_for, generate, microseconds, moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg2.extensions import connection as PostgresConnection  # noqa: N812 -- a class named in lower case
    from psycopg2.extensions import cursor as PostgresCursor  # noqa: N812

    from fraud_pipeline.slots import Slot

# 13 MB on the wire: a commit costs little against it, and a kill loses half a second of work.
CHUNK = 100_000

_LOCK = "SELECT pg_advisory_xact_lock(7244110360)"
_FIELDS = "load_id, seed, transactions, since, until, chunk"
_BY_ID = f"SELECT {_FIELDS} FROM sim.loads WHERE load_id = %s"  # noqa: S608
_UNFINISHED = f"""
    SELECT {_FIELDS} FROM sim.loads
    WHERE finished_at IS NULL AND seed = %s AND transactions = %s AND until - since = %s
    ORDER BY created_at LIMIT 1"""  # noqa: S608
_ALL_UNFINISHED = """
    SELECT load_id, l.transactions, round(extract(epoch FROM l.until - l.since) / 86400)::int,
           sum(b.transactions)::bigint, to_char(l.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
    FROM sim.loads AS l JOIN sim.batches AS b ON starts_with(batch_id, load_id || '/')
    WHERE finished_at IS NULL AND l.seed = %s GROUP BY load_id ORDER BY l.created_at"""
_BEGIN = f"INSERT INTO sim.loads ({_FIELDS}) VALUES (%s, %s, %s, %s, %s, %s)"  # noqa: S608
_WRITTEN = "SELECT batch_id, transactions FROM sim.batches WHERE starts_with(batch_id, %s)"
_FINISH = "UPDATE sim.loads SET finished_at = now() WHERE load_id = %s AND finished_at IS NULL"


class Unfinished(NamedTuple):
    """A load of which `written` transactions are committed; it was `begun` at a time in UTC."""

    load: str
    transactions: int
    days: int
    written: int
    begun: str


@dataclass(frozen=True)
class Load:
    """One history: what it is made of, in chunks of `chunk` transactions (the last one may be smaller)."""

    load_id: str
    seed: int
    transactions: int
    since: datetime
    until: datetime
    chunk: int

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return math.ceil(self.transactions / self.chunk)

    def batch_id(self, number: int) -> str:
        """The name of a chunk's batch."""
        return f"{self.load_id}/{number:06d}"

    def request(self, number: int) -> BatchRequest:
        """What a chunk is made of: its part of the transactions, in the time in which they fall due."""
        first = number * self.chunk
        last = min(first + self.chunk, self.transactions)
        ends = rhythm.elapsed(np.array([microseconds(self.since), microseconds(self.until)]))
        sums = ends[0] + (ends[1] - ends[0]) * np.array([first, last]) / self.transactions
        since, until = (moment(int(value)) for value in rhythm.moments_at(sums))
        return BatchRequest(
            seed=self.seed,
            batch=self.batch_id(number),
            count=last - first,
            since=max(since, self.since),
            until=min(until, self.until),
            blocks=blocks_for(self.transactions, self.until - self.since),
        )


def open_load(
    connection: PostgresConnection,
    *,
    seed: int,
    transactions: int,
    days: float,
    load_id: str | None = None,
    chunk: int = CHUNK,
    wait_for_slots: bool = False,
    shards: int = 1,
    planned: bool = False,
    tell: Callable[[int, list[Slot]], None] | None = None,
) -> Load:
    """Take up the load of that name, or an unfinished one of that size; else begin one that ends now.

    Unless this was `planned` before, it raises SlotError, and begins nothing, if a replication slot cannot
    hold what is left to write: with `wait_for_slots`, if none can ever hold a chunk of each of the `shards`.
    `tell` is told of the bytes and the slots first.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_LOCK)
        if load_id is None:
            cursor.execute(_UNFINISHED, (seed, transactions, timedelta(days=days)))
        else:
            cursor.execute(_BY_ID, (load_id,))
        row = cursor.fetchone()
        if row is None:
            until = datetime.now(UTC)
            name = load_id or f"history__{until:%Y-%m-%dT%H:%M:%SZ}__{secrets.token_hex(4)}"
            row = (name, seed, transactions, until - timedelta(days=days), until, chunk)
            cursor.execute(_BEGIN, row)
        load = Load(*row)
        left = 0 if planned else load.transactions - sum(_written(cursor, load).values())
        if not wait_for_slots:
            slots.require_room(cursor, left, tell)
        elif left and (short := slots.short_slots(cursor, slots.log_bytes(left))):
            slots.require_bound(cursor, min(left, load.chunk * shards))
            if tell:
                tell(slots.log_bytes(left), short)
    return load


def find_load(connection: PostgresConnection, load_id: str) -> Load:
    """The load of that name. Raises DatabaseError if there is none."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_BY_ID, (load_id,))
        row = cursor.fetchone()
    if row is None:
        raise DatabaseError(f"sim.loads has no load {load_id}: it was emptied since the load began.")
    return Load(*row)


def unfinished_loads(connection: PostgresConnection, seed: int) -> list[Unfinished]:
    """The loads of a seed that have begun to write and are not finished, the oldest first."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_ALL_UNFINISHED, (seed,))
        return [Unfinished(*row) for row in cursor.fetchall()]


def written_chunks(connection: PostgresConnection, load: Load) -> dict[int, int]:
    """The chunks that are committed, with the transactions in each."""
    with connection, connection.cursor() as cursor:
        return _written(cursor, load)


def write_shard(
    connection: PostgresConnection,
    helper: PostgresConnection,
    load: Load,
    *,
    shard: int = 0,
    shards: int = 1,
    progress: Callable[[int], None] | None = None,
    wait_for_slots: bool = False,
    waits: Callable[[list[Slot]], None] | None = None,
) -> int:
    """Write every `shards`-th chunk from `shard` on, without those that are there; the transactions written.

    While the server takes one chunk, a thread generates the next, and takes ids for it through `helper`.
    With `wait_for_slots` each chunk waits until every replication slot can hold it, and one of each other
    shard; `waits` is told of the slots that are waited for. Raises psycopg2.Error, DatabaseError, SlotError.
    """
    present = written_chunks(connection, load)
    missing = (number for number in range(shard, load.chunks, shards) if number not in present)
    transactions = 0
    for encoded in _ahead(helper, load, missing):
        if wait_for_slots:
            slots.wait_for_room(connection, load.chunk * shards, waits)
        written = copy_batch(connection, encoded)
        transactions += written.transactions
        if progress:
            progress(len(encoded.rows))
    return transactions


def finish_load(connection: PostgresConnection, load: Load) -> bool:
    """Mark a load as finished if all its chunks are written; whether they are."""
    complete = len(written_chunks(connection, load)) == load.chunks
    if complete:
        with connection, connection.cursor() as cursor:
            cursor.execute(_FINISH, (load.load_id,))
    return complete


def _written(cursor: PostgresCursor, load: Load) -> dict[int, int]:
    cursor.execute(_WRITTEN, (f"{load.load_id}/",))
    return {int(batch_id.rpartition("/")[2]): count for batch_id, count in cursor.fetchall()}


def _ahead(helper: PostgresConnection, load: Load, numbers: Iterator[int]) -> Iterator[Encoded]:
    """Prepare chunks in a thread, one ahead of the one in use: NumPy leaves the interpreter to others."""

    def make(number: int) -> Encoded:
        request = load.request(number)
        return prepare_batch(helper, request, generate(request))

    with ThreadPoolExecutor(max_workers=1) as pool:
        future = None
        for number in numbers:
            ready, future = future, pool.submit(make, number)
            if ready:
                yield ready.result()
        if future:
            yield future.result()
