"""How much an agent's success depends on its hyperparameters: the study behind "works out of the box".

    python sweeps/sensitivity.py --preset quick
    python sweeps/sensitivity.py --parts alpha --agents lps dsrl qcmfql --groups cube-double --tasks 2
    python sweeps/sensitivity.py --parts axes --axes lr tau horizon --dry-run
    python sweeps/sensitivity.py --parts joint --points 64

alpha   the grid of LPS's paper. It does nothing in LPS, FM-LPS and DSRL (docs/fidelity.md), and the figure says so.
axes    one hyperparameter at a time around the default (sweeps/study/spaces.py).
joint   all scalars at once, at the points of a Sobol sequence: what tuning at random would find.

quick is the ring bandit with small networks, minutes on two CPU cores: it shows that the machinery works, and is no
evidence about robots. Run again, the same command goes on with what is left.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import optuna

from lps.errors import UserError, check_known, guarded
from lps.runs.hyperparameters import hyperparameters
from lps.runs.run import Run
from sweeps.launcher import cli
from sweeps.ogbench_all import EVERYONE
from sweeps.study import scope as scale
from sweeps.study import spaces
from sweeps.study.scope import PAPER_SCALE, RING_SCALE, Scale

PRESETS = {
    # The groups of LPS's alpha figure, with the default task of each (2 of cube and scene, 4 of puzzle).
    "paper": replace(PAPER_SCALE, groups=["cube-double", "scene", "puzzle-3x3"], tasks=[2, 4], seeds=[0, 1, 2]),
    "quick": replace(RING_SCALE, steps=1500, eval_interval=375),
}
PARTS = ("alpha", "axes", "joint")
POINTS = {"paper": 32, "quick": 12}
"""Configurations of the joint design."""


def build(
    parts: Sequence[str], agents: Sequence[str], where: Scale, axes: Sequence[str] | None, points: int
) -> list[Run]:
    """The runs, each once. The default is part of each study. UserError for unknown names."""
    check_known(parts, PARTS, "part")
    known = dict.fromkeys(name for agent in agents for name in spaces.axes(agent))
    check_known(axes or (), known, "axis")
    scale.check_settings(where, agents)
    runs = [
        run
        for agent in agents
        for point in _points(parts, agent, axes or list(known), points)
        for run in where.runs(agent, **point)
    ]
    return list({run.id: run for run in runs}.values())


def _points(parts: Sequence[str], agent: str, axes: Sequence[str], points: int) -> list[dict[str, Any]]:
    """The settings of an agent's runs, as they depart from its default."""
    found: list[dict[str, Any]] = [{}]
    if "alpha" in parts and "alpha" in hyperparameters(agent):
        found += [{"alpha": alpha} for alpha in spaces.ALPHAS]
    if "axes" in parts:
        found += [{name: value} for name, values in spaces.axes(agent).items() if name in axes for value in values]
    if "joint" in parts:
        found += joint(agent, points)
    return found


def joint(agent: str, points: int, seed: int = 0) -> list[dict[str, Any]]:
    """The first `points` of a scrambled Sobol sequence over the agent's ranges; the same at every call."""
    space = spaces.ranges(agent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(scramble=True, seed=seed)
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        design = optuna.create_study(sampler=sampler)
        design.enqueue_trial(_middle(space))  # the sampler learns the space from the first trial, and it is left out
        found = []
        for _ in range(points + 1):
            trial = design.ask(space)
            found.append(dict(trial.params))
            design.tell(trial, 0.0)
        return found[1:]
    finally:
        optuna.logging.set_verbosity(level)


def _middle(space: dict[str, Any]) -> dict[str, float]:
    return {name: (known.low + known.high) / 2 for name, known in space.items()}


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="sensitivity.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scale.add_arguments(parser, PRESETS)
    parser.add_argument("--parts", nargs="+", metavar="PART", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--axes", nargs="+", metavar="NAME", help=f"of {', '.join(spaces.AXES)} (default: all)")
    parser.add_argument("--points", type=int, metavar="N", help="of the joint design (default: 32; quick: 12)")
    cli.add_arguments(parser)
    arguments = parser.parse_args(argv)
    where = scale.asked_for(arguments, PRESETS)
    quick = arguments.preset == "quick"
    agents = arguments.agents or (["lps", "qcfql"] if quick else EVERYONE)
    # On a bandit, a chunk is one action and nothing is discounted; wide networks are not for minutes.
    axes = arguments.axes or (["lr", "tau", "critic_agg"] if quick else None)
    points = POINTS[arguments.preset] if arguments.points is None else arguments.points
    if points < 1:
        raise UserError(f"--points must be at least 1, not {points}")
    arguments.sweep = arguments.sweep or f"sensitivity-{arguments.preset}"
    return cli.go(build(arguments.parts, agents, where, axes, points), arguments)


if __name__ == "__main__":
    sys.exit(main())
