"""What pipectl asks of the pipeline's tables, checked by both servers against what the migrations make."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipectl import published

if TYPE_CHECKING:
    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

IN_MYSQL = {
    "BATCH_LABELS",
    "LABEL_BUCKETS",
    "LABEL_ENDS",
    "LABELS_AHEAD",
    "LABEL_TIMES",
    "LABELS_BY_TYPE",
    "LATEST_LABELS",
    "LABELS_CAPTURE",
    "COUNT_LABELS",
    "FRAUD_LABELS_BY_TYPE",
    "MYSQL_ESTIMATE",
    "PACKED_LABELS",
    "MYSQL_CLOCK",
    "MARK",
    "WRITTEN_LABELS",
    "LABELLED",
    "LATEST_FRAUDS",
}
# Values of other types than ids and sizes.
VALUES: dict[str, tuple[object, ...]] = {
    "WAITING": ("1", 1),
    "CAUSES_OF_RANGE": ("1", 1, "1", 1, 1, 9),
    "CAUSES_OF_IDS": ("1", 1, "1", 1, [1, 2]),
    "WAITING_TRANSACTIONS": ("1", 1, 9),
}
TRUTH = {"truth": published.GROUND_TRUTH}
PARTS = {**TRUTH, "step": 100, "unit": "hour", "rows": published.ROWS.format(**TRUTH)}
FEW_ROWS = {"FRAUD_LABELS_BY_TYPE", "MYSQL_ESTIMATE"}
STATEMENTS = {
    name: text.format(**PARTS) if "{" in text else text
    for name, text in vars(published).items()
    if name.isupper()
    and not name.startswith("_")
    and isinstance(text, str)
    and text.lstrip().startswith(("SELECT", "WITH"))
    and name != "CAUSES"
}


@pytest.fixture(scope="module")
def filled(running_servers: Servers) -> Servers:
    """The servers with one batch and its labels, which no statement changes."""
    running_servers.empty()
    running_servers.run("transaction_generator")
    running_servers.run("detection_generator")
    return running_servers


@pytest.mark.parametrize("name", STATEMENTS)
def test_statement_fits_the_tables(filled: Servers, name: str) -> None:
    statement = STATEMENTS[name]
    ask = filled.ask_mysql if name in IN_MYSQL else filled.ask_postgres

    rows = ask(statement, *VALUES.get(name, [1] * statement.count("%s")))

    # Of an empty range, of no batch, of no load; by chance without a fraud; of no table 1.
    if name not in {"TRANSACTION_TIMES", "LABEL_TIMES", "BATCH", "LOAD_TIMES", "FRAUD_ROWS", *FEW_ROWS}:
        assert rows
