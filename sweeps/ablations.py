"""The ablations of LPS's paper, and every method in its "matched" form: the panels of one figure.

    python sweeps/ablations.py --preset quick
    python sweeps/ablations.py --panels b e --groups cube-double --results s3://bucket/ablations
    python sweeps/ablations.py --dry-run

The preset quick trains small networks on the ring bandit, in minutes on two CPU cores. It tests the code and says
nothing about robots. The same command again resumes.
"""

import argparse
import sys
from collections.abc import Sequence

from lps.agents import AGENTS
from lps.agents.variants import PANELS, resolve
from lps.errors import check_known, command_line
from lps.runs.intent import Planned
from sweeps.launcher import cli
from sweeps.study import scope as scopes
from sweeps.study.scope import STUDY_SCOPES, Scope


def build(panels: Sequence[str], scope: Scope, agents: Sequence[str] | None = None) -> list[Planned]:
    """Plan the runs of the panels, of all agents or of the given ones. UserError for unknown names."""
    check_known(panels, PANELS, "panel")
    for agent in agents or ():
        resolve(agent, AGENTS)
    bars = dict.fromkeys(bar for name in panels for bar in PANELS[name].bars)
    chosen = [bar for bar in bars if agents is None or bar in agents or bar.partition(":")[0] in agents]
    scopes.check_settings(scope, chosen)
    return [run for bar in chosen for run in scope.runs(bar)]


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="ablations.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scopes.add_arguments(parser, STUDY_SCOPES)
    panels = "; ".join(f"{name}: {panel.title}" for name, panel in PANELS.items())
    parser.add_argument("--panels", nargs="+", metavar="PANEL", default=list(PANELS), help=f"{panels} (default: all)")
    cli.add_arguments(parser)
    arguments = parser.parse_args(argv)
    scope = scopes.scope_from_arguments(arguments, STUDY_SCOPES)
    return cli.launch_or_describe(
        build(arguments.panels, scope, arguments.agents), arguments, f"ablations-{arguments.preset}"
    )


if __name__ == "__main__":
    sys.exit(main())
