"""A run of two tasks that wait for a file and write down what they do, for all to see what a fault does."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.project_copy import Project

DAG = """
from datetime import timedelta
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

command = '''
mkdir -p "{folder}"
echo started >>"{folder}/$task"
until [ -e "{folder}/go" ]; do sleep 0.1; done
echo ended >>"{folder}/$task"
'''
with DAG("{dag_id}"):
    for task_id, retries in (("once", 0), ("repeatable", 3)):
        BashOperator(
            task_id=task_id,
            bash_command=command,
            env={{"task": task_id}},
            append_env=True,
            retries=retries,
            retry_delay=timedelta(seconds=1),
        )
"""
# The first must not be tried again, the second may be.
TASKS = ("once", "repeatable")


class WatchedRun:
    """The run; `folder` is where its tasks write, and `shell` runs a command where that folder is seen.

    It is triggered by `pipectl trigger`, which is `command`, if `by_command` is set, else by the REST API.
    """

    def __init__(
        self, project: Project, folder: str, shell: Callable[[str], str], *, by_command: bool = False
    ) -> None:
        # An id of its own: Airflow takes a while to forget a DAG whose file is gone.
        self.dag_id = f"watched_{uuid4().hex}"
        self.folder = f"{folder}/{self.dag_id}"
        self._shell = shell
        project.dag(f"{self.dag_id}.py", DAG.format(folder=self.folder, dag_id=self.dag_id))
        self._client = project.client()
        until(lambda: self._client.sees(self.dag_id), "the DAG")
        if by_command:
            self.command = project.start("trigger", self.dag_id, "--json", "--timeout", "300")
            runs = f"/api/v2/dags/{self.dag_id}/dagRuns"
            self.run_id = until(lambda: self._client.call(runs)["dag_runs"], "a run")[0]["dag_run_id"]
        else:
            self.run_id = self._client.trigger(self.dag_id)
        until(lambda: all(self.lines(task) == ["started"] for task in TASKS), "both tasks at work")

    def lines(self, task: str) -> list[str]:
        """What a task has written so far."""
        return self._shell(f"cat '{self.folder}/{task}' 2>/dev/null || true").split()

    def tries(self, task: str) -> int:
        """The number of the task's latest try."""
        path = f"/api/v2/dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/{task}"
        return int(self._client.call(path)["try_number"])

    def let_go(self) -> None:
        """Let the tasks end."""
        self._shell(f"mkdir -p '{self.folder}' && touch '{self.folder}/go'")

    def end(self) -> str:
        """Let the tasks end, and return the state of the run."""
        self.let_go()
        return self._client.end_of(self.dag_id, self.run_id)

    def assert_each_task_runs_once(self) -> None:
        """Let the run end, and assert that nothing was done or tried twice."""
        assert self.end() == "success"
        assert [self.lines(task) for task in TASKS] == [["started", "ended"]] * len(TASKS)
        assert [self.tries(task) for task in TASKS] == [1] * len(TASKS)

    def assert_only_what_may_be_is_tried_again(self) -> None:
        """Wait for the second try, let the run end, and assert that the other task was not tried again."""
        until(lambda: self.lines("repeatable") == ["started", "started"], "the second try")
        assert self.end() == "failed"
        assert self.lines("once") == ["started"]
        assert self.lines("repeatable") == ["started", "started", "ended"]
        assert self.tries("repeatable") == 2
