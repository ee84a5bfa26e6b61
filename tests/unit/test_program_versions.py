"""When a program is asked for its version, and when its answer of before counts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipectl.engines.local import program_versions
from pipectl.engines.local.program_versions import FILE, version_of

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program of the system, which says its version."""
    found = shutil.which("ls")
    if found is None or Path(found).read_bytes()[:4] != program_versions.BINARY:
        pytest.skip("no binary of Linux is at hand")
    return Path(shutil.copy(found, tmp_path / "program"))


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ld.so.cache"
    path.write_text("libraries")
    monkeypatch.setattr(program_versions, "SYSTEM_LIBRARIES", path)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The programs that were asked."""
    found: list[Path] = []
    real = program_versions._asked

    def ask(binary: Path, *rest: object) -> str:
        found.append(binary)
        return real(binary, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(program_versions, "_asked", ask)
    return found


def test_a_program_that_is_the_same_is_not_asked_again(
    program: Path, libraries: Path, asked: list[Path], tmp_path: Path
) -> None:
    assert libraries.exists()
    cache = tmp_path / "cache"
    said = [version_of(program, cache_dir=cache) for _ in range(2)]
    assert said[0] == said[1] != ""
    assert asked == [program]
    # Other options, and no cache to keep it in.
    assert version_of(program, "--all", cache_dir=cache) == said[0] == version_of(program)
    assert len(asked) == 3
    assert [path.name for path in cache.iterdir()] == [FILE]


def test_a_program_is_asked_again_once_it_or_its_libraries_have_changed(
    program: Path, libraries: Path, asked: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "lib"
    folder.mkdir()

    def ask() -> str:
        return version_of(program, environment={"LD_LIBRARY_PATH": str(folder)}, cache_dir=tmp_path)

    def replace(path: Path) -> None:
        shutil.copy(path, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    ask()
    changes: list[Callable[[], None]] = [
        lambda: replace(program),
        lambda: replace(libraries),
        (folder / "a.so").touch,
    ]
    for count, change in enumerate(changes, start=2):
        change()
        assert ask() == ask() != ""
        assert len(asked) == count
    libraries.unlink()
    assert ask() == ask() != ""
    assert len(asked) == 6


def test_a_file_whose_time_was_set_back_is_another_one(
    program: Path, libraries: Path, asked: list[Path], tmp_path: Path
) -> None:
    assert libraries.exists()
    before = program.stat()
    version_of(program, cache_dir=tmp_path)
    os.utime(program, ns=(before.st_atime_ns, before.st_mtime_ns))
    version_of(program, cache_dir=tmp_path)
    assert len(asked) == 2


def test_what_a_script_says_is_not_kept(asked: list[Path], tmp_path: Path) -> None:
    script = tmp_path / "program"
    script.write_text("#!/bin/sh\necho 1.0\n")
    script.chmod(0o755)
    assert [version_of(script, cache_dir=tmp_path / "cache") for _ in range(2)] == ["1.0\n"] * 2
    assert len(asked) == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"PROGRAM": ["mark"]}', '{"PROGRAM": "mark"}'])
def test_a_file_that_somebody_has_changed_is_written_anew(
    program: Path, libraries: Path, asked: list[Path], tmp_path: Path, content: str
) -> None:
    assert libraries.exists()
    (tmp_path / FILE).write_text(content.replace("PROGRAM", str(program)))
    assert version_of(program, cache_dir=tmp_path) == version_of(program, cache_dir=tmp_path) != ""
    assert len(asked) == 1


def test_a_cache_that_cannot_be_written_is_done_without(
    program: Path, libraries: Path, tmp_path: Path
) -> None:
    assert libraries.exists()
    (tmp_path / "cache").write_text("no folder")
    assert version_of(program, cache_dir=tmp_path / "cache") != ""
