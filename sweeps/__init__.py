"""What is run, and how: sweeps over the runs of `lps` with Ray Tune and Ray Train, mirrored to MLflow.

A sweep is ordinary Python that builds a list of `lps.runs.run.Run` and hands it to `sweeps.launcher.launch.launch`. The
results store decides what is left to do, so the same command again is how a sweep goes on.

    ogbench_all.py  the main comparison: OGBench's tasks x agents x seeds
    ablations.py    LPS's ablations, and every method matched to it
    sensitivity.py  one hyperparameter at a time, and all at once
    tuning.py       Optuna's TPE, agent by agent
    halving.py      its --asha: rungs, and how a run goes on from one
    data_scaling.py the dataset's size and noise
    compute.py      what an agent costs
    ring.py         the ring bandit, as a picture
    scale.py        where a study is run and for how long: presets and their options
    spaces.py       the hyperparameters that matter, and their ranges
    cli.py          the rest of their command lines
    launch.py       from a list of runs to finished results: the driver
    pack.py         one pack on the cluster: a Tune trial that runs a Ray Train worker that runs `lps.training.trainer`
    evaluator.py    evaluation as Ray tasks beside the learner
    cluster.py      the Ray cluster: found or started
    resources.py    the cluster divided among the packs
    console.py      what the person in front of it sees
    mirror.py       what MLflow sees
    status.py       how the runs stand, and failed ones queued again: python -m sweeps status | retry
    estimate.py     how long it may take
"""
