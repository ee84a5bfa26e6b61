"""Wheels of one empty module, for tests of installations without a network, and pipectl's own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from typing import TYPE_CHECKING

from support import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def make_wheel(folder: Path, name: str, version: str) -> Path:
    """Make a wheel of the module `name` in `folder`."""
    path, record = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{record}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{record}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{record}/RECORD", f"{name}.py,,\n{record}/RECORD,,\n")
    return path


def build(folder: Path, kind: str, source: Path = ROOT) -> Path:
    """Build pipectl's `wheel` or `sdist` from a folder with its source, by the pinned back end."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    [path] = folder.iterdir()
    return path


def install_wheel(wheel: Path, folder: Path) -> Path:
    """Install pipectl's wheel into an environment that takes the rest from this one; return its `pipectl`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps"),
            *("--python", str(python), str(wheel)),
        ],
        check=True,
    )
    [packages] = folder.glob("lib/python*/site-packages")
    # A .pth file's folder has no .pth files of its own that count: this clone's pipectl is not found there.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "bin" / "pipectl"
