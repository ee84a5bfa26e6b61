"""`status --watch --json` as it runs, look by look."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from support.json_schemas import check_output
from support.project_copy import DAG_ID
from support.waiting import WAIT_SECONDS, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from support.project_copy import Project

ARGUMENTS = ("status", "--watch", "0.5", "--json")


class Looks:
    """All that a watch has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._process = process
        self._output: Any = process.stdout
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._output:
            self.lines.append(line)

    def see(self, question: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Wait for a look, of those that come from now on, of which the question is true."""
        position = len(self.lines)

        def found() -> dict[str, Any] | None:
            nonlocal position
            while position < len(self.lines):
                look: dict[str, Any] = json.loads(self.lines[position])
                position += 1
                if question(look):
                    return look
            assert self._process.poll() is None, f"the watch has ended with {self._process.returncode}"
            return None

        try:
            look = until(found, what)
        except AssertionError as error:
            error.add_note(f"The last look: {self.lines[-1:]}")
            raise
        assert look is not None
        return look

    def end(self) -> None:
        self._reader.join(WAIT_SECONDS)


@contextmanager
def watching(project: Project) -> Iterator[Looks]:
    """Watch for the time of a block; Ctrl-C ends it, and all that it printed is as the schema says."""
    process = project.start(*ARGUMENTS)
    looks = Looks(process)
    try:
        yield looks
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(WAIT_SECONDS)
        looks.end()
    assert process.stderr
    error = process.stderr.read()
    assert code == 130, error
    check_output(ARGUMENTS, "".join(looks.lines), error)


def is_whole(look: dict[str, Any]) -> bool:
    """Whether all services are healthy and measured, and all else is known."""
    measured = all(
        service["health"] in {"healthy", "waiting"}
        and service["cpu_percent"] is not None
        and service["memory_bytes"]
        for service in look["services"]
    )
    known = len(look["tables"]) == 2 and look["labels"] and look["runs"] and look["dag"]
    # Runs of other DAGs that failed are those of tests before.
    alerts = [alert for alert in look["alerts"] if ": the run " not in alert or alert.startswith(DAG_ID)]
    return bool(measured and known and not alerts)


def check_watch(project: Project, *, goes_down: bool) -> None:
    """A watch sees a run, and goes on while the stack goes down and comes back."""
    with watching(project) as looks:
        looks.see(is_whole, "a look at a stack that runs")
        run = project.json("trigger")["run_id"]
        seen = looks.see(
            lambda look: look["tables"] and all(table["written_last_minute"] for table in look["tables"]),
            "rows",
        )
        assert run in {each["run_id"] for each in looks.see(is_whole, "a look")["runs"]}
        assert {table["name"] for table in seen["tables"]} == {"public.transactions", "fraud_labels"}
        if not goes_down:
            return
        project.run("down")
        looks.see(
            lambda look: look["alerts"] == ["Nothing runs. Start it: pipectl up"], "a stack that is down"
        )
        project.run("up")
        looks.see(is_whole, "a stack that has come back")
