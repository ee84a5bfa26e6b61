"""The lock file of another Airflow: the project's own, with as few other versions as that Airflow needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipectl.engines.local import uv
from pipectl.engines.project import restoring
from pipectl.errors import EngineError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

CORE, SDK = "apache-airflow-core", "apache-airflow-task-sdk"
# What the lock file is made of, and what it leaves out; ops/lock.sh has the same words for uv.
SOURCE, LOCK, OVERRIDES = (
    f"airflow-{name}" for name in ("requirements.in", "requirements.txt", "overrides.txt")
)
WORDS = (
    *("pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"),
    *("--no-emit-index-url", "--no-emit-find-links", "--no-annotate", "--no-header"),
)
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:(a|b|rc)(\d+))?")
RELEASED = "z"  # after a, b and rc
_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", re.MULTILINE)
_LINE = re.compile(rf"^{CORE}\b.*$", re.MULTILINE)


@dataclass(frozen=True)
class PackageChange:
    """A package of which two lock files pin other versions; empty for one that pins none."""

    name: str
    before: str
    after: str


def age(version: str) -> tuple[int, int, int, str, int]:
    """Return what orders versions of Airflow. Raises UsageError for what is none."""
    found = VERSION.fullmatch(version)
    if found is None:
        raise UsageError(
            f"{version!r} is no version of Airflow, such as 3.4.0.",
            hint="Type: pipectl upgrade --try-airflow VERSION",
        )
    major, minor, patch, kind, number = found.groups()
    return int(major), int(minor), int(patch), kind or RELEASED, int(number or 0)


def read_source(stack: Path) -> str:
    """Return what the lock file is made of. Raises EngineError."""
    source = stack / SOURCE
    try:
        return source.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise EngineError(
            f"{source} cannot be read: it says what {LOCK} is made of.",
            hint=f"Get it back: {restoring(source)}",
        ) from error


def relock(stack: Path, version: str) -> None:
    """Write `stack`'s lock file anew for a version of Airflow: 3 to 10 s.

    uv keeps what the file pins, as far as that Airflow allows. Raises UsageError if the index has no such
    version, or the project's packages do not go with it, EngineError if uv fails for another reason.
    """
    source, text = stack / SOURCE, read_source(stack)
    pins = f"{CORE}=={version}"
    if age(version)[3] != RELEASED:
        # uv takes a test version only of what is asked for by name.
        pins += f"\n{SDK}>=1.{version.split('.')[1]}.0a0"
    source.write_text(f"{_LINE.sub('', text)}\n{pins}\n", encoding="utf-8")
    failure = EngineError(
        f"What Airflow {version} needs could not be found out.",
        hint="The lines above are uv's, which takes an index from UV_DEFAULT_INDEX or pip's settings, and a"
        " proxy from HTTPS_PROXY. Then run the command again.",
    )
    words = (str(source), "--override", str(stack / OVERRIDES), "--output-file", str(stack / LOCK))
    try:
        uv.run((*WORDS, *words), failure)
    except EngineError as error:
        said = " ".join(error.detail.split())
        if f"no version of {CORE}=={version}" in said:
            raise UsageError(
                f"There is no Airflow {version} on the index of packages.",
                hint="Airflow's releases: pip index versions apache-airflow-core",
            ) from error
        if "No solution found" in said:
            raise UsageError(
                f"What the project asks for does not go with Airflow {version}.",
                hint="Change what the lines above name in requirements.txt or stack/airflow-requirements.in.",
                detail=error.detail,
            ) from error
        raise


def package_changes(before: str, after: str) -> tuple[PackageChange, ...]:
    """Return what one lock file pins otherwise than another, by name."""
    old, new = (dict(_PIN.findall(lock)) for lock in (before, after))
    return tuple(
        PackageChange(name, old.get(name, ""), new.get(name, ""))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )
