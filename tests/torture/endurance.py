"""Runs a local stack for long, and measures at rest, between the steps, what it uses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from support.project_copy import DAG_ID
from support.stacks import family
from support.waiting import until
from torture.judging import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.stacks import LocalStack

WARM_UP_RUNS = 3
# `pipectl trigger` takes so many at most.
MOST_REPEATS = 250
TRIGGERS_AT_ONCE, STATUS_AT_ONCE = 20, 50
SLOTS_OF_A_DAY = 48
COMMAND_SECONDS = 1800
REST_SECONDS = 300


def endure(stack: LocalStack, names: list[str], runs: int, rows: int) -> Iterator[dict[str, str | float]]:
    """Take the steps `names`, and yield what the stack uses before the first one and after each."""
    stack.project.run("up")
    repeat(stack, WARM_UP_RUNS)
    yield measured(stack, f"{WARM_UP_RUNS} runs")
    for name in names:
        yield measured(stack, STEPS[name](stack, runs, rows))


def measured(stack: LocalStack, step: str) -> dict[str, str | float]:
    """Let the stack come to rest, look at its data, and measure."""
    until(lambda: has_settled(stack), f"rest after {step}", REST_SECONDS)
    harm = stack.harm()
    assert not any(harm.values()), harm
    found: dict[str, str | float] = {"after": step, **sizes(stack)}
    say(str(found))
    return found


def has_settled(stack: LocalStack) -> bool:
    """Bring the stack to rest; False if the web server is still too busy with what was asked at once."""
    try:
        stack.project.settle()
    except OSError:
        return False
    return True


def repeat(stack: LocalStack, runs: int) -> str:
    """Trigger one run after the other."""
    for begun in range(0, runs, MOST_REPEATS):
        finish(stack, 1, "trigger", "--repeat", str(min(runs - begun, MOST_REPEATS)))
    return f"{runs} runs, one after the other"


def at_once(stack: LocalStack, count: int, *words: str) -> str:
    """Run a command many times at once."""
    finish(stack, count, *words)
    return f"{count} `pipectl {words[0]}` at once"


def finish(stack: LocalStack, count: int, *words: str) -> None:
    """Start commands at once and wait for them all to succeed."""
    commands = [stack.project.start(*words) for _ in range(count)]
    for command in commands:
        _, said = command.communicate(timeout=COMMAND_SECONDS)
        assert command.returncode == 0, said


def a_day(stack: LocalStack) -> str:
    """Have the scheduler run all slots of yesterday."""
    client = stack.project.client()
    client.pause(DAG_ID, paused=False)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = midnight - timedelta(days=1)
    last = midnight - timedelta(minutes=30)
    span = {"from_date": first.isoformat(), "to_date": last.isoformat(), "max_active_runs": 4}
    backfill = client.call("/api/v2/backfills", {"dag_id": DAG_ID, "dag_run_conf": {}, **span})
    path = f"/api/v2/dags/{DAG_ID}/dagRuns?run_type=backfill&limit=1&state=success"
    until(
        lambda: client.call(path)["total_entries"] >= SLOTS_OF_A_DAY,
        f"the runs of backfill {backfill['id']}",
        COMMAND_SECONDS,
    )
    return f"the {SLOTS_OF_A_DAY} slots of a day"


def load(stack: LocalStack, rows: int) -> str:
    """Load a history while one run follows the other."""
    loading = stack.project.start("load", "--transactions", str(rows), "--shards", "2")
    runs = 0
    while loading.poll() is None:
        finish(stack, 1, "trigger", "--timeout", "600")
        runs += 1
    _, said = loading.communicate()
    assert loading.returncode == 0, said
    return f"{rows:,} transactions loaded; runs meanwhile: {runs}"


def sizes(stack: LocalStack) -> dict[str, float]:
    """What a stack at rest uses."""
    # PostgreSQL's backends lead sessions of their own, and say nothing of the project.
    processes = {one for each in stack.project.processes() for one in family(each.pid)}
    files = [path for path in (stack.project.folder / ".pipectl").rglob("*") if path.is_file()]
    [(connections,)] = stack.postgres("SELECT count(*) FROM pg_stat_activity WHERE client_port IS NOT NULL")
    [(_, threads)] = stack.mysql("SHOW STATUS LIKE 'Threads_connected'")
    return {
        "memory, MB": sum(process.memory_full_info().pss for process in processes) / 1e6,
        "disk, MB": sum(path.stat().st_blocks * 512 for path in files) / 1e6,
        "processes": len(processes),
        "open files and sockets": sum(process.num_fds() for process in processes),
        "connections to airbyte-postgres": float(connections) - 1,
        "connections to airbyte-mysql": float(threads) - 1,
    }


# What can be endured; each step returns what it was.
STEPS: dict[str, Callable[[LocalStack, int, int], str]] = {
    "runs": lambda stack, runs, _: repeat(stack, runs),
    "triggers": lambda stack, *_: at_once(stack, TRIGGERS_AT_ONCE, "trigger", "--timeout", "600"),
    "status": lambda stack, *_: at_once(stack, STATUS_AT_ONCE, "status"),
    "day": lambda stack, *_: a_day(stack),
    "load": lambda stack, _, rows: load(stack, rows),
}
