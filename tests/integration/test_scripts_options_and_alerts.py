"""The options of both scripts, and what they alert, on real servers and a real webhook."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration

SINCE, UNTIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 8, tzinfo=UTC)


class Webhook(ThreadingHTTPServer):
    received: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        self.server.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        pass


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    server = Webhook(("127.0.0.1", 0), Handler)
    server.received = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(servers: Servers, webhook: Webhook, **environment: str) -> str:
    url = f"http://127.0.0.1:{webhook.server_port}/"
    code, log = servers.run("detection_generator", PIPECTL_ALERT_WEBHOOK=url, **environment)
    assert code == 0, log
    return log


def test_batch_has_the_count_the_name_and_the_time_that_were_asked_for(servers: Servers) -> None:
    arguments = ("--count", "777", "--batch", "by hand", "--since", "2026-03-01", "--until", "2026-03-08")
    code, log = servers.run("transaction_generator", *arguments, "--seed", "5", PIPECTL_BATCH_ID="scheduled")

    assert code == 0, log
    assert 'event=batch_written batch="by hand" transactions=777 ' in log
    [(first, last)] = servers.ask_postgres("SELECT min(tx_time), max(tx_time) FROM public.transactions")
    assert SINCE <= first < last <= UNTIL
    assert servers.ask_postgres("SELECT batch_id, seed, transactions, since, until FROM sim.batches") == [
        ("by hand", 5, 777, SINCE, UNTIL)
    ]


def test_begin_alone_is_followed_by_half_an_hour(servers: Servers) -> None:
    servers.run("transaction_generator", "--since", "2026-03-01T10:00")

    [(since, until)] = servers.ask_postgres("SELECT since, until FROM sim.batches")
    assert (until - since).total_seconds() == 1800


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        ((), datetime(2026, 3, 1, 10, tzinfo=UTC)),
        (("--until", "2026-03-02"), datetime(2026, 3, 2, tzinfo=UTC)),
        (("--since", "2026-03-02"), datetime(2026, 3, 2, 0, 30, tzinfo=UTC)),
    ],
)
def test_a_batch_of_a_slot_ends_there(servers: Servers, arguments: tuple[str, ...], end: datetime) -> None:
    slot = "2026-03-01T12:00:00+02:00"
    code, log = servers.run("transaction_generator", *arguments, PIPECTL_BATCH_UNTIL=slot)

    assert code == 0, log
    assert servers.ask_postgres("SELECT since, until FROM sim.batches") == [
        (end - timedelta(minutes=30), end)
    ]
    [(first, last)] = servers.ask_postgres("SELECT min(tx_time), max(tx_time) FROM public.transactions")
    assert end - timedelta(minutes=30) <= first < last < end


def test_usual_data_raises_no_alert(servers: Servers, webhook: Webhook) -> None:
    servers.run("transaction_generator", "--count", "3000")

    run(servers, webhook)

    assert webhook.received == []


def test_share_of_frauds_out_of_bounds_is_a_warning_and_posted(servers: Servers, webhook: Webhook) -> None:
    servers.run("transaction_generator", "--count", "3000")

    log = run(servers, webhook, PIPECTL_ALERT_FRAUD_RATE="0.5:1")

    assert "level=warning event=fraud_rate_out_of_bounds rate=0.0" in log
    [message] = webhook.received
    assert (message["event"], message["limit"], message["labels"]) == ("fraud_rate_out_of_bounds", 0.5, 2000)
    assert 0 < message["rate"] < 0.05


def test_few_labels_say_nothing_about_their_share(servers: Servers, webhook: Webhook) -> None:
    servers.run("transaction_generator", "--count", "1900")

    run(servers, webhook, PIPECTL_ALERT_FRAUD_RATE="0.5:1")

    assert webhook.received == []


def test_labels_that_wait_too_long_are_a_warning_and_posted(servers: Servers, webhook: Webhook) -> None:
    servers.run("transaction_generator")
    writer = servers.postgres()
    try:
        writer.cursor().execute("UPDATE public.transactions SET status = status")
        servers.run("transaction_generator", "--count", "60")
        patient = run(servers, webhook)
        impatient = run(servers, webhook, PIPECTL_ALERT_LAG_SECONDS="0.001")
    finally:
        writer.close()

    assert "event=labels_wait" in patient
    assert "event=label_lag" not in patient
    assert "level=warning event=label_lag " in impatient
    [message] = webhook.received
    assert (message["event"], message["transactions"]) == ("label_lag", 60)
    assert message["lag_seconds"] > 0.001
