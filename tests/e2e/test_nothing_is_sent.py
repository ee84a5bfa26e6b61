"""A stack on a machine that has no way out: all works, and the kernel counts nothing that looked for one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.needs import missing
from support.project_copy import DAG_ID, new_local_project

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]
COMMANDS = (
    "up",
    "trigger",
    "status",
    "dags",
    "runs",
    "explain",
    f"task-log {DAG_ID} latest generate_labels",
    "verify-db --expect reconciled",
    "report",
    "check",
    "doctor --only airflow,databases,label-lag",
    "down",
)
# In a network namespace of its own: packets, and connections, that found no route. IP, then IPv6.
NETWORK = """
import json, subprocess, sys

def lost():
    text = open("/proc/net/snmp").read().splitlines()
    names, values = (line.split() for line in text if line.startswith("Ip:"))
    more = dict(line.split() for line in open("/proc/net/snmp6"))
    return int(dict(zip(names, values))["OutNoRoutes"]) + int(more["Ip6OutNoRoutes"])

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
before = lost()
for command in json.loads(sys.argv[2]):
    words = [sys.executable, "-m", "pipectl", "--engine", "local", "--project", sys.argv[1], *command.split()]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    print(f"$ {command}: {done.returncode}", done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
    if done.returncode:
        sys.exit(1)
    print(json.dumps([command, lost() - before]))
subprocess.run([sys.executable, "-c", "import socket; socket.socket().connect_ex(('192.0.2.1', 80))"])
print(json.dumps(["a way out", lost() - before]))
"""


def test_a_stack_without_a_network_works_and_looks_for_none(tmp_path: Path) -> None:
    if not shutil.which("ip") or subprocess.run(["unshare", "--net", "true"], check=False).returncode:
        missing("namespaces", "no network namespace can be made: not root, no unshare, or no ip")
    with new_local_project(tmp_path) as project:
        done = subprocess.run(
            ["unshare", "--net", sys.executable, "-c", NETWORK, str(project.folder), json.dumps(COMMANDS)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    looked = dict(json.loads(line) for line in done.stdout.splitlines())
    # The last shows that the kernel counts.
    assert looked.pop("a way out") > 0
    assert looked == dict.fromkeys(COMMANDS, 0)
