"""Airflow's own example DAGs, from the installed packages, run to the end that their authors meant."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from support.needs import need_airflow
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Collection

    from support.project_copy import Project
    from support.rest_client import RestClient

RUN_SECONDS = 420
FINISHED = {"success", "failed"}
# What is left out, and why.
LEFT_OUT = {
    "asset_with_extra_by_context": "its asset's address has another name in another example",
    "asset_with_extra_by_yield": "as asset_with_extra_by_context",
    "asset_with_extra_from_classic_operator": "as asset_with_extra_by_context",
    "example_analytics": "needs S3 and the package datafusion",
    "example_dag_decorator": "asks a server of the internet",
    "example_external_task_marker_child": "waits 10 minutes for a task group that its parent has not",
    "example_passing_params_via_test_command": "needs a param that `airflow tasks test` alone gives",
    "example_retry_policy": "asks a server of the internet",
    "example_sensors": "its TimeSensor, once deferred, waits for an hour",
    "example_task_state_store_async": "calls a method, aget, that its Airflow does not have",
    "read_asset_event": "as asset_with_extra_by_context",
    "read_asset_event_from_classic": "reads an event of the asset of asset_with_extra_by_context",
    "tutorial_objectstorage": "asks a server of the internet",
    "tutorial_taskflow_api_virtualenv": "installs packages from the internet",
}
# What is left out on Docker beside these, for what is in the image.
LEFT_OUT_OF_THE_IMAGE = {
    "example_branch_operator": "asks for NumPy 1.26, which has no wheel for Python 3.13",
    "example_branch_python_operator_decorator": "as example_branch_operator",
    "example_kubernetes_executor": "needs a cluster; the local engine's Airflow does not have it",
}
# Those that are meant to fail.
FAIL = {"example_failed_dag"}
# Those that let another one run, and wait for it.
COMPANIONS = {
    "example_external_task": "child_dag",
    "example_trigger_controller_dag": "example_trigger_target_dag",
}
# What the examples of a sample are about; they run side by side in the stack of another test.
SAMPLE = {
    "example_dynamic_task_mapping": "dynamic mapping",
    "example_hitl_operator": "a human in the loop",
    "example_setup_teardown_taskflow": "setup and teardown",
    "example_task_group_decorator": "task groups",
}
CONF = {"example_params_ui_tutorial": {"required_field": "from the test"}}
WAITING = {"awaiting_input", "deferred"}
# Tasks that ask a human, and what the human answers; of others the first option.
ANSWERS: dict[str, dict[str, Any]] = {
    "wait_for_input": {"chosen_options": ["OK"], "params_input": {"information": "from the test"}},
    "valid_input_and_options": {"chosen_options": ["Approve"]},
}


def check_sample(project: Project) -> None:
    """Run the sample in a project whose DAGs it then is."""
    [folder] = need_airflow().venv.glob("lib/python*/site-packages/airflow")
    places = [folder / "example_dags", folder / "providers" / "standard" / "example_dags"]
    for name in SAMPLE:
        [path] = [place / f"{name}.py" for place in places if (place / f"{name}.py").is_file()]
        project.dag(path.name, path.read_text(encoding="utf-8"))
    assert Examples(project.client()).run(SAMPLE) == dict.fromkeys(SAMPLE, "success")


@dataclass
class Examples:
    """Example DAGs of a running stack."""

    client: RestClient
    ends: dict[str, str] = field(default_factory=dict)

    def run(self, dag_ids: Collection[str]) -> dict[str, str]:
        """Run DAGs side by side, answer what they ask, and return the state in which each ended."""
        companions = {COMPANIONS[dag_id] for dag_id in dag_ids if dag_id in COMPANIONS}
        for dag_id in companions:
            self.client.pause(dag_id, paused=False)
        runs = {dag_id: self._trigger(dag_id) for dag_id in dag_ids}

        def have_ended() -> bool:
            for dag_id, run_id in runs.items():
                if dag_id not in self.ends:
                    self._answer(dag_id, run_id)
                    state = self.client.state(dag_id, run_id)
                    if state in FINISHED:
                        self.ends[dag_id] = state
                        if dag_id not in companions:
                            self.client.pause(dag_id)
            return runs.keys() <= self.ends.keys()

        until(have_ended, f"the end of {', '.join(dag_ids)}", RUN_SECONDS)
        for dag_id in companions:
            self.client.pause(dag_id)
        return {dag_id: self.ends[dag_id] for dag_id in dag_ids}

    def _trigger(self, dag_id: str) -> str:
        until(lambda: self.client.sees(dag_id), f"the DAG {dag_id}")
        body = {"logical_date": datetime.now(UTC).isoformat(), "conf": CONF.get(dag_id, {})}
        run = self.client.call(f"/api/v2/dags/{dag_id}/dagRuns", body)
        self.client.pause(dag_id, paused=False)
        return str(run["dag_run_id"])

    def _answer(self, dag_id: str, run_id: str) -> None:
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"
        for asked in self.client.call(f"{path}/hitlDetails")["hitl_details"]:
            # Airflow loses an answer that comes while the task goes to rest: it then waits for ever.
            if asked.get("response_received") or asked["task_instance"]["state"] not in WAITING:
                continue
            task_id = asked["task_instance"]["task_id"]
            answer = ANSWERS.get(task_id) or {"chosen_options": asked["options"][:1]}
            index = asked["task_instance"]["map_index"]
            self.client.call(f"{path}/taskInstances/{task_id}/{index}/hitlDetails", answer, "PATCH")
