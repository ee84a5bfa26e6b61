"""The bundle for a machine without a network: for which machine it is, and one that was cut off."""

from __future__ import annotations

import secrets
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from pipectl.pipeline import bundling

if TYPE_CHECKING:
    from pathlib import Path


def install(folder: Path, machine: str, python: str) -> subprocess.CompletedProcess[str]:
    """Run the installer of a bundle for `machine`, by a Python of this one."""
    (folder / "install").write_text(bundling._installer(machine), encoding="utf-8")
    return subprocess.run(
        ["sh", str(folder / "install")],
        env={"PATH": "/usr/bin:/bin", "PYTHON": python},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("word", range(len(bundling._machine().split())))
def test_a_bundle_for_another_machine_says_which_it_needs(tmp_path: Path, word: int) -> None:
    """Another Python, system, processor or C library."""
    words = bundling._machine().split()
    words[word] = "another"
    done = install(tmp_path, " ".join(words), sys.executable)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"This bundle is for Python {' '.join(words)}, and {sys.executable} is {bundling._machine()}.",
        "Name another: PYTHON=/path/to/python ./install",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["install"]


def test_a_bundle_without_its_python_says_which_it_needs(tmp_path: Path) -> None:
    done = install(tmp_path, bundling._machine(), "python0.9")
    assert done.returncode == 1
    assert f"is for Python {bundling._machine()}, and python0.9 is not there." in done.stderr
    assert "python0.9: not found" not in done.stderr


def test_a_bundle_for_this_machine_is_installed(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$2" != -c ] || exec \'{sys.executable}\' "$@"\necho "$@" && exit 9\n')
    python.chmod(0o755)
    done = install(tmp_path, bundling._machine(), str(python))
    assert (done.returncode, done.stdout, done.stderr) == (9, "-I -m venv environment\n", "")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_bundle_that_was_cut_off_has_no_installer(tmp_path: Path, share: float) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "cache" / "mariadb").mkdir(parents=True)
    for place in ("wheels/a.whl", "wheels/b.whl", "cache/mariadb/server"):
        (tmp_path / place).write_bytes(secrets.token_bytes(100_000))
    whole = tmp_path / "bundle"
    bundling._pack(whole, tmp_path / "wheels", tmp_path / "cache", ("mariadb",))
    with tarfile.open(whole) as archive:
        assert {"install", "wheels/a.whl", "cache/mariadb/server"} <= {
            name.removeprefix("pipectl-offline/") for name in archive.getnames()
        }
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    done = subprocess.run(["tar", "xf", str(cut)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "nexpected end of file" in done.stderr
    assert not (tmp_path / "pipectl-offline" / "install").exists()
