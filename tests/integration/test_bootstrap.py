"""`make .venv/ready` with a real pip: from nothing, among the caller's settings, in a clone that moved."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.wheels import make_wheel

ROOT = Path(__file__).resolve().parents[2]
# The real build metadata, built by the tests' own hatchling: only what packages cost is left out.
BACKEND = """\
import sys
sys.path.append({packages!r})
from hatchling.build import *
"""
FILES = [
    *("Makefile", "README.md", "LICENSE", "ops/bootstrap.sh", "ops/pipectl/__init__.py"),
    # Of new projects, which the package holds.
    *("requirements.txt", "entrypoint.sh", ".gitignore", ".gitattributes"),
]
TOOLS = ["cat", "chmod", "dirname", "env", "make", "mv", "rm", "sed", "sh", "touch"]


def wheel(folder: Path) -> str:
    """Make a wheel of one module in `folder` and return the line that pins it."""
    folder.mkdir()
    path = make_wheel(folder, "pinned", "1")
    return f"pinned==1 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


class Clone:
    """The files that the bootstrap reads, and an environment in which only its wheel is found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clone"
        folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "ops" / "pipectl").mkdir(parents=True)
        for name in FILES:
            shutil.copy2(ROOT / name, self.folder / name)
        (self.folder / "ops/pipectl/__main__.py").write_text("print(__file__)\n")
        packages = next(path for path in sys.path if path.endswith("site-packages"))
        (self.folder / "backend.py").write_text(BACKEND.format(packages=packages))
        build = 'build-backend = "hatchling.build"'
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert build in project
        (self.folder / "pyproject.toml").write_text(
            project.replace(build, 'build-backend = "backend"\nbackend-path = ["."]'), encoding="utf-8"
        )
        (self.folder / "ops/requirements.txt").write_text(wheel(folder / "wheels"))
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))
        } | {
            "PYTHON": sys.executable,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(folder / "wheels"),
        }

    def make(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", ".venv/ready"],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def runs_its_own_pipectl(self, **environment: str) -> bool:
        done = subprocess.run(
            [".venv/bin/pipectl"],
            cwd=self.folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        subprocess.run([".venv/bin/python", "-c", "import pinned"], cwd=self.folder, check=True)
        return done.stdout.strip() == str(self.folder / "ops/pipectl/__main__.py")


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path.resolve())


@pytest.fixture(scope="module")
def ready_clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("ready").resolve())
    assert clone.make().returncode == 0
    return clone


def test_a_second_run_changes_nothing(clone: Clone) -> None:
    assert "Making .venv" in clone.make().stderr
    assert clone.runs_its_own_pipectl()
    done = clone.make()
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that the caller's settings name and nothing may write to."""
    (tmp_path / "ops").mkdir()
    (tmp_path / "json.py").write_text("raise SystemExit('another json')\n")
    (tmp_path / "pip.conf").write_text(
        f"[global]\nroot = {tmp_path}/packages\nrequire-hashes = true\nno-binary = :all:\n"
        f"[install]\nuser = true\ntarget = {tmp_path}/packages\nprefix = {tmp_path}/packages\n"
        f"constraint = {tmp_path}/packages\ndry-run = true\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PIP_USER", "1"),
        ("PIP_TARGET", "{}/packages"),
        ("PIP_PREFIX", "{}/packages"),
        ("PIP_ROOT", "{}/packages"),
        ("PIP_CONSTRAINT", "{}/constraints.txt"),
        ("PIP_REQUIRE_VIRTUALENV", "1"),
        ("PIP_NO_BINARY", ":all:"),
        ("PIP_DRY_RUN", "1"),
        ("PIP_CONFIG_FILE", "{}/pip.conf"),
    ],
)
def test_settings_for_pip_that_install_otherwise_do_not_count(
    ready_clone: Clone, elsewhere: Path, name: str, value: str
) -> None:
    environment = ready_clone.folder / ".venv"
    next(environment.glob("lib/*/site-packages/pinned.py")).unlink()
    shutil.rmtree(next(environment.glob("lib/*/site-packages/pinned-1.dist-info")))
    for path in ("ready", "bin/pipectl"):
        (environment / path).unlink()
    before = set(elsewhere.iterdir())
    done = ready_clone.make(**{name: value.format(elsewhere)})
    assert done.returncode == 0, done.stderr
    assert ready_clone.runs_its_own_pipectl()
    assert set(elsewhere.iterdir()) == before


def test_pips_file_of_settings_says_where_packages_are(clone: Clone, tmp_path: Path) -> None:
    path = tmp_path / "pip.conf"
    path.write_text(
        f"[global]\nindex-url = {tmp_path}/nowhere\n[install]\nfind-links =\n    {tmp_path}/wheels\n"
    )
    del clone.environment["PIP_FIND_LINKS"]
    done = clone.make(PIP_CONFIG_FILE=str(path))
    assert done.returncode == 0, done.stderr
    assert clone.runs_its_own_pipectl()


@pytest.mark.parametrize(
    "name",
    [
        "PYTHONPATH",
        "CDPATH",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("VIRTUAL_ENV", "PYTHONHOME")),
    ],
)
def test_a_python_environment_of_the_caller_does_not_count(clone: Clone, elsewhere: Path, name: str) -> None:
    done = clone.make(**{name: str(elsewhere)})
    assert done.returncode == 0, done.stderr
    assert clone.runs_its_own_pipectl()


@pytest.mark.parametrize(
    "variable",
    [
        "PYTHONHOME=/nowhere",
        "PYTHONHASHSEED=bad",
        "PYTHONIOENCODING=nonsense",
        "PYTHONINTMAXSTRDIGITS=1",
        "PYTHONMALLOC=bad",
        "PYTHONPATH={}",
        "PYTHONPLATLIBDIR=nowhere",
        "PYTHONTRACEMALLOC=bad",
        "PYTHONUTF8=bad",
        "__PYVENV_LAUNCHER__=/nowhere",
    ],
)
def test_what_ends_python_before_its_first_line_does_not_count(
    ready_clone: Clone, tmp_path: Path, variable: str
) -> None:
    for name in ("re", "typing", "encodings"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(77)\n")
    assert ready_clone.runs_its_own_pipectl(**dict([variable.format(tmp_path).split("=", 1)]))


def test_a_folder_as_input_is_refused_in_one_sentence(ready_clone: Clone, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        done = subprocess.run(
            [ready_clone.folder / ".venv/bin/pipectl"],
            stdin=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(folder)
    said = 'Error: The input of pipectl is a folder. Leave out "<" and the folder.\n'
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.parametrize(
    "how",
    [
        "half made",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("without its Python", "made for another folder")
        ),
    ],
)
def test_an_unusable_environment_is_made_anew(clone: Clone, how: str) -> None:
    assert clone.make().returncode == 0
    before = clone.folder
    if how == "half made":
        (before / ".venv/ready").unlink()
        shutil.rmtree(next((before / ".venv/lib").glob("python3*/site-packages/pip")))
    elif how == "without its Python":
        python = before / ".venv/bin/python"
        python.unlink()
        python.symlink_to(before / "gone")
    else:
        path = next((before / ".venv/lib").glob("python3*/site-packages/*pipectl*.pth"))
        path.write_text(str(before.with_name("another") / "ops"))
    done = clone.make()
    assert done.returncode == 0, done.stderr
    assert "Making .venv" in done.stderr
    assert clone.runs_its_own_pipectl()


@pytest.mark.parametrize(
    ("how", "name"), [pytest.param("moved", "short", marks=pytest.mark.slow), ("copied", "longer-" * 16)]
)
def test_an_environment_works_at_once_where_a_clone_is_moved_or_copied_to(
    tmp_path: Path, how: str, name: str
) -> None:
    clone = Clone((tmp_path / name).resolve())
    assert clone.make().returncode == 0
    before = clone.folder
    after = before.with_name("a 'moved' clone at $HOME")
    clone.folder = (
        before.rename(after) if how == "moved" else Path(shutil.copytree(before, after, symlinks=True))
    )
    assert clone.runs_its_own_pipectl()
    assert subprocess.run([after / ".venv/bin/pip", "--version"], check=False).returncode == 0
    link = tmp_path / "link"
    link.symlink_to(os.path.relpath(after / ".venv/bin/pipectl", tmp_path))
    linked = subprocess.run([link], capture_output=True, text=True, check=True)
    assert linked.stdout.strip() == str(after / "ops/pipectl/__main__.py")
    texts = [path.read_bytes() for path in (after / ".venv/bin").iterdir() if not path.is_symlink()]
    assert not [text for text in texts if text.startswith(b"#!") and os.fsencode(before) in text[:300]]
    done = clone.make()
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def without_python(tmp_path: Path) -> Path:
    """A folder for PATH with the tools of a bare machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(str(shutil.which(tool)))
    return folder


def error(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode != 0
    return [line for line in done.stderr.splitlines() if not line.startswith("make")]


def test_without_python_the_message_says_what_to_install(clone: Clone, without_python: Path) -> None:
    assert error(clone.make(PATH=str(without_python), PYTHON="")) == [
        "Error: no Python 3.11 or newer on PATH. Install one, or name it: make PYTHON=/path/to/python3 …"
    ]
    assert error(clone.make(PATH=str(without_python), PYTHON="/gone/python3")) == [
        "Error: /gone/python3 is no Python 3.11 or newer. Name another: make PYTHON=/path/to/python3 …"
    ]


def test_without_venv_the_message_says_what_to_install(clone: Clone, without_python: Path) -> None:
    # As on Debian without python3-venv: the interpreter is there, the module ensurepip is not.
    python = without_python / "python3"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] || exit 1\nexec {shlex.quote(sys.executable)} -c '
        '"import sys; sys.modules[\'ensurepip\'] = None; exec(sys.argv[1])" "$2"\n'
    )
    python.chmod(0o755)
    assert error(clone.make(PATH=str(without_python), PYTHON="")) == [
        "Error: python3 has no module venv. On Debian and Ubuntu: apt install python3-venv"
    ]
    # Where another Python of the machine has the module, that one is taken.
    (without_python / "python3.12").symlink_to(sys.executable)
    done = clone.make(PATH=str(without_python), PYTHON="")
    assert done.returncode == 0, done.stderr
    assert clone.runs_its_own_pipectl()
