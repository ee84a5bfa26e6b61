"""Checks in SQL: how their files are read, and what `verify-db` says of their answers."""

from __future__ import annotations

import io
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline.errors import SettingError
from fraud_pipeline.sql_checks import LARGEST_FILE, parse, read
from pipectl import cli
from pipectl.errors import ExitCode, UsageError
from pipectl.models import DatabaseAddress
from pipectl.observer import Observer
from pipectl.pipeline.sql_checking import SqlCheck, SqlChecker
from pipectl.pipeline.verification import Verification
from support import ROOT
from support.fake_engine import FakeEngine
from support.json_schemas import validate

HEADER = "-- check: a sentence\n-- database: airbyte-postgres\n"


def test_a_file_has_several_checks_each_with_its_lines() -> None:
    one = f"-- Ours.\n\n{HEADER}-- why\nSELECT 1\n-- more\nFROM t;\n\n-- Next.\n"
    text = f"{one}--DATABASE : airbyte-mysql\n-- check:b: c\n\nSELECT 2"
    first, second = parse("a.sql", text)
    assert (first.sentence, first.database, first.line, first.query_line) == (
        "a sentence",
        "airbyte-postgres",
        3,
        6,
    )
    assert first.query.splitlines()[:3] == ["SELECT 1", "-- more", "FROM t;"]
    assert (second.sentence, second.database, second.line, second.query_line) == (
        "b: c",
        "airbyte-mysql",
        11,
        14,
    )
    assert second.query == "SELECT 2"


def test_lines_of_any_system_are_read() -> None:
    [check] = parse("a.sql", f"{HEADER}SELECT 1\n".replace("\n", "\r\n"))
    assert (check.sentence, check.query) == ("a sentence", "SELECT 1")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a.sql has no check: one begins with a line `-- check: SENTENCE`."),
        ("-- only a comment", "a.sql has no check"),
        ("\nSELECT 1", "a.sql:2: no header stands before this query"),
        ("-- check: a\nSELECT 1", "a.sql:1: a line `-- database: NAME` is missing; NAME is airbyte-"),
        ("\n-- database: airbyte-mysql\nSELECT 1", "a.sql:2: a line `-- check: SENTENCE` is missing."),
        (
            "-- check: a\n-- databse: airbyte-mysql\nSELECT 1",
            "a.sql:1: a line `-- database: NAME` is missing",
        ),
        (
            "-- check: a\n-- database: mysql\nSELECT 1",
            "a.sql:1: there is no database 'mysql': airbyte-postgres or airbyte-mysql.",
        ),
        ("-- check:\n-- database: airbyte-mysql\nSELECT 1", "a.sql:1: `-- check:` says nothing."),
        (f"-- check: {'x' * 501}\n", "a.sql:1: `-- check:` is longer than 500 characters."),
        (HEADER, "a.sql:1: the check has no query."),
        (f"{HEADER}-- SELECT 1", "a.sql:1: the check has no query."),
        (f"{HEADER}SELECT 1\n{HEADER}", "a.sql:4: the check has no query."),
        (
            f"{HEADER}-- check: b\nSELECT 1",
            "a.sql:3: a second `-- check:` stands before the query",
        ),
    ],
)
def test_a_wrong_header_is_one_sentence_with_file_and_line(text: str, sentence: str) -> None:
    with pytest.raises(SettingError) as raised:
        parse("a.sql", text)
    assert sentence in str(raised.value)


def test_files_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    for name in ("b.sql", "a.sql", "more/c.sql", "readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{HEADER}SELECT '{name}'", encoding="utf-8-sig")
    assert [Path(check.file).name for check in read(tmp_path)] == ["a.sql", "b.sql", "c.sql"]
    assert read(tmp_path / "a.sql")[0].file == str(tmp_path / "a.sql")


@pytest.mark.parametrize(
    ("folder", "mark"),
    [
        (".cache/sql", ""),
        ("env/lib", "env/pyvenv.cfg"),
        ("conda/share", "conda/conda-meta"),
        ("lib/site-packages/x", ""),
        ("web/node_modules", ""),
    ],
)
def test_folders_that_are_hidden_or_hold_packages_are_left_out(
    tmp_path: Path, folder: str, mark: str
) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "sample.sql").write_text("SELECT 1")
    if mark:
        (tmp_path / mark).touch()
    (tmp_path / "own.sql").write_text(f"{HEADER}SELECT 1", encoding="utf-8")
    assert [Path(check.file).name for check in read(tmp_path)] == ["own.sql"]
    # One that is named is meant.
    with pytest.raises(SettingError, match=r"sample\.sql:1: no header"):
        read(tmp_path / folder)


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("checks/a.sql:1: a line `-- check: SENTENCE` is missing.", "Two lines begin a check"),
        ("checks/a.sql is no text in UTF-8.", "Mend that file"),
        ("checks/a.sql:1: there is no database 'nosuch': airbyte-postgres or airbyte-mysql.", "Mend that"),
        ("checks/a.sql:1: the check has no query.", "Mend that file"),
        ("AIRBYTE_POSTGRES_PORT is no number.", "Correct it in stack/.env"),
    ],
)
def test_the_hint_fits_what_is_wrong(tmp_path: Path, message: str, hint: str) -> None:
    (tmp_path / SqlChecker.script).parent.mkdir()
    (tmp_path / SqlChecker.script).touch()
    address = DatabaseAddress("airbyte-postgres", "127.0.0.1", 1, "airbyte", "docker", "docker")

    class Said(SqlChecker):
        def _run(self, *commands: tuple[str, ...]) -> Any:
            del commands
            raise self._failure(2, io.StringIO(f"event=failed error={json.dumps(message)}"))

    with pytest.raises(UsageError) as raised:
        Said(tmp_path, (address, address), Observer()).run(Path("checks"), 1)
    assert raised.value.message == message
    assert raised.value.hint.startswith(hint)


def test_what_is_no_file_of_checks_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "binary.sql").write_bytes(b"\xff\xfe-- check")
    (tmp_path / "zero.sql").write_bytes(b"-- check: a\0")
    (tmp_path / "large.sql").write_bytes(b" " * (LARGEST_FILE + 1))
    (tmp_path / "folder.sql").mkdir()
    for name, sentence in (
        ("none", "has no file whose name ends in .sql"),
        ("nowhere", "There is no"),
        ("binary.sql", "is no text in UTF-8"),
        ("zero.sql", "it has a zero byte"),
        ("large.sql", "is larger than"),
        ("/dev/null", "is no file of SQL"),
        ("x" * 300, "cannot be read"),
    ):
        with pytest.raises(SettingError) as raised:
            read(tmp_path / name)
        assert sentence in str(raised.value)


def test_the_project_brings_one_check_for_each_database() -> None:
    checks = read(ROOT / "scripts" / "checks")
    assert sorted(check.database for check in checks) == ["airbyte-mysql", "airbyte-postgres"]


PASSED = SqlCheck("all is well", "airbyte-mysql", "a.sql", 1, "passed", 0.1)
FAILED = SqlCheck(
    "no row is wrong", "airbyte-postgres", "a.sql", 5, "failed", 0.2,
    ("id", "text"), (("1", "x" * 300), ("2", None)), 10_000, more=True,
)  # fmt: skip
LATE = SqlCheck("it is fast", "airbyte-postgres", "b.sql", 1, "timed out", 60.0, error="It took longer.")
BROKEN = SqlCheck("it is SQL", "airbyte-mysql", "b.sql", 9, "error", 0.1, error="syntax \x1b[2J <&>")
UNMADE = SqlCheck("it is there", "airbyte-mysql", "b.sql", 9, "error", 0.1, error="no table", no_table=True)


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[SqlCheck]:
    """What the checks of a project answer; a test fills it."""
    for name in ("dags", "stack", "scripts", "checks"):
        (tmp_path / name).mkdir()
    (tmp_path / SqlChecker.script).touch()
    monkeypatch.chdir(tmp_path)
    found: list[SqlCheck] = []
    address = DatabaseAddress("airbyte-postgres", "127.0.0.1", 1, "airbyte", "docker", "docker")

    class Asked:
        def ping(self, _: str) -> None: ...

    monkeypatch.setattr("pipectl.engines.choice.choose", FakeEngine)
    monkeypatch.setattr("pipectl.pipeline.access.business_databases", lambda _: Asked())
    monkeypatch.setattr("pipectl.pipeline.verification.wait_for_active_runs", lambda *_, **__: ())
    monkeypatch.setattr(
        "pipectl.pipeline.verification.verify",
        lambda _, expect: Verification(expect, expect == "populated", (), 0, 0, reasons=("it is not",)),
    )
    monkeypatch.setattr(FakeEngine, "databases", lambda _: (address, address), raising=False)
    monkeypatch.setattr(SqlChecker, "run", lambda *_: tuple(found))
    return found


def verify(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["verify-db", "--sql", "checks", *words], env={"COLUMNS": "100"})


@pytest.mark.parametrize(
    ("found", "words", "code", "said"),
    [
        ([PASSED], (), 0, ""),
        ([PASSED, FAILED], (), 6, "1 of 2 checks does not hold: no row is wrong (a.sql:5)."),
        ([PASSED, FAILED, LATE], (), 8, "1 of 3 checks took too long: it is fast (b.sql:1)."),
        ([PASSED, FAILED, LATE, BROKEN], (), 5, "1 of 4 checks could not run: it is SQL (b.sql:9)."),
        ([UNMADE], (), 5, "If the pipeline has not run yet: pipectl trigger"),
        ([PASSED], ("--expect", "populated"), 0, ""),
        ([PASSED], ("--expect", "empty"), 6, "Expected empty, but it is not."),
        ([FAILED], ("--expect", "empty"), 6, "Expected empty, but it is not. 1 of 1 check does not hold"),
    ],
)
def test_the_worst_answer_is_the_exit_code(
    answers: list[SqlCheck], found: list[SqlCheck], words: tuple[str, ...], code: int, said: str
) -> None:
    answers += found
    done = verify(*words)
    assert done.exit_code == code, done.output
    assert said in " ".join(done.stderr.split())
    document = json.loads(verify(*words, "--json").stdout)
    validate("verify-db", document)
    assert document["ok"] == (code == 0)
    assert (document["verification"] is None) == (not words)


def test_rows_are_shown_whole_and_as_text(answers: list[SqlCheck]) -> None:
    answers += [FAILED, BROKEN]
    done = verify()
    assert "failed    no row is wrong [a.sql:5]: more than 10,000 rows" in done.stdout
    assert "".join(done.stdout.split()).count("x" * 300) == 1
    assert "NULL" in done.stdout
    assert "\x1b" not in done.output
    assert "0 of 2 checks passed" in done.stdout


def test_junit_tells_failures_from_checks_without_an_answer(answers: list[SqlCheck], tmp_path: Path) -> None:
    answers += [PASSED, FAILED, LATE, BROKEN]
    verify("--junit", "out.xml", "--expect", "empty")
    suite = ET.parse(tmp_path / "out.xml").getroot()[0]  # noqa: S314  pipectl's own
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors")}
    assert counts == {"tests": "5", "failures": "2", "errors": "2"}
    assert [[child.tag for child in case] for case in suite] == [
        ["failure"],
        [],
        ["failure"],
        ["error"],
        ["error"],
    ]
    assert "id=2, text=NULL" in (suite[2][0].text or "")
    assert verify("--junit", "no/out.xml").exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    "words",
    [("--sql", "nowhere"), ("--repair",), ("--repair", "--dry-run", "--junit", "x"), ("--timeout", "0")],
)
def test_options_that_mean_nothing_are_a_usage_error(answers: list[SqlCheck], words: tuple[str, ...]) -> None:
    del answers
    assert verify(*words).exit_code == ExitCode.USAGE


def test_a_project_without_the_script_is_told(answers: list[SqlCheck], tmp_path: Path) -> None:
    del answers
    (tmp_path / SqlChecker.script).unlink()
    done = verify()
    assert done.exit_code == ExitCode.USAGE
    assert "This project has no scripts/sql_checks.py" in done.stderr
