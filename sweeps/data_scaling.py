"""Success against the size and the noise of the dataset.

    python sweeps/data_scaling.py --preset quick
    python sweeps/data_scaling.py --groups cube-double --sizes 100 300 1000 --noises 0 0.1 0.3
    python sweeps/data_scaling.py --dry-run

OGBench's oracles collect every dataset (`python -m lps collect`). Sizes vary at the oracles' default noise of 0.1, and
noises vary at the largest size. This machine collects missing datasets first. On a cluster, copy the files to
--data-dir or $LPS_DATA_MIRROR of all machines. The same command again resumes.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lps.data.names import data_dir
from lps.errors import UserError, check_known, command_line
from lps.runs.intent import Planned, Role
from lps.tasks.ogbench_collect import collect
from lps.tasks.ogbench_oracles import NOISE
from lps.tasks.suites import groups
from sweeps.launcher import cli
from sweeps.ogbench_all import EVERYONE
from sweeps.study import scope as scopes
from sweeps.study.scope import PAPER_SCOPE, Scope

PRESETS = {
    "paper": replace(PAPER_SCOPE, groups=["cube-single", "cube-double"], seeds=[0, 1, 2, 3]),
    "quick": Scope(
        groups=["cube-single"],
        tasks=[1],
        seeds=[0],
        steps=4000,
        eval_interval=2000,
        eval_episodes=25,
        hyperparameters={
            "lr": 1e-3,  # few updates want larger steps
            "flow_steps": 5,
            "base_hidden": [512, 512, 512],
            "critic_hidden": [256, 256],
            "latent_actor_hidden": [256, 256],
        },
    ),
}
SIZES = {"paper": [30, 100, 300, 1000, 3000], "quick": [10, 30, 100]}
"""Sizes in episodes of 1001 observations."""
NOISES = {"paper": [0.0, 0.1, 0.3], "quick": [0.1]}


@dataclass(frozen=True)
class PlayDataset:
    """A dataset of scripted play, by group, number of episodes and noise."""

    group: str
    episodes: int
    noise: float

    @property
    def name(self) -> str:
        noise = "" if self.noise == NOISE else f"-noise{self.noise:g}"
        return f"{self.group}-play-{self.episodes}{noise}"


def datasets(groups: Iterable[str], sizes: Sequence[int], noises: Sequence[float]) -> list[tuple[PlayDataset, Role]]:
    """Return the datasets with their points on the axes. The largest size at the default noise is on both axes."""
    found = [
        play
        for group in groups
        for play in (
            *((PlayDataset(group, n, NOISE), {"axis": "episodes", "value": n}) for n in sizes),
            *((PlayDataset(group, max(sizes), noise), {"axis": "noise", "value": noise}) for noise in [NOISE, *noises]),
        )
    ]
    return list({(play, role["axis"]): (play, role) for play, role in found}.values())


def build(agents: Sequence[str], plays: Sequence[tuple[PlayDataset, Role]], scope: Scope) -> list[Planned]:
    """Plan the runs: agents x datasets x tasks x seeds. UserError for unknown names."""
    scopes.check_settings(scope, agents)
    usual = {play.group: play.name for play, role in plays if role == {"axis": "noise", "value": NOISE}}
    return [
        run
        for agent in agents
        for play, role in plays
        for run in replace(scope, groups=[play.group], dataset=usual[play.group]).runs(agent, role, dataset=play.name)
    ]


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="data_scaling.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scopes.add_arguments(parser, PRESETS)
    parser.add_argument("--sizes", nargs="+", type=int, metavar="N", help="sizes in episodes of 1001 observations")
    parser.add_argument(
        "--noises", nargs="+", type=float, metavar="X", help="noises of the oracles' plans, from 0 to 1"
    )
    cli.add_arguments(parser)
    arguments = parser.parse_args(argv)
    cli.checked(arguments)
    scope = scopes.scope_from_arguments(arguments, PRESETS)
    if arguments.dataset is not None:
        raise UserError("--dataset conflicts with this study, which varies the dataset. Use --sizes and --noises")
    check_known(scope.groups, groups("ogbench"), "group")  # the ring has no oracles
    varied = datasets(
        scope.groups, arguments.sizes or SIZES[arguments.preset], arguments.noises or NOISES[arguments.preset]
    )
    plays = list(dict.fromkeys(play for play, _ in varied))
    if any(play.episodes < 1 or not 0 <= play.noise <= 1 for play in plays):
        raise UserError("--sizes must be at least 1, and --noises from 0 to 1")
    agents = scopes.agents_from_arguments(arguments, ["lps", "flow_bc"] if arguments.preset == "quick" else EVERYONE)
    runs, sweep = build(agents, varied, scope), f"data-scaling-{arguments.preset}"
    if arguments.dry_run:
        total = sum(play.episodes for play in plays)
        print(f"{len(plays)} datasets with {total} episodes (missing ones take about 1.4 core-seconds per episode)")
        return cli.launch_or_describe(runs, arguments, sweep)
    folder, cores = Path(data_dir(arguments.data_dir)), os.cpu_count() or 1
    for play in plays:
        if not (folder / f"{play.name}.npz").exists():
            collect(
                f"{play.group}-play",
                episodes=play.episodes,
                name=play.name,
                data_dir=folder,
                noise=play.noise,
                workers=cores,
            )
    return cli.launch_or_describe(runs, arguments, sweep)


if __name__ == "__main__":
    sys.exit(main())
