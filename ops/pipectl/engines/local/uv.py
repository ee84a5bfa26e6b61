"""uv with the caller's indexes, proxies, certificates and cache, and with no other setting of the caller.

If uv has no settings for indexes, those of pip count, which uv itself does not read.

Constraints, overrides, dates and the like would change what a lock file pins. They come from the environment
and from files of settings: uv.toml or pyproject.toml in the current folder or above it, the user's, the
machine's.

`python -m pipectl.engines.local.uv ARGUMENT…` runs it for ops/lock.sh and `make site`.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipectl import surroundings
from pipectl.engines.local.install import ignore, run_tool
from pipectl.errors import EngineError, PipectlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEPT = frozenset(
    {
        "allow-insecure-host",
        "cache-dir",
        "concurrent-downloads",
        "extra-index-url",
        "find-links",
        "http-proxy",
        "https-proxy",
        "index",
        "index-strategy",
        "index-url",
        "keyring-provider",
        "native-tls",
        "no-cache",
        "no-index",
        "no-proxy",
        "offline",
        "system-certs",
    }
)

# What says that uv has indexes of its own.
INDEXES = frozenset({"extra-index-url", "find-links", "index", "index-url", "no-index"})
INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_INDEX", "UV_NO_INDEX")
# pip's settings, and the variables that uv takes the same from.
OF_PIP = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
}


def run(arguments: tuple[str, ...], failure: EngineError, *, watch: Callable[[str], None] = ignore) -> str:
    """Run uv, whose lines `watch` sees, and return its output.

    Raises:
        EngineError: `failure`, with uv's last lines as its detail.

    """
    with environment() as (program, variables):
        return run_tool((program, *arguments), failure, variables, watch=watch)


@contextmanager
def environment() -> Iterator[tuple[str, dict[str, str]]]:
    """Give uv's program, and the variables to run it with, for the time of the block."""
    import tempfile  # noqa: PLC0415

    from uv import find_uv_bin

    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        # uv reads no other file of settings then.
        own = settings()
        file.write("".join(f"{name} = {_toml(value)}\n" for name, value in own.items()))
        file.flush()
        variables = surroundings.of_installers(UV_CONFIG_FILE=file.name, UV_NO_PROGRESS="1")
        if not own.keys() & INDEXES and not any(name.startswith(INDEX_VARIABLES) for name in variables):
            variables = _of_pip() | variables
        yield find_uv_bin(), variables


def _of_pip() -> dict[str, str]:
    """Return pip's settings for indexes as uv's variables; pip's own variables win over its files."""
    import configparser  # noqa: PLC0415  5 ms, for an installation alone

    reader = configparser.RawConfigParser(strict=False)
    chosen = os.environ.get("PIP_CONFIG_FILE", "")
    old = os.path.expanduser("~/.pip")  # noqa: PTH111  there may be no home
    usual = (Path("/etc/pip.conf"), Path(old, "pip.conf"), Path(_own_settings(), "pip", "pip.conf"))
    for path in (*(() if chosen == os.devnull else usual), chosen):
        # One that cannot be read says nothing.
        with suppress(configparser.Error, OSError, ValueError):
            reader.read(path, encoding="utf-8")
    found = {}
    for name, variable in OF_PIP.items():
        value = next(
            (reader[part][name] for part in ("install", "global") if reader.has_option(part, name)), ""
        )
        value = os.environ.get(f"PIP_{name.upper().replace('-', '_')}", value).strip()
        if value:
            found[variable] = value if name == "cert" else " ".join(value.split())
    if "UV_INDEX" in found:
        # pip takes the best version of all indexes; uv looks no further than the first with a package.
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return found


def settings() -> dict[str, Any]:
    """Return what uv's files of settings say about how packages are reached; the nearest file wins."""
    import tomllib  # noqa: PLC0415  5 ms

    found: dict[str, Any] = {}
    for path in _files():
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
            if path.name == "pyproject.toml":
                content = content.get("tool", {}).get("uv", {})
            for part in (content, content.get("pip", {})):
                found = {name: value for name, value in part.items() if name in KEPT} | found
        except (OSError, ValueError, AttributeError):
            continue
    return found


def _files() -> Iterator[Path]:
    """Yield the files that uv would read, the nearest first."""
    if "UV_NO_CONFIG" in os.environ:
        return
    if chosen := os.environ.get("UV_CONFIG_FILE"):
        yield Path(chosen)
        return
    here = Path.cwd()
    for folder in (here, *here.parents):
        yield from (folder / "uv.toml", folder / "pyproject.toml")
    shared = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    yield from (Path(folder, "uv", "uv.toml") for folder in (_own_settings(), *shared.split(":"), "/etc"))


def _own_settings() -> str:
    return os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111  there may be no home


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # Of JSON's other values, those that settings have are TOML's too.
    return json.dumps(value, ensure_ascii=False)


def _show(line: str) -> None:
    sys.stderr.write(line)


if __name__ == "__main__":
    try:
        run(tuple(sys.argv[1:]), EngineError("uv failed."), watch=_show)
    except PipectlError as error:
        sys.exit(str(error))
