"""Projects of one's own: what `init` makes, and what `upgrade` changes of it."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipectl.commands.init import result_text as init_text
from pipectl.commands.upgrade import result_text
from pipectl.engines.project import RECORD, restoring
from pipectl.errors import EngineError, UsageError
from pipectl.pipeline import initialising, scaffold, upgrading
from pipectl.pipeline.initialising import initialise
from pipectl.pipeline.scaffold import Scaffold, ScaffoldFile, recorded, todays
from pipectl.pipeline.upgrading import upgrade
from support.text import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

LINES = "".join(f"line {number}\n" for number in range(12))


def changed(number: int, text: str, content: str = LINES) -> str:
    return content.replace(f"line {number}\n", f"{text}\n")


def release(monkeypatch: pytest.MonkeyPatch, version: str, files: Mapping[str, str]) -> Scaffold:
    """Let pipectl be of a version that has these files."""
    found = Scaffold(version, {name: ScaffoldFile(text.encode()) for name, text in files.items()})
    for module in (initialising, upgrading):
        monkeypatch.setattr(module, "todays", lambda: found)
    return found


MERGES = pytest.mark.skipif(shutil.which("git") is None, reason="git merges files that both sides changed")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of version 1."""
    release(monkeypatch, "1.0.0", {"dags/a.py": LINES, "dags/b.py": LINES, "stack/c.env": LINES})
    return initialise(tmp_path / "shop").folder


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and path.name != "scaffold.zip"
    }


def unwrapped(content: RenderableType) -> str:
    return " ".join(plain(content).split())


def actions(project: Path, *, dry_run: bool = False) -> dict[str, str]:
    return {change.path: change.action for change in upgrade(project, dry_run=dry_run).changes}


def test_a_new_project_has_the_scaffold_and_the_record_of_it(tmp_path: Path) -> None:
    made = initialise(tmp_path / "deep" / "shop")
    files = todays().files
    assert {
        "dags/generate_data_dag.py",
        "stack/docker-compose.yml",
        "README.md",
        ".gitignore",
    } <= files.keys()
    assert contents(made.folder).keys() == files.keys()
    assert recorded(made.folder) == todays()
    # As the caller's umask has it: containers read it with another user's id.
    for path in (made.folder, made.folder / "entrypoint.sh"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~initialising._umask()
    assert [path.name for path in made.folder.parent.iterdir()] == ["shop"]


def test_the_version_stands_in_the_files_of_users_alone() -> None:
    marked = [name for name, file in todays().files.items() if scaffold.VERSION_MARK in file.content]
    assert marked == []
    assert f"pipectl=={todays().version}" in todays().files[".github/workflows/pipeline.yml"].content.decode()


def test_a_folder_with_other_files_is_filled_around_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(monkeypatch, "1.0.0", {"dags/a.py": LINES, "stack/b": LINES})
    (tmp_path / "dags").mkdir()
    (tmp_path / "LICENSE").write_text("mine")
    (tmp_path / "dags" / "a.py").write_text(LINES)
    monkeypatch.chdir(tmp_path)
    assert initialise(tmp_path / ".").folder == tmp_path
    assert contents(tmp_path) == {"dags/a.py": LINES, "stack/b": LINES, "LICENSE": "mine"}


@pytest.mark.parametrize("taken", ["dags/a.py", "dags", "stack"])
def test_nothing_is_overwritten_and_then_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    release(monkeypatch, "1.0.0", {"dags/a.py": LINES, "stack/b": LINES})
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("mine")
    with pytest.raises(UsageError, match="has already") as refused:
        initialise(tmp_path)
    assert "overwrites nothing" in refused.value.hint
    assert contents(tmp_path) == {taken: "mine"}


def test_a_link_elsewhere_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(monkeypatch, "1.0.0", {"dags/a.py": LINES})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "dags").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="has already"):
        initialise(tmp_path / "shop")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_interrupted_init_leaves_no_project_or_one_that_the_same_command_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(monkeypatch, "1.0.0", {"dags/a.py": LINES, "stack/b": LINES})
    write = initialising.write_file
    written: list[Path] = []

    def interrupted(path: Path, file: ScaffoldFile) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, file)

    (tmp_path / "there").mkdir()
    for name, left in (("new", None), ("there", {"dags/a.py": LINES})):
        with monkeypatch.context() as patch:
            patch.setattr(initialising, "write_file", interrupted)
            with pytest.raises(KeyboardInterrupt):
                initialise(tmp_path / name)
        written.clear()
        assert (contents(tmp_path / name) if (tmp_path / name).exists() else None) == left
        initialise(tmp_path / name)
        assert contents(tmp_path / name) == {"dags/a.py": LINES, "stack/b": LINES}


@pytest.mark.parametrize("name", ["x" * 300, "a\nb", "a\x1bb", "a\0b", "file", "file/below"])
def test_a_folder_that_can_be_none_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((UsageError, EngineError)) as refused:
        initialise(tmp_path / name)
    assert str(refused.value).isprintable()
    assert refused.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["dags/new", "stack/airflow/new", "scripts/dags"])
def test_a_project_does_not_begin_among_the_files_of_another(project: Path, place: str) -> None:
    before = contents(project)
    with pytest.raises(UsageError, match=f"among the files of the project {project}") as refused:
        initialise(project / place)
    assert "another folder" in refused.value.hint
    assert contents(project) == before
    # Beside them nobody reads it.
    assert initialise(project / "examples" / "new").files == 4


def test_a_folder_that_is_a_project_already_is_upgraded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(monkeypatch, "1.1.0", {"dags/a.py": changed(9, "new")})
    with pytest.raises(UsageError, match=r"has already: dags/a\.py") as refused:
        initialise(project)
    assert f"pipectl --project {shlex.quote(str(project))} upgrade" in refused.value.hint


@pytest.mark.parametrize("has_git", [pytest.param(True, marks=MERGES), False])
def test_a_project_gets_back_what_it_has_lost_by_the_command_that_is_named(
    project: Path, *, has_git: bool
) -> None:
    """From git, which has the user's changes, or as it began."""
    (project / "dags" / "b.py").write_text("mine")
    before = contents(project)
    if has_git:
        for command in ("init", "add .", "-c user.name=a -c user.email=a@b commit -m a"):
            subprocess.run(["git", "-C", str(project), *command.split()], check=True, capture_output=True)
    for name in ("dags/a.py", "stack/c.env"):
        (project / name).unlink()
    named = restoring(project / "dags" / "a.py", project / "stack" / "c.env")
    program, *words = shlex.split(named)
    if has_git:
        subprocess.run([program, *words], check=True, capture_output=True)
    else:
        assert (program, *words) == ("pipectl", "init", str(project))
        completed = initialise(project)
        assert (completed.files, completed.added) == (4, 2)
        assert f"Completed the project in {project}: 2 files added." in unwrapped(init_text(completed))
        assert f"The project in {project} has all of its files." in unwrapped(init_text(initialise(project)))
    shutil.rmtree(project / ".git", ignore_errors=True)
    assert contents(project) == before


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(initialising, "write_file", full)
    with pytest.raises(EngineError, match="No space left") as refused:
        initialise(tmp_path / "shop")
    assert "Make room" in refused.value.hint
    assert not list(tmp_path.iterdir())


@MERGES
def test_an_upgrade_replaces_what_is_as_it_began_and_merges_the_rest(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "dags" / "b.py").write_text(changed(1, "mine"))
    (project / "dags" / "own.py").write_text("mine")
    today = release(
        monkeypatch,
        "1.1.0",
        {
            "dags/a.py": changed(9, "new"),
            "dags/b.py": changed(9, "new"),
            "stack/c.env": LINES,
            "stack/d": LINES,
        },
    )
    before = contents(project)
    expected = {"dags/a.py": "updated", "dags/b.py": "merged", "stack/d": "added"}
    assert actions(project, dry_run=True) == expected
    assert contents(project) == before
    assert recorded(project).version == "1.0.0"
    assert actions(project) == expected
    assert contents(project) == {
        "dags/a.py": changed(9, "new"),
        "dags/b.py": changed(9, "new", changed(1, "mine")),
        "dags/own.py": "mine",
        "stack/c.env": LINES,
        "stack/d": LINES,
    }
    assert recorded(project) == today
    assert actions(project) == {}


@MERGES
def test_a_diff_is_of_the_projects_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "dags" / "b.py").write_text(changed(1, "mine"))
    release(monkeypatch, "1.1.0", {"dags/b.py": changed(9, "new"), "dags/a.py": LINES, "stack/c.env": LINES})
    [change] = upgrade(project, dry_run=True).changes
    assert (change.lines_added, change.lines_removed) == (1, 1)
    assert "-line 9\n+new" in change.diff
    assert "mine" not in change.diff.replace(" mine", "")


def contradiction(project: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let both sides change the same line; return what the project has then."""
    (project / "dags" / "a.py").write_text(changed(9, "mine"))
    release(monkeypatch, "1.1.0", {"dags/a.py": changed(9, "new"), "dags/b.py": LINES, "stack/c.env": LINES})
    return contents(project)


@MERGES
def test_lines_that_contradict_each_other_leave_the_users_file(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contradiction(project, monkeypatch)
    assert upgrade(project, dry_run=False).conflicts == ("dags/a.py",)
    assert contents(project) == {**before, "dags/a.py.new": changed(9, "new")}
    # The next upgrade begins with today's, and tells of what is left of this one.
    again = upgrade(project, dry_run=False)
    assert (again.changes, again.unmerged) == ((), ("dags/a.py",))
    printed = plain(result_text(again))
    assert "dags/a.py.new is still to be merged into dags/a.py" in printed
    # Another one replaces what the first has left.
    release(
        monkeypatch, "1.2.0", {"dags/a.py": changed(9, "newer"), "dags/b.py": LINES, "stack/c.env": LINES}
    )
    assert upgrade(project, dry_run=False).conflicts == ("dags/a.py",)
    assert contents(project) == {**before, "dags/a.py.new": changed(9, "newer")}
    (project / "dags" / "a.py.new").replace(project / "dags" / "a.py")
    assert upgrade(project, dry_run=False).unmerged == ()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (None, "is not installed"),
        ("#!/bin/sh\necho 'git: no developer tools' >&2\nexit 1\n", "could not merge"),
    ],
)
def test_without_a_git_that_merges_nothing_is_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str | None, words: str
) -> None:
    before = contradiction(project, monkeypatch)
    if program:
        (tmp_path / "git").write_text(program)
        (tmp_path / "git").chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda _: str(tmp_path / "git") if program else None)
    with pytest.raises(EngineError, match=words) as refused:
        upgrade(project, dry_run=False)
    assert str(project / "dags" / "a.py") in refused.value.message
    assert refused.value.detail == ("git: no developer tools" if program else "")
    assert contents(project) == before
    assert recorded(project).version == "1.0.0"


@MERGES
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_stands_where_a_file_is_to_be_written_is_named_before_anything_is_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    place = project / "dags" / "a.py.new"
    if kind == "file":
        place.write_text("mine")
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("b.py")
    (project / "stack" / "c.env").write_text("mine")
    before = contradiction(project, monkeypatch)
    with pytest.raises(UsageError, match=r"a\.py\.new is there already") as refused:
        upgrade(project, dry_run=False)
    assert f"mv {shlex.quote(str(place))}" in refused.value.hint
    assert contents(project) == before
    assert recorded(project).version == "1.0.0"


def test_a_file_in_the_place_of_a_new_folder_is_named_before_anything_is_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "scripts").write_text("mine")
    release(monkeypatch, "1.1.0", {"dags/a.py": changed(9, "new"), "scripts/checks/x.sql": LINES})
    before = contents(project)
    with pytest.raises(UsageError, match="scripts is no folder") as refused:
        upgrade(project, dry_run=False)
    assert f"mv {shlex.quote(str(project / 'scripts'))}" in refused.value.hint
    assert contents(project) == before


@MERGES
def test_windows_line_ends_are_no_change_of_the_users(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"dags/a.py": changed(9, "new"), "dags/b.py": changed(9, "new"), "stack/c.env": LINES}
    (project / "dags" / "b.py").write_text(changed(1, "mine"))
    for path in project.glob("*/*.*"):
        if path.name != "scaffold.zip":
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    release(monkeypatch, "1.1.0", files)
    assert actions(project) == {"dags/a.py": "updated", "dags/b.py": "merged"}
    # What is written has the scaffold's; the others stay.
    assert (project / "dags" / "b.py").read_bytes() == changed(9, "new", changed(1, "mine")).encode()
    assert (project / "stack" / "c.env").read_bytes() == LINES.replace("\n", "\r\n").encode()


def test_no_file_of_the_scaffold_has_windows_line_ends() -> None:
    assert [name for name, file in todays().files.items() if b"\r\n" in file.content] == []


def test_what_the_user_deleted_stays_so_and_what_is_needed_no_longer_goes(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "dags" / "a.py").unlink()
    (project / "stack" / "c.env").write_text("mine")
    release(monkeypatch, "1.1.0", {"dags/a.py": changed(9, "new")})
    result = upgrade(project, dry_run=False)
    assert {change.path: change.action for change in result.changes} == {
        "dags/a.py": "absent",
        "dags/b.py": "deleted",
        "stack/c.env": "kept",
    }
    # What whoever has renamed it would carry over.
    assert "-line 9\n+new" in result.changes[0].diff
    assert "stays away since you deleted or renamed it (+1 -1)" in plain(result_text(result))
    assert contents(project) == {"stack/c.env": "mine"}
    assert actions(project) == {}


def test_a_new_file_by_the_name_of_a_users_own_is_no_file_to_overwrite(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "dags" / "d.py").write_text("mine")
    (project / "dags" / "e.py").symlink_to("d.py")
    (project / "dags" / "f.py").mkdir()
    files = {f"dags/{name}.py": LINES for name in "abdef"} | {"stack/c.env": LINES}
    release(monkeypatch, "1.1.0", files)
    assert actions(project) == {f"dags/{name}.py": "conflict" for name in "def"}
    assert contents(project)["dags/d.py"] == "mine"
    assert (project / "dags" / "e.py").is_symlink()


@MERGES
def test_an_interrupted_upgrade_goes_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "dags" / "a.py").write_text(changed(1, "mine"))
    release(
        monkeypatch, "1.1.0", {name: changed(9, "new") for name in ("dags/a.py", "dags/b.py", "stack/c.env")}
    )
    write = initialising.write_file

    def interrupted(path: Path, file: ScaffoldFile) -> None:
        write(path, file)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "write_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            upgrade(project, dry_run=False)
    # What SIGKILL leaves of the file that was being written.
    (project / "dags" / ".b.py.new-x1y2z3").write_text("lin")
    assert actions(project) == {"dags/b.py": "updated", "stack/c.env": "updated"}
    assert contents(project) == {
        "dags/a.py": changed(9, "new", changed(1, "mine")),
        "dags/b.py": changed(9, "new"),
        "stack/c.env": changed(9, "new"),
    }


def test_a_project_of_a_newer_pipectl_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(monkeypatch, "0.9.12", {"dags/a.py": "old"})
    with pytest.raises(UsageError, match=r"pipectl 1\.0\.0, and this pipectl is 0\.9\.12") as refused:
        upgrade(project, dry_run=False)
    assert "'pipectl>=1.0.0'" in refused.value.hint
    assert contents(project)["dags/a.py"] == LINES


@pytest.mark.parametrize(
    ("before", "after", "is_older"),
    [
        ("1.0.0.dev0", "1.0.0", False),
        ("1.0.0", "1.0.0.dev0", False),
        ("1.0.0.dev0", "1.0.1", False),
        ("1.0.1", "1.0.1.dev0", False),
        ("1.0.1.dev0", "1.0.0", True),
        ("1.10.0", "1.9.9", True),
    ],
)
def test_a_version_in_the_making_counts_as_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, *, is_older: bool
) -> None:
    release(monkeypatch, before, {"dags/a.py": LINES, "stack/b": LINES})
    made = initialise(tmp_path / "shop").folder
    release(monkeypatch, after, {"dags/a.py": LINES, "stack/b": LINES})
    if is_older:
        with pytest.raises(UsageError, match="which is older"):
            upgrade(made, dry_run=False)
    else:
        assert (upgrade(made, dry_run=False).changes, recorded(made).version) == ((), after)


def test_a_clone_of_pipectl_is_upgraded_by_git() -> None:
    with pytest.raises(UsageError, match="is a clone of pipectl") as refused:
        upgrade(scaffold.CLONE, dry_run=True)
    assert "git pull" in refused.value.hint


def archive(*names: str, comment: bytes = b"1.0.0") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as written:
        written.comment = comment
        for name in names:
            written.writestr(name, "")
    return packed.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", archive("../x"), archive("/etc/x"), archive("dags/"), archive("dags/a.py", comment=b"")],
)
def test_a_damaged_record_is_named(project: Path, content: bytes) -> None:
    (project / RECORD).write_bytes(content)
    with pytest.raises(UsageError, match=r"scaffold\.zip cannot be read") as refused:
        upgrade(project, dry_run=False)
    assert f"git -C {shlex.quote(str(project))} checkout -- stack/scaffold.zip" in refused.value.hint


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), length=st.integers(0, 10_000))
def test_whatever_a_record_is_damaged_by_is_told(place: int, byte: int, length: int) -> None:
    """Damaged data are zlib's errors, a damaged directory may be any."""
    files = {"dags/a.py": ScaffoldFile(LINES.encode() * 50), "stack/c.env": ScaffoldFile(b"A=1")}
    damaged = bytearray(Scaffold("1.0.0", files).packed())
    damaged[place % len(damaged)] = byte
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, RECORD)
        record.parent.mkdir()
        for content in (damaged, damaged[: length % len(damaged)]):
            record.write_bytes(content)
            try:
                said = f"of {recorded(Path(folder)).version}"
            except UsageError as error:
                said = error.message
            assert re.search(r"^of .|scaffold\.zip cannot be read: .", said)


def test_a_project_without_a_record_is_of_the_first_release(project: Path) -> None:
    (project / RECORD).unlink()
    assert recorded(project).version == scaffold.FIRST_RELEASE
    assert "dags/generate_data_dag.py" in recorded(project).files
