"""supervisord's poller reports nothing of a descriptor that its main loop no longer asks about."""

from __future__ import annotations

import os
import select
import socket
from typing import Any

import pytest

pytest.importorskip("supervisor.poller")
if not hasattr(select, "poll"):
    pytest.skip("this system has no poll()", allow_module_level=True)


def events_after_reuse(poller: Any) -> list[tuple[int, int]]:
    """Register a connection, close it, give its number to a pipe without a reader, and poll once more."""
    connection, peer = socket.socketpair()
    number = connection.fileno()
    poller.register_readable(number)
    poller.poll(0)
    reader, writer = os.pipe()
    connection.close()
    os.dup2(writer, number)
    for descriptor in (reader, writer):
        os.close(descriptor)
    try:
        poller.poll(0)
        return list(poller._poller.poll(0))
    finally:
        os.close(number)
        peer.close()


def test_a_closed_descriptor_whose_number_is_used_again_is_forgotten() -> None:
    from supervisor.poller import PollPoller

    from pipectl.engines.local.supervisor.daemon import forgetting_poller

    # What supervisord ships reports an error for ever: the fault that the subclass mends.
    assert events_after_reuse(PollPoller(options=None))
    assert events_after_reuse(forgetting_poller(PollPoller)(options=None)) == []


def test_what_is_registered_in_a_pass_is_reported_in_it() -> None:
    from supervisor.poller import PollPoller

    from pipectl.engines.local.supervisor.daemon import forgetting_poller

    poller = forgetting_poller(PollPoller)(options=None)
    reader, writer = os.pipe()
    try:
        os.write(writer, b"x")
        for _ in range(2):
            poller.register_readable(reader)
            poller.register_writable(writer)
            assert poller.poll(0) == ([reader], [writer])
        poller.unregister_readable(reader)
        assert poller.poll(0) == ([], [])
    finally:
        os.close(reader)
        os.close(writer)
