"""What surrounds pipectl: the one place that chooses what it, and what it starts, take from the shell.

A process gets what is listed here, and what stack/ says; nothing else is inherited. Variables of no list
change what a client, an installer or an interpreter does, and mostly end in a message that names another
cause: PGHOSTADDR leads to another server, UV_CONSTRAINT to versions that nobody tried, PYTHONPATH to other
modules.
"""

from __future__ import annotations

import os
import pwd
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# What any program needs to run as this user on this machine.
MACHINE = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    # A Python or a server may have been built against libraries of another folder, and a user without an
    # entry in /etc/passwd may have one through nss_wrapper.
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "NSS_WRAPPER_PASSWD",
    "NSS_WRAPPER_GROUP",
)
# How addresses outside this machine are reached.
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXIES = tuple(
    spelling
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for spelling in (name, name.upper())
)
# Where packages come from, and where they are kept; engines/local/uv.py reads uv's own files of settings.
PACKAGES = (
    "APT_CONFIG",
    "NETRC",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "UV_CACHE_DIR",
    "UV_CREDENTIALS_DIR",
    "UV_DEFAULT_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_HTTP_CONNECT_TIMEOUT",
    "UV_HTTP_RETRIES",
    "UV_HTTP_TIMEOUT",
    "UV_INSECURE_HOST",
    "UV_KEYRING_PROVIDER",
    "UV_NATIVE_TLS",
    "UV_NO_CACHE",
    "UV_NO_INDEX",
    "UV_OFFLINE",
    "UV_REQUEST_TIMEOUT",
    "UV_SYSTEM_CERTS",
)
# UV_INDEX itself, UV_INDEX_URL and the logins of named indexes.
PACKAGE_PREFIX = "UV_INDEX"

# What a program on the user's own terminal draws, edits and remembers with.
TERMINAL = (
    "TERM",
    "COLORTERM",
    "TERMINFO",
    "TERMINFO_DIRS",
    "NO_COLOR",
    "SHELL",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "LESS",
    "INPUTRC",
    "PSQLRC",
    "PSQL_EDITOR",
    "PSQL_HISTORY",
    "PSQL_PAGER",
    "PSQL_WATCH_PAGER",
)

# libpq takes from these every parameter that a connection does not name, and some that none can. The MySQL
# clients' are fewer. Compose would take its files, its words and its output from its own.
CLIENT_PREFIXES = ("PG", "MYSQL_", "MARIADB_", "LIBMYSQL_", "COMPOSE_", "PYTHON_ON_WHALES_")
# pipectl speaks to an engine without TLS, and builds nothing.
CLIENT_NAMES = ("DOCKER_BUILDKIT", "DOCKER_CERT_PATH", "DOCKER_TLS", "DOCKER_TLS_VERIFY")
# Of those with such a prefix, settings of stack/.env.
SETTINGS = frozenset({"MYSQL_IMAGE", "COMPOSE_PROJECT_NAME"})
# Meant for Python programs of the caller's own. A Python that is not told otherwise has obeyed them already.
PYTHON = (
    "PYTHONBREAKPOINT",
    "PYTHONCASEOK",
    "PYTHONDEVMODE",
    "PYTHONINSPECT",
    "PYTHONOPTIMIZE",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONWARNINGS",
)
# Widths that Rich and Typer would convert, whatever they are.
WIDTHS = ("COLUMNS", "LINES", "TERMINAL_WIDTH")
NARROWEST, WIDEST = 20, 1000
OTHERS_MAY_NOT_WRITE = 0o022


def settle() -> None:
    """Make this process independent of what its caller happens to have; called once, before anything else.

    A Python that obeyed variables of the caller starts anew without them.
    """
    foreign = [name for name in PYTHON if name in os.environ and not holds_pipectl(os.environ[name])]
    for name in foreign:
        del os.environ[name]
    if foreign:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  this program, anew
    forget_clients()
    if not os.environ.get("HOME", "/"):
        del os.environ["HOME"]
    for name in WIDTHS:
        if name in os.environ and not is_width(os.environ[name]):
            del os.environ[name]
    # Others would else be able to replace what is installed into the cache, under a mask of 000.
    os.umask(os.umask(OTHERS_MAY_NOT_WRITE) | OTHERS_MAY_NOT_WRITE)
    open_streams()


def holds_pipectl(value: str) -> bool:
    """Whether a variable is the PYTHONPATH without which pipectl itself would not be found."""
    return os.path.dirname(os.path.dirname(__file__)) in map(os.path.abspath, value.split(os.pathsep))  # noqa: PTH120  before pathlib is imported


def forget_clients() -> None:
    """Take away the variables that clients of databases and of Docker would read."""
    for name in list(os.environ):
        if name in CLIENT_NAMES or (name.startswith(CLIENT_PREFIXES) and name not in SETTINGS):
            del os.environ[name]


def is_width(text: str) -> bool:
    """Whether a text is a number of columns or lines that names fit into."""
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(WIDEST))
    return digits and NARROWEST <= int(text) <= WIDEST


def open_streams() -> None:
    """Let characters that the terminal cannot spell be replaced, and closed streams go nowhere."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            # The next file or connection would else get the number, and what is meant for a terminal.
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  a number
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def environment(**more: str) -> dict[str, str]:
    """What a process needs of this machine, and `more`."""
    kept = _kept(MACHINE)
    if "USER" not in kept and "LOGNAME" not in kept:
        # Programs ask for the user's name, and not every user has an entry in /etc/passwd.
        kept["USER"] = _user_name()
    if os.path.isdir(folder := os.environ.get("TMPDIR", "")):  # noqa: PTH112  pathlib would take "" for "."
        kept["TMPDIR"] = folder
    if "HOME" not in kept:
        kept["HOME"] = _home()
    kept.setdefault("PATH", os.defpath)
    return kept | more


def with_network(**more: str) -> dict[str, str]:
    """`environment`, and the ways to addresses outside this machine."""
    return environment() | _kept(CERTIFICATES) | _kept(PROXIES) | more


def of_installers(**more: str) -> dict[str, str]:
    """`with_network`, and where packages come from and are kept."""
    indexes = tuple(name for name in os.environ if name.startswith(PACKAGE_PREFIX))
    return with_network() | _kept(PACKAGES) | _kept(indexes) | more


def of_docker() -> dict[str, str]:
    """All that there is: `user.env` may refer to any variable, and the docker client has its own."""
    return dict(os.environ)


def of_terminal(**more: str) -> dict[str, str]:
    """`with_network`, and what the user's own terminal and editor are."""
    return with_network() | _kept(TERMINAL) | more


def _kept(names: tuple[str, ...]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def has_account() -> bool:
    """Whether this user has an entry in /etc/passwd or whatever stands for it."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


def _user_name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name if has_account() else str(os.geteuid())


def _home() -> str:
    from tempfile import gettempdir  # noqa: PLC0415  10 ms, for a process without HOME alone

    home = pwd.getpwuid(os.geteuid()).pw_dir if has_account() else ""
    # A service's account often names a folder that is not there.
    return home if os.path.isdir(home) else gettempdir()  # noqa: PTH112  pathlib costs milliseconds here


def project_above(start: Path) -> Path | None:
    """Return the nearest folder from `start` upwards that has dags/ and stack/; None if none has."""
    for folder in (start, *start.parents):
        if (folder / "dags").is_dir() and (folder / "stack").is_dir():
            return folder
    return None
