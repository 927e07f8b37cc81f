"""Sweeps: many runs of `lps` with Ray Tune and Ray Train, mirrored to MLflow.

A study is a list of planned runs (`lps.runs.intent.Planned`) for `sweeps.launcher.launch.launch`. The results store
knows the finished runs, so the same command again resumes. A new study is one file and one line in STUDIES.

    study/     parts of a study: scope.py (tasks, seeds, protocol), spaces.py (ranges), halving.py (rungs of a budget),
               tuning.py (the tuning of one agent)
    launcher/  Ray: cli.py (options of all studies), launch.py (the driver), pack.py (one pack on the cluster)
    watch/     console.py, status.py, mlflow.py, estimate.py
"""

STUDIES = {
    "ogbench_all": "the main comparison: agents x tasks x seeds",
    "rivals": "LPS, its rivals at their best, and Quantile LPS: on equal updates or FLOPs",
    "ablations": "LPS's ablations, and every method matched to LPS",
    "sensitivity": "one hyperparameter at a time, and all at once",
    "tuning": "Optuna's TPE for each agent, with a comparison on held-out seeds",
    "data_scaling": "size and noise of the dataset",
    "compute": "time and memory of each agent",
    "ring": "the ring bandit, as a picture",
}
"""The studies: module of `sweeps` (python sweeps/NAME.py) -> its subject."""
