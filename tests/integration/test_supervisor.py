"""supervisord keeps processes running, and nothing survives `shutdown`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import psutil
import pytest

from pipectl.engines.local import logs
from pipectl.engines.local.supervisor.program import Program
from pipectl.engines.local.supervisor.supervisor import MARKER, Supervisor
from pipectl.errors import EngineSilentError
from support.command_lines import command_lines
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.integration

SLEEPER = (sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)")
# A daemon in a session of its own, which ignores its parent's end, as the bash of a task is.
STRAY = (
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "time.sleep(600)",
)


def ours(state_dir: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == str(state_dir) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# What works in an odd folder works in a plain one; the converse is what fails.
@pytest.fixture(
    params=[pytest.param("plain", marks=pytest.mark.slow), 'it\'s 100% "odd" ; ' + "long" * 30],
    ids=["plain", "odd and long path"],
)
def supervisor(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Supervisor]:
    state_dir = tmp_path / request.param / ".pipectl"
    state_dir.mkdir(parents=True)
    found = Supervisor(state_dir)
    yield found
    found.shutdown()
    assert not ours(state_dir)


def program(
    folder: Path, command: tuple[str, ...] = SLEEPER, name: str = "sleeper", **variables: str
) -> Program:
    return Program(name, command, folder, variables, stop_seconds=2)


def pid_of(supervisor: Supervisor, name: str = "sleeper") -> int | None:
    return next((process.pid for process in supervisor.processes() if process.name == name), None)


def test_a_killed_process_comes_back(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.launch([program(tmp_path)])
    supervisor.start("sleeper")
    until(lambda: pid_of(supervisor), "a process")
    first = pid_of(supervisor)
    assert first
    os.kill(first, signal.SIGKILL)
    until(lambda: pid_of(supervisor) not in {None, first}, "another process")


def test_a_program_that_an_interrupted_command_left_stopping_is_started_once_it_has_stopped(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    stubborn = f"""
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(ready)!r}).touch()
time.sleep(600)
"""
    supervisor.launch([program(tmp_path, (sys.executable, "-c", stubborn))])
    supervisor.start("sleeper")
    until(ready.exists, "a process that ignores SIGTERM")
    first = pid_of(supervisor)
    supervisor._call("stopProcess", "sleeper", False)
    until(lambda: supervisor.processes()[0].state == "STOPPING", "a process that is stopping")
    supervisor.start("sleeper")
    until(lambda: pid_of(supervisor) not in {None, first}, "another process")


def test_a_program_that_crashes_at_its_start_is_started_again_after_growing_pauses(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    # It takes longer to crash than a program that is misspelt.
    crashing = ("sh", "-c", f"date +%s.%N >>'{starts}'; sleep 1.5; exit 1")
    supervisor.launch([program(tmp_path, crashing)])
    supervisor.start("sleeper")
    until(lambda: starts.exists() and len(starts.read_text().split()) == 4, "the fourth start")
    times = [float(time) for time in starts.read_text().split()]
    first, second, third = (after - before for before, after in pairwise(times))
    assert first < second < third
    until(lambda: supervisor.processes()[0].state == "BACKOFF", "a pause")


def test_a_program_that_has_crashed_is_started_at_once_when_asked_to(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    crashing = ("sh", "-c", f"echo start >>'{starts}'; test -e '{tmp_path}/well' && exec sleep 600")
    supervisor.launch([program(tmp_path, crashing)])
    supervisor.start("sleeper")
    until(lambda: supervisor.processes()[0].state == "BACKOFF", "a process that has ended")
    (tmp_path / "well").touch()
    # Whether its pause has just ended or not.
    supervisor.start("sleeper")
    assert supervisor.processes()[0].state == "STARTING"


def test_a_supervisor_that_is_stopped_for_a_while_is_not_taken_for_none(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor.launch([program(tmp_path)])
    supervisor.start("sleeper")
    daemon = int(supervisor.pid_path.read_text())
    os.kill(daemon, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr("pipectl.engines.local.supervisor.supervisor.ANSWER_SECONDS", 0.2)
        for question in (supervisor.is_running, supervisor.processes):
            with pytest.raises(EngineSilentError, match="has not answered"):
                question()
        # `down` ends it nevertheless.
        supervisor.shutdown()
    assert ours(supervisor.state_dir) == []


def test_the_environment_arrives_as_it_is_and_stays_out_of_arguments(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    secret = "a'b\"c%d\n;e"
    supervisor.launch([program(tmp_path, SECRET=secret)])
    supervisor.start("sleeper")
    until(lambda: pid_of(supervisor), "a process")
    process = psutil.Process(pid_of(supervisor))
    until(lambda: process.environ().get("SECRET") == secret, "the environment")
    assert not any(secret in " ".join(words) for words in command_lines(ours(supervisor.state_dir)).values())
    for path in supervisor.run_dir.iterdir():
        if path.suffix in {".json", ".conf"}:
            assert path.stat().st_mode & 0o777 == 0o600, path


def test_what_a_killed_supervisord_left_behind_is_ended_by_the_next_start(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    programs = [program(tmp_path, STRAY, "stray")]
    supervisor.launch(programs)
    supervisor.start("stray")
    until(lambda: len(ours(supervisor.state_dir)) >= 2, "the stray process")
    leader = int(supervisor.pid_path.read_text())
    left = {process.pid for process in ours(supervisor.state_dir)}
    os.kill(leader, signal.SIGKILL)
    until(lambda: not supervisor.is_running(), "the end of supervisord")
    assert left <= set(supervisor.orphans())
    supervisor.end_leftovers()
    assert supervisor.orphans() == ()
    supervisor.launch(programs)
    assert supervisor.is_running()
    assert not left & {process.pid for process in ours(supervisor.state_dir)}


def test_a_stale_pid_file_of_somebody_elses_process_does_no_harm(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    bystander = psutil.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        supervisor.run_dir.mkdir(parents=True)
        supervisor.pid_path.write_text(f"{bystander.pid}\n")
        supervisor.end_leftovers()
        supervisor.launch([program(tmp_path)])
        assert bystander.is_running()
    finally:
        bystander.kill()
        bystander.wait()


def test_processes_that_wiped_their_environment_end_after_their_supervisord_was_killed(
    supervisor: Supervisor,
) -> None:
    folder = supervisor.state_dir / "airflow"
    folder.mkdir()
    programs = [program(folder, ("/usr/bin/env", "-i", *SLEEPER))]
    supervisor.launch(programs)
    supervisor.start("sleeper")
    until(lambda: pid_of(supervisor), "a process")
    sleeper = psutil.Process(pid_of(supervisor))
    until(lambda: not sleeper.environ(), "a wiped environment")
    os.kill(int(supervisor.pid_path.read_text()), signal.SIGKILL)
    until(lambda: not supervisor.is_running(), "the end of supervisord")
    supervisor.shutdown()
    assert not is_alive(sleeper)


@pytest.mark.parametrize("content", ["0", "-1", "1", "00", " 0\n", "+0", "-0"])
def test_a_number_that_is_no_session_of_this_project_ends_nothing(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    # Killing for real would end this test, and with session 0 the whole machine.
    ended: list[psutil.Process] = []
    monkeypatch.setattr("pipectl.engines.local.supervisor.supervisor.kill", ended.extend)
    supervisor.run_dir.mkdir(parents=True)
    supervisor.pid_path.write_text(content)
    supervisor.shutdown()
    assert ended == []


def test_a_strangers_session_whose_leader_has_ended_is_left_alone(supervisor: Supervisor) -> None:
    leader = psutil.Popen(
        ["/bin/sh", "-c", "sleep 600 & echo $!"], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    assert leader.stdout
    member = psutil.Process(int(leader.stdout.readline()))
    leader.wait()
    try:
        assert os.getsid(member.pid) == leader.pid
        supervisor.run_dir.mkdir(parents=True)
        supervisor.pid_path.write_text(f"{leader.pid}\n")
        supervisor.shutdown()
        assert member.is_running()
    finally:
        member.kill()


@pytest.mark.parametrize(
    "words",
    [(), ("-c",), ("-m", "supervisor.supervisorctl", "-c")],
    ids=["editor", "option", "supervisorctl"],
)
def test_a_process_that_reads_the_configuration_is_left_alone(
    supervisor: Supervisor, tmp_path: Path, words: tuple[str, ...]
) -> None:
    supervisor.launch([program(tmp_path)])
    reader = psutil.Popen([*SLEEPER, *words, str(supervisor.config_path)], start_new_session=True)
    try:
        supervisor.shutdown()
        assert is_alive(reader)
    finally:
        reader.kill()
        reader.wait()


def test_a_daemon_is_followed_when_its_project_is_moved_and_left_alone_by_a_new_one_at_its_old_place(
    tmp_path: Path,
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    (before / ".pipectl").mkdir(parents=True)
    first = Supervisor(before / ".pipectl")
    moved = Supervisor(after / ".pipectl")
    first.launch([program(before, STRAY, "stray")])
    try:
        first.start("stray")
        until(lambda: len(ours(before / ".pipectl")) >= 2, "the stray process")
        running = [*ours(before / ".pipectl"), psutil.Process(first.pid())]
        before.rename(after)
        newcomer = Supervisor(before / ".pipectl")
        newcomer.run_dir.mkdir(parents=True)
        assert not newcomer.shutdown()
        assert newcomer.pid() == 0
        assert all(process.is_running() for process in running)
        assert moved.pid() in {process.pid for process in running}
        assert moved.moved_from() == before
    finally:
        assert moved.shutdown()
    assert not any(map(is_alive, running))


def test_a_program_of_a_moved_project_is_not_started_again_with_the_paths_of_before(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    (before / ".pipectl").mkdir(parents=True)
    first, moved = Supervisor(before / ".pipectl"), Supervisor(after / ".pipectl")
    first.launch([program(before)])
    try:
        first.start("sleeper")
        until(lambda: pid_of(first), "a process")
        sleeper = pid_of(first)
        before.rename(after)
        # Somebody else's by now.
        (before / ".pipectl").mkdir(parents=True)
        assert sleeper
        os.kill(sleeper, signal.SIGKILL)
        until(lambda: "was moved here from" in moved.log_path("sleeper").read_text(), "a refusal")
        assert not list((before / ".pipectl").iterdir())
    finally:
        moved.shutdown()


def test_logs_are_followed_across_their_rotation(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    path.write_text("one\ntwo\n")
    lines = logs.read({"service": path}, tail=1, follow=True)
    assert next(lines).text == "two"
    follower = logs.Follower(path)
    with path.open("a") as file:
        file.write("three\nunfinished")
    assert follower.new_lines() == ["three"]
    path.rename(tmp_path / "service.log.1")
    path.write_text("four\n")
    assert follower.new_lines()[-1].endswith("four")


def test_supervisord_rests_after_programs_that_close_their_input_were_started_side_by_side(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    names = [f"closing-{number}" for number in range(6)]
    closing = ("/bin/sh", "-c", "exec sleep 600 <&-")
    supervisor.launch([program(tmp_path, closing, name) for name in names])
    asked_enough = threading.Event()

    def ask() -> None:
        while not asked_enough.is_set():
            supervisor.processes()

    with ThreadPoolExecutor() as pool:
        asking = pool.submit(ask)
        starts = [pool.submit(supervisor.start, name) for name in names]
        for start in starts:
            start.result()
        until(lambda: all(process.pid for process in supervisor.processes()), "running programs")
        asked_enough.set()
        asking.result()
    daemon = psutil.Process(int(supervisor.pid_path.read_text(encoding="ascii")))
    # supervisord wakes once a second; the fault that this test is about used a whole core.
    assert daemon.cpu_percent(interval=1.0) < 50
