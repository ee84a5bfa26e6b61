"""What holds for the project's files as a whole: line ends, shell scripts, automation, documents."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipectl import __version__

ROOT = Path(__file__).resolve().parents[2]
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = METADATA["project"]
DECISIONS = ROOT / "docs" / "decisions"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Run or read inside Linux, where a carriage return at a line's end is part of the last word.
READ_BY_LINUX = re.compile(r"(\.(sh|py|sql|conf|cnf|env|ya?ml)|/run|Dockerfile|Makefile|\.env\.example)$")


def git(*arguments: str, stdin: str = "") -> str:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no git, or no repository: an unpacked archive has no index to compare with")
    # Inside a commit's hook, git's variables name the index of the commit that is being made.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", *arguments],
        cwd=ROOT,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def files() -> list[str]:
    names = git("ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def shell_scripts() -> list[Path]:
    paths = [ROOT / name for name in files()]
    return [path for path in paths if re.match(rb"#!.*sh\n|#!.*bash\n", path.read_bytes()[:40])]


def test_a_version_with_unreleased_changes_is_one_in_the_making() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    latest, *earlier = re.findall(r"^## (.+)$", changes, re.MULTILINE)
    if latest == "Unreleased":
        assert __version__.endswith(".dev0")
        assert __version__.removesuffix(".dev0") not in earlier
    else:
        assert __version__ == latest


def test_text_files_end_lines_with_lf() -> None:
    lines = git("ls-files", "--eol").splitlines()
    assert lines
    assert not [line for line in lines if not line.startswith(("i/lf ", "i/none ", "i/-text "))]


def test_files_that_linux_reads_are_checked_out_with_lf() -> None:
    names = [name for name in files() if READ_BY_LINUX.search(name)]
    names += ["stack/.env", "stack/mysql/any.cnf", "stack/postgres/any.conf", "scripts/any.sql"]
    told = git("check-attr", "--stdin", "eol", stdin="\n".join(names)).splitlines()
    assert len(told) == len(names) > 100
    assert not [line for line in told if not line.endswith(": eol: lf")]


def test_a_checkout_with_crlf_line_ends_has_none(tmp_path: Path) -> None:
    attributes = (ROOT / ".gitattributes").read_bytes()
    git("-c", "core.autocrlf=true", "clone", "--quiet", "--no-checkout", str(ROOT), str(tmp_path / "clone"))
    (tmp_path / "clone" / ".git" / "info" / "attributes").write_bytes(attributes)
    git(
        "-C",
        str(tmp_path / "clone"),
        "-c",
        "core.autocrlf=true",
        "-c",
        "core.eol=crlf",
        "checkout",
        "--quiet",
    )
    assert (tmp_path / "clone" / "docs/images/dag.png").read_bytes() == (
        ROOT / "docs/images/dag.png"
    ).read_bytes()
    for script in (tmp_path / "clone").rglob("*.sh"):
        assert b"\r" not in script.read_bytes(), script


def test_shell_scripts_that_change_folder_ignore_cdpath() -> None:
    scripts = {path: path.read_text(encoding="utf-8") for path in shell_scripts()}
    moving = {
        path: re.search(r"^[^#\n]*\bcd [\"/.\w$]", text, re.MULTILINE) for path, text in scripts.items()
    }
    assert sum(match is not None for match in moving.values()) >= 6
    for path, match in moving.items():
        before = scripts[path][: match.start()] if match else "unset CDPATH"
        assert re.search(r"^unset .*\bCDPATH\b", before, re.MULTILINE), path


def test_the_demo_runs_in_its_own_folder_where_cdpath_names_another(tmp_path: Path) -> None:
    project, other = tmp_path / "project", tmp_path / "other"
    (project / "ops").mkdir(parents=True)
    (other / "ops").mkdir(parents=True)
    shutil.copy2(ROOT / "ops/demo.sh", project / "ops")
    pipectl = project / ".venv/bin/pipectl"
    pipectl.parent.mkdir(parents=True)
    pipectl.write_text("#!/bin/sh\npwd\n")
    pipectl.chmod(0o755)
    done = subprocess.run(
        ["ops/demo.sh"],
        cwd=project,
        env={"PATH": "/usr/bin:/bin", "CDPATH": str(other)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(project) in done.stdout.splitlines()
    assert str(other) not in done.stdout


@pytest.mark.parametrize(
    ("code", "commands", "expected"),
    [
        (0, "up verify-db trigger verify-db status open", 0),
        (6, "up verify-db trigger verify-db status open", 0),
        (5, "up verify-db", 5),
    ],
)
def test_the_demo_empties_nothing(tmp_path: Path, code: int, commands: str, expected: int) -> None:
    (tmp_path / "ops").mkdir()
    shutil.copy2(ROOT / "ops/demo.sh", tmp_path / "ops")
    pipectl = tmp_path / ".venv/bin/pipectl"
    pipectl.parent.mkdir(parents=True)
    pipectl.write_text(f'#!/bin/sh\necho "$*" >> called\n[ "$*" != verify-db ] || exit {code}\n')
    pipectl.chmod(0o755)
    done = subprocess.run(["ops/demo.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)
    called = (tmp_path / "called").read_text().splitlines()
    assert (done.returncode, [words.split()[0] for words in called]) == (expected, commands.split())
    assert ("they stay" in done.stdout) == (code == 6)


def hooks() -> list[dict[str, Any]]:
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in configuration["repos"]] == ["local"]
    return [hook for repository in configuration["repos"] for hook in repository["hooks"]]


def test_every_commit_is_checked_by_what_make_lint_runs() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    tools = re.findall(r"\.venv/bin/\w+(?: check| format)?", recipe[1])
    assert len(tools) >= 4
    entries = " ; ".join(hook["entry"] for hook in hooks())
    assert [tool for tool in tools if tool not in entries] == []


def workflow(name: str = "ci") -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize(("name", "command"), [("ci", ".ci/run"), ("nightly", '-m docker"')])
def test_a_workflow_may_only_read_and_pins_what_it_uses(name: str, command: str) -> None:
    jobs = workflow(name)["jobs"].values()
    assert workflow(name)["permissions"] == {"contents": "read"}
    steps = [step for job in jobs for step in job["steps"]]
    assert all("permissions" not in job for job in jobs)
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in used)
    assert any(command in step.get("run", "") for step in steps)


def test_ci_leaves_out_what_make_test_leaves_out_and_no_more() -> None:
    """It runs some tests apart, so it chooses by marks that pyproject.toml chooses by too."""
    left_out = re.search(r"-m '([^']+)'", METADATA["tool"]["pytest"]["ini_options"]["addopts"])
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert left_out
    assert f'ordinary="{left_out[1]}"' in script
    assert re.findall(r"-m '([^']+) and \$ordinary'( [^\"]+)?", script) == [
        ("docker", ""),
        ("not docker", " tests/integration"),
        ("not docker", " --deselect=$interrupted tests/unit tests/e2e"),
    ]
    assert 'newcomer_tests=("$interrupted" ' in script


def test_unit_tests_run_on_every_python_that_the_metadata_names() -> None:
    versions = {
        text.rsplit(" ", 1)[1] for text in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", text)
    }
    assert f">={min(versions, key=lambda text: int(text[2:]))}" == PROJECT["requires-python"]
    matrix = workflow()["jobs"]["unit"]["strategy"]["matrix"]
    assert set(matrix["python"]) == versions
    assert {job["python"] for job in matrix["include"]} <= versions


def test_dependabot_looks_where_versions_stand() -> None:
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text(encoding="utf-8"))["updates"]
    looked = {
        (update["package-ecosystem"], folder)
        for update in updates
        for folder in update.get("directories", [update.get("directory")])
    }
    wanted = {("github-actions", "/"), ("pip", "/")}
    for path in map(Path, files()):
        folder = f"/{path.parent}".replace("/.", "/")
        if re.search(r"requirements\.(txt|in)$", path.name):
            wanted.add(("pip", folder))
        elif re.match(r"docker-compose.*\.yml$", path.name):
            wanted.add(("docker-compose", folder))
    assert looked == wanted


def test_decisions_are_numbered_and_listed() -> None:
    paths = sorted(DECISIONS.glob("[0-9]*.md"))
    numbers = [int(path.name[:4]) for path in paths]
    assert len(set(numbers)) == len(numbers)
    entries = []
    for number, path in zip(numbers, paths, strict=True):
        text = path.read_text(encoding="utf-8")
        title = re.match(rf"# {number}\. (.+)\n", text)
        assert title, path
        assert re.findall(r"^\*\*(\w+)\.\*\* ", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
        entries.append(f"{number}. [{title[1]}]({path.name})")
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\d+\. .*", index, re.MULTILINE) == entries


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_link_to_what_is_there(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


# Made by users, and placeholders.
NOT_FILES = re.compile(r"user\.env$|stack/\.env$|stack/scaffold\.zip$|NAME|NNNN|…")


@pytest.mark.parametrize(
    "document", [ROOT / "CONTRIBUTING.md", *sorted(DECISIONS.glob("0*.md"))], ids=lambda path: path.name
)
def test_documents_for_developers_name_files_that_are_there(document: Path) -> None:
    named = re.findall(r"`([\w.-]+(?:/[\w.-]*)+|\w+\.(?:py|sh))`", document.read_text(encoding="utf-8"))
    paths = [Path("/", name) for name in files()]
    there = {str(path) for path in paths} | {str(folder) for path in paths for folder in path.parents}
    missing = [
        name
        for name in named
        if not NOT_FILES.search(name) and not any(place.endswith(f"/{name.rstrip('/')}") for place in there)
    ]
    assert not missing
