"""Alerts, against a real HTTP server on this machine."""

from __future__ import annotations

import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from fraud_pipeline import alerts

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT = {
    "run_id": "manual__1",
    "exception": RuntimeError("Bash command failed. The command returned a non-zero exit code 5."),
    "task_instance": SimpleNamespace(
        dag_id="generate_transaction_and_labels",
        task_id="generate_labels",
        try_number=2,
        log_url="http://localhost:8080/dags/generate_transaction_and_labels/runs/manual__1",
    ),
}
MESSAGE = {
    "event": "task_failed",
    "dag_id": "generate_transaction_and_labels",
    "run_id": "manual__1",
    "task_id": "generate_labels",
    "try_number": 2,
    "log_url": "http://localhost:8080/dags/generate_transaction_and_labels/runs/manual__1",
    "error": "Bash command failed. The command returned a non-zero exit code 5.",
}


class Webhook(ThreadingHTTPServer):
    """Keeps what it is sent; answers with `status`, or not before `released`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[str, str, Any]] = []
        self.status = 204
        self.released = threading.Event()
        self.released.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hooks/secret-token"


class Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.server.released.wait(30)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's name
        pass


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    server = Webhook()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("PIPECTL_ALERT_WEBHOOK", server.url)
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_failed_task_is_posted_as_json(webhook: Webhook) -> None:
    alerts.alert_on_failure(CONTEXT)

    assert webhook.received == [("/hooks/secret-token", "application/json", MESSAGE)]


def test_failed_task_is_logged_with_and_without_a_webhook(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("PIPECTL_ALERT_WEBHOOK", raising=False)

    alerts.alert_on_failure(CONTEXT)

    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message.startswith(
        "event=task_failed dag_id=generate_transaction_and_labels run_id=manual__1 "
    )
    assert 'error="Bash command failed. ' in record.message


def test_any_event_can_be_sent(webhook: Webhook) -> None:
    assert alerts.alert("fraud_rate_high", rate=0.2)

    assert webhook.received[0][2] == {"event": "fraud_rate_high", "rate": 0.2}


def test_webhook_that_answers_with_an_error_is_a_warning_that_keeps_its_secret(
    webhook: Webhook, caplog: pytest.LogCaptureFixture
) -> None:
    webhook.status = 500

    assert not alerts.alert("task_failed")

    assert caplog.records[-1].levelno == logging.WARNING
    assert "event=alert_not_delivered alert=task_failed variable=PIPECTL_ALERT_WEBHOOK" in caplog.text
    assert "secret-token" not in caplog.text


def test_webhook_that_hangs_is_given_up(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "WEBHOOK_SECONDS", 0.2)
    webhook.released.clear()

    assert not alerts.alert("task_failed")  # while the webhook goes on waiting


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/", "file:///etc/passwd", "nonsense", "http://[", " "]
)
def test_unusable_webhook_fails_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPECTL_ALERT_WEBHOOK", address)

    assert not alerts.alert("task_failed")


def test_context_with_little_in_it_is_enough(webhook: Webhook) -> None:
    alerts.alert_on_failure({"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t")})

    message = webhook.received[0][2]
    assert (message["dag_id"], message["run_id"], message["task_id"]) == ("d", "r", "t")
    assert message["error"] == "the task's process ended without an exception"


def test_context_that_breaks_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        @property
        def log_url(self) -> str:
            raise RuntimeError("no database")

    alerts.alert_on_failure({"task_instance": Broken()})

    assert "event=alert_failed" in caplog.text


def test_endless_error_is_cut(webhook: Webhook) -> None:
    alerts.alert_on_failure(CONTEXT | {"exception": ValueError("x" * 100_000)})

    assert len(webhook.received[0][2]["error"]) == alerts.LONGEST_ERROR
