"""Ports that are free, and stay a project's own until its servers listen."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pipectl.engines import ports
from pipectl.engines.claims import Claims
from pipectl.errors import EngineError
from pipectl.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("webserver", "airbyte-postgres", "airbyte-mysql", "postgres")
HOLD = """
import sys, pathlib
from pipectl.engines.claims import Claims
claims = Claims(pathlib.Path(sys.argv[1]))
print(claims.take(sys.argv[2]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def wanted() -> int:
    """A port that was free a moment ago, with room above it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 60000)


def settings(folder: Path, port: int) -> Settings:
    variables = {
        "AIRFLOW_PORT": str(port),
        "AIRBYTE_POSTGRES_PORT": str(port),
        "AIRBYTE_MYSQL_PORT": str(port),
        "AIRFLOW_POSTGRES_PORT": str(port),
    }
    return Settings(project=folder, engine="local", cache_dir=folder, variables=variables)


def test_a_port_that_somebody_listens_on_is_passed_over(tmp_path: Path) -> None:
    with socket.socket() as server, Claims(tmp_path) as claims:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        taken = server.getsockname()[1]
        assert not ports.is_free(taken)
        assert ports.next_free(taken, set(), claims) != taken
    assert ports.is_free(taken)


def test_services_that_want_the_same_port_get_one_each(tmp_path: Path, wanted: int) -> None:
    with Claims(tmp_path) as claims:
        moved = ports.choose(settings(tmp_path, wanted), NAMES, (), claims)
    used = {moved[name][1] for name in moved}
    assert len(used | {wanted}) == len(NAMES)


def test_two_projects_that_start_at_once_get_ports_of_their_own(tmp_path: Path, wanted: int) -> None:
    own = settings(tmp_path, wanted)
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        chosen = [
            {name: pair[1] for name, pair in ports.choose(own, NAMES, (), claims).items()}
            for claims in (first, second)
        ]
        # One of the first project's services may have stayed on the port that it wanted.
        used = {port for found in chosen for port in found.values()} | {wanted}
        assert len(used) == 2 * len(NAMES)


def test_the_port_of_a_service_that_is_started_again_is_kept_from_others(tmp_path: Path, wanted: int) -> None:
    with Claims(tmp_path) as own, Claims(tmp_path) as others:
        ports.choose(settings(tmp_path, wanted), NAMES[:1], NAMES[:1], own)
        assert ports.next_free(wanted, set(), others) != wanted


@pytest.mark.parametrize("seen", ["own", "nobody"])
def test_a_restarting_service_waits_for_its_own_port(
    tmp_path: Path, wanted: int, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    """While its process of before ends, and if nobody is seen that has the port."""
    looks = iter([False, False, True])
    monkeypatch.setattr(ports, "is_free", lambda _: next(looks))
    monkeypatch.setattr(ports, "OWN_PORT_SECONDS", 60)
    with Claims(tmp_path) as claims:
        assert not ports.choose(
            settings(tmp_path, wanted),
            NAMES[:1],
            (),
            claims,
            is_anothers=lambda _: False if seen == "own" else None,
            restarting=NAMES[:1],
        )
    assert next(looks, "none left") == "none left"


def test_a_port_that_its_own_project_still_has_is_waited_for_and_never_left(
    tmp_path: Path, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "is_free", lambda _: False)
    monkeypatch.setattr(ports, "OWN_PORT_SECONDS", 0)
    with Claims(tmp_path) as claims:
        own = settings(tmp_path, wanted)
        assert not ports.choose(own, NAMES[:1], (), claims, is_anothers=lambda _: False)


def test_a_restarting_service_leaves_a_port_that_is_proven_to_be_anothers_at_once(
    tmp_path: Path, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: port != wanted)
    monkeypatch.setattr(ports, "OWN_PORT_SECONDS", 1e9)
    with Claims(tmp_path) as claims:
        own = settings(tmp_path, wanted)
        moved = ports.choose(own, NAMES[:1], (), claims, is_anothers=lambda _: True, restarting=NAMES[:1])
    assert moved["webserver"][0] == wanted
    assert moved["webserver"][1] > wanted


def test_a_port_can_be_had_again_once_its_command_has_ended(tmp_path: Path, wanted: int) -> None:
    with Claims(tmp_path) as first:
        port = ports.next_free(wanted, set(), first)
        with Claims(tmp_path) as second:
            assert ports.next_free(port, set(), second) > port
    with Claims(tmp_path) as third:
        assert ports.next_free(port, set(), third) == port


@pytest.mark.parametrize("cache", ["same", "another"])
def test_a_claim_holds_between_processes_and_ends_with_a_kill(
    tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cache == "another" and sys.platform != "linux":
        pytest.skip("Claims are those of a cache folder where sockets have no names without files.")
    monkeypatch.setattr("pipectl.engines.claims.NAMESPACE", "pipectl")
    what = f"test-{os.getpid()}"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "same"), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with Claims(tmp_path / cache) as claims:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "True\n"
            assert not claims.take(what)
        finally:
            holder.kill()
            holder.communicate()
        assert claims.take(what)


def test_a_port_stays_claimed_while_the_stack_lives(tmp_path: Path) -> None:
    server = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with Claims(tmp_path, "first") as first:
            first.keep(["port-8080"], server.pid)
        with Claims(tmp_path, "second") as second:
            assert not second.take("port-8080")
        with Claims(tmp_path, "first") as first:
            assert first.take("port-8080")
    finally:
        server.kill()
        server.communicate()
    with Claims(tmp_path, "second") as second:
        assert second.take("port-8080")


def test_without_a_folder_to_write_in_ports_are_still_found(tmp_path: Path, wanted: int) -> None:
    (tmp_path / "claims").write_text("no folder")
    with Claims(tmp_path) as claims:
        assert ports.next_free(wanted, set(), claims) >= wanted


def test_no_free_port_near_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda _: False)
    with Claims(tmp_path) as claims, pytest.raises(EngineError, match=r"No port from 8080 to 8280 is free"):
        ports.next_free(8080, set(), claims)
