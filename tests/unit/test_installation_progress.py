"""How far installations and pulls are, from what uv, apt and the Docker engine say."""

from __future__ import annotations

import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer
from typing import TYPE_CHECKING, Any

import pytest

from pipectl.commands import shared
from pipectl.commands.shared import StartProgress
from pipectl.console import Console
from pipectl.engines.docker.api import DockerApi
from pipectl.engines.docker.pull import PullProgress, pull
from pipectl.engines.local.install import UvProgress, run_tool
from pipectl.engines.local.packages import AptProgress
from pipectl.errors import EngineError
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Lines of uv 0.9 and apt 2.6.
UV = """\
Using Python 3.11.7 environment at: v
Resolved 140 packages in 611ms
Downloading numpy (16.1MiB)
Downloading asyncpg (512.0KiB)
 Downloaded asyncpg
 Downloaded numpy
Prepared 140 packages in 6.89s
Installed 140 packages in 513ms
Bytecode compiled 5356 files in 11.20s
"""
APT = """\
Hit:1 http://mirror.example.com/debian bookworm InRelease
Get:2 http://mirror.example.com/debian bookworm/main amd64 mariadb-server-core amd64 1:10.11 [7,606 kB]
Get:3 http://mirror.example.com/debian bookworm/main amd64 libaio1 amd64 0.3.113-4 [13.4 kB]
Fetched 7,619 kB in 1s (7,000 kB/s)
"""


class Shown:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.milestones: list[str] = []

    def __call__(self, subject: str, progress: str, *, milestone: bool) -> None:
        self.lines.append((subject, progress))
        if milestone:
            self.milestones.append(progress)


def test_uv_tells_sizes_and_counts() -> None:
    shown = Shown()
    watch = UvProgress("Airflow 3.3.2", shown)
    for line in UV.splitlines(keepends=True):
        watch(line)
    assert shown.milestones == [
        "downloading what is new of 140 packages",
        "installing 140 downloaded packages",
        "140 packages installed, compiling them",
    ]
    texts = [text for _, text in shown.lines]
    assert "downloaded 1 of 17 MB in large packages, 1 under way" in texts
    assert "downloaded 17 of 17 MB in large packages, 0 under way" in texts
    assert {subject for subject, _ in shown.lines} == {"Airflow 3.3.2"}


def test_apt_tells_files_and_their_size() -> None:
    texts: list[str] = []
    watch = AptProgress("of 2 packages downloaded", lambda text, **_: texts.append(text))
    for line in APT.splitlines(keepends=True):
        watch(line)
    assert texts == ["1 of 2 packages downloaded, 7.6 MB", "2 of 2 packages downloaded, 7.6 MB"]


def test_a_tools_lines_are_seen_while_it_runs_and_shown_if_it_fails(tmp_path: Path) -> None:
    flag = tmp_path / "seen"
    program = (
        "import pathlib, sys, time\n"
        "print('first', flush=True)\n"
        f"flag = pathlib.Path({str(flag)!r})\n"
        "deadline = time.monotonic() + 60\n"
        "while not flag.exists() and time.monotonic() < deadline: time.sleep(0.01)\n"
        "print('second', flag.exists()); sys.exit(3)"
    )
    failure = EngineError("It failed.")

    def watch(line: str) -> None:
        if line == "first\n":
            flag.touch()

    with pytest.raises(EngineError) as caught:
        run_tool((sys.executable, "-c", program), failure, watch=watch)
    assert caught.value.detail == "first\nsecond True"


def event(layer: str, status: str, current: int = 0, total: int = 0) -> dict[str, Any]:
    detail = {"current": current, "total": total} if total else {}
    return {"id": layer, "status": status, "progressDetail": detail}


EVENTS = [
    {"id": "17", "status": "Pulling from library/postgres"},
    event("a", "Already exists"),
    event("b", "Pulling fs layer"),
    event("c", "Waiting"),
    event("b", "Downloading", 10_000_000, 40_000_000),
    event("b", "Download complete"),
    event("b", "Extracting", 1, 40_000_000),
    event("b", "Pull complete"),
    event("c", "Downloading", 5_000_000, 60_000_000),
    {"status": "Digest: sha256:1"},
    event("c", "Pull complete"),
]


def test_a_pull_is_as_far_as_its_layers() -> None:
    progress, texts = PullProgress(), []
    for each in EVENTS:
        progress.see(each)
        texts.append(progress.text)
    assert texts[4] == "1 of 3 layers, downloaded 10 of 40 MB"
    assert texts[6] == "1 of 3 layers, downloaded 40 of 40 MB"
    assert texts[8] == "2 of 3 layers, downloaded 45 of 100 MB"
    assert texts[-1] == "3 of 3 layers, downloaded 100 of 100 MB"


@contextmanager
def engine(path: Path, status: int, events: list[dict[str, Any]]) -> Iterator[list[str]]:
    """An engine that answers each pull like this; yields what it was asked."""
    asked: list[str] = []

    class Images(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"Version": "25.0", "ApiVersion": "1.44", "MinAPIVersion": "1.24"}')

        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write("".join(json.dumps(each) + "\r\n" for each in events).encode())

        def address_string(self) -> str:
            return "a socket"

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingUnixStreamServer(str(path), Images) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield asked
        server.shutdown()
        thread.join()


class FakeCompose:
    def __init__(self) -> None:
        self.pulled: list[str] = []

    def pull(self, image: str) -> None:
        self.pulled.append(image)


def pull_from(path: Path, image: str) -> tuple[Shown, list[str]]:
    shown, compose = Shown(), FakeCompose()
    fake: Any = compose
    pull(DockerApi(f"unix://{path}"), fake, image, shown)
    return shown, compose.pulled


@pytest.mark.parametrize(
    ("image", "query"),
    [
        ("postgres:17", "fromImage=postgres&tag=17"),
        ("mirror.example.com:5000/postgres", "fromImage=mirror.example.com%3A5000%2Fpostgres&tag=latest"),
        ("postgres@sha256:1", "fromImage=postgres%40sha256%3A1&tag="),
    ],
)
def test_exactly_one_image_is_pulled(socket_path: Path, image: str, query: str) -> None:
    with engine(socket_path, 200, EVENTS) as asked:
        shown, by_docker = pull_from(socket_path, image)
    assert asked == [f"/v1.44/images/create?{query}"]
    assert shown.milestones == [
        "2 of 3 layers, downloaded 40 of 40 MB",
        "3 of 3 layers, downloaded 100 of 100 MB",
        "pulled, 100 MB",
    ]
    assert ("1 of 3 layers, downloaded 10 of 40 MB") in [text for _, text in shown.lines]
    assert by_docker == []


@pytest.mark.parametrize(
    ("status", "events"),
    [
        (404, [{"message": "manifest for postgres:99 not found"}]),
        (200, [*EVENTS[:4], {"error": "manifest for postgres:99 not found", "errorDetail": {}}]),
    ],
)
def test_a_failed_pull_names_the_image_and_what_the_engine_said(
    socket_path: Path, status: int, events: list[dict[str, Any]]
) -> None:
    with engine(socket_path, status, events), pytest.raises(EngineError) as caught:
        pull_from(socket_path, "postgres:99")
    assert caught.value.message == "The image postgres:99 could not be pulled."
    assert caught.value.detail == "manifest for postgres:99 not found"
    assert "docker pull postgres:99" in caught.value.hint
    assert "pipectl" not in caught.value.hint


def test_an_image_that_needs_a_login_is_pulled_by_the_docker_command(socket_path: Path) -> None:
    refusal = [{"message": "pull access denied for mine, repository does not exist or may require login"}]
    with engine(socket_path, 404, refusal):
        shown, by_docker = pull_from(socket_path, "mine:1")
    assert by_docker == ["mine:1"]
    assert shown.milestones[0] == "pulling with the logins of the docker command"


def test_milestones_are_lines_where_nothing_can_be_redrawn(capsys: pytest.CaptureFixture[str]) -> None:
    progress = StartProgress(Console())
    with progress.shown():
        progress.see_progress("postgres:17", "1 of 3 layers", milestone=False)
        progress.see_progress("postgres:17", "pulled, 100 MB", milestone=True)
    assert capsys.readouterr().err == "  postgres:17: pulled, 100 MB (0 s)\n"


def test_a_step_that_lasts_is_told_again_with_what_it_waits_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "SILENT_SECONDS", 0.01)
    told: list[str] = []

    def is_told(sentence: str) -> bool:
        told.append(capsys.readouterr().err)
        return f"  {sentence} (" in "".join(told)

    progress = StartProgress(Console())
    with progress.shown() as observer:
        observer.report("Starting postgres")
        until(lambda: is_told("Starting postgres"), "the step")
        observer.see_wait("Waiting until Airflow's metadata database answers")
        until(lambda: is_told("Waiting until Airflow's metadata database answers"), "the wait")
