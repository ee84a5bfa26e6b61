"""What --json prints, its schemas in docs/schema, and that the two agree."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError

import schemas
from pipectl.commands import COMMANDS, RUN_PROGRAMS
from pipectl.commands.clear import ClearDryRun
from pipectl.commands.doctor import DoctorResult
from pipectl.commands.down import DownAllDryRun, DownAllResult, DownDryRun, DownResult
from pipectl.commands.open import Opening
from pipectl.commands.pause import DagSwitch
from pipectl.commands.reset import DataReset, DataResetDryRun, ResetDryRun
from pipectl.commands.runs import Runs
from pipectl.commands.snapshot import SnapshotList, SnapshotRemoved
from pipectl.commands.status import document_of
from pipectl.commands.up import UpDryRun
from pipectl.documents import Failure, Problem, dump
from pipectl.engines.local.airflow_lock import PackageChange
from pipectl.models import (
    Causes,
    Counts,
    DagRun,
    DatabaseAddress,
    DatabaseContent,
    ImportFailure,
    LogLine,
    Service,
    Table,
    TaskLogLine,
    TaskState,
    TaskTry,
    Volume,
)
from pipectl.pipeline.airflow_trial import Trial, TrialStep
from pipectl.pipeline.backfilling import BackfillCancelled, BackfillPlan, BackfillResult
from pipectl.pipeline.bundling import Bundle
from pipectl.pipeline.causes import Cause
from pipectl.pipeline.checking import Check
from pipectl.pipeline.doctor.checks import Finding
from pipectl.pipeline.evidence import Explanation, Fact, Step
from pipectl.pipeline.exporting import ExportResult
from pipectl.pipeline.initialising import NewProject
from pipectl.pipeline.inspecting import RunDetails, TaskHistory
from pipectl.pipeline.lifecycle import MovedPort, Phase, ResetResult, RestartResult, UpResult
from pipectl.pipeline.listing import DagList, ListedDag
from pipectl.pipeline.loading import LoadResult
from pipectl.pipeline.overview import AirflowStatus, DagStatus, DatabaseStatus, Status
from pipectl.pipeline.projects import (
    CacheFolder,
    FailedProject,
    ListedProject,
    ProjectList,
    StoppedProject,
)
from pipectl.pipeline.snapshot_store import Snapshot
from pipectl.pipeline.snapshots import SnapshotRestored, SnapshotSaved
from pipectl.pipeline.steering import CancelledRun, CancelResult, ClearResult
from pipectl.pipeline.triggering import TriggerResult
from pipectl.pipeline.upgrading import FileChange, Upgrade
from pipectl.pipeline.verification import Verification
from pipectl.pipeline.watching import Watched, WatchedDag, WatchedLabels, WatchedService, WatchedTable
from support.json_schemas import FOLDER, check_output, validate

START = datetime(2026, 5, 4, 22, tzinfo=UTC)
VOLUME = Volume("postgres", "/srv/project/.pipectl/volumes/postgres", START, 12_345)
VOLUME_JSON = {
    "name": "postgres",
    "location": "/srv/project/.pipectl/volumes/postgres",
    "created": "2026-05-04T22:00:00+00:00",
    "bytes": 12_345,
}
UP = UpResult(
    engine="local",
    url="http://127.0.0.1:8081",
    user="admin",
    password="sesame",
    ports={"webserver": 8081},
    seconds=7.2,
    phases=(Phase("start", 0.5),),
    restarted={"scheduler": "stack/airflow/user.env changed"},
    started=("webserver",),
    moved_ports={"webserver": MovedPort(8080, 8081)},
    notes=("webserver runs on port 8081",),
    import_failures=(ImportFailure("broken.py", "SyntaxError"),),
    removed=("worker-2",),
)
UP_JSON = {
    "engine": "local",
    "url": "http://127.0.0.1:8081",
    "user": "admin",
    "ports": {"webserver": 8081},
    "seconds": 7.2,
    "phases": [{"name": "start", "seconds": 0.5}],
    "started": ["webserver"],
    "restarted": {"scheduler": "stack/airflow/user.env changed"},
    "moved_ports": {"webserver": {"wanted": 8080, "used": 8081}},
    "notes": ["webserver runs on port 8081"],
    "import_failures": [{"filename": "broken.py", "stack_trace": "SyntaxError"}],
    "removed": ["worker-2"],
}
SNAPSHOT = Snapshot(
    name="mine",
    created=START,
    engine="local",
    pipectl="0.1.0",
    versions={"airflow": "3.3.2"},
    rows={"public.transactions": 3},
    slots=("reader",),
    files=7,
    bytes=12_345,
    digest="sesame",
    owner="sesame",
)
SNAPSHOT_JSON = {
    "name": "mine",
    "created": "2026-05-04T22:00:00+00:00",
    "engine": "local",
    "pipectl": "0.1.0",
    "versions": {"airflow": "3.3.2"},
    "rows": {"public.transactions": 3},
    "slots": ["reader"],
    "files": 7,
    "bytes": 12_345,
}
RUN = DagRun(
    "shop", "scheduled__1", "scheduled", "success", START, START, START, START + timedelta(seconds=3)
)
RUN_JSON = {
    "dag_id": "shop",
    "run_id": "scheduled__1",
    "run_type": "scheduled",
    "state": "success",
    "logical_date": "2026-05-04T22:00:00+00:00",
    "queued_at": "2026-05-04T22:00:00+00:00",
    "start": "2026-05-04T22:00:00+00:00",
    "end": "2026-05-04T22:00:03+00:00",
    "seconds": 3.0,
    "cancelled": False,
}
TRY = TaskTry(1, "failed", START, START + timedelta(seconds=3))
TRY_JSON = {
    "try": 1,
    "state": "failed",
    "start": "2026-05-04T22:00:00+00:00",
    "end": "2026-05-04T22:00:03+00:00",
    "seconds": 3.0,
}
STATE = TaskState("write", "success", 1, 3.0, start=START, end=START + timedelta(seconds=3))
STATE_JSON = {
    "id": "write",
    "state": "success",
    "try": 1,
    "seconds": 3.0,
    "start": "2026-05-04T22:00:00+00:00",
    "end": "2026-05-04T22:00:03+00:00",
}
TRIGGERED = TriggerResult(
    dag_id="shop",
    run_id="pipectl__1",
    state="failed",
    seconds=None,
    tasks=(TaskState("write", "success", 1, 1.5), TaskState("label", "failed", 2, None, 3)),
    delta=Counts(100, 90, 2),
    other_labels=40,
    other_runs=(RUN,),
    unpaused=True,
)
TRIGGERED_JSON = {
    "dag_id": "shop",
    "run_id": "pipectl__1",
    "state": "failed",
    "seconds": None,
    "tasks": [
        {"id": "write", "state": "success", "try": 1, "seconds": 1.5},
        {"id": "label", "state": "failed", "try": 2, "seconds": None, "map_index": 3},
    ],
    "delta": {"transactions": 100, "labels": 90, "frauds": 2},
    "unpaused": True,
    "other_labels": 40,
    "other_runs": [RUN_JSON],
}
PROJECT = ListedProject(
    Path("/srv/project"), "local", "running", ("webserver",), 7, {"webserver": 8080}, 12_345
)
PROJECT_JSON = {
    "folder": "/srv/project",
    "engine": "local",
    "state": "running",
    "running": ["webserver"],
    "services": 7,
    "ports": {"webserver": 8080},
    "bytes": 12_345,
    "left": [],
    "problem": "",
    "snapshot_bytes": None,
    "since": None,
}
CONTENT = (DatabaseContent("airbyte-postgres", (Table("public.transactions", 3),)),)
CONTENT_JSON = [{"name": "airbyte-postgres", "tables": [{"name": "public.transactions", "rows": 3}]}]


def status(*services: Service) -> Status:
    return Status(
        project=Path("/srv/project"),
        engine="local",
        services=services,
        airflow=AirflowStatus(
            "http://127.0.0.1:8080", "3.3.2", "LocalExecutor", reachable=True, health={"scheduler": "healthy"}
        ),
        dag=DagStatus(
            "shop",
            found=True,
            paused=False,
            last_run=RUN,
            next_run="2026-05-04T22:30:00Z",
            schedule="*/30 * * * *",
        ),
        databases=(
            DatabaseStatus(
                DatabaseAddress("airbyte-postgres", "127.0.0.1", 5432, "airbyte", "docker", "sesame"),
                reachable=True,
                rows={"public.transactions": 3},
            ),
        ),
        notes=("A note.",),
    )


STATUS_JSON = {
    "project": "/srv/project",
    "engine": "local",
    "services": [
        {"name": "webserver", "state": "running", "health": "healthy", "port": 8080, "pid": 123},
        {"name": "scheduler", "state": "stopped", "health": "", "port": None, "pid": None},
        {"name": "redis", "state": "running", "health": "healthy", "port": None, "container": "shop-redis-1"},
    ],
    "airflow": {
        "url": "http://127.0.0.1:8080",
        "version": "3.3.2",
        "executor": "LocalExecutor",
        "reachable": True,
        "health": {"scheduler": "healthy"},
        "import_failures": [],
    },
    "dag": {
        "dag_id": "shop",
        "found": True,
        "paused": False,
        "import_error": "",
        "last_run": RUN_JSON,
        "next_run": "2026-05-04T22:30:00Z",
        "schedule": "*/30 * * * *",
    },
    "databases": {
        "postgres": {
            "service": "airbyte-postgres",
            "host": "127.0.0.1",
            "port": 5432,
            "database": "airbyte",
            "user": "docker",
            "reachable": True,
            "rows": {"public.transactions": 3},
            "estimated": [],
            "error": "",
        }
    },
    "notes": ["A note."],
}
# Every kind of document with the JSON that scripts rely on.
DOCUMENTS: tuple[tuple[str, object, Any], ...] = (
    ("up", UP, UP_JSON),
    ("scale", UP, UP_JSON),
    (
        "up",
        UpDryRun(
            would_install=("the image redis:7",),
            would_start=("webserver",),
            would_restart={"scheduler": "stack/airflow/user.env changed"},
            would_remove=("worker-2",),
            would_move={"webserver": MovedPort(8080, 8081)},
        ),
        {
            "would_install": ["the image redis:7"],
            "would_start": ["webserver"],
            "would_restart": {"scheduler": "stack/airflow/user.env changed"},
            "would_remove": ["worker-2"],
            "would_move": {"webserver": {"wanted": 8080, "used": 8081}},
        },
    ),
    (
        "up",
        UpDryRun(
            would_run=("docker compose up",),
            would_install=(),
            would_start=(),
            would_restart={},
            would_remove=(),
            would_move={},
        ),
        {
            "would_run": ["docker compose up"],
            "would_install": [],
            "would_start": [],
            "would_restart": {},
            "would_remove": [],
            "would_move": {},
        },
    ),
    (
        "down",
        DownResult("local", ("webserver",), (VOLUME,)),
        {"engine": "local", "stopped": ["webserver"], "deleted": [VOLUME_JSON]},
    ),
    ("down", DownDryRun(would_stop=("webserver",)), {"would_stop": ["webserver"]}),
    (
        "down",
        DownDryRun(would_delete=(), would_run=("docker compose down",), would_stop=()),
        {"would_delete": [], "would_run": ["docker compose down"], "would_stop": []},
    ),
    (
        "down",
        DownAllResult(
            (StoppedProject(Path("/srv/project"), "local", ("webserver",)),),
            (FailedProject(None, "docker", "It failed.", "Mend it."),),
        ),
        {
            "projects": [{"folder": "/srv/project", "engine": "local", "stopped": ["webserver"]}],
            "failed": [{"folder": None, "engine": "docker", "message": "It failed.", "hint": "Mend it."}],
        },
    ),
    ("down", DownAllDryRun((PROJECT,)), {"would_stop_projects": [PROJECT_JSON]}),
    (
        "projects",
        ProjectList((PROJECT,), CacheFolder(Path("/home/me/.cache/pipectl"), 5), ("A note.",)),
        {
            "projects": [PROJECT_JSON],
            "cache": {"folder": "/home/me/.cache/pipectl", "bytes": 5},
            "notes": ["A note."],
        },
    ),
    (
        "restart",
        RestartResult("local", {"postgres": "", "webserver": "postgres restarts"}, 2.5, ("A note.",)),
        {
            "engine": "local",
            "restarted": {"postgres": "", "webserver": "postgres restarts"},
            "seconds": 2.5,
            "notes": ["A note."],
        },
    ),
    (
        "reset",
        ResetResult((VOLUME,), (VOLUME,), UP),
        {"deleted": [VOLUME_JSON], "created": [VOLUME_JSON], "up": UP_JSON},
    ),
    ("reset", ResetResult((), (), None), {"deleted": [], "created": [], "up": None}),
    ("reset", ResetDryRun((VOLUME,)), {"would_delete": [VOLUME_JSON]}),
    ("reset", ResetDryRun((), ("docker",)), {"would_delete": [], "would_run": ["docker"]}),
    ("reset", DataReset(CONTENT), {"emptied": CONTENT_JSON}),
    ("reset", DataResetDryRun(CONTENT), {"would_empty": CONTENT_JSON}),
    (
        "status",
        document_of(
            status(
                Service("webserver", "running", "healthy", 8080, 123, restarts=2),
                Service("scheduler", "stopped"),
                Service("redis", "running", "healthy", container="shop-redis-1"),
            )
        ),
        STATUS_JSON,
    ),
    (
        "status",
        Watched(
            time=START,
            project=Path("/srv/project"),
            engine="local",
            services=(WatchedService("webserver", "running", "healthy", 8080, None, 5),),
            memory_kind="PSS",
            dag=WatchedDag("shop", paused=False, next_run=""),
            runs=(RUN,),
            tables=(WatchedTable("fraud_labels", 3, estimated=False, written_last_minute=2),),
            labels=WatchedLabels(1, 2.5, None),
            slots=(),
            alerts=("An alert.",),
        ),
        {
            "time": "2026-05-04T22:00:00+00:00",
            "project": "/srv/project",
            "engine": "local",
            "services": [
                {
                    "name": "webserver",
                    "state": "running",
                    "health": "healthy",
                    "port": 8080,
                    "cpu_percent": None,
                    "memory_bytes": 5,
                }
            ],
            "memory_kind": "PSS",
            "dag": {"dag_id": "shop", "paused": False, "next_run": ""},
            "runs": [RUN_JSON],
            "tables": [{"name": "fraud_labels", "rows": 3, "estimated": False, "written_last_minute": 2}],
            "labels": {"waiting": 1, "lag_seconds": 2.5, "fraud_rate": None},
            "slots": [],
            "alerts": ["An alert."],
        },
    ),
    ("logs", LogLine("webserver", "a line"), {"service": "webserver", "text": "a line"}),
    (
        "open",
        Opening("http://127.0.0.1:8080", "admin", opened=False),
        {"url": "http://127.0.0.1:8080", "user": "admin", "opened": False},
    ),
    (
        "verify-db",
        Verification(
            "empty",
            False,
            CONTENT,
            unlabelled=3,
            orphans=0,
            older=1,
            causes=Causes(next_run=3),
            transactions_ahead=5,
            labels_ahead=6,
            dangling=2,
            reasons=("public.transactions has 3 rows",),
        ),
        {
            "expect": "empty",
            "ok": False,
            "databases": CONTENT_JSON,
            "unlabelled": 3,
            "orphans": 0,
            "older": 1,
            "causes": {
                "below_mark": 0,
                "next_run": 3,
                "open_transaction": 0,
                "other_cluster": 0,
                "set_aside": 0,
            },
            "transactions_ahead": 5,
            "labels_ahead": 6,
            "dangling": 2,
            "reasons": ["public.transactions has 3 rows"],
        },
    ),
    ("trigger", TRIGGERED, TRIGGERED_JSON),
    ("trigger", (TRIGGERED, TRIGGERED), [TRIGGERED_JSON, TRIGGERED_JSON]),
    (
        "dags",
        DagList(
            (
                ListedDag(
                    "shop",
                    paused=False,
                    has_import_errors=True,
                    schedule="@daily",
                    next_run="",
                    file="shop.py",
                    last_run=RUN,
                ),
            ),
            (ImportFailure("shop.py", "SyntaxError"),),
        ),
        {
            "dags": [
                {
                    "dag_id": "shop",
                    "paused": False,
                    "has_import_errors": True,
                    "schedule": "@daily",
                    "next_run": "",
                    "file": "shop.py",
                    "last_run": RUN_JSON,
                }
            ],
            "import_failures": [{"filename": "shop.py", "stack_trace": "SyntaxError"}],
        },
    ),
    ("runs", Runs("shop", (RUN,), 25), {"dag_id": "shop", "runs": [RUN_JSON], "total": 25}),
    (
        "runs",
        RunDetails(
            RUN,
            (
                TaskHistory("write", "success", (TRY, TaskTry(2, "running", START))),
                TaskHistory("label", "none", (), 3),
            ),
        ),
        {
            "run": RUN_JSON,
            "tasks": [
                {
                    "id": "write",
                    "state": "success",
                    "tries": [
                        TRY_JSON,
                        {
                            "try": 2,
                            "state": "running",
                            "start": "2026-05-04T22:00:00+00:00",
                            "end": None,
                            "seconds": None,
                        },
                    ],
                },
                {"id": "label", "state": "none", "tries": [], "map_index": 3},
            ],
        },
    ),
    (
        "task-log",
        TaskLogLine("write", 2, "Committed", 3),
        {"task": "write", "try": 2, "text": "Committed", "map_index": 3},
    ),
    (
        "clear",
        ClearResult("shop", "pipectl__1", "success", 3.0, (STATE,), (STATE,), paused=False),
        {
            "dag_id": "shop",
            "run_id": "pipectl__1",
            "state": "success",
            "seconds": 3.0,
            "cleared": [STATE_JSON],
            "tasks": [STATE_JSON],
            "paused": False,
        },
    ),
    (
        "clear",
        ClearDryRun("shop", "pipectl__1", (STATE,)),
        {"dag_id": "shop", "run_id": "pipectl__1", "would_clear": [STATE_JSON]},
    ),
    (
        "cancel",
        CancelResult("shop", (CancelledRun("pipectl__1", "running", "failed", (STATE,)),)),
        {
            "dag_id": "shop",
            "runs": [{"run_id": "pipectl__1", "before": "running", "state": "failed", "tasks": [STATE_JSON]}],
        },
    ),
    (
        "backfill",
        BackfillResult("shop", START, START, (), (), Counts(1, 1, 0)),
        {
            "dag_id": "shop",
            "since": "2026-05-04T22:00:00+00:00",
            "until": "2026-05-04T22:00:00+00:00",
            "runs": [],
            "existing": [],
            "delta": {"transactions": 1, "labels": 1, "frauds": 0},
            "other_labels": 0,
            "unpaused": False,
        },
    ),
    (
        "backfill",
        BackfillPlan("shop", START, START, (START,), ()),
        {
            "dag_id": "shop",
            "since": "2026-05-04T22:00:00+00:00",
            "until": "2026-05-04T22:00:00+00:00",
            "slots": ["2026-05-04T22:00:00+00:00"],
            "existing": [],
        },
    ),
    (
        "backfill",
        BackfillCancelled("shop", cancelled=True, failed=2, running=("backfill__1",)),
        {"dag_id": "shop", "cancelled": True, "failed": 2, "running": ["backfill__1"]},
    ),
    (
        "explain",
        Explanation(
            "shop",
            "manual__1",
            "load[2]",
            "scheduled",
            Cause.POOL_FULL,
            "load[2] waits.",
            (Fact("pool", "full"),),
            (Step("Look", "pipectl runs"),),
        ),
        {
            "dag_id": "shop",
            "run_id": "manual__1",
            "task": "load[2]",
            "state": "scheduled",
            "cause": "pool_full",
            "sentence": "load[2] waits.",
            "evidence": [{"name": "pool", "value": "full"}],
            "next": [{"purpose": "Look", "command": "pipectl runs"}],
        },
    ),
    (
        "snapshot",
        SnapshotSaved(SNAPSHOT, "/srv/project/.pipectl/snapshots/mine", 3.0, 1.5),
        {
            "snapshot": SNAPSHOT_JSON,
            "folder": "/srv/project/.pipectl/snapshots/mine",
            "seconds": 3.0,
            "away_seconds": 1.5,
        },
    ),
    (
        "snapshot",
        SnapshotList((SNAPSHOT,), {"theirs": "It is another project's."}),
        {"snapshots": [SNAPSHOT_JSON], "unusable": {"theirs": "It is another project's."}},
    ),
    (
        "snapshot",
        SnapshotRestored(SNAPSHOT, ("AIRFLOW_FERNET_KEY",), ("reader",), UP, ("A note.",)),
        {
            "snapshot": SNAPSHOT_JSON,
            "settings": ["AIRFLOW_FERNET_KEY"],
            "slots_dropped": ["reader"],
            "up": UP_JSON,
            "notes": ["A note."],
        },
    ),
    ("snapshot", SnapshotRemoved("mine"), {"removed": "mine"}),
    ("pause", DagSwitch("shop", paused=True), {"dag_id": "shop", "paused": True}),
    ("unpause", DagSwitch("shop", paused=False), {"dag_id": "shop", "paused": False}),
    (
        "load",
        LoadResult("load__1", 10, 10, 1, 0, 1, 0.5, 0.25, 0.75),
        {
            "load": "load__1",
            "transactions": 10,
            "labels": 10,
            "frauds": 1,
            "resumed": 0,
            "shards": 1,
            "transactions_seconds": 0.5,
            "labels_seconds": 0.25,
            "seconds": 0.75,
        },
    ),
    (
        "export",
        ExportResult(Path("data"), "csv", None, START, START, 10, 9, 1, 1, 3, 5, 2, 4, 1000, 0.5),
        {
            "folder": "data",
            "format": "csv",
            "since": None,
            "until": "2026-05-04T22:00:00+00:00",
            "as_of": "2026-05-04T22:00:00+00:00",
            "transactions": 10,
            "labels": 9,
            "frauds": 1,
            "unlabelled": 1,
            "customers": 3,
            "terminals": 5,
            "days": 2,
            "files": 4,
            "bytes": 1000,
            "seconds": 0.5,
        },
    ),
    (
        "doctor",
        DoctorResult(
            Path("/srv/project"),
            "local",
            (
                Finding("disk", ok=True, found="9.0 GB left for /srv"),
                Finding("ports", ok=False, found="port 8080 is held", remedy="pipectl up", is_safe=True),
                Finding("compose", ok=None, found="the local engine does without it"),
            ),
            {"env-modes": "chmod 600 /srv/project/stack/.env"},
        ),
        {
            "project": "/srv/project",
            "engine": "local",
            "checks": [
                {"id": "disk", "ok": True, "found": "9.0 GB left for /srv", "remedy": ""},
                {"id": "ports", "ok": False, "found": "port 8080 is held", "remedy": "pipectl up"},
                {"id": "compose", "ok": None, "found": "the local engine does without it", "remedy": ""},
            ],
            "fixed": {"env-modes": "chmod 600 /srv/project/stack/.env"},
        },
    ),
    (
        "init",
        NewProject(Path("/srv/shop"), "1.0.0", 97, 97),
        {"folder": "/srv/shop", "version": "1.0.0", "files": 97, "added": 97},
    ),
    (
        "bundle",
        Bundle(Path("/srv/pipectl.tar.gz"), "3.11 linux x86_64", 190, ("mariadb",), 300_000_000),
        {
            "file": "/srv/pipectl.tar.gz",
            "machine": "3.11 linux x86_64",
            "wheels": 190,
            "servers": ["mariadb"],
            "bytes": 300_000_000,
        },
    ),
    (
        "upgrade",
        Upgrade(
            Path("/srv/shop"),
            "0.1.0",
            "1.0.0",
            dry_run=False,
            changes=(FileChange("dags/mine.py", "conflict", 2, 1, "--- dags/mine.py"),),
            unmerged=("dags/mine.py",),
        ),
        {
            "project": "/srv/shop",
            "before": "0.1.0",
            "after": "1.0.0",
            "dry_run": False,
            "changes": [
                {
                    "path": "dags/mine.py",
                    "action": "conflict",
                    "lines_added": 2,
                    "lines_removed": 1,
                    "diff": "--- dags/mine.py",
                }
            ],
            "unmerged": ["dags/mine.py"],
        },
    ),
    (
        "upgrade",
        Trial(
            project=Path("/srv/shop"),
            engine="local",
            before="3.3.2",
            after="3.4.0",
            lock=Path("/cache/airflow-7.txt"),
            packages=(PackageChange("truststore", "", "0.10.5"),),
            check=Check("3.4.0", "3.13", 1.5, (), (), 0, ()),
            tests=TrialStep("skipped", 2.0, "no tests ran in 0.1s"),
            migration=TrialStep("passed", 3.0, "The copy of the metadata database is migrated."),
            run=TrialStep("failed", 4.0, "A run of mine failed.", "KeyError: 'x'"),
        ),
        {
            "project": "/srv/shop",
            "engine": "local",
            "before": "3.3.2",
            "after": "3.4.0",
            "lock": "/cache/airflow-7.txt",
            "packages": [{"name": "truststore", "before": "", "after": "0.10.5"}],
            "check": {
                "airflow": "3.4.0",
                "python": "3.13",
                "seconds": 1.5,
                "files": [],
                "findings": [],
                "fixed": 0,
                "rewritten": [],
            },
            "tests": {"outcome": "skipped", "seconds": 2.0, "message": "no tests ran in 0.1s"},
            "migration": {
                "outcome": "passed",
                "seconds": 3.0,
                "message": "The copy of the metadata database is migrated.",
            },
            "run": {
                "outcome": "failed",
                "seconds": 4.0,
                "message": "A run of mine failed.",
                "detail": "KeyError: 'x'",
            },
        },
    ),
    (
        "error",
        Failure(Problem(2, "usage", "It is wrong.", "Mend it.", "")),
        {
            "error": {
                "code": 2,
                "kind": "usage",
                "message": "It is wrong.",
                "hint": "Mend it.",
                "detail": "",
            }
        },
    ),
)
# Their JSON is in test_report.py, test_connections.py and test_checking.py.
ELSEWHERE = {"check", "report", "connections"}


@pytest.mark.parametrize(("command", "document", "expected"), DOCUMENTS)
def test_documents_have_the_properties_that_scripts_rely_on(
    command: str, document: object, expected: object
) -> None:
    written = json.loads(dump(document))
    assert written == expected
    validate(command, written)


def test_every_command_has_a_document_here_and_a_schema() -> None:
    documented = {*COMMANDS, "error"} - RUN_PROGRAMS.keys()
    assert {command for command, *_ in DOCUMENTS} | ELSEWHERE == documented
    assert {path.stem for path in FOLDER.glob("*.json")} == documented


def test_schemas_are_those_of_the_dataclasses() -> None:
    for name, text in schemas.files().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"{name} is stale; write it: make docs"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"try": None}, "is not of type 'integer'"),
        ({"map_index": None}, "is not of type 'integer'"),
        ({"duration": 1}, "Additional properties are not allowed"),
    ],
)
def test_a_changed_property_is_refused(change: dict[str, object], reason: str) -> None:
    task = {"id": "write", "state": "success", "try": 1, "seconds": 1.5, **change}
    with pytest.raises(ValidationError) as raised:
        validate("trigger", {**TRIGGERED_JSON, "tasks": [task]})
    assert reason in str(raised.value.context)


@pytest.mark.parametrize("missing", RUN_JSON)
def test_a_missing_property_is_refused(missing: str) -> None:
    run = {name: value for name, value in RUN_JSON.items() if name != missing}
    with pytest.raises(ValidationError) as raised:
        validate("runs", {"dag_id": "shop", "runs": [run], "total": 1})
    assert f"'{missing}' is a required property" in str(raised.value.context)


def test_a_time_without_a_zone_is_refused() -> None:
    run = {**RUN_JSON, "start": "2026-05-04T22:00:00"}
    with pytest.raises(ValidationError):
        validate("runs", {"dag_id": "shop", "runs": [run], "total": 1})


def test_output_is_checked_line_by_line_for_logs_and_as_one_document_otherwise() -> None:
    entry = dump(LogLine("webserver", "a"))
    check_output(("logs", "--json"), f"{entry}\n{entry}\n", "")
    with pytest.raises(ValidationError):
        check_output(("logs", "--json"), f'{entry}\n{{"service": "webserver"}}\n', "")
    with pytest.raises(ValidationError):
        check_output(("status", "--json"), entry, "")
    with pytest.raises(ValidationError):
        check_output(("status", "--json"), "", 'Progress\n{"error": {"code": 2}}\n')


def test_secrets_are_no_properties() -> None:
    assert "sesame" not in dump([document for _, document, _ in DOCUMENTS])


@dataclass(frozen=True)
class Strange:
    """Holds what no document may."""

    value: set[int] = field(default_factory=set)


def test_a_type_without_a_schema_is_an_error_and_not_left_open() -> None:
    with pytest.raises(TypeError, match="No JSON Schema is known"):
        schemas.schema_of(Strange, {})


def test_two_classes_of_one_name_in_a_document_are_an_error() -> None:
    with pytest.raises(ValueError, match="the same name"):
        schemas.by_name({Strange: {}, make_dataclass("Strange", ["value"]): {}})
