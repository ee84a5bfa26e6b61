"""What `up` does to a running stack of which something has changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from support.project_copy import Project

AnyProject = TypeVar("AnyProject", bound="Project")


def replaced_by_up(
    project: AnyProject, sentence: str, look: Callable[[AnyProject], Mapping[str, object]]
) -> set[str]:
    """Run `up`, check what it says, and return the names for which `look` then sees something else.

    `up --dry-run` has said the same before, and done nothing.
    """
    before = look(project)
    plan = project.json("up", "--dry-run")
    assert look(project) == before
    done = project.run("up", "--json")
    now = look(project)
    assert sentence in done.stderr
    did = json.loads(done.stdout)
    # Some versions of Compose stop what depends on a container that they replace.
    more = {name: why for name, why in did["restarted"].items() if plan["would_restart"].get(name) != why}
    assert all(why.endswith((" restarts", " restart")) for why in more.values()), (plan, did)
    assert plan["would_restart"].keys() <= did["restarted"].keys(), (plan, did)
    assert {*plan["would_start"], *plan["would_restart"], *more} == set(did["started"])
    assert {name: ports["used"] for name, ports in plan["would_move"].items()} == {
        name: ports["used"] for name, ports in did["moved_ports"].items()
    }
    assert all(now.values())
    assert project.json("up")["started"] == []
    return {name for name in now if now[name] != before[name]}


def append(path: Path, text: str) -> None:
    """Add lines to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")
