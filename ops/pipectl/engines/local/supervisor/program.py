"""What the supervisor is told about one process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Program:
    """One supervised process.

    `environment` is what the process gets besides `surroundings.with_network`: secrets travel in it, never in
    `command`. `files` are those that it reads at its start alone, with their digests. `port` is the one that
    it listens on, if any; `ports` are those that its command or environment names, by their variables in
    stack/.env. `forked_from` names the program that this one may be forked from, once that has imported what
    both need; of that one `forks` is true. `stop_signal` is a signal's name without SIG; after `stop_seconds`
    the whole process group is killed.
    """

    name: str
    command: tuple[str, ...]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    stop_signal: str = "TERM"
    stop_seconds: int = 10
    forks: bool = False
    forked_from: str = ""
