"""A layer of the project's own packages over Airflow's: what requirements.txt asks for and Airflow lacks.

    packages.py build FOLDER REQUIREMENTS UV   makes the layer FOLDER, unless it is complete
    packages.py use ROOT REQUIREMENTS          in a container: makes a layer in ROOT, for this Python to see
    packages.py forecast REQUIREMENTS [LAYER]  prints what a layer would change in LAYER, and makes none

A layer is a virtual environment whose Python sees Airflow's packages first, so that nothing in it can replace
any of them. It counts once its file COMPLETE is there, which names its packages. Whatever Airflow has is a
constraint of the resolution. The last line on stderr is what a user should read: what was installed, or what
is wrong, with exit code 2 for a mistake in requirements.txt and 3 for anything else.

Runs inside Airflow's environment and never imports pipectl.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from packaging.requirements import Requirement

COMPLETE = "complete"
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
# The layer in use, and the one that running processes may still import from.
KEPT_LAYERS = 2
MOST_NAMED = 6
MISTAKE, FAILURE = 2, 3
WAIT_SECONDS, POLL_SECONDS = 60, 0.1
# How versions of uv draw the causes of an error.
DRAWN = re.compile("[\u00d7\u2500-\u25ff]+|^\\s*(cause|error):", re.MULTILINE)
CLAUSE = re.compile(r"[Bb]ecause (.*?), we can conclude")
BUILD = re.compile(r"Failed to build `?([^`\s]+)|The build backend returned an error")
LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


class InstallError(Exception):
    """Why there is no layer, in one sentence, and the exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


def build(folder: Path, requirements: Path, *uv: str) -> None:
    """Make the layer `folder` unless it is complete; one process at a time does. Raises InstallError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / COMPLETE).is_file():
            return
        shutil.rmtree(folder, ignore_errors=True)
        started = time.monotonic()
        text = content(requirements)
        refuse(requirements, text)
        packages = resolve(requirements, text, uv) if unmet(text) else []
        folder.mkdir()
        if packages:
            say(f"Installing for requirements.txt: {listed(packages)}")
            # Where it has hashes, they count as uv finds them there.
            install(folder, packages, uv, ("--constraint", str(requirements)) if "--hash" in text else ())
        temporary = folder / f"{COMPLETE}.new"
        temporary.write_text(json.dumps(packages), encoding="utf-8")
        temporary.replace(folder / COMPLETE)
        forget_old_layers(folder)
    if packages:
        sys.stdout.write(
            f"Installed for requirements.txt in {time.monotonic() - started:.1f} s: {listed(packages)}\n"
        )


def content(requirements: Path) -> str:
    """Return what is in a file; empty without it."""
    return requirements.read_text(encoding="utf-8") if requirements.is_file() else ""


def say(sentence: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(f"{sentence}\n")


def listed(packages: list[str]) -> str:
    """Return names and versions, without the tail of a long list."""
    names = [package.split(" @ ")[0].replace("==", " ") for package in packages]
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])


def forget_old_layers(current: Path) -> None:
    """Delete layers that neither `current` processes nor those of before use."""
    layers = [path for path in current.parent.iterdir() if (path / COMPLETE).is_file() and path != current]
    layers.sort(key=lambda path: (path / COMPLETE).stat().st_mtime, reverse=True)
    for path in layers[KEPT_LAYERS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def lines_of(text: str) -> Iterator[str]:
    """Yield the lines of a requirements file that say something."""
    for line in text.replace("\\\n", " ").splitlines():
        stripped = re.sub(r"(^|\s)#.*", "", line).strip()
        if stripped:
            yield stripped


def unmet(text: str) -> list[str]:
    """Return the lines that this environment does not meet, and those of which only uv can tell."""
    return [line for line in lines_of(text) if not is_met(line)]


def parsed(line: str) -> Requirement | None:
    """Return the requirement that a line is, without its hashes; None for all that only uv understands."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(line.split(" --hash", maxsplit=1)[0])
    except InvalidRequirement:
        return None


def is_met(line: str) -> bool:
    """Whether the distribution that a line names is installed in a version that it allows."""
    requirement = parsed(line)
    if requirement is None:
        return False
    if requirement.marker and not requirement.marker.evaluate():
        return True
    if requirement.extras or requirement.url:
        return False
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def refuse(requirements: Path, text: str) -> None:
    """Raise InstallError for a line that no index can help: no requirement, or against what is installed."""
    present = installed()
    for line in lines_of(text):
        requirement = parsed(line)
        if requirement is None:
            refuse_nonsense(requirements.parent, line, text)
            continue
        name = normal(requirement.name)
        has = present.get(name)
        if has is None or requirement.url or (requirement.marker and not requirement.marker.evaluate()):
            continue
        if not requirement.specifier.contains(has, prereleases=True):
            asked = f"requirements.txt asks for {name}{requirement.specifier}"
            airflow = f"Airflow {present.get('apache-airflow', '')} has {name} {has}"
            raise InstallError(f"{asked} and {airflow}.", MISTAKE)


def refuse_nonsense(folder: Path, line: str, text: str) -> None:
    """Raise InstallError for a line that is no option, path, address or marker, of which uv knows more."""
    if re.search(r"^[-.]| --|[/\\$;:]|\.(whl|zip|t\w+|gz)$", line) or (folder / line).exists():
        return
    for number, raw in enumerate(text.splitlines(), start=1):
        if line in raw:
            raise InstallError(f"requirements.txt, line {number}, is no requirement: {raw.strip()}", MISTAKE)


def forecast(requirements: Path, layer: Path | None) -> dict[str, list[str]]:
    """Return the lines for which packages are missing here and in `layer`, and those of its that none needs.

    Whether an index has them is not asked. Raises InstallError.
    """
    text = content(requirements)
    refuse(requirements, text)
    before = Layer(layer, left_out(installed(), text))
    lines = unmet(with_included(requirements, set()))
    missing = [LOGIN.sub("", line) for line in lines if not before.serves(line)]
    return {"missing": missing, "unneeded": before.unneeded()}


def with_included(requirements: Path, seen: set[Path]) -> str:
    """Return what is in a file, with that of the files that it includes in the place of their lines."""
    seen.add(requirements)
    lines = []
    for line in lines_of(content(requirements)):
        found = re.match(r"(?:-r|--requirement)[ =]*(\S+)", line)
        path = requirements.parent / found[1] if found else None
        if path is None or not path.is_file():
            lines.append(line)
        elif path not in seen:
            lines.append(with_included(path, seen))
    return "\n".join(lines)


class Layer:
    """The packages of a layer, over those of this environment; `left_out` counts as there."""

    def __init__(self, folder: Path | None, left_out: list[str]) -> None:
        sites = folder.glob("lib/python*/site-packages") if folder else ()
        self._own = by_name(metadata.distributions(path=[str(site) for site in sites]))
        self._below = by_name(metadata.distributions())
        self._left_out = left_out
        self._needed: dict[tuple[str, frozenset[str]], bool] = {}

    def unneeded(self) -> list[str]:
        """Return the layer's packages that no line needs which `serves` was asked for."""
        return sorted(self._own.keys() - {name for name, _ in self._needed})

    def serves(self, line: str) -> bool:
        """Whether what a line asks for is there, with all that this needs."""
        requirement = parsed(line)
        if requirement is not None:
            return self._has(requirement)
        # A file or folder is known by where a package came from; other options name no package.
        path = re.sub(r"^(-e|--editable)[ =]*", "", line)
        found = [name for name, package in self._own.items() if basename(source(package)) == basename(path)]
        named = filter(None, map(parsed, found))
        return all(map(self._has, named)) if found else path.startswith("-")

    def _has(self, requirement: Requirement) -> bool:
        name, extras = normal(requirement.name), frozenset(requirement.extras)
        package = self._own.get(name) or self._below.get(name)
        if package is None:
            return name in self._left_out
        if (name, extras) not in self._needed:
            self._needed[name, extras] = True
            has = [self._has(need) for need in needs(package, extras, alone=name not in self._own)]
            self._needed[name, extras] = all(has)
        fits = requirement.specifier.contains(package.version, prereleases=True)
        from_there = not requirement.url or source(package) == requirement.url
        return self._needed[name, extras] and fits and from_there


def by_name(packages: Iterable[metadata.Distribution]) -> dict[str, metadata.Distribution]:
    """Return distributions by their normal names."""
    return {normal(package.name): package for package in packages}


def needs(package: metadata.Distribution, extras: frozenset[str], *, alone: bool) -> Iterator[Requirement]:
    """Yield what a distribution needs with extras; `alone` what it needs for these alone."""
    from packaging.requirements import Requirement

    for line in package.requires or ():
        need = Requirement(line)
        plain = need.marker is None or need.marker.evaluate({"extra": ""})
        wanted = need.marker and any(need.marker.evaluate({"extra": extra}) for extra in extras)
        if (plain and not alone) or (wanted and not plain):
            yield need


def source(package: metadata.Distribution) -> str:
    """Return the address that a distribution was installed from; empty if it came from an index."""
    return str(json.loads(package.read_text("direct_url.json") or "{}").get("url", ""))


def basename(address: str) -> str:
    """Return the last part of a path or an address."""
    return address.rstrip("/").rsplit("/", 1)[-1]


def installed() -> dict[str, str]:
    """Return the version of each distribution here, by its normal name."""
    found = {normal(package.name): package.version for package in metadata.distributions()}
    # The package of that name has nothing but dependencies, and an environment may do without it.
    return (
        {"apache-airflow": found["apache-airflow-core"], **found} if "apache-airflow-core" in found else found
    )


def normal(name: str) -> str:
    """Return a distribution's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def left_out(present: dict[str, str], text: str) -> list[str]:
    """Return what Airflow's packages depend on, and this environment was made without on purpose."""
    from packaging.requirements import Requirement

    named = {normal(re.split(r"[^\w.-]", line)[0]) for line in lines_of(text)}
    needed = set()
    for package in metadata.distributions():
        for line in package.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed.add(normal(requirement.name))
    return sorted(needed - present.keys() - named)


def resolve(requirements: Path, text: str, uv: tuple[str, ...]) -> list[str]:
    """Return the packages to add, pinned. Raises InstallError."""
    present = installed()
    with tempfile.TemporaryDirectory() as name:
        constraints, overrides = Path(name, "constraints.txt"), Path(name, "overrides.txt")
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in present.items()))
        overrides.write_text(
            "".join(f"{name}; sys_platform == 'never'\n" for name in left_out(present, text))
        )
        output = run_uv(
            (
                *(*uv, "pip", "install", "--dry-run", "--python", sys.executable, "-r", str(requirements)),
                *("--constraint", str(constraints), "--override", str(overrides)),
            ),
            text,
            present,
            requirements.parent,
        )
    pins = re.findall(r"^ \+ (\S+?)==(\S+?)(?: \(from (.*)\))?$", output, re.MULTILINE)
    return [f"{name} @ {source}" if source else f"{name}=={version}" for name, version, source in pins]


def install(folder: Path, packages: list[str], uv: tuple[str, ...], options: tuple[str, ...]) -> None:
    """Make a virtual environment in `folder`, over this one, and install packages into it."""
    base = str(getattr(sys, "_base_executable", sys.executable))
    run_uv((*uv, "venv", "--quiet", "--no-project", "--allow-existing", "--python", base, str(folder)))
    own = next(folder.glob("lib/python*/site-packages"))
    # Where Airflow's packages come first, nothing in the layer can take the place of one.
    line = f"import sys; base = {str(SITE_PACKAGES)!r}; base in sys.path or sys.path.insert(-1, base)\n"
    (own / "pipectl.pth").write_text(line, encoding="utf-8")
    python, programs = str(folder / "bin" / "python"), Path(sys.executable).parent
    # The kernel takes no path with a space for an interpreter.
    shebang = f"#!/bin/sh\n'''exec' {shlex.quote(python)} \"$0\" \"$@\"\n' '''\n"
    for program in programs.iterdir():
        copy = folder / "bin" / program.name
        if program.is_file() and not copy.exists() and program.read_bytes().startswith(b"#!"):
            script = program.read_text(encoding="utf-8").replace(f"#!{sys.executable}\n", shebang, 1)
            copy.write_text(script.replace(sys.executable, python), encoding="utf-8")
            copy.chmod(0o755)
    run_uv(
        (*uv, "pip", "install", "--no-deps", "--compile-bytecode", "--python", python, *options, *packages)
    )


def run_uv(
    command: tuple[str, ...],
    text: str = "",
    present: dict[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run uv and return its output, which goes to stderr as it comes. Raises InstallError."""
    variables = {**os.environ, "UV_NO_PROGRESS": "1", "LC_ALL": "C"}
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise InstallError(f"requirements.txt needs {command[0]}: {error.strerror}", FAILURE) from error
    lines = []
    with process:
        for line in process.stdout or ():
            lines.append(line)
            sys.stderr.write(LOGIN.sub("", line))
    output = "".join(lines)
    if process.returncode:
        raise explained(output, text, present or {})
    return output


def explained(output: str, text: str, present: dict[str, str]) -> InstallError:
    """Return uv's failure in one sentence, in uv's own words where they say it."""
    if wrong := wrong_line(output, text):
        return InstallError(wrong, MISTAKE)
    words = " ".join(DRAWN.sub(" ", output).split())
    if clauses := CLAUSE.findall(words):
        version = present.get("apache-airflow", "")
        sides = [with_sides(clause, present, version) for clause in clauses]
        both = next((clause for clause in sides if f"Airflow {version} has" in clause), sides[0])
        told = (
            both if both.startswith("requirements.txt") else f"requirements.txt cannot be installed: {both}"
        )
        return InstallError(f"{told}.", MISTAKE)
    causes = re.findall(r"(?:cause|Caused by): (.+)", output) or [output.strip().splitlines()[-1]]
    if found := BUILD.search(output):
        reported = re.findall(r"^\s*(\w*(?:Error|Exception):? .+)$", output[found.end() :], re.MULTILINE)
        what, reason = found[1] or "a package", reported[-1] if reported else causes[-1]
        told = f"requirements.txt: {what} could not be built from its source: {reason.strip().rstrip('.')}."
        return InstallError(told, MISTAKE)
    if found := re.search(r"Failed to fetch:? `?(\S+?)`?$", output, re.MULTILINE):
        told = f"{LOGIN.sub('', found[1])} could not be read: {causes[-1].rstrip('.')}"
        return InstallError(f"requirements.txt: {told}.", FAILURE)
    return InstallError(f"requirements.txt could not be installed: {causes[0].rstrip('.')}.", FAILURE)


def wrong_line(output: str, text: str) -> str:
    """Return the sentence about a line that uv cannot read; empty if it has read all of them."""
    at = re.search(r"^error: .* at position (\d+)|^error: .*:(\d+):\d+\s*$", output, re.MULTILINE)
    if not at:
        return ""
    number = int(at[2]) if at[2] else text[: int(at[1])].count("\n") + 1
    line = [*text.splitlines(), ""][number - 1].strip()
    missing = re.search(r"failed to read from file `(.+?)`: ([^(\n]+)", output)
    if missing:
        return f"requirements.txt, line {number}: {missing[1]} cannot be read: {missing[2].strip()}."
    return f"requirements.txt, line {number}, is no requirement: {line}"


def with_sides(clause: str, present: dict[str, str], version: str) -> str:
    """Return a clause of uv's that says of each version who asks for it: requirements.txt, or Airflow."""

    def side(found: re.Match[str]) -> str:
        has = present.get(normal(found[2])) == found[3]
        return f"{found[1]}Airflow {version} has {found[2]} {found[3]}" if has else found[0]

    told = re.sub(r"(and |^)([\w.-]+)==(\S+?)(?=,? |$)", side, clause)
    return told.replace("you require", "requirements.txt asks for")


def key(requirements: Path) -> str:
    """Return what tells layers apart: the file, what is installed here, this Python."""
    packages = sorted(path.name for path in SITE_PACKAGES.glob("*.dist-info"))
    parts = (content(requirements).encode(), "\n".join(packages).encode(), sys.version.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def last_packages(root: Path) -> list[str]:
    """Return the packages of the layer in `root` that was used last."""
    layer = newest(root)
    return list(json.loads((layer / COMPLETE).read_text(encoding="utf-8"))) if layer else []


def newest(root: Path) -> Path | None:
    """Return the layer in `root` that was used last."""
    markers = sorted(root.glob(f"*/{COMPLETE}"), key=lambda path: path.stat().st_mtime)
    return markers[-1].parent if markers else None


def package_name(package: str) -> str:
    """Return the name in a line of a layer's packages, as `NAME==VERSION` or `NAME @ URL`."""
    return re.split("==| @ ", package)[0]


def point(pointer: Path, layer: Path) -> None:
    """Let this environment's Python see a layer that has packages."""
    pointer.write_text(f"{next(layer.glob('lib/python*/site-packages'))}\n", encoding="utf-8")


def use(root: Path, requirements: Path) -> None:
    """Make the layer of this environment in `root`, and let its Python and its shells see it."""
    pointer = SITE_PACKAGES / "pipectl-packages.pth"
    before = last_packages(root)
    if not before and not unmet(content(requirements)):
        pointer.unlink(missing_ok=True)
        return
    if not root.is_dir():
        # A container beside the stack has no volume before the stack's first start.
        root = Path(tempfile.gettempdir(), "packages")
    deadline = time.monotonic() + WAIT_SECONDS
    while root.is_dir() and not os.access(root, os.W_OK) and time.monotonic() < deadline:
        # airflow-init, which is root, opens a new volume to others.
        time.sleep(POLL_SECONDS)
    folder = root / key(requirements)
    if before and (last := newest(root)):
        # For what goes on even if the next cannot be made.
        point(pointer, last)
    # What has been downloaded serves the next layer too.
    build(folder, requirements, "uv", "--cache-dir", str(root / "cache"))
    # Used last: others are forgotten first.
    (folder / COMPLETE).touch()
    packages = last_packages(root)
    names = {package_name(package) for package in packages}
    if gone := [package_name(package) for package in before if package_name(package) not in names]:
        sys.stdout.write(f"Removed with requirements.txt's line: {', '.join(gone)}\n")
    if not packages:
        pointer.unlink(missing_ok=True)
        return
    point(pointer, folder)
    for program in (folder / "bin").iterdir():
        link = Path(sys.executable).with_name(program.name)
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(program)


if __name__ == "__main__":
    try:
        if sys.argv[1] == "build":
            build(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
        elif sys.argv[1] == "forecast":
            above = Path(sys.argv[3]) if sys.argv[3:] else None
            sys.stdout.write(json.dumps(forecast(Path(sys.argv[2]), above)))
        else:
            use(Path(sys.argv[2]), Path(sys.argv[3]))
    except InstallError as error:
        say(str(error))
        sys.exit(error.code)
    except (OSError, UnicodeDecodeError) as error:
        say(f"requirements.txt could not be installed: {error}.")
        sys.exit(FAILURE)
