"""Print the requirements of a file that this environment does not meet: `missing_requirements.py FILE`.

Runs at every start of a container, so it imports next to nothing (0.1 s in all).
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path


def missing(text: str) -> list[str]:
    """Return the lines that are not met; one that is no plain requirement counts as such."""
    lines = (line.split(" #", maxsplit=1)[0].strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#") and not is_met(line)]


def is_met(line: str) -> bool:
    """Whether the distribution that a line names is installed in a version that it allows."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(line.split(" --hash", maxsplit=1)[0])
    except InvalidRequirement:
        return False
    if requirement.marker and not requirement.marker.evaluate():
        return True
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    sys.stdout.write(", ".join(missing(path.read_text(encoding="utf-8")) if path.is_file() else []))
