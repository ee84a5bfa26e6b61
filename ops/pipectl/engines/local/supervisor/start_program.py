"""Replace this process by the program that a JSON file describes; the supervisor starts every service so.

Supervisor's own configuration knows neither quotes in values nor line ends, and keeps the environment of
its start. A file per program has neither limit, and is read anew at every (re)start. Standard library
only, run with `python -I -S`: 10 ms.
"""

from __future__ import annotations

import json
import os
import sys


def private(path: str, flags: int) -> int:
    """Open a file that holds secrets."""
    return os.open(path, flags, 0o600)


def main(path: str) -> None:
    """Become the program described in the file NAME.json at `path`; keep the description as NAME.started."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123  pathlib alone costs 10 ms here
        program = json.load(file)
    state_dir = program.get("state_dir", "..")
    # The supervisor moves with its folder; the paths of the description do not, and may be another project's.
    if not (os.path.isdir(state_dir) and os.path.samefile(state_dir, "..")):  # noqa: PTH112, PTH121  as above
        sys.exit(f"pipectl: this project was moved here from {state_dir}. Start it anew: pipectl up")
    # What this process was started with, for as long as it runs: the description may change meanwhile.
    started = path.removesuffix(".json") + ".started"
    try:
        with open(started + ".new", "w", encoding="utf-8", opener=private) as file:
            json.dump({**program, "pid": os.getpid()}, file)
        os.replace(started + ".new", started)  # noqa: PTH105  as above
    except OSError as error:
        # A full disk, for example: `up` will not know what has changed, which is no reason not to start.
        sys.stderr.write(f"pipectl: {error}\n")
    os.chdir(program["directory"])
    os.execvpe(program["command"][0], program["command"], program["environment"])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1])
