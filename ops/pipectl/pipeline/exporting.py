"""Write both databases into a folder of Parquet or CSV files, a folder per day, that trainers read.

Transactions come in order of their ids, a chunk at a time, all of them from one snapshot; labels of the same
ids from one of MySQL. So memory does not grow with the tables. The folder appears at the end, complete.
"""

from __future__ import annotations

import fcntl
import io
import os
import shlex
import shutil
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipectl import __version__, published
from pipectl.databases import labels_cut_off
from pipectl.documents import dump, plain
from pipectl.errors import DatabaseError, UsageError, remedy
from pipectl.names import counted
from pipectl.wait import Aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pipectl.databases import Databases
    from pipectl.observer import Observer

# Marks a folder as a whole export, and says what is in it.
MANIFEST = "export.json"
LOCK = ".pipectl-export"
CHUNK = 100_000
MILLION = 1_000_000
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class ExportRequest:
    """What is wanted: transactions from `since` to before `until`, and what was known of them at `as_of`."""

    folder: Path
    format: str
    since: datetime | None = None
    until: datetime | None = None
    as_of: datetime | None = None


@dataclass(frozen=True)
class ExportResult:
    """What an export holds. `unlabelled` transactions had no label; `bytes` is the size of all files."""

    folder: Path
    format: str
    since: datetime | None
    until: datetime | None
    as_of: datetime
    transactions: int
    labels: int
    frauds: int
    unlabelled: int
    customers: int
    terminals: int
    days: int
    files: int
    bytes: int
    seconds: float


def export(databases: Databases, request: ExportRequest, observer: Observer) -> ExportResult:
    """Write the export. Raises UsageError, and DatabaseError if a database does not answer."""
    started = time.monotonic()
    _require_pyarrow()
    as_of = request.as_of or datetime.now(UTC)
    with _atomic(request.folder) as draft:
        writer = _Writer(draft, request.format)
        _require_dimensions(databases)
        with databases.copying() as copy:
            counts = _facts(databases, copy, request, as_of, writer, observer)
            if not counts["transactions"]:
                observer.report(_why_none(databases))
            # From the snapshot of the transactions, so that all that these name is there.
            for name, statement, types in DIMENSIONS:
                table = _parsed(copy(statement), types())
                writer.write(name, table)
                counts[name] = table.num_rows
        result = ExportResult(
            folder=request.folder,
            format=request.format,
            since=request.since,
            until=request.until,
            as_of=as_of,
            **counts,
            files=writer.files,
            bytes=writer.bytes,
            seconds=round(time.monotonic() - started, 3),
        )
        manifest = dump({"pipectl": __version__, **plain(result)}, indent=2)
        (draft / MANIFEST).write_text(f"{manifest}\n", encoding="utf-8")
    return result


def _facts(
    databases: Databases,
    copy: Callable[[str], bytes],
    request: ExportRequest,
    as_of: datetime,
    writer: _Writer,
    observer: Observer,
) -> dict[str, Any]:
    """Write transactions and labels, while the servers prepare what comes next."""
    import pyarrow.compute as pc

    transactions = labels = frauds = 0
    days: set[int] = set()

    def read(last: int) -> Any:  # noqa: ANN401  untyped library
        return _transactions(copy(_statement(request, last)))

    with databases.ask_mysql() as ask:
        # A chunk of 10,000 labels is below a megabyte.
        ask(published.LONG_ANSWERS)
        if not ask(published.HAS_LABELS):
            raise UsageError(
                "There are no labels to export.", hint="Write some: pipectl trigger, or: pipectl load"
            )
        table = Aside(partial(read, -(2**63))).result()
        while table.num_rows:
            ids = table.column("transaction_id").to_numpy()
            following = Aside(partial(read, int(ids[-1]))) if table.num_rows == CHUNK else None
            moments = table.column("tx_time").cast("int64").to_numpy()
            day = moments // DAY_US
            labelling = Aside(partial(_labels, ask, ids, as_of, moments <= _microseconds(as_of)))
            days.update(np.unique(day).tolist())
            writer.write_days("transactions", table, day)
            known = labelling.result()
            writer.write_days("labels", known, day[np.searchsorted(ids, known.column(0).to_numpy())])
            transactions += table.num_rows
            labels += known.num_rows
            frauds += pc.sum(known.column("is_fraud")).as_py() or 0
            if transactions % MILLION < CHUNK <= transactions:
                observer.report(f"Exported {counted(transactions, 'transaction')}")
            table = following.result() if following else table.slice(0, 0)
    return {
        "transactions": transactions,
        "labels": labels,
        "frauds": frauds,
        "unlabelled": transactions - labels,
        "days": len(days),
    }


def _why_none(databases: Databases) -> str:
    with databases.ask_postgres() as ask:
        [(first, last)] = ask(published.TRANSACTION_ENDS)
    if first is None:
        return f"{published.TRANSACTIONS} has no row"
    return f"No transaction is of the times that were asked for: there are those from {first} to {last} UTC"


def _require_dimensions(databases: Databases) -> None:
    with databases.ask_postgres() as ask:
        [(has_transactions,)], [(has_dimensions,)] = (
            ask(question) for question in (published.HAS_TRANSACTIONS, published.HAS_DIMENSIONS)
        )
        if has_transactions and not has_dimensions:
            raise UsageError(
                f"{published.CUSTOMERS} and {published.TERMINALS} do not exist yet.",
                hint="The next run makes them: pipectl trigger",
            )


def _customer_types() -> dict[str, Any]:
    import pyarrow as pa

    return {
        "customer_id": pa.int32(),
        "country": pa.string(),
        "lat": pa.float32(),
        "lon": pa.float32(),
        "segment": pa.string(),
        "cards": pa.int16(),
        "opened_on": pa.date32(),
    }


def _terminal_types() -> dict[str, Any]:
    import pyarrow as pa

    return {
        "terminal_id": pa.int32(),
        "mcc": pa.int16(),
        "channel": pa.string(),
        "country": pa.string(),
        "lat": pa.float32(),
        "lon": pa.float32(),
    }


DIMENSIONS = (
    ("customers", published.EXPORTED_CUSTOMERS, _customer_types),
    ("terminals", published.EXPORTED_TERMINALS, _terminal_types),
)


def _statement(request: ExportRequest, last: int) -> str:
    bounds = [f"transaction_id > {last}"]
    if request.since:
        bounds.append(f"tx_time >= '{request.since.isoformat()}'")
    if request.until:
        bounds.append(f"tx_time < '{request.until.isoformat()}'")
    return published.EXPORTED_TRANSACTIONS.format(bounds=" AND ".join(bounds), chunk=CHUNK)


def _transactions(text: bytes) -> Any:  # noqa: ANN401  untyped library
    import pyarrow as pa

    types = {
        "transaction_id": pa.int64(),
        "tx_time": pa.timestamp("us"),
        "customer_id": pa.int32(),
        "card_id": pa.int64(),
        "terminal_id": pa.int32(),
        "mcc": pa.int16(),
        "amount": pa.decimal128(12, 2),
        "currency": pa.string(),
        "channel": pa.string(),
        "country": pa.string(),
        "lat": pa.float32(),
        "lon": pa.float32(),
        "status": pa.string(),
        "device_id": pa.int32(),
    }
    table = _parsed(text, types)
    position = table.schema.get_field_index("tx_time")
    return table.set_column(position, "tx_time", _utc(table.column(position)))


def _labels(
    ask: Callable[..., list[tuple[Any, ...]]],
    ids: NDArray[np.int64],
    as_of: datetime,
    visible: NDArray[np.bool_],
) -> Any:  # noqa: ANN401  untyped library
    """Return the labels of `ids`, which are in order, as they were known at `as_of`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types = {
        "transaction_id": pa.int64(),
        "is_fraud": pa.bool_(),
        "fraud_type": pa.string(),
        "label_source": pa.string(),
        "detected_at": pa.timestamp("us"),
    }
    parts = []
    for count, text in ask(published.PACKED_LABELS, int(ids[0]), int(ids[-1])):
        rows = _parsed(str(text).encode(), types)
        if rows.num_rows != count:
            raise labels_cut_off(count)
        labelled = rows.column(0).to_numpy()
        # An id beyond the last is not equal to it.
        places = np.minimum(np.searchsorted(ids, labelled), len(ids) - 1)
        parts.append(rows.filter(pa.array((ids[places] == labelled) & visible[places])))
    table = pa.concat_tables(parts) if parts else _parsed(b"", types)
    table = table.sort_by("transaction_id")
    detected = table.column("detected_at")
    moment = pa.scalar(as_of.astimezone(UTC).replace(tzinfo=None), pa.timestamp("us"))
    known = pc.and_(table.column("is_fraud"), pc.fill_null(pc.less_equal(detected, moment), fill_value=False))
    nothing = pa.scalar(None, pa.string())
    return pa.table(
        {
            "transaction_id": table.column("transaction_id"),
            "is_fraud": known,
            "fraud_type": pc.if_else(known, table.column("fraud_type"), nothing),
            "label_source": pc.if_else(known, table.column("label_source"), nothing),
            "detected_at": _utc(pc.if_else(known, detected, pa.scalar(None, detected.type))),
        }
    )


def _utc(column: Any) -> Any:  # noqa: ANN401  untyped library
    """Return times that name no time zone as times in UTC."""
    import pyarrow as pa

    return column.cast(pa.int64()).cast(pa.timestamp("us", "UTC"))


def _parsed(text: bytes, types: dict[str, Any]) -> Any:  # noqa: ANN401  untyped library
    import pyarrow as pa
    from pyarrow import csv

    if not text:
        return pa.table({name: pa.array([], kind) for name, kind in types.items()})
    try:
        return csv.read_csv(
            io.BytesIO(text),
            read_options=csv.ReadOptions(column_names=list(types), block_size=1 << 24),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise DatabaseError(
            f"A row cannot be exported: {error}.", hint="Correct or delete that row."
        ) from error


class _Writer:
    """Writes tables below a folder, and counts files and bytes."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder = folder
        self._kind = kind
        self.files = 0
        self.bytes = 0

    def write_days(self, name: str, table: Any, day: NDArray[np.int64]) -> None:  # noqa: ANN401
        """Write the rows of each day into a file of its folder."""
        if not len(day):
            return
        if np.any(np.diff(day) < 0):
            order = np.argsort(day, kind="stable")
            table, day = table.take(order), day[order]
        starts = np.flatnonzero(np.diff(day, prepend=np.iinfo(np.int64).min))
        for start, end in zip(starts, [*starts[1:], len(day)], strict=True):
            self.write(
                f"{name}/day={np.datetime64(int(day[start]), 'D')}", table.slice(int(start), int(end - start))
            )

    def write(self, folder: str, table: Any) -> None:  # noqa: ANN401  untyped library
        """Write a table into a file of that folder."""
        from pyarrow import csv, parquet

        self.files += 1
        path = self._folder / folder / f"part-{self.files:06d}.{self._kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._kind == "csv":
            csv.write_csv(table, path)
        else:
            parquet.write_table(table, path, compression="zstd")
        self.bytes += path.stat().st_size


@contextmanager
def _atomic(folder: Path) -> Iterator[Path]:
    """Give a draft beside `folder` that becomes it at the end, or is deleted. Raises UsageError."""
    try:
        folder = folder.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, no text, links in a ring
        raise UsageError(f"{folder} can be no folder: {error}.", hint="Name another folder.") from error
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is no folder.", hint="Name a folder that is empty or does not exist.")
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty.", hint="Name a folder that is empty or does not exist.")
        draft = folder.with_name(f".{folder.name}.partial")
        if draft.is_dir() and any(draft.iterdir()) and not (draft / LOCK).exists():
            raise UsageError(
                f"{draft} is in the way, and not pipectl's.", hint="Move it, or name another folder."
            )
        draft.mkdir(parents=True, exist_ok=True)
        with (draft / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"Another export writes to {folder}.", hint="Wait for its end, or name another folder."
                ) from error
            _clear(draft)  # what a killed export left
            try:
                yield draft
                os.sync()
                draft.replace(folder)
                (folder / LOCK).unlink()
            except BaseException:
                with suppress(OSError):
                    _clear(draft)
                    shutil.rmtree(draft)
                raise
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(
            f"{folder} cannot be written: {reason}.", hint=remedy(error, folder.parent)
        ) from error


def _clear(draft: Path) -> None:
    """Delete all but the lock, by which a draft is known: whoever is killed here leaves one too."""
    for path in draft.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _require_pyarrow() -> None:
    if find_spec("pyarrow") is None:
        raise UsageError(
            "export needs pyarrow, which pipectl's Python does not have.",
            hint=f"Install it: {_installation(Path(sys.prefix).parent)}",
        )


def _installation(clone: Path) -> str:
    """Return the command that installs pyarrow, in the version of a clone if its .venv runs pipectl."""
    if (clone / "ops" / "export.txt").is_file():
        folder = shlex.quote(str(clone))
        return f"cd {folder} && .venv/bin/uv pip install --python .venv --require-hashes -r ops/export.txt"
    return f"{shlex.quote(sys.executable)} -m pip install pyarrow"


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)
