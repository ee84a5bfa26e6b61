"""`verify-db`: what it says of the data, and what it hints at."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from pipectl import cli
from pipectl.commands import verify_db
from pipectl.models import Causes
from pipectl.pipeline.repairing import RepairPlan
from pipectl.pipeline.verification import Verification


def test_hints_have_a_line_each_and_name_a_command_once() -> None:
    causes = Causes(next_run=1, below_mark=2, set_aside=1)
    result = Verification("reconciled", False, (), 3, 1, causes=causes, dangling=4)

    lines = verify_db._reconciling(result).splitlines()

    assert lines == [
        "Label what is left: pipectl trigger",
        "Mend it: pipectl verify-db --repair",
        verify_db.MISSING_ROWS,
        "Delete rows with an id below 0, or give them ids that PostgreSQL makes.",
    ]
    dangling = Verification("reconciled", False, (), 0, 0, dangling=4)
    assert verify_db._reconciling(dangling).splitlines() == [verify_db.REPAIR, verify_db.MISSING_ROWS]


def test_repair_says_that_edited_labels_are_kept() -> None:
    plans = RepairPlan(0, 0, 0, 0, 0), RepairPlan(2, 1, 0, 0, 0)
    assert all("also if their content was edited" in verify_db._plan_text(plan) for plan in plans)
    told = CliRunner().invoke(cli.app, ["verify-db", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
    told = re.sub(r"[\s│]+", " ", told)
    assert "Labels whose content was edited are kept." in told
    assert "exactly one label, whatever that says." in told
