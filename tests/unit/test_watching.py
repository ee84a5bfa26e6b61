"""What `status --watch` sees, how it fits a terminal, and that it leaves the terminal as it was."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console as RichConsole
from rich.text import Text

from fraud_pipeline import monitoring
from pipectl import published
from pipectl.airflow_health import AirflowHealth
from pipectl.commands.watching import Picture, Rhythm, lines_of
from pipectl.databases import Databases
from pipectl.errors import DatabaseSilentError, EngineError, ExitCode, UsageError
from pipectl.models import DagRun, ImportFailure, Service, Usage
from pipectl.pipeline import watching
from pipectl.pipeline.consumers import Slot
from pipectl.pipeline.watching import Watch, Watched, WatchedDag, WatchedLabels, WatchedService, WatchedTable
from pipectl.settings import Settings
from support.fake_engine import FakeEngine
from support.json_schemas import check_output, validate
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipectl.engines.base import Engine

NOW = datetime(2026, 5, 4, 22, tzinfo=UTC)
RUN = DagRun("shop", "scheduled__1", "scheduled", "failed", NOW, NOW, NOW, NOW)
SLOT = Slot("airbyte_slot", False, "lost", None, 5, None)
NAMES = (
    "postgres",
    "airbyte-postgres",
    "airbyte-mysql",
    "webserver",
    "scheduler",
    "dag-processor",
    "triggerer",
)
LOOK = Watched(
    time=NOW,
    project=Path("/srv/shop"),
    engine="local",
    services=tuple(WatchedService(name, "running", "healthy", 8080, 12.5, 120_000_000) for name in NAMES),
    memory_kind="PSS",
    dag=WatchedDag("shop", paused=False, next_run="2026-05-04T22:30:00Z"),
    runs=(RUN,) * 10,
    tables=(
        WatchedTable("public.transactions", 10_000_000, estimated=True, written_last_minute=100_000),
        WatchedTable("fraud_labels", 9_999, estimated=False, written_last_minute=150),
    ),
    labels=WatchedLabels(10_000, 12.0, 0.012),
    slots=(replace(SLOT, wal_status="reserved", lag_bytes=1),),
    alerts=("Something is wrong. To mend it: pipectl up",),
)


@contextmanager
def cursor_of(answers: dict[str, Any]) -> Iterator[Any]:
    class Cursor:
        description = True

        def execute(self, statement: str, values: Any = None) -> None:
            del values
            self.statement = statement

        def fetchall(self) -> Any:
            for words, rows in answers.items():
                if words in self.statement:
                    return rows
            return []

    yield Cursor()


POSTGRES: dict[str, Any] = {
    "pg_tables": [(published.TRANSACTIONS, published.TRANSACTIONS)],
    "EXPLAIN": [([{"Plan": {"Plan Rows": 20_000_000}}],)],
    "interval '1 minute'": [(150,)],
    "AS waiting": [(3, 4000.5)],
}
MYSQL: dict[str, Any] = {
    "information_schema.tables\n    WHERE table_schema = DATABASE() AND table_type": [
        (published.LABELS, published.LABELS),
        (published.PROGRESS, published.PROGRESS),
    ],
    "table_rows": [(10,)],
    "SELECT COUNT(*) FROM fraud_labels": [(12,)],
    "SELECT COUNT(*) FROM label_progress": [(1,)],
    "INTERVAL 1 MINUTE": [(12,)],
    "last_xid": [(7, 9)],
    "SUM(is_fraud)": [(published.LATEST_COUNT, 200)],
}


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """A stack that runs, with answers of all of its servers."""
    (tmp_path / "stack").mkdir()
    made = FakeEngine(Settings(tmp_path, "local", tmp_path / "cache", {}))
    monkeypatch.setattr(Databases, "_postgres_cursor", lambda _: cursor_of(POSTGRES))
    monkeypatch.setattr(Databases, "_mysql_cursor", lambda _: cursor_of(MYSQL))
    monkeypatch.setattr(AirflowHealth, "components", lambda *_: {})
    monkeypatch.setattr(AirflowHealth, "dag", lambda *_: None)
    monkeypatch.setattr(AirflowHealth, "latest_runs", lambda *_: (RUN, replace(RUN, state="success")))
    monkeypatch.setattr(AirflowHealth, "import_failures", lambda *_: (ImportFailure("broken.py", "No."),))
    monkeypatch.setattr("pipectl.pipeline.consumers.slots_of", lambda _: (SLOT,))
    return made


def watch(engine: FakeEngine) -> Watch:
    return Watch(lambda: (engine._settings, engine))


def test_a_look_has_services_data_runs_and_alerts(stack: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(stack)
    first = watched.look(5)
    assert {each.cpu_percent for each in first.services} == {None}
    assert {each.memory_bytes for each in first.services} == {12_000_000}
    assert [each.health for each in first.services if each.name.startswith("airbyte")] == [
        "healthy",
        "healthy",
    ]
    assert first.tables == (
        WatchedTable(published.TRANSACTIONS, 20_000_000, estimated=True, written_last_minute=150),
        WatchedTable(published.LABELS, 12, estimated=False, written_last_minute=12),
    )
    assert first.labels == WatchedLabels(3, 4000.5, 0.1)
    assert first.slots == (SLOT,)
    text = "\n".join(first.alerts)
    for said in (
        "broken.py",
        "shop: the run scheduled__1 failed",
        "airbyte_slot is lost",
        "3 transactions wait for a label for 4,000 s, longer than 3,600 s.",
        "10.00% of the latest 2,000 labels say fraud",
    ):
        assert said in text
    monkeypatch.setattr(stack, "usage", lambda: {name: Usage(1e9, 1) for name in NAMES})
    assert all(each.cpu_percent for each in watched.look(5).services)
    validate("status", json.loads(json.dumps(_plain(first))))


def test_a_service_that_runs_and_gives_no_heartbeat_is_an_alert(
    stack: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AirflowHealth, "components", lambda *_: {"scheduler": "unhealthy"})
    started = datetime.now(UTC) - timedelta(hours=1)
    scheduler = Service("scheduler", "running", started=started)
    monkeypatch.setattr(stack, "services", lambda: (Service("webserver", "running"), scheduler))
    [alert] = [each for each in watch(stack).look(5).alerts if "scheduler" in each]
    assert alert.startswith("scheduler runs, and is unhealthy. Why: pipectl doctor --only ")


def _plain(document: object) -> Any:
    from pipectl.documents import plain

    return plain(document)


def test_the_share_of_a_core_is_that_since_the_look_before(
    stack: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("pipectl.pipeline.watching.time.monotonic", lambda: clock[0])
    used = {"scheduler": 5.0}
    monkeypatch.setattr(stack, "usage", lambda: {name: Usage(seconds, 1) for name, seconds in used.items()})
    watched = watch(stack)

    def share() -> float | None:
        return next(each.cpu_percent for each in watched.look(5).services if each.name == "scheduler")

    assert share() is None
    clock[0], used["scheduler"] = 102.0, 5.5
    assert share() == 25.0
    # Another process has the name by now.
    monkeypatch.setattr(stack, "services", lambda: (Service("scheduler", "running", pid=2),))
    clock[0], used["scheduler"] = 104.0, 0.1
    assert share() is None


def test_a_look_that_takes_longer_than_it_may_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 100.4, 103.0, 103.1, 103.9))
    monkeypatch.setattr("pipectl.commands.watching.time.monotonic", lambda: next(clock))
    rhythm = Rhythm(0.5)
    pauses = [round(rhythm.pause(), 3) for _ in range(4)]
    assert pauses == [0.1, 0, 0.4, 0.1]


def test_rows_are_counted_as_often_as_that_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, counted = [100.0], []
    monkeypatch.setattr("pipectl.pipeline.watching.time.monotonic", lambda: clock[0])

    def count() -> dict[str, tuple[int, bool]]:
        clock[0] += 0.5
        counted.append(clock[0])
        return {"a": (len(counted), False)}

    counter = watching._Counter()
    assert counter.rows(count) == counter.rows(count) == {"a": (1, False)}
    clock[0] += 9.9
    assert counter.rows(count) == {"a": (1, False)}
    clock[0] += 0.2
    assert counter.rows(count) == {"a": (2, False)}


def test_a_part_that_is_silent_delays_nothing_and_is_named(
    stack: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    watched = watch(stack)
    before = watched.look(5)

    def silent(*_: object) -> tuple[DagRun, ...]:
        released.wait(60)
        return ()

    monkeypatch.setattr(AirflowHealth, "latest_runs", silent)
    late = watched.look(0.05)
    assert late.runs == before.runs
    assert not any("no answer" in alert for alert in late.alerts)
    late = [watched.look(0.05) for _ in range(2)][-1]
    assert any(alert.startswith("Airflow: no answer for") for alert in late.alerts)
    assert late.labels == before.labels
    released.set()
    until(lambda: not any("no answer" in alert for alert in watched.look(5).alerts), "an answer")


def test_servers_that_do_not_answer_are_alerts_and_the_rest_is_shown(
    stack: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def refused(_: object) -> Iterator[Any]:
        raise DatabaseSilentError("It does not answer, at length.")
        yield

    monkeypatch.setattr(Databases, "_mysql_cursor", refused)
    seen = watch(stack).look(5)
    assert "airbyte-mysql does not answer." in seen.alerts
    assert seen.labels is None
    assert [table.name for table in seen.tables] == [published.TRANSACTIONS]


def test_a_stack_that_goes_down_and_an_engine_that_fails_are_survived(
    stack: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch(stack)
    assert watched.look(5).tables
    with monkeypatch.context() as patch:
        patch.setattr(stack, "services", lambda: tuple(Service(name, "stopped") for name in NAMES))
        patch.setattr(stack, "usage", dict)
        down = watched.look(5)
        assert down.alerts == ("Nothing runs. Start it: pipectl up",)
        assert (down.tables, down.runs, down.labels) == ((), (), None)

        def broken() -> tuple[Service, ...]:
            raise EngineError("No Docker engine answers.")

        patch.setattr(stack, "services", broken)
        assert "No Docker engine answers." in watched.look(5).alerts
    assert watched.look(5).tables


def test_settings_that_somebody_edits_are_an_alert_and_wrong_ones_end_the_first_look(
    stack: FakeEngine,
) -> None:
    found: list[Settings] = [stack._settings]

    def current() -> tuple[Settings, Engine]:
        return found[0], stack

    watched = Watch(current)
    watched.look(5)
    found[0] = replace(stack._settings, variables={"PIPECTL_ALERT_LAG_SECONDS": "soon"})
    assert "PIPECTL_ALERT_LAG_SECONDS='soon'" in watched.look(5).alerts[0]
    with pytest.raises(UsageError):
        Watch(current).look(5)


def test_bounds_are_those_of_the_scripts() -> None:
    bounds = Settings(Path(), "local", Path(), {}).alert_bounds
    scripts = monitoring.Bounds()
    assert (bounds.lowest_rate, bounds.highest_rate, bounds.lag_seconds) == (
        scripts.lowest_rate,
        scripts.highest_rate,
        scripts.lag_seconds,
    )
    assert published.LATEST_COUNT == monitoring.LATEST


def drawn(look: Watched, width: int, height: int) -> list[str]:
    from rich.screen import Screen

    stream = io.StringIO()
    terminal = RichConsole(file=stream, width=width, height=height, force_terminal=True, color_system=None)
    terminal.print(Screen(Picture(look)), end="")
    return stream.getvalue().split("\n")


ALERTS = tuple(
    f"Alert {number} says that something is wrong, at length, and what to type: pipectl up"
    for number in range(9)
)


@pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (40, 24), (20, 10), (120, 50), (200, 8), (10, 3), (80, 1)]
)
@pytest.mark.parametrize("look", [LOOK, replace(LOOK, alerts=ALERTS), replace(LOOK, alerts=())])
def test_a_picture_is_as_large_as_the_terminal(look: Watched, width: int, height: int) -> None:
    lines = drawn(look, width, height)
    assert len(lines) == height
    assert {len(line) for line in lines} == {width}


def test_no_figure_of_memory_is_cut_on_a_narrow_terminal() -> None:
    lines = drawn(LOOK, 40, 24)
    text = "\n".join(lines)
    assert "120.0 MB" in text
    assert "12.5" in text
    assert lines[0].rstrip()[-8:].count(":") == 2  # the clock
    far = replace(LOOK, project=Path("/srv/somewhere/far/below/the/root/of/all/shop"))
    head = drawn(far, 40, 24)[0]
    assert head.startswith("…")
    assert "shop (local)  " in head
    assert head.rstrip()[-8:].count(":") == 2


def test_a_picture_of_80_by_24_has_everything() -> None:
    text = "\n".join(drawn(LOOK, 80, 24))
    for name in NAMES:
        assert f"{name} " in text
    for part in (
        "/srv/shop (local)",
        "12.5   120.0 MB   8080",
        "together",
        "memory: PSS",
        "about 10,000,000 rows, over 100,000 in the last minute",
        "labels behind: over 10,000 transactions, 12 s; 1.20% of the latest are fraud",
        "slot airbyte_slot: lags by 1 byte",
        "shop: on, next run 2026-05-04T22:30:00Z",
        "scheduled__1",
        "! Something is wrong. To mend it: pipectl up",
    ):
        assert part in text, part


def test_alerts_that_find_no_room_are_counted() -> None:
    text = "\n".join(drawn(replace(LOOK, alerts=ALERTS), 80, 24))
    assert "! Alert 0" in text
    assert "more lines: pipectl status" in text
    assert all(f"{name} " in text for name in NAMES)
    tall = "\n".join(drawn(replace(LOOK, alerts=ALERTS), 80, 60))
    assert "! Alert 8" in tall
    assert "more lines" not in tall


def test_without_a_terminal_a_look_is_whole() -> None:
    lines = lines_of(replace(LOOK, alerts=ALERTS))
    assert all(isinstance(text, Text) for text in lines)
    assert [text.plain for text in lines][-9:] == [f"! {alert}" for alert in ALERTS]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that was never started."""
    for name in ("dags", "stack"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMAND = (sys.executable, "-m", "pipectl", "--engine", "local", "status", "--watch", "0.5")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--watch", "0.1"), "0.1 s"),
        (("--watch", "nan"), "nan s"),
        (("--watch", "inf"), "inf s"),
        (("5",), "SECONDS goes with --watch"),
    ],
)
@pytest.mark.usefixtures("project")
def test_times_that_mean_nothing_are_a_usage_error(words: tuple[str, ...], said: str) -> None:
    done = subprocess.run([*COMMAND[:6], *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert said in done.stderr


@pytest.mark.parametrize(("words", "count"), [(("--json",), 1), ((), 3)])
@pytest.mark.usefixtures("project")
def test_a_pipe_gets_a_look_at_a_time_without_escapes_until_its_reader_goes(
    words: tuple[str, ...], count: int
) -> None:
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    lines = [process.stdout.readline() for _ in range(2 * count)]
    process.stdout.close()
    assert process.wait(20) == 0
    assert process.stderr.read() == ""
    assert "\x1b" not in "".join(lines)
    if words:
        check_output(("status", "--watch", "--json"), "".join(lines), "")
        assert {json.loads(line)["alerts"][0] for line in lines} == {"Nothing runs. Start it: pipectl up"}


@pytest.mark.usefixtures("project")
def test_ctrl_c_ends_what_is_written_to_a_pipe() -> None:
    process = subprocess.Popen(
        [*COMMAND, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == ExitCode.INTERRUPTED
    check_output(("status", "--watch", "--json"), out, "")
    assert json.loads(err)["error"]["kind"] == "interrupted"


class Terminal:
    """A terminal in which a program runs, and all that it has written."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.controller, self.terminal = pty.openpty()
        self.resize(size)
        self.before = termios.tcgetattr(self.terminal)
        self.process = subprocess.Popen(
            COMMAND,
            stdin=self.terminal,
            stdout=self.terminal,
            stderr=subprocess.PIPE,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        self.text = ""

    def resize(self, size: tuple[int, int]) -> None:
        columns, lines = size
        ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def sees(self, question: Callable[[str], bool]) -> None:
        def read() -> bool:
            while select.select([self.controller], [], [], 0)[0]:
                self.text += os.read(self.controller, 65536).decode(errors="replace")
            return question(self.text)

        until(read, "the screen")

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.terminal) == self.before


@pytest.fixture
def terminal(project: Path) -> Iterator[Terminal]:
    assert project
    made = Terminal((80, 24))
    made.sees(lambda text: "Nothing runs" in text)
    yield made
    made.process.kill()
    made.process.communicate()
    os.close(made.controller)
    os.close(made.terminal)


HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"


@pytest.mark.parametrize(("end", "code"), [("q", 0), ("Ctrl-C", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_terminal_is_as_it_was_whatever_ends_the_watch(terminal: Terminal, end: str, code: int) -> None:
    assert terminal.text.index(ENTERED) < terminal.text.index("Nothing runs")
    assert HIDDEN in terminal.text
    assert not terminal.is_as_before()
    if end == "q":
        os.write(terminal.controller, b"xq")
    else:
        terminal.process.send_signal(signal.SIGINT if end == "Ctrl-C" else getattr(signal, end))
    assert terminal.process.wait(20) == code
    terminal.sees(lambda text: LEFT in text and text.rindex(SHOWN) > text.rindex(HIDDEN))
    assert terminal.is_as_before()
    assert "x" not in terminal.text.split(LEFT)[1]


def test_a_look_overwrites_the_one_before_without_clearing_and_a_new_size_is_filled(
    terminal: Terminal,
) -> None:
    shown = len(terminal.text)
    terminal.sees(lambda text: text[shown:].count("\x1b[H") >= 2)
    looks = terminal.text[shown:]
    assert "\x1b[2J" not in looks
    assert "\x1b[K" not in looks
    terminal.resize((100, 30))
    # The header's clock is at the right end of its line.
    terminal.sees(lambda text: any(len(line.rstrip()) > 90 for line in text.split("\r\n")))
