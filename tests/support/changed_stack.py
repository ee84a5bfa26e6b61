"""What `up` does to a running stack of which something has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from support.project_copy import Project

AnyProject = TypeVar("AnyProject", bound="Project")


def replaced_by_up(
    project: AnyProject, sentence: str, look: Callable[[AnyProject], Mapping[str, object]]
) -> set[str]:
    """Run `up`, check what it says, and return the names for which `look` then sees something else."""
    before = look(project)
    done = project.run("up")
    now = look(project)
    assert sentence in done.stderr
    assert all(now.values())
    assert project.json("up")["started"] == []
    return {name for name in now if now[name] != before[name]}


def append(path: Path, text: str) -> None:
    """Add lines to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")
