"""The layer of requirements.txt over the real shared Airflow, by the real uv, from wheels in a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from pipectl.engines.local.layer import with_packages
from pipectl.errors import EngineError, PipectlError, UsageError
from pipectl.settings import Settings
from support import ROOT
from support.needs import need_airflow
from support.waiting import until
from support.wheels import make_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.engines.local.airflow_install import AirflowRuntime

pytestmark = pytest.mark.integration


class Layered:
    """A project whose requirements are installed from wheels in a folder."""

    def __init__(self, folder: Path) -> None:
        self.airflow = need_airflow()
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        self.settings = Settings(folder / "a project", "local", folder / "cache", {})
        self.told: list[str] = []
        program = self.settings.project / "stack" / "airflow" / "packages.py"
        program.parent.mkdir(parents=True)
        shutil.copyfile(ROOT / "stack" / "airflow" / "packages.py", program)

    def wheel(self, name: str, version: str, *needs: str, **files: str) -> None:
        """Make a wheel with a program of its own name, further files, and what it depends on."""
        files = {f"{file.replace('__', '/')}.py": text for file, text in files.items()}
        path, record = make_wheel(self.wheels, name, version), f"{name}-{version}.dist-info"
        needed = "".join(f"Requires-Dist: {need}\n" for need in needs)
        replace_entries(
            path,
            {
                f"{record}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}",
                f"{record}/entry_points.txt": f"[console_scripts]\n{name} = {name}:run\n",
                **files,
            },
        )

    def install(self, *lines: str) -> AirflowRuntime:
        """Write requirements.txt and have it installed."""
        (self.settings.project / "requirements.txt").write_text("\n".join(lines), encoding="utf-8")
        return with_packages(self.settings, self.airflow, self.told.append, lambda *_, **__: None)

    def layers(self) -> set[str]:
        return {path.name for path in (self.settings.state_dir / "packages").iterdir() if path.is_dir()}


def replace_entries(path: Path, new: dict[str, str]) -> None:
    with zipfile.ZipFile(path) as archive:
        entries: dict[str, bytes | str] = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in (entries | new).items():
            archive.writestr(entry, content)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layered:
    made = Layered(tmp_path)
    # Nothing but the folder of wheels.
    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(made.wheels))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return made


def output(runtime: AirflowRuntime, code: str) -> str:
    return subprocess.run(
        (str(runtime.python), "-c", code), capture_output=True, text=True, check=True
    ).stdout.strip()


def refusal(project: Layered, *lines: str, kind: type[PipectlError] = UsageError) -> str:
    with pytest.raises(kind) as raised:
        project.install(*lines)
    assert type(raised.value) is kind
    return raised.value.message


def test_what_airflow_has_needs_no_layer(project: Layered) -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert project.install(*lines, "# a comment", "numpy>=2 ; python_version > '3'") == project.airflow
    assert project.told == []


def test_a_package_and_what_it_needs_are_installed_once_and_go_with_their_line(project: Layered) -> None:
    project.wheel("needed", "2.0")
    project.wheel("added", "1.5", "needed>=1", "packaging")
    runtime = project.install("added")
    assert runtime.python != project.airflow.python
    assert output(runtime, "import added, needed, airflow, sys; print(airflow.__file__)").startswith(
        str(project.airflow.venv)
    )
    assert project.told[0] == "Installing for requirements.txt: added 1.5, needed 2.0"
    assert project.told[1].startswith("Installed for requirements.txt in ")
    assert project.install("added") == runtime
    assert len(project.told) == 2
    assert project.install("numpy") == project.airflow
    # Those of what runs are still there, and come back without another installation.
    assert project.install("added") == runtime
    assert len(project.told) == 2


def test_programs_of_a_package_and_airflows_own_run_with_the_layer(project: Layered) -> None:
    project.wheel("added", "1.0", added="def run(): import numpy; print('ran')")
    folder = project.install("added").python.parent
    assert subprocess.run((folder / "added",), capture_output=True, text=True, check=True).stdout == "ran\n"
    own = [str(folder / "python"), "-c", "import sys; print(sys.prefix)"]
    assert subprocess.run(own, capture_output=True, text=True, check=True).stdout.strip() == str(
        folder.parent
    )
    done = subprocess.run((folder / "alembic", "--version"), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("alembic ")
    assert str(folder / "python") in (folder / "airflow").read_text()
    assert not (project.airflow.python.parent / "added").exists()


def test_nothing_in_a_layer_takes_the_place_of_airflows_own(project: Layered) -> None:
    project.wheel("intruder", "1.0", numpy____init__="raise SystemExit('shadowed')")
    runtime = project.install("intruder")
    assert output(runtime, "import intruder, numpy; print(numpy.__file__)").startswith(
        str(project.airflow.venv)
    )


def test_a_virtual_environment_of_a_task_does_not_see_the_layer(project: Layered, tmp_path: Path) -> None:
    project.wheel("added", "1.0")
    runtime = project.install("added")
    subprocess.run((str(runtime.python), "-m", "venv", "--without-pip", str(tmp_path / "own")), check=True)
    done = subprocess.run(
        (str(tmp_path / "own" / "bin" / "python"), "-c", "import added"), check=False, capture_output=True
    )
    assert b"ModuleNotFoundError" in done.stderr


def test_a_version_that_airflow_does_not_run_with_is_refused_with_both_sides(project: Layered) -> None:
    version = project.airflow.version
    numpy = output(project.airflow, "import numpy; print(numpy.__version__)")
    project.wheel("old", "1.0", "numpy<2")
    for line, told in (
        ("numpy==1.3", f"requirements.txt asks for numpy==1.3 and Airflow {version} has numpy {numpy}."),
        ("old", f"all versions of old depend on numpy<2 and Airflow {version} has numpy {numpy}."),
        ("apache-airflow==2.10", f"apache-airflow==2.10 and Airflow {version} has apache-airflow {version}."),
    ):
        assert refusal(project, line).endswith(told)
        assert project.layers() == set()


def test_two_lines_that_contradict_each_other_are_both_named(project: Layered) -> None:
    project.wheel("added", "1.0")
    assert refusal(project, "added==1.0", "added<1") == "requirements.txt asks for added==1.0 and added<1."


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("numpy", "foo bar"), "requirements.txt, line 2, is no requirement: foo bar"),
        (("# first", "", "==oops=="), "requirements.txt, line 3, is no requirement: ==oops=="),
    ],
)
def test_a_line_that_is_no_requirement_is_shown_with_its_number(
    project: Layered, lines: tuple[str, ...], told: str
) -> None:
    assert refusal(project, *lines) == told


def test_a_file_that_a_line_includes_counts_and_is_missed(project: Layered) -> None:
    message = refusal(project, "numpy", "-r more.txt")
    assert message.startswith("requirements.txt, line 2: ")
    assert "more.txt cannot be read: No such file" in message
    project.wheel("added", "1.0")
    project.wheel("other", "1.0")
    more = project.settings.project / "more.txt"
    more.write_text("added\n")
    first = project.install("-r more.txt")
    more.write_text("added\nother\n")
    assert project.install("-r more.txt") != first


def test_a_package_that_nobody_has_is_named(project: Layered) -> None:
    assert "nobody-has-this" in refusal(project, "nobody-has-this")


def test_a_package_that_cannot_be_built_says_how_its_build_ended(project: Layered) -> None:
    source = project.settings.project / "broken"
    source.mkdir()
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (source / "backend.py").write_text(
        "def build_wheel(*_, **__):\n    raise RuntimeError('no compiler of that kind')\n"
        "get_requires_for_build_wheel = prepare_metadata_for_build_wheel = build_wheel\n"
    )
    message = refusal(project, "./broken")
    assert message.endswith("could not be built from its source: RuntimeError: no compiler of that kind.")


def test_an_index_that_does_not_answer_is_named_without_its_password(
    project: Layered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_NO_INDEX")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://me:secret@127.0.0.1:9/simple")
    message = refusal(project, "added", kind=EngineError)
    assert message.startswith("requirements.txt: http://127.0.0.1:9/simple/added/ could not be read: ")
    assert "secret" not in message


def test_a_hash_in_the_file_counts(project: Layered) -> None:
    project.wheel("added", "1.0")
    assert "Hash mismatch" in refusal(project, f"added==1.0 --hash=sha256:{0:064}", kind=EngineError)


def test_a_killed_installation_leaves_the_layer_of_before_and_can_be_repeated(project: Layered) -> None:
    project.wheel("first", "1.0")
    before = project.install("first")
    project.wheel("second", "1.0", **{f"second_{number}": "" for number in range(400)})
    script = (
        "import sys; from pathlib import Path; from pipectl.settings import Settings\n"
        "from support.needs import need_airflow; from pipectl.engines.local.layer import with_packages\n"
        "settings = Settings(Path(sys.argv[1]), 'local', Path(sys.argv[1]), {})\n"
        "with_packages(settings, need_airflow(), print, lambda *_, **__: None)"
    )
    (project.settings.project / "requirements.txt").write_text("second\n")
    process = subprocess.Popen(
        (sys.executable, "-c", script, str(project.settings.project)),
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        start_new_session=True,
    )
    until(lambda: len(project.layers()) == 2, "the folder of the second layer")
    os.killpg(process.pid, 9)
    process.wait()
    assert output(before, "import first; print('whole')") == "whole"
    after = project.install("second")
    assert output(after, "import second; print('whole')") == "whole"
