"""Pipes, devices and gigabytes in the place of the project's small files: said in a sentence, at once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from pipectl import cli, ordinary

if TYPE_CHECKING:
    from pathlib import Path

FILES = (
    "stack/.env",
    "stack/.env.example",
    "stack/airflow/airflow.env",
    "stack/airflow/user.env",
    ".pipectl",
    ".pipectl/engine",
    ".pipectl/settings.json",
    ".pipectl/logs/webserver.log",
    ".pipectl/run/supervisord.pid",
    ".pipectl/volumes/postgres/created",
)
COMMANDS = ("status", "up --dry-run", "logs --tail 1", "down", "reset --dry-run")


def replace_with(kind: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        with path.open("w") as file:
            file.write("A=1\n")
            file.truncate(2**31)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "sparse"])
def test_what_is_no_small_ordinary_file_is_an_error(tmp_path: Path, kind: str) -> None:
    replace_with(kind, tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        ordinary.read_text(tmp_path / "file")


def test_line_ends_are_read_as_in_any_text(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert ordinary.read_text(tmp_path / "file", "utf-8-sig") == "a\nb\n"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
@pytest.mark.parametrize("name", FILES)
def test_no_command_waits_for_what_stands_in_a_files_place(tmp_path: Path, name: str, kind: str) -> None:
    for folder in ("dags", "stack/airflow"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "stack" / "airflow" / "airflow.env").touch()
    replace_with(kind, tmp_path / name)
    for command in COMMANDS:
        done = CliRunner().invoke(
            cli.app, ["--engine", "local", "--project", str(tmp_path), *command.split()]
        )
        assert done.exit_code in {0, 2, 3}, done.stderr
        assert done.exception is None or isinstance(done.exception, SystemExit)
