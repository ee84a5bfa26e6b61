"""Ctrl-C ends a command, also if it comes when Python drops exceptions, unless the caller ignores Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from typer.testing import CliRunner

from pipectl import cli
from pipectl.commands import COMMANDS, RUN_PROGRAMS
from pipectl.errors import ExitCode
from pipectl.invocation import Invocation
from pipectl.pipeline.consumers import Consumers
from pipectl.pipeline.projects import Found, ListedProject
from pipectl.pipeline.verification import Verification

SWALLOWED = """
import os, signal, sys, time
from pipectl import cli

class Destructor:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)

def work():
    destructor = Destructor()
    del destructor
    time.sleep(float(sys.argv[1]))

cli.app = lambda **_: cli.run_guarded(work, cli.Console)
cli.main()
"""
IGNORED = """
import os, signal
from pipectl import cli

def work():
    os.kill(os.getpid(), signal.SIGINT)
    print("went on")

cli.app = lambda **_: cli.run_guarded(work, cli.Console)
cli.main()
"""

SIGNALLED = """
import os, sys
from pipectl import cli

def work():
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    finally:
        print("in good order")

cli.app = lambda **_: cli.run_guarded(work, cli.Console)
cli.main()
"""


@pytest.mark.parametrize("seconds_left", ["0", "60"])
def test_an_interrupt_that_a_destructor_swallows_comes_again(seconds_left: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED, seconds_left],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert "Interrupted." in done.stderr


def test_a_command_in_the_background_of_a_shell_stays_deaf_to_ctrl_c() -> None:
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable, IGNORED],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_command_lets_it_end_in_good_order(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(int(number))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "in good order\n", "")


STARTED = "What was started goes on: pipectl status. The same command starts the rest."
# The command, what of the pipeline Ctrl-C interrupts, and what is true then.
LEFT = [
    ("up", "lifecycle.up", STARTED),
    ("scale 2", "lifecycle.up", STARTED),
    ("down", "lifecycle.down", "What was stopped stays so: the same command stops the rest."),
    (
        "down --volumes --yes",
        "lifecycle.down",
        "What was stopped stays so: the same command stops the rest, and deletes it.",
    ),
    ("down --all --yes", "projects.stop", "What was stopped stays so: the same command stops the rest."),
    ("restart", "lifecycle.restart", "What was stopped stays so: pipectl up starts it."),
    (
        "reset --yes",
        "lifecycle.reset",
        "What was stopped and deleted stays so: the same command goes on, "
        "pipectl up starts with the data that is left.",
    ),
    (
        "reset --data-only --yes",
        "lifecycle.empty_databases",
        "Labels go before transactions, so some rows may be gone: the same command deletes the rest, "
        "pipectl verify-db counts what is left.",
    ),
    (
        "load",
        "loading.HistoryLoader.load",
        "Nothing is written any more, and what is committed stays: the same command goes on from there.",
    ),
    ("snapshot save mine", "snapshots.save", "Nothing was saved."),
    (
        "snapshot restore mine --yes",
        "snapshots.restore",
        "All data is that of before.",
    ),
    (
        "snapshot rm mine --yes",
        "snapshot_store.Store.remove",
        "Nothing was deleted.",
    ),
    ("export there", "exporting.export", "Nothing was exported: run the same command again."),
    (
        "verify-db --repair",
        "repairing.Repairer.repair",
        "What was repaired stays so: the same command goes on.",
    ),
    (
        "trigger mine",
        "triggering.trigger",
        "If the run was triggered, it goes on: pipectl runs mine. To end it: pipectl cancel mine",
    ),
    (
        "clear mine last",
        "steering.clear",
        "If its tasks were cleared, the run goes on: pipectl runs mine last",
    ),
    ("cancel mine last", "steering.cancel", "What was ended stays so: pipectl runs mine"),
    (
        "backfill mine --from 2026-01-01",
        "backfilling.backfill",
        "If the backfill was made, it goes on: pipectl runs mine. To end it: pipectl backfill mine --cancel",
    ),
    ("backfill mine --cancel", "backfilling.cancel", "Which runs go on: pipectl runs mine"),
    (
        "init there",
        "initialising.initialise",
        "The same command makes the project, or completes it.",
    ),
    ("bundle there.tar.gz", "bundling.bundle", "No file was written: run the same command again."),
    ("upgrade", "upgrading.upgrade", "The same command goes on with the files that are left."),
    (
        "upgrade --try-airflow 3.4.0",
        "airflow_trial.try_airflow",
        "The trial is deleted, and the project is as it was.",
    ),
    ("check --fix", "checking.check", "What was rewritten stays so: pipectl check shows the rest."),
    (
        "connections --create-slot",
        "change_capture.create_slot",
        "Whether there is a slot now: pipectl status",
    ),
]


@pytest.mark.usefixtures("stack")
def test_what_was_looked_at_after_ctrl_c_is_said_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    error = KeyboardInterrupt()
    error.add_note("The snapshot mine is saved.")
    error.add_note("Stopped: triggerer.")
    monkeypatch.setattr("pipectl.pipeline.snapshots.save", MagicMock(side_effect=error))
    done = CliRunner().invoke(cli.app, ["snapshot", "save", "mine"])
    assert done.stderr.endswith("\nInterrupted. The snapshot mine is saved. Stopped: triggerer.\n")


@pytest.mark.usefixtures("stack")
def test_ctrl_c_waits_for_the_end_of_a_deletion(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(
        "pipectl.pipeline.snapshot_store.Store.remove", lambda *_: signal.raise_signal(signal.SIGINT)
    )
    done = CliRunner().invoke(cli.app, ["snapshot", "rm", "mine", "--yes"])
    signal.signal(signal.SIGINT, before)
    assert done.exit_code == ExitCode.INTERRUPTED
    assert done.stderr.endswith("\nInterrupted. Deleted: mine.\n")


SHOW = [
    "status",
    "doctor",
    "projects",
    "logs",
    "open",
    "verify-db",
    "dags",
    "runs",
    "explain",
    "task-log",
    "report",
    "connections",
    "check",
]


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A stack about which every question has some answer."""
    made = MagicMock()
    made.engine.volumes.return_value = ()
    made.engine.databases.return_value = made.addresses = (MagicMock(), MagicMock())
    monkeypatch.setattr(Invocation, "settings", made.settings)
    monkeypatch.setattr(Invocation, "engine", made.engine)
    for name in ("access.business_databases", "access.own_databases", "access.airflow_address"):
        monkeypatch.setattr(f"pipectl.pipeline.{name}", made.databases)
    for name in ("AirflowApi", "AirflowHealth"):
        monkeypatch.setattr(f"pipectl.airflow_{'api' if name == 'AirflowApi' else 'health'}.{name}", made)
    running = Found(ListedProject(Path("/srv/shop"), "local", "running"), tuple)
    monkeypatch.setattr("pipectl.pipeline.projects.find", lambda _: ([running], ()))
    monkeypatch.setattr("pipectl.pipeline.consumers.binary_log", lambda _: None)
    monkeypatch.setattr("pipectl.pipeline.snapshots.require_restorable", lambda *_, **__: MagicMock())
    monkeypatch.setattr("pipectl.pipeline.snapshots.active_runs", lambda _: ())
    monkeypatch.setattr("pipectl.pipeline.snapshot_store.Store.require_folder", lambda *_: None)
    monkeypatch.setattr("pipectl.commands.reset._consumers", lambda *_: Consumers())
    monkeypatch.setattr("pipectl.pipeline.triggering.wait_until_parsed", made.parsed)
    monkeypatch.setattr("pipectl.pipeline.inspecting.find_run", lambda *_: MagicMock(run_id="last"))
    monkeypatch.setattr("pipectl.pipeline.inspecting.which", lambda *_: ("mine", "last"))
    for name in ("tasks_to_clear", "runs_to_cancel"):
        monkeypatch.setattr(f"pipectl.pipeline.steering.{name}", made.chosen)
    monkeypatch.setattr("pipectl.pipeline.run_conf.conf_for", lambda *_: {})
    found = Verification("reconciled", False, (), unlabelled=1, orphans=0)
    monkeypatch.setattr("pipectl.pipeline.verification.verify", lambda *_: found)
    monkeypatch.setattr("pipectl.pipeline.verification.wait_for_active_runs", made.waited)
    return made


@pytest.mark.parametrize(("words", "where", "left"), LEFT)
@pytest.mark.usefixtures("stack")
def test_ctrl_c_says_what_is_left_of_a_command_that_changes_something(
    monkeypatch: pytest.MonkeyPatch, words: str, where: str, left: str
) -> None:
    monkeypatch.setattr(f"pipectl.pipeline.{where}", interrupted)
    done = CliRunner().invoke(cli.app, words.split())
    assert done.exit_code == ExitCode.INTERRUPTED, done.output
    assert done.stderr.endswith(f"\nInterrupted. {left}\n")
    done = CliRunner().invoke(cli.app, [*words.split(), "--json"])
    assert (done.exit_code, done.stdout) == (ExitCode.INTERRUPTED, "")
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (error["code"], error["kind"], error["hint"]) == (130, "interrupted", left)


@pytest.mark.usefixtures("stack")
def test_ctrl_c_says_where_the_switch_of_a_dag_is_seen(stack: MagicMock) -> None:
    stack.return_value.set_paused.side_effect = KeyboardInterrupt
    for command in ("pause", "unpause"):
        done = CliRunner().invoke(cli.app, [command, "mine"])
        assert done.stderr.endswith("\nInterrupted. Which DAGs are paused: pipectl dags\n")


# `init` asks no project, and begins at once.
@pytest.mark.parametrize(
    "words", sorted({*(words for words, _, _ in LEFT), *SHOW, "pause", "unpause"} - {"init there"})
)
def test_before_a_command_has_changed_anything_ctrl_c_leaves_nothing_to_say(
    monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(Invocation, "settings", property(interrupted))
    monkeypatch.setattr(Invocation, "engine", property(interrupted))
    monkeypatch.setattr("pipectl.pipeline.projects.find", interrupted)
    needed = {"task-log": ["mine", "last", "task"]}
    done = CliRunner().invoke(cli.app, [*words.split(), *needed.get(words, ())])
    assert (done.exit_code, done.stderr) == (ExitCode.INTERRUPTED, "\nInterrupted.\n")


def test_what_ctrl_c_leaves_is_known_of_every_command() -> None:
    known = {words.split()[0] for words, _, _ in LEFT} | {"pause", "unpause", *SHOW, *RUN_PROGRAMS}
    assert known == set(COMMANDS)
