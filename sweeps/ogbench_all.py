"""Every agent on OGBench's tasks: the paper's comparison, or a demonstration in minutes.

    python sweeps/ogbench_all.py --preset demo
    python sweeps/ogbench_all.py --preset paper --agents lps dsrl --groups cube-double --results s3://bucket/results
    python sweeps/ogbench_all.py --dry-run

The same command again resumes.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from lps.errors import command_line
from lps.runs.intent import Planned
from lps.tasks.suites import get_task
from sweeps.launcher import cli
from sweeps.study import scope as scopes
from sweeps.study.scope import PAPER_SCOPE, Scope

EVERYONE = ["lps", "dsrl", "qcfql", "qcmfql", "best_of_n", "cfgrl", "meanflow_bc", "flow_bc"]
"""The agents of LPS's main figure, and best_of_n, the strongest published method that it does not include."""
AGENTS_OF = {
    "demo": ["lps", "meanflow_bc", "flow_bc"],
    "demo-visual": ["lps", "meanflow_bc"],
    "small": EVERYONE,
    "small-scene": EVERYONE,
    "paper": EVERYONE,
    "paper-visual": EVERYONE,
}
# FQL's five visual tasks, and the groups whose five tasks Value Flows runs.
VISUAL_TASKS = [f"visual-{group}-singletask-task1-v0" for group in ("cube-single-play", "puzzle-4x4-play")] + [
    f"visual-{group}-singletask-task{number}-v0"
    for group in (
        "cube-double-play",
        "scene-play",
        "puzzle-3x3-play",
        "antmaze-medium-navigate",
        "antmaze-teleport-navigate",
    )
    for number in range(1, 6)
]
SMALL = {
    "lr": 1e-3,  # few updates want larger steps
    # The goal is 40 chunks away. With the default of 0.005, the value takes three times the updates to reach the start,
    # and errors at the edge of the data last longer: one seed in three fails.
    "tau": 0.02,
    "base_hidden": [128, 128, 128],
    "critic_hidden": [128, 128],
    "latent_actor_hidden": [128, 128],
}
"""Hyperparameters of the demos."""
PRESETS = {
    # LPS against the two kinds of cloning in a maze, with small networks: minutes on two CPU cores. First:
    #   python -m lps collect pointmaze-medium-navigate --episodes 200 --seed 0
    "demo": Scope(
        groups=["pointmaze-medium"],
        tasks=[1],
        seeds=[0, 1, 2],
        steps=12_000,
        eval_interval=2000,
        eval_episodes=25,
        dataset="pointmaze-medium-navigate-200",
        hyperparameters=SMALL,
    ),
    # The same from pixels: a small maze seen from above, with a quarter of the encoder's width. Frames of 32 pixels are
    # too small for crops of 3. First:
    #   python -m lps collect visual-pointmaze-medium-navigate --episodes 200 --seed 0
    "demo-visual": Scope(
        groups=["visual-pointmaze-medium"],
        tasks=[1],
        seeds=[0, 1, 2],
        steps=10_000,
        eval_interval=2500,
        eval_episodes=25,
        dataset="visual-pointmaze-medium-navigate-200",
        hyperparameters={**SMALL, "encoder_width": 0.25, "p_aug": 0.0},
    ),
    # Every agent at the paper's defaults on one task with a quarter of the data: the smallest run that separates them.
    # N of best-of-N is 4. With the default of 32, it alone would take 83 of the sweep's 99 core-hours. First:
    #   python -m lps collect cube-single-play --episodes 250 --seed 0 --name cube-single-play-250
    "small": Scope(
        groups=["cube-single"],
        tasks=[1],
        seeds=[0, 1, 2],
        steps=30_000,
        eval_interval=5000,
        dataset="cube-single-play-250",
        hyperparameters={"num_samples": 4},
    ),
    # Every agent on a second group, with a third of the updates, half the network width, and N = 4: two hours on two
    # CPU cores. First:
    #   python -m lps collect scene-play --episodes 250 --seed 0 --name scene-play-250
    "small-scene": Scope(
        groups=["scene"],
        tasks=[1],
        seeds=[0, 1, 2],
        steps=9000,
        eval_interval=3000,
        eval_episodes=25,
        dataset="scene-play-250",
        hyperparameters={
            "num_samples": 4,
            "base_hidden": [256, 256, 256, 256],
            "critic_hidden": [128, 128, 128, 128],
            "actor_hidden": [256, 256, 256, 256],
            "latent_actor_hidden": [128, 128],
        },
    ),
    # The state-based main comparison of LPS.
    "paper": replace(PAPER_SCOPE, seeds=list(range(8))),
    # The visual tasks of FQL and of Value Flows, scored by the mean of the evaluations at 300k, 400k and 500k updates.
    # One frame, as in LPS's release; --set frame_stack=3 is FQL's protocol.
    "paper-visual": Scope(
        groups=list(dict.fromkeys(get_task(name).group for name in VISUAL_TASKS)),
        tasks=VISUAL_TASKS,
        seeds=[0, 1, 2, 3],
        steps=500_000,
        eval_interval=100_000,
    ),
}


def build(agents: Sequence[str], scope: Scope) -> list[Planned]:
    """Plan the runs: agents x groups x tasks x seeds. UserError for unknown names."""
    scopes.check_settings(scope, agents)
    return [run for agent in agents for run in scope.runs(agent)]


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="ogbench_all.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scopes.add_arguments(parser, PRESETS)
    cli.add_arguments(parser)
    arguments = parser.parse_args(argv)
    scope = scopes.scope_from_arguments(arguments, PRESETS)
    agents = scopes.agents_from_arguments(arguments, AGENTS_OF[arguments.preset])
    return cli.launch_or_describe(build(agents, scope), arguments, arguments.preset)


if __name__ == "__main__":
    sys.exit(main())
