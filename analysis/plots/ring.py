"""Actions of policies on the ring bandit: their density, a row per method, a column per alpha."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Circle, Wedge

from analysis.plots import style
from analysis.results.study import Study, word
from lps.tasks import ring

BINS = 72
ARC = "#E38B1E"
DENSITY = LinearSegmentedColormap.from_list("density", ["#FFFFFF", "#7FA6D9", "#1F4FA3", "#0B1B45"])
DATA = "the data"


def draw(study: Study) -> style.Plot | None:
    actions = _by_panel(study)
    if actions.empty:
        return None
    alphas = sorted(set(actions["alpha"]) - {""}, key=float, reverse=True) or [""]
    methods = list(dict.fromkeys(actions["method"]))
    figure = Figure(figsize=(style.PAGE, 0.25 + 1.62 * len(methods)), layout=ConstrainedLayoutEngine(w_pad=0.03))
    grid = figure.subplots(len(methods), 1 + len(alphas), squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    data = pd.DataFrame(ring.data(), columns=["x", "y"]).assign(run_id="")
    rows = [{"method": DATA, "agent": "", "alpha": "", **_panel(grid[0, 0], data)}]
    grid[0, 0].set_title(DATA, pad=3)
    for (method, agent, alpha), here in actions.groupby(["method", "agent", "alpha"], sort=False):
        axes = grid[methods.index(method), 1 + (alphas.index(alpha) if alpha in alphas else 0)]
        rows.append({"method": method, "agent": agent, "alpha": alpha, **_panel(axes, here)})
        axes.set_title(f"alpha = {alpha}" if alpha else "no alpha", pad=3)
        if axes is grid[methods.index(method), 1]:
            axes.set_ylabel(method, labelpad=4)
    invariance = _invariance(study, set(actions["agent"]))
    return style.Plot(figure, pd.DataFrame(rows), "The ring bandit", _caption(actions), [invariance] * bool(invariance))


def _by_panel(study: Study) -> pd.DataFrame:
    """The actions of all runs with method (title and setting but for alpha), agent and alpha ('' where there is none),
    methods in showing order and alphas from large to small."""
    runs = []
    for series in study.series.values():
        for run_id, run in study.runs[study.runs["series"] == series.key].iterrows():
            own = ", ".join(f"{k}={word(v)}" for k, v in run["departs"].items() if k != "alpha")
            alpha = run["hyperparameters"].get("alpha")
            method = f"{series.agent.title} ({own})" if own else series.agent.title
            shown = f"{alpha:g}" if isinstance(alpha, int | float) else ""
            runs.append({"run_id": run_id, "method": method, "agent": series.agent.name, "alpha": shown})
    return pd.DataFrame(runs).merge(study.results.actions, on="run_id")


def _panel(axes: Axes, actions: pd.DataFrame) -> dict[str, float]:
    """Draws the actions of some runs over the ring; the numbers of the panel."""
    points = actions[["x", "y"]].to_numpy()
    axes.set_visible(True)
    middle, half = np.degrees(ring.ARC)
    width = 2 * ring.BAND
    axes.add_patch(
        Wedge((0, 0), ring.RADIUS + ring.BAND, middle - half, middle + half, width=width, color=ARC, alpha=0.35, lw=0)
    )
    # An agent whose policy takes one action only would be a speck: it gets a dot.
    single = actions.groupby("run_id")[["x", "y"]].agg(np.ptp).max(axis=1) < 1e-3
    spread = points[~actions["run_id"].map(single).to_numpy()]
    if len(spread):
        density, edges, _ = np.histogram2d(spread[:, 0], spread[:, 1], bins=BINS, range=((-1, 1), (-1, 1)))
        shown = np.ma.masked_equal(density.T, 0)
        axes.pcolormesh(edges, edges, shown, cmap=DENSITY, norm=PowerNorm(0.5, 0, density.max()), rasterized=True)
    dots = actions[actions["run_id"].map(single)].groupby("run_id")[["x", "y"]].mean()
    axes.plot(dots["x"], dots["y"], "o", color=DENSITY(0.9), ms=4.5, mec="white", mew=0.6, ls="none")
    for radius in (ring.RADIUS - ring.BAND, ring.RADIUS + ring.BAND):
        axes.add_patch(Circle((0, 0), radius, fill=False, color=style.MUTED, lw=0.5))
    axes.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), aspect="equal", xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set(visible=True, color=style.GRID)
    success, on_ring = float(ring.reward(points).mean()), float(ring.on_ring(points).mean())
    axes.set_xlabel(f"success {100 * success:.0f} %\non the ring {100 * on_ring:.0f} %", labelpad=2, fontsize=7)
    return {"runs": actions["run_id"].nunique(), "actions": len(actions), "success": success, "on_ring": on_ring}


def _invariance(study: Study, agents: set[str]) -> str:
    """Note for agents in which alpha has no effect."""
    titles = ", ".join(agent.title for agent in study.agents(agents).values() if agent.alpha_without_effect)
    if not titles:
        return ""
    return (
        f"{titles}: alpha scales the only loss that reaches the latent actor, and a step of Adam does not "
        "depend on the scale of a loss. The panels are alike because alpha does nothing here, not because the method "
        "withstands it."
    )


def _caption(actions: pd.DataFrame) -> str:
    counts = sorted(set(actions.groupby("run_id").size()))
    return (
        f"Actions in the plane, from -1 to 1: {' to '.join(f'{count:,}' for count in counts)} of every policy after "
        "its last update, darker where there are more (square root scale, each panel on its own); a dot is a policy "
        "that takes one action only. Between the circles: on the ring, where all data are. Orange: worth 1, everything "
        "else 0. Success: the share of these actions that are worth 1."
    )
