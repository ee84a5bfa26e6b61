"""Exit 0 if this container's service works: `healthcheck.py SERVICE`.

The web server must answer, also its API for tasks, whose first request takes seconds that the first run need
not wait for. Scheduler, processor and triggerer must have written a fresh heartbeat, a worker must listen to
its broker. A triggerer that nothing needs yet prints that it is waiting.
Nothing of Airflow is imported: 0.1 s.
"""

from __future__ import annotations

import os
import socket
import sys

import metadata_database
import triggers

FRESH_SECONDS = 30
JOBS = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}
# The server logs an error for a table that the migration has not made yet.
HAS_JOBS = "SELECT to_regclass('job') IS NOT NULL"
HEARTBEAT = """
    SELECT 1 FROM job
    WHERE job_type = %s AND hostname = %s AND state = 'running'
      AND latest_heartbeat > now() - make_interval(secs => %s)"""


def webserver_answers() -> bool:
    """Whether both of its APIs answer."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=15)
    for path in ("/api/v2/version", "/execution/health"):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        if response.status != http.client.OK:
            return False
    return True


def has_heartbeat(service: str) -> bool:
    """Whether the service's job of this container reported within the last FRESH_SECONDS."""
    connection = metadata_database.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute(HAS_JOBS)
            if cursor.fetchone() != (True,):
                return False
            cursor.execute(HEARTBEAT, (JOBS[service], socket.gethostname(), FRESH_SECONDS))
            return cursor.fetchone() is not None
    finally:
        connection.close()


def listens_to_broker() -> bool:
    """Whether a Celery worker of this container subscribes to the broker's control messages."""
    import redis

    broker = redis.Redis.from_url(os.environ["AIRFLOW__CELERY__BROKER_URL"], socket_timeout=5)
    own = socket.gethostbyname(socket.gethostname()) + ":"
    return any(client["addr"].startswith(own) for client in broker.client_list(_type="pubsub"))


if __name__ == "__main__":
    name = sys.argv[1]
    try:
        if name == "webserver":
            healthy = webserver_answers()
        elif name == "worker":
            healthy = listens_to_broker()
        elif name == "triggerer" and not triggers.NEEDED.exists():
            sys.stdout.write("waiting")
            healthy = True
        else:
            healthy = has_heartbeat(name)
    except Exception as error:  # noqa: BLE001  the engine keeps the last line of what is printed
        sys.exit(f"{name}: {error}")
    sys.exit(0 if healthy else f"{name}: not yet")
