"""uv with the caller's indexes, proxies, certificates and cache, and with no other setting of the caller.

Constraints, overrides, dates and the like would change what a lock file pins. They come from the environment
and from files of settings: uv.toml or pyproject.toml in the current folder or above it, the user's, the
machine's.

`python -m pipectl.engines.local.uv ARGUMENT…` runs it for ops/lock.sh.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import tomllib
from contextlib import contextmanager
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
    from uv import find_uv_bin

    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        # uv reads no other file of settings then.
        file.write("".join(f"{name} = {_toml(value)}\n" for name, value in settings().items()))
        file.flush()
        yield find_uv_bin(), surroundings.of_installers(UV_CONFIG_FILE=file.name, UV_NO_PROGRESS="1")


def settings() -> dict[str, Any]:
    """Return what uv's files of settings say about how packages are reached; the nearest file wins."""
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
    own = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111  there may be no home
    shared = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    yield from (Path(folder, "uv", "uv.toml") for folder in (own, *shared.split(":"), "/etc"))


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(entry)}" for name, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # Of JSON's other values, those that settings have are TOML's too.
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    try:
        sys.stdout.write(run(tuple(sys.argv[1:]), EngineError("uv failed.")))
    except PipectlError as error:
        sys.exit(f"{error.detail}\n{error}")
