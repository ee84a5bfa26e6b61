"""What is read from requirements.txt and from uv's words, and when the triggerer is needed."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import packages
import triggers
from pipectl.engines.local import layer
from pipectl.engines.local.airflow_install import AirflowRuntime
from pipectl.engines.local.layer import look_for_packages
from pipectl.engines.requirements import changed_note, explained
from pipectl.errors import EngineError, UsageError
from pipectl.settings import Settings
from support import ROOT

RUNTIME = AirflowRuntime(Path(sys.prefix), Path(sys.executable), "3.3.2", "key", "head")
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


class Layered:
    """A project on this Python, whose last layer has humanize 4.0, a file's `local`, and what these need."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(folder, "local", folder / "cache", {})
        self.requirements = folder / "requirements.txt"
        program = folder / "stack" / "airflow" / "packages.py"
        program.parent.mkdir(parents=True)
        shutil.copyfile(ROOT / "stack" / "airflow" / "packages.py", program)
        last = self.settings.state_dir / "packages" / "before"
        self.site = last / "lib" / "python3.11" / "site-packages"
        self.site.mkdir(parents=True)
        (self.site / "pipectl.pth").write_text(f"import sys; base = {sys.prefix!r}")
        self.add("humanize", "4.0", "words>=1", "pytest", "colours; extra == 'colour'")
        self.add("words", "1.0")
        (self.add("local", "1.0", "words") / "direct_url.json").write_text('{"url": "file:///a/local.whl"}')
        (last / packages.COMPLETE).write_text(
            '["humanize==4.0", "words==1.0", "local @ file:///a/local.whl"]'
        )

    def add(self, name: str, version: str, *needs: str) -> Path:
        record = self.site / f"{name}-{version}.dist-info"
        record.mkdir()
        needed = "".join(f"Requires-Dist: {need}\n" for need in needs)
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}"
        (record / "METADATA").write_text(text)
        return record

    def look(self, *lines: str) -> tuple[str, set[str]]:
        """Return what a start would install, and what it would remove."""
        self.requirements.write_text("\n".join(lines))
        _, installs, removes = look_for_packages(self.settings, RUNTIME)
        return installs.removeprefix("for requirements.txt, if it can be had: "), set(removes)


@pytest.mark.parametrize(
    ("lines", "installs", "removes"),
    [
        (("humanize", "./local.whl"), "", set()),
        (("humanize",), "", {"local"}),
        (("./local.whl",), "", {"humanize"}),
        (("# nothing",), "", {"humanize", "local", "words"}),
        (("humanize", "-r more.txt", "./local.whl", "another>=1"), "included, another>=1", set()),
        (("humanize>=5", "./local.whl"), "humanize>=5", set()),
        (("humanize", "words>=5", "./local.whl"), "words>=5", set()),
        (("humanize[colour]", "./local.whl"), "humanize[colour]", set()),
        (("--index-url https://me:secret@index.example/simple", "local"), "", {"humanize"}),
        (
            ("new @ https://me:secret@h.example/n.whl", "words"),
            "new @ https://h.example/n.whl",
            {"humanize", "local"},
        ),
    ],
)
def test_a_look_names_the_lines_that_are_missing_and_what_goes_with_a_line(
    tmp_path: Path, lines: tuple[str, ...], installs: str, removes: set[str]
) -> None:
    project = Layered(tmp_path)
    (tmp_path / "more.txt").write_text("included\nwords\n-r requirements.txt\n")
    assert project.look(*lines) == (installs, removes)


def test_a_look_at_a_layer_that_is_there_names_what_goes(tmp_path: Path) -> None:
    project = Layered(tmp_path)
    project.requirements.write_text("another")
    folder = layer._folder(project.settings, RUNTIME)
    folder.mkdir()
    (folder / packages.COMPLETE).write_text('["another==1.0", "words==1.0"]')
    # Used before the other one.
    os.utime(folder / packages.COMPLETE, (0, 0))
    assert project.look("another") == ("", {"humanize", "local"})
    project.requirements.unlink()
    assert set(look_for_packages(project.settings, RUNTIME)[2]) == {"humanize", "words", "local"}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("another", "PyTest<1"), r"^requirements\.txt asks for pytest<1 and Airflow .* has pytest \d\S+\.$"),
        (("another", "foo bar"), r"^requirements\.txt, line 2, is no requirement: foo bar$"),
        (("", "==oops==  # said"), r"^requirements\.txt, line 2, is no requirement: ==oops==  # said$"),
    ],
)
def test_a_look_refuses_what_no_index_can_help_as_a_start_does(
    tmp_path: Path, lines: tuple[str, ...], told: str
) -> None:
    project = Layered(tmp_path)
    with pytest.raises(UsageError, match=told) as looked:
        project.look(*lines)
    with pytest.raises(packages.InstallError) as built:
        packages.build(tmp_path / "new" / "layer", project.requirements, "no-uv-is-run")
    assert (str(built.value), built.value.code) == (looked.value.message, packages.MISTAKE)


@pytest.mark.parametrize(
    "line",
    [
        "pytest<1; python_version < '3'",
        "pytest @ https://h.example/p.whl",
        "./a.whl",
        "a.whl",
        "-e .",
        "folder",
        "$A",
        "another --config-settings a=b",
    ],
)
def test_what_only_uv_can_judge_is_left_to_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "folder").mkdir()
    try:
        packages.refuse(tmp_path / "requirements.txt", line)
    except packages.InstallError as error:
        pytest.fail(str(error))


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
