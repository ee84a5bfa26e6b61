"""What is read from requirements.txt and from uv's words, and when the triggerer is needed."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

import packages
import triggers
from pipectl.engines.requirements import changed_note, explained
from pipectl.errors import EngineError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

PRESENT = {"apache-airflow": "3.3.2", "sqlalchemy": "2.1.9", "numpy": "2.4.6"}
# As uv 0.13 has it, and as versions before drew it.
DIRECT = """error: No solution found when resolving dependencies
  cause: Because you require sqlalchemy==1.3 and sqlalchemy==2.1.9, we can conclude that your requirements are
         unsatisfiable.
"""
DRAWN = """  \u00d7 No solution found when resolving dependencies:
  ╰─▶ Because snowflake-sqlalchemy==1.4.0 depends on
      sqlalchemy>=1.4.0,<2.0.0 and sqlalchemy==2.1.9, we can conclude that
      snowflake-sqlalchemy==1.4.0 cannot be used.
      And because you require snowflake-sqlalchemy==1.4.0, we can conclude that
      your requirements are unsatisfiable.
"""
MISSING = """error: No solution found when resolving dependencies
  cause: Because nobody-has-this was not found in the package registry and you require nobody-has-this, we can
         conclude that your requirements are unsatisfiable.
"""
FETCH = """error: Failed to fetch: `https://me:secret@index.example/simple/added/`
  Caused by: error sending request
  Caused by: invalid peer certificate: UnknownIssuer
"""


@pytest.mark.parametrize(
    ("output", "told", "code"),
    [
        (DIRECT, "requirements.txt asks for sqlalchemy==1.3 and Airflow 3.3.2 has sqlalchemy 2.1.9.", 2),
        (
            DRAWN,
            "requirements.txt cannot be installed: snowflake-sqlalchemy==1.4.0 depends on"
            " sqlalchemy>=1.4.0,<2.0.0 and Airflow 3.3.2 has sqlalchemy 2.1.9.",
            2,
        ),
        (
            MISSING,
            "requirements.txt cannot be installed: nobody-has-this was not found in the package registry and"
            " requirements.txt asks for nobody-has-this.",
            2,
        ),
        (
            FETCH,
            "requirements.txt: https://index.example/simple/added/ could not be read:"
            " invalid peer certificate: UnknownIssuer.",
            3,
        ),
        ("killed", "requirements.txt could not be installed: killed.", 3),
    ],
)
def test_a_failure_is_told_in_one_sentence(output: str, told: str, code: int) -> None:
    error = packages.explained(output, "", PRESENT)
    assert (str(error), error.code) == (told, code)


def test_lines_that_say_nothing_are_left_out_and_continued_ones_are_one() -> None:
    text = "# first\n\nnumpy>=2  # second\nother==1 \\\n  --hash=sha256:0\n-r more.txt\n"
    lines = [re.sub(" +", " ", line) for line in packages.lines_of(text)]
    assert lines == ["numpy>=2", "other==1 --hash=sha256:0", "-r more.txt"]


@pytest.mark.parametrize(
    ("line", "met"),
    [
        ("pytest>=1", True),
        ("pytest<1", False),
        ("nobody-has-this; python_version < '3'", True),
        ("pytest[testing]", False),
        ("-r more.txt", False),
        ("./a.whl", False),
        ("nobody-has-this", False),
    ],
)
def test_only_what_is_surely_there_needs_no_installation(line: str, *, met: bool) -> None:
    assert packages.is_met(line) is met


def test_layers_of_what_runs_and_of_before_are_kept(tmp_path: Path) -> None:
    for number, name in enumerate(("oldest", "before", "now")):
        (tmp_path / name).mkdir()
        (tmp_path / name / packages.COMPLETE).touch()
        os.utime(tmp_path / name / packages.COMPLETE, (number, number))
    (tmp_path / "cache").mkdir()
    packages.forget_old_layers(tmp_path / "now")
    assert {path.name for path in tmp_path.iterdir()} == {"before", "now", "cache"}


def test_the_exit_code_says_whose_mistake_it_was() -> None:
    mistake = explained("Resolving\nrequirements.txt, line 2, is no requirement: foo bar\n", 2, "look")
    assert type(mistake) is UsageError
    assert mistake.message == "requirements.txt, line 2, is no requirement: foo bar"
    failure = explained("entrypoint: stack/airflow/install.env has a line", 1, "look")
    assert type(failure) is EngineError
    assert (failure.hint, failure.detail) == ("look", "entrypoint: stack/airflow/install.env has a line")


@pytest.mark.parametrize(
    ("started", "note"),
    [([], False), ([{}], False), ([{"requirements.txt": "a"}], False), ([{"requirements.txt": "b"}], True)],
)
def test_a_file_that_has_changed_since_is_noted(started: list[dict[str, str]], *, note: bool) -> None:
    assert bool(changed_note(started, {"requirements.txt": "a"})) is note


def test_the_triggerer_becomes_a_shell_until_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    became: list[Any] = []
    monkeypatch.setattr(triggers, "NEEDED", tmp_path / "needed")
    monkeypatch.setattr(os, "execv", lambda program, words: became.append((program, words)))
    triggers.wait_until_needed(["python", "launcher.py"])
    [(program, words)] = became
    assert (program, words[3:]) == ("/bin/sh", [str(tmp_path / "needed"), "python", "launcher.py"])
    (tmp_path / "needed").touch()
    triggers.wait_until_needed(["python"])
    assert len(became) == 1
