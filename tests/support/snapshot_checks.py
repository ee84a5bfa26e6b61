"""What a snapshot promises, tried on a running stack of any engine, whose rows are counted directly."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from pipectl.errors import ExitCode
from support.waiting import pass_time

if TYPE_CHECKING:
    from support.project_copy import Project
    from support.stacks import Stack

NO_HARM = {"lost": 0, "doubled": 0, "mislabelled": 0}
RUNS = 3


def counts(stack: Stack) -> tuple[int, int, int]:
    """Transactions, labels and runs of the pipeline."""
    return stack.transactions(), int(stack.mysql("SELECT count(*) FROM fraud_labels")[0][0]), stack.runs()


def last_id(stack: Stack) -> int:
    return int(stack.postgres("SELECT max(transaction_id) FROM public.transactions")[0][0])


def check_saving_and_restoring(stack: Stack) -> None:
    """Save, trigger, restore: the counts are those of before, and the next run doubles nothing."""
    project = stack.project
    project.run("verify-db", "--expect", "reconciled")
    stack.postgres("SELECT 1 FROM pg_create_logical_replication_slot('reader', 'pgoutput')")
    try:
        before = counts(stack)
        saved = project.json("snapshot", "save", "mine")
        assert saved["snapshot"]["slots"] == ["reader"]
        assert saved["snapshot"]["rows"]["public.transactions"] == before[0]
        assert counts(stack) == before
        check_damage(project, Path(saved["folder"]) / "data")
        check_interrupting(project)
        for _ in range(RUNS):
            project.run("trigger")
        project.settle()
        highest = last_id(stack)
        assert counts(stack)[0] >= before[0] + RUNS * 50
        project.set_variable("AIRFLOW_FERNET_KEY", f"{'A' * 43}=")
        refused = project.run("snapshot", "restore", "mine", "--yes", code=2)
        assert "reader" in refused.stderr
        # It waits for no run: what is at work goes with the data.
        project.run("trigger", "--no-wait")
        restored = project.json("snapshot", "restore", "mine", "--yes", "--drop-slots")
        assert restored["slots_dropped"] == ["reader"]
        assert restored["settings"] == ["AIRFLOW_FERNET_KEY"]
        assert counts(stack) == before
        assert stack.postgres("SELECT count(*) FROM pg_replication_slots") == [("0",)]
        assert stack.harm() == NO_HARM
        project.run("trigger")
        project.settle()
        assert last_id(stack) > highest
        assert stack.harm() == NO_HARM
        assert [each["name"] for each in project.json("snapshot", "list")["snapshots"]] == ["mine"]
    finally:
        slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        stack.postgres(slots)
        project.run("snapshot", "rm", "mine", "--yes")
    assert project.json("snapshot", "list") == {"snapshots": [], "unusable": {}}


def check_damage(project: Project, data: Path) -> None:
    """Change one byte in the middle of the largest file: a restore touches nothing."""
    largest = max((path for path in data.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    place = largest.stat().st_size // 2
    with largest.open("r+b") as file:
        file.seek(place)
        [byte] = file.read(1)
        for value in (byte ^ 1, byte):
            file.seek(place)
            file.write(bytes([value]))
            file.flush()
            if value != byte:
                refused = project.run("snapshot", "restore", "mine", "--yes", "--drop-slots", code=2)
                assert "is broken: files of it have changed" in refused.stderr
    settings = data.with_name("settings.json")
    text = settings.read_text()
    settings.write_text(text.replace('": "', '": "0', 1))
    refused = project.run("snapshot", "restore", "mine", "--yes", "--drop-slots", code=2)
    assert "is broken: snapshot.json or settings.json has changed" in refused.stderr
    assert "pipectl snapshot rm mine" in project.json("snapshot", "list")["unusable"]["mine"]
    settings.write_text(text)


def check_interrupting(project: Project) -> None:
    """Press Ctrl-C while the databases rest: all runs again, and nothing is left."""
    process = project.start("snapshot", "save", "interrupted")
    assert process.stderr
    assert any(line.startswith("Copying") for line in process.stderr)
    code, said = project.interrupt(process)
    assert code == ExitCode.INTERRUPTED, said
    assert said.endswith("Interrupted. Nothing was saved. All services run that ran before.\n")
    assert {path.name for path in (project.folder / ".pipectl/snapshots").iterdir()} == {".owner", "mine"}
    project.run("doctor", "--only", "leftovers")
    project.run("up")


def check_lost_rows(stack: Stack) -> None:
    """Say in the manifest that there were more rows: the data of before comes back."""
    project = stack.project
    saved = project.json("snapshot", "save", "lost")
    manifest = Path(saved["folder"]) / "snapshot.json"
    facts = json.loads(manifest.read_text())
    facts["rows"]["public.transactions"] += 1
    del facts["seal"]  # as in a snapshot of an earlier build
    manifest.write_text(json.dumps(facts))
    project.run("trigger")
    project.settle()
    before = counts(stack)
    refused = project.run("snapshot", "restore", "lost", "--yes", code=5)
    assert "public.transactions has" in refused.stderr
    project.run("up")
    assert counts(stack) == before
    project.run("snapshot", "rm", "lost", "--yes")


def check_killing(stack: Stack, kills: int, seconds: float) -> None:
    """Kill `save` and `restore` at random moments: what is there is all of the old or all of the new."""
    project = stack.project
    old = counts(stack)
    project.run("snapshot", "save", "old")
    project.run("trigger")
    project.settle()
    check_lost_rows(stack)
    new = counts(stack)
    assert new > old
    project.run("snapshot", "save", "new")
    seen = []
    for number in range(kills):
        words = ["snapshot", "restore", ("old", "new")[number % 2], "--yes"]
        if number % 3 == 2:
            words = ["snapshot", "save", f"killed-{number}"]
        process = project.start(*words)
        pass_time(random.uniform(0, seconds))  # noqa: S311  a moment, no secret
        process.send_signal(signal.SIGKILL)
        process.communicate()
        project.run("up")
        project.settle()
        seen.append((words, counts(stack)))
        assert seen[-1][1][:2] in {old[:2], new[:2]}, seen
        assert stack.harm() == NO_HARM, seen
        assert project.json("snapshot", "list")["unusable"] == {}
    for name in [each["name"] for each in project.json("snapshot", "list")["snapshots"]]:
        project.run("snapshot", "rm", name, "--yes")


def check_moving(source: Stack, target: Stack) -> None:
    """Carry a portable snapshot to another stack: rows, runs and what Airflow has encrypted are there."""
    name = f"warehouse-of-{source.project.engine}"
    connection = {"connection_id": name, "conn_type": "postgres", "password": "sesame"}
    source.project.client().call("/api/v2/connections", connection)
    before = counts(source)
    saved = source.project.json("snapshot", "save", "moved", "--portable")
    assert saved["away_seconds"] == 0
    path = target.project.folder / ".pipectl" / "snapshots" / "moved"
    if target.project is not source.project:
        path.parent.mkdir(exist_ok=True)
        shutil.move(saved["folder"], path)
    for _ in range(RUNS):
        target.project.run("trigger")
    target.project.settle()
    highest = last_id(target)
    target.project.run("snapshot", "restore", "moved", "--yes")
    assert counts(target) == before
    assert target.harm() == NO_HARM
    target.project.settle()
    target.project.run("trigger")
    target.project.settle()
    assert last_id(target) > highest
    assert target.harm() == NO_HARM
    shown = target.project.run("airflow", "connections", "get", name, "-o", "json").stdout
    assert '"sesame"' in shown
    target.project.run("snapshot", "rm", "moved", "--yes")
