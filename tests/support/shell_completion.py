"""What a shell completes in a project whose stack runs."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from pipectl import seen
from support.project_copy import DAG_ID
from support.waiting import until

if TYPE_CHECKING:
    from support.project_copy import Project

NEW_DAG = 'from airflow.sdk import DAG\n\nwith DAG("completed_later"):\n    pass\n'


def completed(project: Project, line: str) -> list[str]:
    """Return the candidates for the last word of a line, as bash asks; nothing else may be said."""
    words = ["pipectl", *line.split(" ")]
    asked = {
        "_PIPECTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pipectl"],
        cwd=project.folder,
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def check_ids_of_a_stack(project: Project) -> None:
    """Let ids be completed that commands have seen, and those of a DAG that none has seen a Tab later."""
    run_id = project.json("trigger")["run_id"]
    assert DAG_ID in completed(project, "pause ")
    assert run_id in completed(project, f"task-log {DAG_ID} ")
    project.run("runs", "latest")
    tasks = {"generate_transactions", "generate_labels"}
    assert set(completed(project, f"task-log {DAG_ID} latest ")) == tasks
    project.dag("completed_later.py", NEW_DAG)
    kept = project.folder / ".pipectl" / seen.FILE

    def is_known() -> bool:
        os.utime(kept, (1, 1))
        return "completed_later" in completed(project, "trigger ")

    until(is_known, "the new DAG")
