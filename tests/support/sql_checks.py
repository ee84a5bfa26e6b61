"""Checks in SQL that no server may take: each tries to change something, or to be more than one query."""

from __future__ import annotations

from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from support import ROOT

if TYPE_CHECKING:
    from support.project_copy import Project

# A file that a server on this machine would write.
OUTSIDE = Path(gettempdir(), "pipectl-checks-wrote-this")
# What an account may do that has REPLICATION.
EVIL_SLOT = "SELECT pg_create_physical_replication_slot('pipectl_evil', true)"
# About a table `kept` with the column `id`, and a function or procedure `empties` that deletes its rows.
FORBIDDEN = {
    "airbyte-postgres": (
        "DELETE FROM kept",
        "DELETE FROM kept RETURNING id",
        "WITH gone AS (DELETE FROM kept RETURNING id) SELECT * FROM gone",
        "INSERT INTO kept VALUES (9) RETURNING id",
        "TRUNCATE kept",
        "DROP TABLE kept",
        "CREATE TABLE more (id int)",
        "SELECT id INTO more FROM kept",
        "SELECT empties()",
        "SELECT id FROM kept FOR UPDATE",
        "SELECT 1; DELETE FROM kept",
        "SELECT 1; COMMIT; DELETE FROM kept; SELECT 1",
        "SELECT 1) AS one; COMMIT; DELETE FROM kept; SELECT * FROM (SELECT 1",
        "SELECT '$$'; COMMIT; DELETE FROM kept; SELECT '$$'",
        "COMMIT",
        "SET TRANSACTION READ WRITE",
        "SELECT set_config('transaction_read_only', 'off', false), empties()",
        f"COPY kept TO PROGRAM 'touch {OUTSIDE}'",
        f"COPY kept TO '{OUTSIDE}'",
        "COPY kept TO STDOUT",
        "COPY kept FROM '/etc/passwd'",
        "DO $$ BEGIN DELETE FROM kept; END $$",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_drop_replication_slot('no_slot')",
        EVIL_SLOT,
        f"EXPLAIN ANALYZE {EVIL_SLOT}",
        f"{EVIL_SLOT}, set_config('role', 'none', false)",
        EVIL_SLOT.replace("SELECT", "SELECT set_config('role', 'none', false),"),
        EVIL_SLOT.replace("SELECT", "SELECT set_config('role', session_user, true),"),
        EVIL_SLOT.replace("SELECT", "SELECT set_config('session_authorization', 'default', false),"),
        f"SELECT query_to_xml($${EVIL_SLOT}$$, true, true, '')",
        "SHOW work_mem",
        "CALL nothing()",
        "EXPLAIN ANALYZE DELETE FROM kept",
        "LOCK TABLE kept",
        "SELEC 1",
    ),
    "airbyte-mysql": (
        "DELETE FROM kept",
        "DELETE FROM kept RETURNING id",
        "INSERT INTO kept VALUES (9)",
        "REPLACE INTO kept VALUES (9)",
        "TRUNCATE TABLE kept",
        "DROP TABLE kept",
        "CREATE TABLE more (id INT)",
        "CALL empties()",
        "SELECT 1; DELETE FROM kept",
        "SELECT 1; COMMIT; DELETE FROM kept",
        "SELECT 1 -- ; \n; DELETE FROM kept",
        "COMMIT",
        "SET SESSION TRANSACTION READ WRITE",
        f"SELECT id FROM kept INTO OUTFILE '{OUTSIDE}'",
        f"SELECT id INTO DUMPFILE '{OUTSIDE}' FROM kept LIMIT 1",
        "SELECT id INTO @id FROM kept LIMIT 1",
        "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE kept",
        "LOAD DATA INFILE '/etc/passwd' INTO TABLE kept",
        "BEGIN NOT ATOMIC DELETE FROM kept; END",
        "DO SLEEP(100)",
        "LOCK TABLES kept WRITE",
        "OPTIMIZE TABLE kept",
        "ANALYZE TABLE kept",
        "REPAIR TABLE kept",
        "FLUSH TABLES",
        "CHECK TABLE kept",
        "SHOW TABLES",
        "SET STATEMENT max_statement_time = 0 FOR SELECT 1",
        "ANALYZE DELETE FROM kept",
        "EXECUTE IMMEDIATE 'DELETE FROM kept'",
        "SET STATEMENT tx_read_only = 0 FOR DELETE FROM kept RETURNING id",
        "SELEC 1",
    ),
}
POSTGRES_TABLE = (
    "CREATE TABLE kept (id int PRIMARY KEY)",
    "INSERT INTO kept VALUES (1), (2)",
    "CREATE FUNCTION empties() RETURNS int LANGUAGE plpgsql AS $$ BEGIN DELETE FROM kept; RETURN 1; END $$",
)
MYSQL_TABLE = (
    "CREATE TABLE kept (id INT PRIMARY KEY)",
    "INSERT INTO kept VALUES (1), (2)",
    "CREATE PROCEDURE empties() DELETE FROM kept",
)
POSTGRES_GONE = ("DROP FUNCTION empties", "DROP TABLE kept")
MYSQL_GONE = ("DROP PROCEDURE empties", "DROP TABLE kept")
# The example of the documentation, without its schedule.
CHECKING_DAG = (
    (ROOT / "docs" / "data.md")
    .read_text(encoding="utf-8")
    .split("```python\n", 1)[1]
    .split("```", 1)[0]
    .replace(', schedule="@hourly"', "")
)


def write_checks(folder: Path, queries: dict[str, tuple[str, ...]]) -> None:
    """Write a file of checks for each database."""
    folder.mkdir(exist_ok=True)
    for database, texts in queries.items():
        checks = (f"-- check: {index}\n-- database: {database}\n{text}\n" for index, text in enumerate(texts))
        (folder / f"{database}.sql").write_text("\n".join(checks), encoding="utf-8")


def check_a_stack(project: Project, folder: Path) -> None:
    """Let both databases of a stack refuse what is FORBIDDEN, and show the rows that they have kept."""
    for word, text in (("psql", sql(POSTGRES_TABLE)), ("mysql", f"USE data;\n{sql(MYSQL_TABLE)}")):
        code, _, err = project.feed(text, word)
        assert (code, "ERROR" in err) == (0, False), err
    try:
        write_checks(folder, FORBIDDEN)
        found = project.json("verify-db", "--sql", str(folder), code=5)["checks"]
        assert [entry for entry in found if entry["state"] != "error"] == []
        assert len(found) == sum(map(len, FORBIDDEN.values()))
        write_checks(folder, dict.fromkeys(FORBIDDEN, ("SELECT id FROM kept ORDER BY id",)))
        found = project.json("verify-db", "--sql", str(folder), code=6)["checks"]
        assert [entry["rows"] for entry in found] == [[["1"], ["2"]]] * 2
    finally:
        project.feed(sql(POSTGRES_GONE), "psql")
        project.feed(f"USE data;\n{sql(MYSQL_GONE)}", "mysql")


def sql(statements: tuple[str, ...]) -> str:
    return "".join(f"{text};\n" for text in statements)


def check_by_command_and_dag(project: Project) -> None:
    """Let the checks that the project brings hold, and fail for a wrong row, also in a DAG."""
    checks = project.folder / "scripts" / "checks"
    assert sorted(path.name for path in checks.iterdir()) == sorted(
        path.name for path in (ROOT / "scripts" / "checks").iterdir()
    )
    told = project.json("verify-db", "--expect", "reconciled", "--sql", str(checks))
    assert (told["ok"], [entry["state"] for entry in told["checks"]]) == (True, ["passed", "passed"])
    assert told["verification"]["expect"] == "reconciled"
    project.dag("check_data.py", CHECKING_DAG)
    assert project.json("trigger", "check_data")["state"] == "success"
    wrong = "UPDATE fraud_labels SET fraud_type = 'unheard_of' WHERE is_fraud = 0 LIMIT 1"
    project.feed(f"USE data; {wrong};", "mysql")
    try:
        done = project.run("verify-db", "--sql", str(checks), code=6)
        assert "unheard_of" in done.stdout
        assert "1 of 2 checks does not hold: a label names a kind of fraud" in done.stderr
        failed = project.run("trigger", "check_data", code=7)
        assert "fraud_type=unheard_of" in failed.stderr
    finally:
        project.feed(
            "USE data; UPDATE fraud_labels SET fraud_type = NULL WHERE fraud_type = 'unheard_of';", "mysql"
        )
