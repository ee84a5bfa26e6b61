"""Backfills: which slots get a run, how the runs are followed, and what is said."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from pipectl.commands import backfill as command
from pipectl.commands import runs
from pipectl.errors import AirflowConflictError, AirflowSilentError, UsageError, WaitTimeoutError
from pipectl.models import Backfill, Counts, DagRun, ParsedDag
from pipectl.names import moment
from pipectl.observer import Observer
from pipectl.pipeline import backfilling, triggering
from pipectl.pipeline.backfilling import BackfillResult
from pipectl.pipeline.triggering import Patience
from support.text import plain

FIRST = datetime(2026, 1, 30, tzinfo=UTC)
STEP = timedelta(minutes=30)
SLOTS = tuple(FIRST + STEP * number for number in range(4))
LAST = SLOTS[-1]


def run_of(slot: datetime, state: str, kind: str = "backfill", end: datetime | None = None) -> DagRun:
    start = slot if state in {"running", "success", "failed"} else None
    return DagRun("mine", f"{kind}__{slot.isoformat()}", kind, state, slot, start=start, end=end)


class FakeApi:
    """An Airflow whose backfills have runs that end one at each look. It stands for the engine too."""

    def __init__(self, *runs: DagRun) -> None:
        self.known = {run.logical_date: run for run in runs if run.logical_date}
        self.active: Backfill | None = None
        self.created: list[dict[str, Any]] = []
        self.conflicts = 0
        self.lost_answers = 0
        self.silent = 0
        self.ends = "success"
        self.unpaused = False
        self.asked: list[datetime] = []

    def backfill_slots(
        self, dag_id: str, since: datetime, until: datetime, reprocess: str = "none"
    ) -> tuple[datetime, ...]:
        assert dag_id == "mine"
        states = {"none": set(), "failed": {"failed"}, "completed": {"failed", "success"}}[reprocess]
        again = {slot for slot, run in self.known.items() if run.state in states}
        slots = (since + STEP * number for number in range((until - since) // STEP + 1))
        self.asked.append(until)
        return tuple(slot for slot in slots if slot in again or slot not in self.known)

    def backfill(
        self, dag_id: str, since: datetime, until: datetime, max_active_runs: int, reprocess: str
    ) -> None:
        if self.conflicts:
            self.conflicts -= 1
            raise AirflowConflictError("There is already a running backfill for dag mine.")
        if not self.active or self.active.since != since:
            slots = self.backfill_slots(dag_id, since, until, reprocess)
            self.created.append({"slots": slots, "max_active_runs": max_active_runs})
            self.known |= {slot: run_of(slot, "queued") for slot in slots}
            self.active = Backfill(1, dag_id, since, until, datetime.now(UTC))
        if self.lost_answers:
            self.lost_answers -= 1
            self.conflicts = 1
            raise AirflowSilentError("Airflow does not answer.")

    def active_backfill(self, _: str) -> Backfill | None:
        return self.active

    def cancel_backfill(self, backfill: Backfill) -> None:
        assert backfill == self.active
        self.active = None
        self.known = {
            slot: replace(run, state="failed") if run.state == "queued" else run
            for slot, run in self.known.items()
        }

    def runs_between(self, _: str, since: datetime, until: datetime) -> tuple[DagRun, ...]:
        if self.silent:
            self.silent -= 1
            raise AirflowSilentError("Airflow does not answer.")
        runs = tuple(self.known[slot] for slot in sorted(self.known) if since <= slot <= until)
        if self.unpaused and self.created:
            for run in runs:
                if run.state == "queued" and run.logical_date:
                    self.known[run.logical_date] = replace(
                        run, state=self.ends, start=run.logical_date, end=datetime.now(UTC)
                    )
                    break
        return runs

    def set_paused(self, _: str, *, paused: bool) -> None:
        assert bool(self.created) or bool(self.active), "it was unpaused before its slots were taken"
        self.unpaused = not paused

    def services(self) -> tuple[()]:
        return ()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfilling, "POLL_SECONDS", 0)
    monkeypatch.setattr(triggering, "SILENCE_POLL_SECONDS", 0)


def backfilled(
    api: FakeApi,
    *,
    failed: bool = False,
    wait: bool = True,
    timeout: float = 5,
    dag: ParsedDag | None = None,
) -> Any:
    dag = dag or ParsedDag(
        not api.unpaused, has_import_errors=False, file="", next_run="", dag_id="mine", periodic=True
    )
    return backfilling.backfill(
        cast("Any", api),
        dag,
        FIRST,
        LAST,
        max_active_runs=2,
        patience=Patience(cast("Any", api), Observer(), timeout),
        observer=Observer(),
        timeout=timeout,
        failed=failed,
        wait=wait,
    )


def test_slots_without_a_run_get_one_and_are_followed_to_their_end() -> None:
    api = FakeApi(run_of(SLOTS[1], "success", "scheduled"), run_of(SLOTS[2], "failed", "scheduled"))
    result = backfilled(api)
    assert api.created == [{"slots": (SLOTS[0], SLOTS[3]), "max_active_runs": 2}]
    assert [(run.logical_date, run.state) for run in result.runs] == [
        (SLOTS[0], "success"),
        (SLOTS[3], "success"),
    ]
    assert [run.logical_date for run in result.existing] == [SLOTS[1], SLOTS[2]]
    assert (result.unpaused, result.failed) == (True, ())
    text = plain(command.result_text(replace(result, delta=Counts(1234, 1234, 5))))
    assert re.search(r"^mine: 2 runs in \d+\.\d s: 2 success$", text, re.MULTILINE)
    assert "+ 1,234 transactions, 1,234 labels, 5 of them fraud" in text
    assert "2 runs have slots of these times already." in text
    assert f"1 of them failed, scheduled__{SLOTS[2].isoformat()} first.\n" in text
    assert "  To start these again: --failed\n" in text


def test_failed_runs_start_again_if_asked_for() -> None:
    api = FakeApi(*(run_of(slot, "success", "scheduled") for slot in SLOTS[:3]), run_of(LAST, "failed"))
    result = backfilled(api, failed=True)
    assert [(run.logical_date, run.state) for run in result.runs] == [(LAST, "success")]


def test_where_every_slot_has_a_run_none_is_made_and_the_dag_stays_paused() -> None:
    api = FakeApi(*(run_of(slot, "success", "scheduled") for slot in SLOTS))
    result = backfilled(api)
    assert (api.created, api.unpaused, result.runs) == ([], False, ())
    assert "mine: no slot without a run, so none was made." in plain(command.result_text(result))


def test_what_an_interrupted_command_began_is_followed_by_the_next() -> None:
    api = FakeApi(run_of(SLOTS[0], "success", "backfill", FIRST))
    first = backfilled(api, wait=False)
    assert {run.state for run in first.runs} <= {"queued", "success"}
    result = backfilled(api)
    assert len(api.created) == 1
    # An earlier backfill's run is none of this one's.
    assert [run.logical_date for run in result.existing] == [SLOTS[0]]
    assert {run.state for run in result.runs} == {"success"}


def test_a_range_that_ends_now_is_told_to_the_second() -> None:
    api = FakeApi()
    since, until = command._times("2020-01-01", None)
    assert datetime.now(UTC) - until < timedelta(minutes=1)
    with pytest.raises(UsageError, match=r" to \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00, and one backfill"):
        backfilling.plan(cast("Any", api), "mine", since, until)


def test_a_backfill_of_other_times_is_named_with_the_way_to_end_it() -> None:
    api = FakeApi(run_of(SLOTS[0], "queued"))
    api.active = Backfill(7, "mine", FIRST, SLOTS[1], FIRST - timedelta(days=1))
    with pytest.raises(
        AirflowConflictError, match=r"from 2026-01-30T00:00:00\+00:00 to 2026-01-30T00:30"
    ) as caught:
        backfilled(api)
    assert "pipectl backfill mine --cancel" in caught.value.hint
    assert not api.created


def test_one_whose_runs_have_all_ended_is_waited_for_until_airflow_closes_it() -> None:
    api = FakeApi(run_of(SLOTS[0], "success"))
    api.active, api.conflicts = Backfill(7, "mine", FIRST - timedelta(days=1), FIRST, FIRST), 3
    assert len(backfilled(api).runs) == 3
    assert api.conflicts == 0


def test_a_backfill_whose_answer_got_lost_is_not_made_twice() -> None:
    api = FakeApi()
    api.lost_answers = 1
    assert len(backfilled(api).runs) == 4
    assert len(api.created) == 1


def test_a_conflict_of_another_kind_is_told() -> None:
    api = FakeApi()
    api.conflicts = 1_000_000
    with pytest.raises(AirflowConflictError, match="already a running backfill"):
        backfilled(api, timeout=0.05)


def test_runs_are_followed_while_airflow_restarts() -> None:
    api = FakeApi()
    backfilled(api, wait=False)
    api.silent = 3
    assert {run.state for run in backfilled(api).runs} == {"success"}


def test_each_run_that_ends_gives_the_others_time(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi()
    api.unpaused = True
    clock = [0.0]

    def monotonic() -> float:
        clock[0] += 0.4
        return clock[0]

    monkeypatch.setattr("time.monotonic", monotonic)
    assert len(backfilled(api, timeout=2).runs) == 4
    assert clock[0] > 2
    stuck = FakeApi()
    monkeypatch.setattr(stuck, "set_paused", lambda *_, **__: None)
    with pytest.raises(
        WaitTimeoutError, match="No run of the backfill of mine ended for 2 s, 4 of 4 are left"
    ):
        backfilled(stuck, timeout=2)


def test_a_run_that_fails_is_named() -> None:
    api = FakeApi()
    api.ends = "failed"
    result = backfilled(api)
    assert len(result.failed) == 4
    assert f"failed: backfill__{FIRST.isoformat()}" in plain(command.result_text(result))


def test_what_would_run_is_listed_in_short() -> None:
    plan = backfilling.plan(cast("Any", FakeApi()), "mine", FIRST, LAST)
    assert plan.slots == SLOTS
    many = replace(plan, slots=tuple(FIRST + timedelta(minutes=30) * number for number in range(1000)))
    lines = plain(command.plan_text(many)).splitlines()
    assert lines[0] == "mine: 1,000 runs would be made:"
    assert lines[-2:] == ["  … 994 more …", f"  {moment(many.slots[-1])}"]


def test_more_runs_than_airflow_makes_in_time_are_refused_with_the_range_that_it_can() -> None:
    """A year of half hours: a server that is asked for it computes for a minute, whoever still waits."""
    api = FakeApi()
    year = FIRST + timedelta(days=365)
    with pytest.raises(UsageError) as caught:
        backfilling.plan(cast("Any", api), "mine", FIRST, year)
    assert caught.value.message == (
        "mine has more than 1,000 slots to run from 2026-01-30T00:00:00+00:00 to 2027-01-30T00:00:00+00:00,"
        " and one backfill makes 1,000 runs at most."
    )
    assert max(api.asked) == FIRST + timedelta(days=64)
    first, last = re.findall(r"--(?:from|to) (\S+)", caught.value.hint)
    assert "pipectl backfill mine " in caught.value.hint
    smaller = backfilling.plan(
        cast("Any", api), "mine", datetime.fromisoformat(first), datetime.fromisoformat(last)
    )
    assert len(smaller.slots) == 1_000


def test_runs_that_have_no_slot_of_the_backfill_are_not_counted() -> None:
    between = run_of(FIRST + timedelta(minutes=7), "success", "manual")
    at_slot = run_of(SLOTS[1], "success", "manual")
    api = FakeApi(between, at_slot, run_of(SLOTS[2], "running", "scheduled"))
    plan = backfilling.plan(cast("Any", api), "mine", FIRST, LAST)
    assert plan.existing == (at_slot, api.known[SLOTS[2]])
    assert "2 runs have slots of these times already." in plain(command.plan_text(plan))


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("", "mine has no schedule, so it has no slots"),
        ("@once", "mine has the schedule @once, which has"),
    ],
)
def test_a_dag_without_slots_is_refused_before_airflow_is_asked(schedule: str, said: str) -> None:
    api = FakeApi()
    dag = ParsedDag(True, has_import_errors=False, file="", next_run="", dag_id="mine", schedule=schedule)
    with pytest.raises(UsageError, match=said) as caught:
        backfilled(api, dag=dag)
    assert "pipectl trigger mine --logical-date 2026-01-31" in caught.value.hint
    assert not api.asked


def test_cancelling_fails_what_has_not_begun_and_names_what_goes_on() -> None:
    api = FakeApi(run_of(SLOTS[0], "running"), *(run_of(slot, "queued") for slot in SLOTS[1:]))
    api.active = Backfill(7, "mine", FIRST, LAST, FIRST - timedelta(days=1))
    result = backfilling.cancel(cast("Any", api), "mine")
    ended = BackfillResult("mine", FIRST, LAST, tuple(api.known.values()), ())
    told = plain(command.result_text(ended))
    assert "mine: 4 runs: 3 cancelled, 1 running" in told
    assert f"  cancelled: backfill__{SLOTS[1].isoformat()}\n" in told
    assert (result.failed, result.running) == (3, (f"backfill__{FIRST.isoformat()}",))
    text = plain(command.cancelled_text(result))
    assert "3 runs that had not begun are cancelled" in text
    assert f"pipectl cancel mine backfill__{FIRST.isoformat()}" in text
    again = backfilling.cancel(cast("Any", api), "mine")
    assert plain(command.cancelled_text(again)) == "mine has no backfill under way.\n"


def test_runs_that_were_cancelled_are_not_called_failed() -> None:
    failed, cancelled = run_of(SLOTS[0], "failed"), replace(run_of(SLOTS[1], "failed"), start=None)
    result = BackfillResult("mine", FIRST, LAST, (failed, cancelled, run_of(LAST, "success")), ())
    error = command._failure(result)
    assert error.message == f"Of 3 runs of mine 1 failed, {failed.run_id} first and 1 was cancelled."
    assert len(error.hint.splitlines()) == 2
    only = command._failure(replace(result, runs=(cancelled,)))
    assert only.message == "Of 1 run of mine 1 was cancelled."
    assert only.hint == "To start them again: the same with --failed"
    text = plain(runs.result_text(runs.Runs("mine", (failed, cancelled), 2)))
    assert [line.split()[2] for line in text.splitlines() if "backfill__" in line] == ["failed", "cancelled"]


def test_the_batch_of_a_slot_has_one_name_whoever_runs_it() -> None:
    slot = SLOTS[0].isoformat()
    assert backfilling.batch_of(run_of(SLOTS[0], "success")) == f"scheduled__{slot}"
    assert backfilling.batch_of(run_of(SLOTS[0], "success", "scheduled")) == f"scheduled__{slot}"
