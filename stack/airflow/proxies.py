"""Proxies of Airflow's processes: this stack's own addresses are always exempt, in a form that httpx reads.

    proxies.py COMMAND ARGUMENT…      becomes the command

Tasks ask Airflow's API through httpx, which takes proxies from the environment as urllib does, and fails as
a whole if it cannot read one proxy or one exemption: `[::1]`, `fe80::/10`, SOCKS. Such are left out, here and
for what tasks run themselves; everything else stays.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Services of docker-compose.yml; on other engines nobody has these names.
SERVICES = ("webserver", "airbyte-postgres", "airbyte-mysql", "postgres", "redis")
TASKS_API = "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
EXEMPT = "no_proxy"
EXEMPTION = re.compile(r"[A-Za-z0-9._/*%-]+(:\d{1,5})?")
PRINTABLE = re.compile("[!-~]+")


def settle() -> None:
    """Change this process's variables; say on stderr what is left out."""
    for sentence in exempt_own_addresses():
        sys.stderr.write(f"pipectl: {sentence}\n")


def exempt_own_addresses() -> list[str]:
    """Change this process's variables, and return a sentence for each part that is left out."""
    told = []
    for name in (*PROXIES, *map(str.upper, PROXIES)):
        if os.environ.get(name) and not is_readable(os.environ[name]):
            del os.environ[name]
            told.append(f"{name} is left out: Airflow's httpx takes none but http:// and https:// proxies")
    # As urllib has it: written small it counts, even if it is empty.
    written = os.environ.get(EXEMPT, os.environ.get(EXEMPT.upper(), ""))
    exempt = []
    for entry in filter(None, (part.strip() for part in written.split(","))):
        if readable := readable_exemption(entry):
            exempt.append(readable)
        else:
            told.append(f"{entry!r} of {EXEMPT} is left out: Airflow's httpx cannot read it")
    if "*" not in exempt:
        own = urlsplit(os.environ.get(TASKS_API, "")).hostname
        exempt += [host for host in (*LOOPBACK, *SERVICES, own) if host and host not in exempt]
    os.environ[EXEMPT] = os.environ[EXEMPT.upper()] = ",".join(exempt)
    return told


def readable_exemption(entry: str) -> str:
    """Return an entry of no_proxy as httpx and urllib both read it, empty if they do not."""
    bare = entry[1:-1] if entry.startswith("[") and entry.endswith("]") else entry
    try:
        return str(ipaddress.IPv6Address(bare))
    except ValueError:
        pass
    # A star before a domain's dot is a habit of other programs.
    host = entry.removeprefix("*") if entry.startswith("*.") else entry
    return host if EXEMPTION.fullmatch(host) else ""


def is_readable(proxy: str) -> bool:
    """Whether httpx takes a proxy's address."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        # `port` raises ValueError for a port that is none.
        usable = bool(parts.hostname) and parts.port != 0
        return usable and parts.scheme in {"http", "https"} and bool(PRINTABLE.fullmatch(proxy))
    except ValueError:
        return False


if __name__ == "__main__":
    settle()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  no shell is wanted
