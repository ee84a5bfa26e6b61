"""A Debian or Ubuntu package and the libraries it misses, unpacked into a folder without root.

apt does the download, so its signatures and proxies count; its lists and archives go to a folder of our
own, so the machine's state is neither needed nor changed.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from pipectl.engines.local.install import MB, follow_tool, ignore, last_lines, run_tool
from pipectl.errors import EngineError
from pipectl.names import counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The md5 sums of what was unpacked, as Debian's packages bring them.
SUMS = "md5sums"
SIZE = re.compile(r"\[([\d,.]+) ([kMG]?)B\]$")
UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
# The machine's hooks (appstream, packagekit, docker-clean) would touch the machine's state.
CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
Dir::State "{folder}/state";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "{folder}/cache";
Debug::NoLocking "true";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
"""


def available() -> bool:
    """Whether this machine has Debian's package tools."""
    return all(shutil.which(tool) for tool in ("apt-get", "apt-cache", "dpkg", "dpkg-query"))


def unpack(
    pattern: str, target: Path, show: Callable[..., None] = ignore, *, what: str = "mariadb-server"
) -> None:
    """Download the newest package whose name matches `pattern`, a regular expression, into `target`.

    With it come the libraries that it depends on and that are not installed. Takes 60 MB more while it works.
    `show` is told how far it is, and `what` is the package that a user would install instead.

    Raises:
        EngineError: no network, no such package, or a disk that is full; apt's last lines are the detail.

    """
    work = target / ".apt"
    for folder in ("state/lists/partial", "cache/archives/partial", "packages"):
        (work / folder).mkdir(parents=True)
    configuration = work / "apt.conf"
    configuration.write_text(CONFIGURATION.format(folder=work), encoding="utf-8")
    options = ("-c", str(configuration))

    # One broken third-party source fails the whole update, so what counts is whether the package is found.
    unreachable = EngineError(
        f"The packages of {what} could not be found or downloaded by apt.",
        hint=f"The lines above are apt's. Or install it yourself: apt install {what}",
    )
    show("reading apt's lists of packages", milestone=True)
    watch = AptProgress("of apt's lists read", show)
    _, updated = follow_tool(("apt-get", *options, "update"), unreachable, watch=watch)
    answer = run_tool(("apt-cache", *options, "search", "--names-only", pattern), unreachable)
    names = sorted((line.split(" ", 1)[0] for line in answer.splitlines() if line), key=_by_version)
    if not names:
        unreachable.detail = last_lines(updated)
        raise unreachable
    package = names[-1]
    packages = (package, *_missing_libraries(package, options, unreachable))
    show(f"downloading {counted(len(packages), 'package')}", milestone=True)
    run_tool(
        ("apt-get", *options, "download", *packages),
        unreachable,
        folder=work / "packages",
        watch=AptProgress(f"of {counted(len(packages), 'package')} downloaded", show),
    )
    show("unpacking", milestone=True)
    sums = []
    for archive in sorted((work / "packages").glob("*.deb")):
        told, listed = follow_tool(("dpkg-deb", "--info", str(archive), SUMS), unreachable)
        sums.append("" if told else listed)
        run_tool(
            ("dpkg", "-x", str(archive), str(target)),
            EngineError(
                f"{archive.name} could not be unpacked into {target}.",
                hint="The lines above are dpkg's. Mend what they name, then run the command again.",
            ),
        )
    (target / SUMS).write_text("".join(sums), encoding="utf-8")
    shutil.rmtree(work)


def _by_version(name: str) -> tuple[bool, list[int]]:
    # mariadb-server-core (the distribution's choice) over mariadb-server-core-10.6 over -10.5
    digits = [int(part) for part in re.findall(r"\d+", name)]
    return (not digits, digits)


def _missing_libraries(package: str, options: tuple[str, ...], failure: EngineError) -> list[str]:
    depended = run_tool(
        (
            "apt-cache",
            *options,
            "depends",
            "--recurse",
            *(
                f"--no-{kind}"
                for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
            ),
            package,
        ),
        failure,
    )
    # Names of real packages stand at the beginning of a line; virtual ones are in angle brackets.
    libraries = (line for line in depended.splitlines() if line.startswith("lib"))
    # Nothing that is called here is written in Perl.
    wanted = {name for name in libraries if not (name.endswith("-perl") or name.startswith("libperl"))}
    installed = run_tool(("dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n"), failure)
    have = {line[3:].strip() for line in installed.splitlines() if line.startswith("ii")}
    return sorted(wanted - have)


class AptProgress:
    """Tells from apt's lines how many files it has fetched, and their size; `what` says which files."""

    def __init__(self, what: str, show: Callable[..., None]) -> None:
        self._what = what
        self._show = show
        self._files = 0
        self._bytes = 0.0

    def __call__(self, line: str) -> None:
        """Take in a line, as `Get:3 URL bookworm/main amd64 libaio1 amd64 0.3 [13.4 kB]`."""
        if line.startswith("Get:") and (found := SIZE.search(line)):
            self._files += 1
            self._bytes += float(found[1].replace(",", "")) * UNITS[found[2]]
            self._show(f"{self._files} {self._what}, {self._bytes / MB:.1f} MB", milestone=False)
