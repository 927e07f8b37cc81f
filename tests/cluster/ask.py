"""Run on the head of a cluster: prints as JSON what Ray still holds, and the runs that MLflow has."""

import json
import os
from collections import Counter

import ray
from mlflow.tracking import MlflowClient
from ray.util.placement_group import placement_group_table

ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
groups = [group["state"] for group in placement_group_table().values()]
client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
[experiment] = client.search_experiments(filter_string="name = 'lps'")
found = client.search_runs([experiment.experiment_id])
children = Counter(run.data.tags["run_id"] for run in found if "mlflow.parentRunId" in run.data.tags)
answer = {
    "groups": [state for state in groups if state != "REMOVED"],
    "mlflow": dict(children),
    "parents": len(found) - sum(children.values()),
    "statuses": sorted({run.info.status for run in found}),
}
print("ANSWER", json.dumps(answer))
