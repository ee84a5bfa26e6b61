"""Why a DAG, a run or a task is in its state, for `explain`: what is asked, and of whom.

Only what the state calls for is asked, one question after the other on one connection: an answer within two
seconds is a feature. What causes show in the answers is decided in diagnosing.py.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pipectl.airflow_facts import MISMATCH, AirflowFacts
from pipectl.engines.airflow_env import user_settings
from pipectl.errors import AirflowError, EngineError
from pipectl.names import is_dag_id
from pipectl.overload import overload
from pipectl.pipeline import inspecting
from pipectl.pipeline.access import airflow_address
from pipectl.pipeline.agreement import disagreements
from pipectl.pipeline.causes import Cause
from pipectl.pipeline.diagnosing import choose, explanation
from pipectl.pipeline.evidence import (
    PATIENCE_SECONDS,
    SCHEDULER,
    Evidence,
    Explanation,
    is_among,
    upstream_of,
)
from pipectl.pipeline.readiness import (
    component_starts,
    failures_of,
    files_that_mention,
    processor_start,
)
from pipectl.pipeline.waiting_tasks import WORKER

if TYPE_CHECKING:
    from pipectl.airflow_facts import Instance
    from pipectl.engines.base import Engine
    from pipectl.models import DagRun, ParsedDag, Service
    from pipectl.settings import Settings

PARALLELISM, CONCURRENCY = "AIRFLOW__CORE__PARALLELISM", "AIRFLOW__CELERY__WORKER_CONCURRENCY"
# States in which a task's log says why.
LOGGED = {"failed", "up_for_retry", "up_for_reschedule", "skipped"}
MOST_PARENTS = 5  # of a skipped task, that are asked whether they left it out


@dataclass(frozen=True)
class Subject:
    """What is asked about: a DAG, and perhaps a run and a task of it."""

    dag_id: str
    run_id: str | None = None
    task: str | None = None


def explain(
    engine: Engine,
    settings: Settings,
    default: str,
    dag_or_run: str | None,
    run_id: str | None,
    task: str | None,
) -> Explanation:
    """Explain what one to three arguments mean, the DAG `default` if there are none.

    Raises EngineError if the stack does not run, DagError and AirflowMissingError for what there is not.
    """
    try:
        api = AirflowFacts(airflow_address(engine))
    except AirflowError as error:
        raise EngineError(error.message, hint=error.hint) from error
    subject = _subject(api, engine, default, dag_or_run, run_id, task)

    def look() -> Evidence:
        return _Inquiry(engine, settings, api, engine.services(), subject).evidence()

    evidence = look()
    found = explanation(evidence)
    if found.cause == Cause.UNKNOWN or _has_moved(evidence):
        # Airflow answers one question after the other, and goes on in between.
        found = explanation(look())
    return found


def _has_moved(evidence: Evidence) -> bool:
    """Whether the task that was chosen as waiting has begun, by a later answer."""
    chosen = evidence.chosen
    return chosen is not None and chosen.state == "scheduled" and is_among(chosen, evidence.busy)


def _subject(
    api: AirflowFacts,
    engine: Engine,
    default: str,
    dag_or_run: str | None,
    run_id: str | None,
    task: str | None,
) -> Subject:
    if run_id is not None or dag_or_run is None:
        return Subject(dag_or_run or default, run_id, task)
    # A DAG that its files name may be one that Airflow cannot read.
    is_latest = dag_or_run == inspecting.LATEST
    if is_dag_id(dag_or_run) and not is_latest and files_that_mention(dag_or_run, engine.dags_dir):
        return Subject(dag_or_run)
    return Subject(*inspecting.which(api, default, dag_or_run, None))


class _Inquiry:
    """Asks what the state of the subject calls for."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        api: AirflowFacts,
        services: tuple[Service, ...],
        subject: Subject,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._api = api
        self._services = services
        self._subject = subject
        self._facts: dict[str, Any] = {}

    def evidence(self) -> Evidence:
        api, dag_id = self._api, self._subject.dag_id
        health, heartbeats = api.components_and_heartbeats(component_starts(self._services))
        self._facts = {
            "heard": datetime.now(UTC),
            "overload": overload(),
            "services": self._services,
            "health": health,
            "heartbeats": heartbeats,
            "executor": self._engine.executor,
            "databases": self._engine.databases(),
            "is_run_given": self._subject.run_id is not None,
            "is_task_given": self._subject.task is not None,
        }
        dag = api.dag(dag_id)
        self._look_at_file(dag)
        if dag is None and not self._facts["files"]:
            raise api.missing_dag(dag_id)
        run = self._run()
        self._facts |= {"dag": dag, "run": run}
        if dag is not None and dag.asset_rule and (run is None or run.state == "success"):
            with suppress(AirflowError):  # not everybody may read assets
                self._facts["awaited_assets"] = api.awaited_assets(dag_id)
        if run is not None:
            self._look_at_run(run)
        return Evidence(dag_id=dag_id, now=datetime.now(UTC), **self._facts)

    def _look_at_file(self, dag: ParsedDag | None) -> None:
        dags_dir, dag_id = self._engine.dags_dir, self._subject.dag_id
        failures = self._api.import_failures(processor_start(self._services))
        own = (
            failures_of(dag_id, dag, failures, dags_dir)
            if dag is None or dag.stale or dag.has_import_errors
            else ()
        )
        found = files_that_mention(dag_id, dags_dir) if dag is None else ()
        self._facts |= {
            "failures": own,
            "files": tuple(path.relative_to(dags_dir).as_posix() for path in found),
            "changed": None,
        }
        if dag is not None and dag.file:
            with suppress(OSError):
                changed = (dags_dir / dag.file).stat().st_mtime
                self._facts["changed"] = datetime.fromtimestamp(changed, UTC)

    def _run(self) -> DagRun | None:
        """Return the run that is meant: without a name one that has not ended, or the one made last."""
        if self._subject.run_id is not None:
            return inspecting.find_run(self._api, self._subject.dag_id, self._subject.run_id)
        runs = self._api.runs(self._subject.dag_id)
        return next((run for run in runs if not run.finished), next(iter(runs), None))

    def _look_at_run(self, run: DagRun) -> None:
        api = self._api
        if run.state == "queued":
            self._facts["active"] = api.runs_under_way(run.dag_id)
            if run.run_type == "backfill":
                self._facts["backfill"] = api.backfill(run.dag_id)
        instances = api.instances(run.dag_id, run.run_id)
        self._facts["instances"] = instances
        if run.state == "failed" or any(each.state in {"failed", "up_for_retry"} for each in instances):
            with suppress(AirflowError):  # not everybody may read the event log
                self._facts["events"] = api.events(run.dag_id, run.run_id)
        # Of a DAG whose file is gone Airflow has no definitions any more.
        with suppress(AirflowError):
            self._facts["definitions"] = api.definitions(run.dag_id)
        chosen = self._chosen(run, instances)
        self._facts["chosen"] = chosen
        if chosen is not None:
            self._look_at_task(run, chosen)
        elif run.state == "success":
            earlier = (each for each in api.successes(run.dag_id) if each.run_id != run.run_id)
            self._facts["earlier"] = tuple(each.seconds for each in earlier if each.seconds is not None)

    def _chosen(self, run: DagRun, instances: tuple[Instance, ...]) -> Instance | None:
        now = datetime.now(UTC)
        if self._subject.task is None:
            return choose(instances, run, now, self._facts.get("definitions"))
        named = inspecting.find_tasks(tuple(each.task for each in instances), self._subject.task)
        found = tuple(each for each in instances if each.task in named)
        return choose(found, run, now) or found[0]

    def _look_at_task(self, run: DagRun, task: Instance) -> None:
        api, state = self._api, task.state
        if state in LOGGED and task.task.tries:
            try:
                self._facts["log"] = api.log(task)
            except AirflowError as error:
                self._facts["unread_log"] = error.message
        if state in {"none", "scheduled"} and run.state == "running":
            self._facts["blockers"] = api.blockers(task)
        if state in {"scheduled", "queued"}:
            self._look_at_room(task)
        if state in {"running", "success"}:
            self._facts["earlier"] = api.seconds_of_earlier(task)
        if state == "awaiting_input":
            self._facts |= {"question": api.question(task), "page": api.page_of_question(task)}
        if state == "skipped":
            self._facts["left_out_by"] = self._who_left_out(task)
            self._facts["mapped_over_nothing"] = not task.task.tries and api.is_mapped_over_nothing(task)
        self._look_at_tasks_api(task)

    def _look_at_room(self, task: Instance) -> None:
        api = self._api
        busy, number = api.instances_in("running", "queued")
        started = self._engine.started_with()
        worker = next((each for name, each in started.items() if name.startswith(WORKER)), {})
        self._facts |= {
            "busy": busy,
            "busy_number": number,
            "parallelism": _number(started.get(SCHEDULER, {}).get(PARALLELISM)),
            "concurrency": _number(worker.get(CONCURRENCY)),
        }
        if task.state == "scheduled":
            self._facts["lately"] = api.ended_since(datetime.now(UTC) - timedelta(seconds=PATIENCE_SECONDS))
            pool = api.pool(task.pool) if task.pool else None
            self._facts["pool"] = pool
            if pool is not None and pool.counts_deferred and pool.open < task.slots:
                self._facts["deferred"] = api.instances_in("deferred")[0]
            self._facts["rivals"] = self._rivals(task)

    def _rivals(self, task: Instance) -> tuple[Instance, ...]:
        """Return the scheduled tasks that come before one: none of a paused DAG, where nothing is started."""
        rivals = tuple(
            each for each in self._api.instances_in("scheduled")[0] if each.priority > task.priority
        )
        paused = {dag.dag_id for dag in self._api.dags() if dag.paused} if rivals else set()
        return tuple(each for each in rivals if each.dag_id not in paused)

    def _who_left_out(self, task: Instance) -> str:
        parents = upstream_of(task.task.id, self._facts.get("definitions", {}))
        for parent in parents[:MOST_PARENTS]:
            if self._api.left_out_by(task.dag_id, task.run_id, parent, task.task.id):
                return parent
        return ""

    def _look_at_tasks_api(self, task: Instance) -> None:
        """Ask the API for tasks as a task does, which takes a while, if the task could not begin."""
        mismatch = any(event.name == MISMATCH for event in self._facts.get("events", ()))
        waited = (datetime.now(UTC) - task.queued).total_seconds() if task.queued else 0.0
        is_stuck = task.state == "queued" and waited > PATIENCE_SECONDS
        if not (is_stuck or (mismatch and task.state in {"failed", "up_for_retry"})):
            return
        found = disagreements(
            self._engine.started_with(), self._settings.variables, user_settings(self._settings.project)
        )
        self._facts["disagreeing"] = tuple(each.variable for each in found if each.among_themselves)
        if not self._facts["disagreeing"]:
            with suppress(EngineError):
                self._facts["tasks_api"] = self._engine.tasks_api_problem()


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
