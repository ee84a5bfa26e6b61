"""Replace this process by the program that a JSON file describes; the supervisor starts every service so.

Supervisor's own configuration knows neither quotes in values nor line ends, and keeps the environment of
its start. A file per program has neither limit, and is read anew at every (re)start. Standard library
only, run with `python -I -S`: 10 ms.

A program may have another one forked instead, which shares what that has imported: stack/airflow/forks.py.
"""

from __future__ import annotations

import json
import os
import sys
import time

# As in stack/airflow/forks.py and daemon.py, neither of which is found from here.
FORKS, ADOPTS, ADOPT = "PIPECTL_FORKS", "PIPECTL_ADOPTS", 86
# The other program, started just before, may not listen yet.
CONNECT_SECONDS = 0.5
POLL_SECONDS = 0.02
PID_BYTES = 32


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
    note(path, program, os.getpid())
    environment = program["environment"]
    if os.environ.get(ADOPTS):
        name = path.removesuffix(".json")
        if program.get("forked_from"):
            have_forked(f"{program['forked_from']}.forks", path, program)
        elif program.get("forks"):
            environment = {**environment, FORKS: str(listen(f"{name}.forks"))}
    os.chdir(program["directory"])
    os.execvpe(program["command"][0], program["command"], environment)  # noqa: S606


def note(path: str, program: dict[str, object], pid: int) -> None:
    """Write down what the process `pid` was started with: the description may change while it runs."""
    started = path.removesuffix(".json") + ".started"
    try:
        with open(started + ".new", "w", encoding="utf-8", opener=private) as file:
            json.dump({**program, "pid": pid}, file)
        os.replace(started + ".new", started)  # noqa: PTH105  as above
    except OSError as error:
        # A full disk, for example: `up` will not know what has changed, which is no reason not to start.
        sys.stderr.write(f"pipectl: {error}\n")


def listen(name: str) -> int:
    """Let others ask at the socket `name` of this folder, while this program imports; return its number."""
    import socket  # noqa: PLC0415  10 ms, for two programs of seven

    if os.path.exists(name):  # noqa: PTH110  as above
        os.unlink(name)  # noqa: PTH108  as above
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen()
    number = listener.detach()
    os.set_inheritable(number, True)
    return number


def have_forked(name: str, path: str, program: dict[str, object]) -> None:
    """End if another program forks this one, which supervisord then adopts; return if it does not."""
    import socket  # noqa: PLC0415  10 ms, for two programs of seven

    asking = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            asking.connect(name)
            break
        except OSError:
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_SECONDS)
    try:
        socket.send_fds(asking, [os.fsencode(os.path.abspath(path))], [0, 1, 2])  # noqa: PTH100  as above
        # Once the other program has imported; nothing if it ends, or refuses.
        pid = int(asking.recv(PID_BYTES) or 0)
        if pid:
            note(path, program, pid)
            asking.sendall(b".")
            os._exit(ADOPT)
    except (OSError, ValueError):
        return


if __name__ == "__main__":
    main(sys.argv[1])
