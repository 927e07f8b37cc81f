"""Sensitivity of an agent's success to its hyperparameters.

    python sweeps/sensitivity.py --preset quick
    python sweeps/sensitivity.py --parts alpha --agents lps dsrl qcmfql --groups cube-double --tasks 2
    python sweeps/sensitivity.py --parts axes --axes lr tau horizon --dry-run
    python sweeps/sensitivity.py --parts joint --points 64

alpha   the grid of LPS's paper. Alpha has no effect in LPS, FM-LPS and DSRL (docs/fidelity.md); the figure says so.
axes    one hyperparameter at a time around the default (sweeps/study/spaces.py).
joint   all scalars at once, at the points of a Sobol sequence: the result of random tuning.

The preset quick trains small networks on the ring bandit, in minutes on two CPU cores. It tests the code and says
nothing about robots. The same command again resumes.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scipy.stats import qmc

from lps.errors import UserError, check_known, command_line
from lps.runs.hyperparameters import hyperparameters
from lps.runs.intent import Planned, Role
from sweeps.launcher import cli
from sweeps.ogbench_all import EVERYONE
from sweeps.study import scope as scopes
from sweeps.study import spaces
from sweeps.study.scope import PAPER_SCOPE, RING_SCOPE, Scope

PRESETS = {
    # The groups of LPS's alpha figure, with the default task of each (2 of cube and scene, 4 of puzzle).
    "paper": replace(PAPER_SCOPE, groups=["cube-double", "scene", "puzzle-3x3"], tasks=[2, 4], seeds=[0, 1, 2]),
    "quick": replace(RING_SCOPE, steps=1500, eval_interval=375),
}
PARTS = ("alpha", "axes", "joint")
POINTS = {"paper": 32, "quick": 12}
"""Number of configurations of the joint design."""


def build(
    parts: Sequence[str], agents: Sequence[str], scope: Scope, axes: Sequence[str] | None, points: int
) -> list[Planned]:
    """Plan the runs, including the default setting. UserError for unknown names."""
    check_known(parts, PARTS, "part")
    known = dict.fromkeys(name for agent in agents for name in spaces.axes(agent))
    check_known(axes or (), known, "axis")
    scopes.check_settings(scope, agents)
    return [
        run
        for agent in agents
        for role, varied in _points(parts, agent, axes or list(known), points)
        for run in scope.runs(agent, role, **varied)
    ]


def _points(parts: Sequence[str], agent: str, axes: Sequence[str], points: int) -> list[tuple[Role, dict[str, Any]]]:
    """Return the roles of an agent's runs, with the settings that they vary."""
    axes_of: dict[str, Sequence[Any]] = (
        {"alpha": spaces.ALPHAS} if "alpha" in parts and "alpha" in hyperparameters(agent) else {}
    )
    if "axes" in parts:
        axes_of |= {name: values for name, values in spaces.axes(agent).items() if name in axes}
    found: list[tuple[Role, dict[str, Any]]] = [({}, {})]
    found += [({"axis": name, "value": value}, {name: value}) for name, values in axes_of.items() for value in values]
    if "joint" in parts:
        found += [({"point": number}, varied) for number, varied in enumerate(joint(agent, points))]
    return found


def joint(agent: str, points: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return the first `points` of a scrambled Sobol sequence over the agent's ranges; every call gives the same."""
    space = spaces.ranges(agent)
    found: list[dict[str, Any]] = [{} for _ in range(points)]
    if space:  # Sobol points are balanced in powers of two; the first points of such a design are still evenly spread
        unit = qmc.Sobol(len(space), seed=seed).random_base2(max(points - 1, 1).bit_length())[:points]
        for column, (name, known) in zip(unit.T, space.items(), strict=True):
            low, high = (math.log(end) if known.log else end for end in (known.low, known.high))
            for point, place in zip(found, low + (high - low) * column, strict=True):
                point[name] = math.exp(place) if known.log else float(place)
    return found


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="sensitivity.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scopes.add_arguments(parser, PRESETS)
    parser.add_argument(
        "--parts",
        nargs="+",
        metavar="PART",
        default=list(PARTS),
        help=f"parts of the study: {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument(
        "--axes", nargs="+", metavar="NAME", help=f"hyperparameters to vary: {', '.join(spaces.AXES)} (default: all)"
    )
    parser.add_argument(
        "--points", type=int, metavar="N", help="number of points of the joint design (default: 32; quick: 12)"
    )
    cli.add_arguments(parser)
    arguments = parser.parse_args(argv)
    scope = scopes.scope_from_arguments(arguments, PRESETS)
    quick = arguments.preset == "quick"
    agents = scopes.agents_from_arguments(arguments, ["lps", "qcfql"] if quick else EVERYONE)
    # On a bandit, a chunk is one action and there is no discount; wide networks take too long.
    axes = arguments.axes or (["lr", "tau", "critic_agg"] if quick else None)
    points = POINTS[arguments.preset] if arguments.points is None else arguments.points
    if points < 1:
        raise UserError(f"--points must be at least 1, not {points}")
    return cli.launch_or_describe(
        build(arguments.parts, agents, scope, axes, points), arguments, f"sensitivity-{arguments.preset}"
    )


if __name__ == "__main__":
    sys.exit(main())
