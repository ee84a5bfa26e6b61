"""Whether installed files are as they were installed, by the hashes that came with them.

A wheel brings a sha256 for each file (RECORD). Of Debian's packages the archive has md5 sums, which are kept
beside what is unpacked: packages.py.
"""

from __future__ import annotations

import base64
import csv
import hashlib
from typing import TYPE_CHECKING

from pipectl.engines.local import binaries
from pipectl.engines.local.airflow_install import environment_key
from pipectl.engines.local.packages import SUMS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipectl.settings import Settings


def verify(settings: Settings) -> tuple[int, dict[Path, tuple[Path, ...]]]:
    """Return how many files were compared, and by installed folder those that are not as they were.

    Those of this project are looked at: Airflow, the servers of the cache, and its own layer of packages.
    """
    cache = settings.cache_dir
    key = environment_key(binaries.lock_file(settings, "airflow").read_bytes())
    roots = [cache / f"airflow-{key}", *cache.glob("postgres-*"), cache / "mariadb"]
    roots += (settings.state_dir / "packages").glob("*")
    count, damaged = 0, {}
    for root in roots:
        different = []
        for path, digest in (*_of_wheels(root), *_of_packages(root)):
            count += 1
            if _digest(path, digest) != digest:
                different.append(path)
        if different:
            damaged[root] = tuple(different)
    return count, damaged


def _of_wheels(root: Path) -> Iterator[tuple[Path, str]]:
    for pattern in ("*.dist-info/RECORD", "lib/python*/site-packages/*.dist-info/RECORD"):
        for record in root.glob(pattern):
            site = record.parents[1]
            with record.open(encoding="utf-8", newline="") as file:
                for name, digest, *_ in csv.reader(file):
                    # The list itself and byte code have none.
                    if digest.startswith("sha256="):
                        yield site / name, digest


def _of_packages(root: Path) -> Iterator[tuple[Path, str]]:
    sums = root / SUMS
    if sums.is_file():
        for line in sums.read_text(encoding="utf-8").splitlines():
            digest, _, name = line.partition("  ")
            yield root / name, f"md5={digest}"


def _digest(path: Path, wanted: str) -> str:
    """Return the hash of a file, of the kind and in the form of `wanted`; empty if there is no file."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    if wanted.startswith("md5="):
        return f"md5={hashlib.md5(content, usedforsecurity=False).hexdigest()}"
    return f"sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()}"
