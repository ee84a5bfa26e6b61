"""The scheduler knows which of its tasks live by looking at their processes, not by the age of a heartbeat.

A machine that sleeps, or is too busy, misses heartbeats though nothing has died: Airflow then runs tasks a
second time. LocalExecutor's tasks are processes of the scheduler's own machine, so their end can be seen.
What Airflow gives up by the clock is given up here only if the process is gone, and then at once:

- each task is a child process of the scheduler, which learns of its end from the kernel;
- a scheduler that declared itself dead while it was stopped keeps the tasks that it runs;
- a restarted scheduler adopts the tasks that outlived the one before it;
- a scheduler waits for its metadata database instead of ending, and its tasks with it.

CeleryExecutor's tasks are in workers elsewhere: a task is given up only if its worker is gone (liveness.py).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import select
import signal
import socket
import stat
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# The version of Airflow whose executor, scheduler and DAG processor this file and its neighbours change.
WRITTEN_FOR = "3.3"
# A new scheduler's first act is to look for tasks of schedulers that have failed.
EARLIER_SCHEDULERS_FAILED = """
    UPDATE job SET state = 'failed' WHERE job_type = 'SchedulerJob' AND state = 'running' AND hostname = %s"""
# As a host that does not exist, of long ago: the scheduler gives such a task up at its next look.
TASKS_LOST = """
    UPDATE task_instance
    SET hostname = hostname || ' (ended)', last_heartbeat_at = last_heartbeat_at - interval '1 day'
    WHERE state = 'running' AND hostname = %s"""
PAUSE_SECONDS = 0.5
STDOUT, STDERR = 1, 2


def report_earlier_schedulers(connect: Callable[[], Any]) -> None:
    """Tell Airflow that this host's earlier schedulers are dead: when one starts, none before it runs."""
    _of_this_host(connect, EARLIER_SCHEDULERS_FAILED)


def report_lost_tasks(connect: Callable[[], Any]) -> None:
    """Tell Airflow that this host's tasks are dead: when a Celery worker starts, nothing before it runs."""
    _of_this_host(connect, TASKS_LOST)


def _of_this_host(connect: Callable[[], Any], statement: str) -> None:
    with contextlib.closing(connect()) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement, (socket.gethostname(),))


def run_each_task_in_a_process_of_its_own() -> None:
    """Replace LocalExecutor by one whose tasks are children of the scheduler.

    Airflow's own keeps workers that share a queue. It notices the death of a worker by missing heartbeats
    alone, and an idle worker that is killed takes the queue's lock with it: no task ever starts again.
    """
    if sys.platform == "darwin":
        # Forks of a process with threads are not safe there.
        return
    module: Any = importlib.import_module("airflow.executors.local_executor")
    module.LocalExecutor = type("LocalExecutor", (ProcessPerTask, module.LocalExecutor), {"module": module})


class ProcessPerTask:
    """What differs from Airflow's LocalExecutor: it forks for each task, and adopts what it finds."""

    module: Any
    conf: Any
    log: Any
    change_state: Any
    has_task: Any
    running: set[Any]
    queued_tasks: dict[Any, Any]
    queued_callbacks: dict[Any, Any]
    queued_connection_tests: dict[Any, Any]

    def start(self) -> None:
        """Prepare what all tasks share."""
        self.processes: dict[Any, Child | Adopted] = {}
        self.fork = multiprocessing.get_context("fork")
        self.title = self.module._get_executor_process_title_prefix(None)  # noqa: SLF001  no public place has it
        # Loading certificates takes 50 ms, and forks inherit them.
        client: Any = importlib.import_module("airflow.sdk.api.client")
        client.Client._get_ssl_context_cached(client.API_SSL_CA_FILE_PATH, client.API_SSL_CERT_PATH)  # noqa: SLF001

    def _process_workloads(self, workloads: list[Any]) -> None:
        server = self.module.get_execution_api_server_url(self.conf)
        for workload in workloads:
            key, title = workload.key, f"{self.title} {workload.display_name}"
            process = self.fork.Process(target=run, args=(self, workload, server, title))
            try:
                process.start()
            except OSError as error:
                # It stays queued: memory or processes are short just now.
                self.log.warning("could not start a process for %s: %s", key, error)
                return
            for queue in (self.queued_tasks, self.queued_callbacks, self.queued_connection_tests):
                queue.pop(key, None)
            self.running.add(key)
            self.processes[key] = Child(process, workload.success_state, workload.failure_state)
            if workload.running_state is not None:
                self.change_state(key, workload.running_state, remove_running=False)

    def sync(self) -> None:
        """Tell the scheduler which processes have ended."""
        for key, process in list(self.processes.items()):
            if not process.is_alive():
                del self.processes[key]
                self.change_state(key, *process.end())

    def sentinels(self) -> list[int] | None:
        """Return what can be read from once a task has ended; None if that has to be looked for."""
        found = [process.sentinel for process in self.processes.values() if isinstance(process, Child)]
        return found if len(found) == len(self.processes) else None

    def end(self) -> None:
        """Wait for the tasks that this scheduler started."""
        self.log.info("Waiting for %d running tasks", len(self.processes))
        for process in self.processes.values():
            process.join()
        self.sync()

    def try_adopt_task_instances(self, task_instances: Any) -> list[Any]:  # noqa: ANN401  Airflow's own
        """Take over the tasks of a scheduler that has ended; return those that never began.

        Airflow would run all of these once more, also those that had begun and must not be tried again.
        """
        unknown = [ti for ti in task_instances if not self.has_task(ti)]
        outlived = processes_by_title(self.title) if unknown else {}
        not_begun = []
        for ti in unknown:
            process = outlived.get(str(ti.id))
            if process is None and ti.state == "queued":
                not_begun.append(ti)
                continue
            self.log.info("Adopting %s: %s", ti.key, process or "its process has ended")
            self.running.add(ti.key)
            self.processes[ti.key] = Adopted(process)
        return not_begun


class Child:
    """The process of a task that this scheduler started."""

    def __init__(self, process: Any, success: Any, failure: Any) -> None:  # noqa: ANN401  Airflow's states
        self._process, self._success, self._failure = process, success, failure

    @property
    def sentinel(self) -> int:
        """What can be read from once it has ended."""
        return int(self._process.sentinel)

    def is_alive(self) -> bool:
        """Whether it runs."""
        return bool(self._process.is_alive())

    def join(self) -> None:
        """Wait for its end."""
        self._process.join()

    def end(self) -> tuple[Any, str | None]:
        """State and reason, once it has ended."""
        code = self._process.exitcode
        self._process.close()
        if code == 0:
            return self._success, None
        ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return self._failure, f"the process of the task ended with {ending}"


class Adopted:
    """The process of a task that an earlier scheduler started, None if it has ended."""

    def __init__(self, process: Any) -> None:  # noqa: ANN401  psutil's process
        self._process = process

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and is_alive(self._process)

    def join(self) -> None:
        """Do not wait: it goes on without this scheduler, as it has done before."""

    def end(self) -> tuple[Any, str | None]:
        """Failed, which counts only if the process has not told Airflow of its task's end by itself."""
        failed = importlib.import_module("airflow.utils.state").TaskInstanceState.FAILED
        return failed, "the process of the task, started by an earlier scheduler, has ended without a report"


def is_alive(process: Any) -> bool:  # noqa: ANN401  psutil's process
    """Whether the process is still there, and not as a zombie."""
    psutil = importlib.import_module("psutil")
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def processes_by_title(title: str) -> dict[str, Any]:
    """Return the processes whose title begins with `title`, by the rest of it: the id of a task instance."""
    psutil = importlib.import_module("psutil")
    found: dict[str, Any] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline()).strip()
            if words.startswith(title) and is_alive(process):
                # Its own child has its title for a moment.
                found.setdefault(words.removeprefix(title).strip(), process)
    return found


def run(executor: Any, workload: Any, server: str, title: str) -> None:  # noqa: ANN401  Airflow's own
    """Run a task in this process, a fork of the scheduler. Exit code 1 if that fails."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    leave_sockets_to_the_scheduler()
    threading.Thread(target=outlive_the_reader_of_the_log, daemon=True).start()
    try:
        executor.run_workload(workload, server=server, proctitle=title, subprocess_logs_to_stdout=True)
    except Exception:  # as Airflow's own worker does
        executor.log.exception("Workload execution failed.", workload_type=type(workload).__name__)
        sys.exit(1)


def outlive_the_reader_of_the_log() -> None:
    """Write to /dev/null once nobody reads what this process prints.

    The supervisor stops reading when the scheduler dies, and the next line would end this task.
    """
    poller = select.poll()
    # For errors alone, and a pipe without a reader is one.
    poller.register(STDOUT, 0)
    poller.poll()
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (STDOUT, STDERR):
        os.dup2(null, descriptor)
    os.close(null)


def leave_sockets_to_the_scheduler() -> None:
    """Put /dev/null in the place of each inherited socket.

    The database ends a killed scheduler's transaction, and frees its locks, once nobody holds the connection.
    The numbers stay taken, so that an object which still knows one can close nothing else.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for path in list(Path("/proc/self/fd").iterdir()):
        descriptor = int(path.name)
        with contextlib.suppress(OSError):
            if descriptor > STDERR and stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.dup2(null, descriptor, inheritable=False)
    os.close(null)


def give_up_only_tasks_whose_process_is_gone(is_worker_alive: Callable[[str], bool]) -> None:
    """Let the scheduler fail a task for want of heartbeats only if nobody runs it.

    `is_worker_alive` tells it of a worker elsewhere, by the name of its host.
    """
    runner: Any = importlib.import_module("airflow.jobs.scheduler_job_runner").SchedulerJobRunner
    find = runner._find_task_instances_without_heartbeats  # noqa: SLF001  there is no public place for it

    def find_without_process(self: Any, *, session: Any) -> list[Any]:  # noqa: ANN401  passed through
        return [
            ti
            for ti in find(self, session=session)
            if not is_run_by(self, ti)
            and (all(executor.is_local for executor in self.executors) or not is_worker_alive(ti.hostname))
        ]

    runner._find_task_instances_without_heartbeats = find_without_process  # noqa: SLF001


def is_run_by(runner: Any, task_instance: Any) -> bool:  # noqa: ANN401  Airflow's own
    """Whether a local executor of the scheduler runs the task, or is about to."""
    return any(executor.is_local and executor.has_task(task_instance) for executor in runner.executors)


def look_for_orphans_silently() -> None:
    """Leave out the line by which the scheduler says every 5 s that it looks for orphaned tasks.

    What it then finds it still says.
    """
    runner: Any = importlib.import_module("airflow.jobs.scheduler_job_runner").SchedulerJobRunner
    look = runner.adopt_or_reset_orphaned_tasks

    def look_silently(self: Any, **options: Any) -> int:  # noqa: ANN401  passed through
        log = self.log
        self._log = _WithoutTheLook(log)
        try:
            return int(look(self, **options))
        finally:
            self._log = log

    runner.adopt_or_reset_orphaned_tasks = look_silently


class _WithoutTheLook:
    """A logger that leaves out one message."""

    def __init__(self, logger: Any) -> None:  # noqa: ANN401  structlog's
        self._logger = logger

    def info(self, event: str, *arguments: object, **context: object) -> None:
        if not event.startswith("Adopting or resetting orphaned tasks"):
            self._logger.info(event, *arguments, **context)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  whatever structlog's logger has
        return getattr(self._logger, name)


def wait_for_the_database(answers: Callable[[], bool]) -> None:
    """Let the scheduler wait until its metadata database answers again, where Airflow's own would end.

    It would first wait for the end of its tasks, for hours perhaps, and in a container it takes them with it.
    """
    module: Any = importlib.import_module("airflow.jobs.scheduler_job_runner")
    errors: Any = importlib.import_module("sqlalchemy.exc")
    runner = module.SchedulerJobRunner
    loop = runner._run_scheduler_loop  # noqa: SLF001  there is no public place for it

    def run_loop(self: Any) -> None:  # noqa: ANN401  passed through
        while True:
            try:
                loop(self)
            except (errors.OperationalError, errors.InterfaceError) as error:
                self.log.warning("Waiting for the metadata database: %s", error)
                time.sleep(PAUSE_SECONDS)
                while not answers():
                    time.sleep(PAUSE_SECONDS)
                queue_again_what_was_not_handed_over(self, module)
            else:
                return

    runner._run_scheduler_loop = run_loop  # noqa: SLF001


def queue_again_what_was_not_handed_over(runner: Any, module: Any) -> None:  # noqa: ANN401  Airflow's own
    """Set tasks back to scheduled that the database has as queued by this scheduler, and no executor has."""
    if not all(executor.is_local for executor in runner.executors):
        return
    queued = module.TaskInstanceState.QUEUED
    with contextlib.suppress(Exception), module.create_session() as session:
        mine = module.select(module.TI).where(
            module.TI.state == queued, module.TI.queued_by_job_id == runner.job.id
        )
        for ti in session.scalars(mine):
            if not is_run_by(runner, ti):
                ti.state, ti.queued_dttm, ti.queued_by_job_id = module.TaskInstanceState.SCHEDULED, None, None
