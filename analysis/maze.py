"""Draws policies in a maze: their trajectories over the critic's values, as a figure and as an animation.

python -m lps trajectories RESULTS FILE.npz
python -m analysis maze FILE.npz
"""

import argparse
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from analysis.plots import style
from lps.errors import UserError

WALL, FLOOR, GOAL = "#3B3F46", "#F4F4F1", "#D1495B"
SPARE = "#B3541E"
"""Colour of an agent that has none."""
DARK = 0.55
"""Most brightness of a line, from 0 to 1."""
FRAMES, FPS, DPI = 90, 18, 120
"""Most frames of an animation before its last picture stands still, its frames per second, and its dots per inch."""
STANDSTILL = 1.5
"""Seconds that the last picture of an animation stands still."""
TRAIL = 12
"""Frames that the trail of a moving point is long."""

Data = Mapping[str, np.ndarray]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.npz", help="file of `lps trajectories`")
    parser.add_argument("--out", metavar="NAME", help="path without suffix of the files to write (default: FILE)")


def run(arguments: argparse.Namespace) -> int:
    file = Path(arguments.file)
    out = Path(arguments.out) if arguments.out else file.with_suffix("")
    for path in write(read(file), out):
        print(f"written: {path}")
    return 0


def read(file: Path) -> Data:
    """The arrays of a file of `lps trajectories`.  UserError for another file."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            data = dict(arrays)
        if missing := {"agents", "walls", "positions", "success", "values"} - set(data):
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file} cannot be read: {error}. Write it with: python -m lps trajectories RESULTS {file}"
        ) from error
    return data


def write(data: Data, out: Path) -> list[Path]:
    """Write OUT.png, OUT.pdf and OUT.gif, and return their paths.  UserError if they cannot be written."""
    gif = out.with_name(f"{out.name}.gif")
    try:
        with style.styled():
            paths = style.write_figure(draw(data), out)
            film, update, frames = animate(data)
            FuncAnimation(film, update, frames=frames).save(gif, writer=PillowWriter(fps=FPS), dpi=DPI)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}. Choose another --out") from error
    return [*paths, gif]


def draw(data: Data) -> Figure:
    """A panel for each agent: the maze, the trajectories of all its runs, and its critics' values, mean over runs."""
    figure, panels = _panels(data)
    for axes, agent in panels.items():
        lines = _of(data, agent).reshape(-1, *data["positions"].shape[2:])
        for line in lines:
            axes.plot(*line.T, color=_colour(data, agent), lw=0.9, alpha=0.75, zorder=4, path_effects=_rim())
        starts, ends = lines[:, 0], np.stack([line[np.isfinite(line[:, 0])][-1] for line in lines])
        axes.plot(*starts.T, "o", ms=2.6, color="white", mec=style.INK, mew=0.6, zorder=5)
        axes.plot(*ends.T, "X", ms=4.2, color=_colour(data, agent), mec="white", mew=0.6, zorder=6)
        _title(axes, data, agent, len(data["positions"][0, 0]))
    return figure


def animate(data: Data) -> tuple[Figure, Callable[[int], list[Line2D]], list[int]]:
    """The same with points that move: a figure, the function that brings it to an environment step, and the steps.

    The animation ends at twice the longest successful episode."""
    figure, panels = _panels(data)
    lengths = np.isfinite(data["positions"][..., 0]).sum(-1)
    longest = lengths[data["success"]].max(initial=0) or lengths.max()
    last = int(min(2 * longest, lengths.max())) - 1
    stride = max(1, -(-last // FRAMES))
    tracks = []
    for axes, agent in panels.items():
        for line in _of(data, agent).reshape(-1, *data["positions"].shape[2:]):
            colour = _colour(data, agent)
            (trail,) = axes.plot([], [], color=colour, lw=1.4, alpha=0.8, zorder=4, path_effects=_rim())
            (point,) = axes.plot([], [], "o", ms=5.5, color=colour, mec="white", mew=0.8, zorder=6)
            tracks.append((line[np.isfinite(line[:, 0])], trail, point))

    def update(step: int) -> list[Line2D]:
        for line, trail, point in tracks:
            now = min(step, len(line) - 1)
            trail.set_data(*line[max(0, now - TRAIL * stride) : now + 1].T)
            point.set_data(*line[now : now + 1].T)
        for axes, agent in panels.items():
            _title(axes, data, agent, step + 1)
        return []

    return figure, update, [*range(0, last + stride, stride), *[last] * round(STANDSTILL * FPS)]


def _panels(data: Data) -> tuple[Figure, dict[Axes, str]]:
    """The maze once for each agent, over its values."""
    agents = list(dict.fromkeys(map(str, data["agents"])))
    walls, cell = data["walls"].astype(bool), float(data["cell"])
    rows, columns = walls.shape
    x, y = (start - cell / 2 for start in data["origin"])
    extent = (x, x + cell * columns, y, y + cell * rows)
    width = min(style.PAGE, 2.6 * len(agents) + 0.7)
    figure = Figure(figsize=(width, (width - 0.7) / len(agents) * rows / columns + 0.2))
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, len(agents), squeeze=False)[0]
    shown = {agent: _values(data, agent, walls) for agent in agents}
    finite = [values[np.isfinite(values)] for values in shown.values() if np.isfinite(values).any()]
    low, high = (min(map(np.min, finite)), max(map(np.max, finite))) if finite else (0.0, 1.0)
    panels, image = {}, None
    for axes, agent in zip(grid, agents, strict=True):
        axes.imshow(np.where(walls, np.nan, 1), cmap=_flat(FLOOR), extent=extent, origin="lower", zorder=1)
        if np.isfinite(shown[agent]).any():
            image = axes.imshow(shown[agent], vmin=low, vmax=high, cmap="YlGn", extent=extent, origin="lower", zorder=2)
        axes.imshow(np.where(walls, 1, np.nan), cmap=_flat(WALL), extent=extent, origin="lower", zorder=3)
        axes.add_patch(Circle(tuple(data["goal"]), float(data["goal_radius"]), fc="none", ec=GOAL, lw=1.6, zorder=5))
        (left, right, low_y, high_y), margin = extent, 0.65 * cell  # of the outer walls, a strip is enough
        axes.set(xlim=(left + margin, right - margin), ylim=(low_y + margin, high_y - margin))
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_visible(False)
        axes.grid(False)
        panels[axes] = agent
    if image is not None:
        bar = figure.colorbar(image, ax=list(grid), shrink=0.85, aspect=28, pad=0.02)
        bar.set_label("value of the critic")
        bar.outline.set_visible(False)
    return figure, panels


def _values(data: Data, agent: str, walls: np.ndarray) -> np.ndarray:
    """The mean of the agent's critics on the floor; NaN in walls and where there is no critic."""
    values = data["values"][data["agents"] == agent].mean(0)
    fine = walls.repeat(data["per_cell"], 0).repeat(data["per_cell"], 1)
    return np.where(fine, np.nan, values)


def _of(data: Data, agent: str) -> np.ndarray:
    """Positions (runs, episodes, steps, 2) of an agent."""
    return data["positions"][data["agents"] == agent]


def _colour(data: Data, agent: str) -> str:
    """The agent's colour, darker where it would vanish on the floor."""
    colour = np.array(to_rgb(str(data["colours"][data["agents"] == agent][0]) or SPARE))
    return to_hex(colour * min(1.0, DARK / colour.mean()))


def _title(axes: Axes, data: Data, agent: str, steps: int) -> None:
    """The agent, and its episodes that have reached the goal within so many rows."""
    mine = data["agents"] == agent
    success, lengths = data["success"][mine], np.isfinite(data["positions"][mine][..., 0]).sum(-1)
    axes.set_title(f"{agent}: {int((success & (lengths <= steps)).sum())} of {success.size} at the goal")


def _flat(colour: str) -> ListedColormap:
    return ListedColormap([colour])


def _rim() -> list[Any]:
    return [effects.Stroke(linewidth=1.8, foreground="white", alpha=0.5), effects.Normal()]
