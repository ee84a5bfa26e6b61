"""stack/.env: what is changed, what survives, who can read it."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipectl.env_file import EnvFile
from pipectl.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.text(string.ascii_uppercase + "_", min_size=1, max_size=12)
VALUES = st.text(string.ascii_letters + string.digits + "-_=.:/", max_size=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("env")


@given(st.dictionaries(NAMES, VALUES), st.dictionaries(NAMES, VALUES))
def test_an_update_changes_what_it_names_and_nothing_else(
    folder: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    file = EnvFile(folder / ".env")
    file.path.unlink(missing_ok=True)
    file.update(first)
    file.update(second)
    assert file.read() == {**first, **second}


def test_comments_and_order_survive_an_update(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# mine\nexport B=1\n\nA=2 \n")
    EnvFile(path).update({"B": "3", "C": "4"})
    assert path.read_text() == "# mine\nexport B=3\n\nA=2 \nC=4\n"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_name_that_stands_there_twice_has_the_new_value(tmp_path: Path, end: str) -> None:
    path = tmp_path / ".env"
    path.write_text(f"A=1\nB=2\nA=3{end}", newline="")
    EnvFile(path).update({"A": "4", "C": "5"})
    assert EnvFile(path).read() == {"A": "4", "B": "2", "C": "5"}
    assert path.read_text() == "A=1\nB=2\nA=4\nC=5\n"


def test_the_mark_with_which_windows_editors_begin_a_file_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    for text in ("A=1\n", "# mine\nA=1\n"):
        path.write_text(f"\ufeff{text}", encoding="utf-8")
        assert EnvFile(path).read() == {"A": "1"}
        EnvFile(path).update({"A": "2"})
        assert path.read_text() == text.replace("1", "2")


def test_nobody_else_can_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "stack" / ".env"
    EnvFile(path).update({"SECRET": "x"})
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_file_is_no_variables(tmp_path: Path) -> None:
    assert EnvFile(tmp_path / ".env").read() == {}


@pytest.mark.parametrize(
    ("text", "line"), [("A=1\nno assignment\n", 2), ("A='open\nB=2\n", 1), ("\n\nNAME_ALONE\n", 3)]
)
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / ".env"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"line {line}, is not NAME=value"):
        EnvFile(path).read()


def test_a_file_that_is_no_text_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    # It has secrets that nobody else knows: a line is named, and nothing is to be deleted.
    path.write_bytes(b"A=1\n" * 20_000 + b"B=caf\xe9\n")
    with pytest.raises(UsageError, match=r"cannot be read: line 20001 has the byte 0xE9, which") as caught:
        EnvFile(path).read()
    assert caught.value.hint == f"Mend {path}."
