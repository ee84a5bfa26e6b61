"""`export`: what is wrong with its words is said before anything is asked or written."""

from __future__ import annotations

import sys
from importlib import util
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from pipectl import cli
from pipectl.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path


def run(project: Path, *arguments: str) -> Any:
    for name in ("dags", "stack"):
        (project / name).mkdir(parents=True, exist_ok=True)
    return CliRunner().invoke(
        cli.app, ["--project", str(project), "--engine", "local", "export", str(project / "out"), *arguments]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "xlsx"), "--format has no value 'xlsx'."),
        (("--since", "yesterday"), "--since yesterday is no time."),
        (("--since", "2026-02-01", "--until", "2026-01-01"), "--since is not before --until."),
        (("--as-of", "2300-01-01"), "--as-of 2300-01-01 is yet to come."),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.exit_code == ExitCode.USAGE
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_without_pyarrow_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipectl.pipeline import exporting

    monkeypatch.setattr(
        exporting, "find_spec", lambda name: None if name == "pyarrow" else util.find_spec(name)
    )
    from pipectl.errors import UsageError
    from pipectl.observer import Observer

    with pytest.raises(UsageError, match="needs pyarrow") as failure:
        exporting.export(None, exporting.ExportRequest(tmp_path / "out", "csv"), Observer())  # type: ignore[arg-type]
    assert "ops/export.txt" in failure.value.hint
    assert not (tmp_path / "out").exists()
    # The name pipectl is that of another package too. What is printed works from a folder with a space, too.
    monkeypatch.setattr(sys, "executable", "/home/a user/.venv/bin/python")
    assert exporting._installation(tmp_path) == "'/home/a user/.venv/bin/python' -m pip install pyarrow"
