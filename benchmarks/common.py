"""What the benchmarks share: naming the machine, printing rows, and keeping them as CSV and plot."""

import csv
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Rows = list[dict[str, Any]]


def device_name(device: str) -> str:
    """The GPU's name, or the processor's."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(rows: Rows, header: bool = True) -> str:
    """Rows as aligned text."""
    widths = {key: max(len(key), 11) for key in rows[0]}
    lines = ["  ".join(key.rjust(width) for key, width in widths.items())] if header else []
    lines += ["  ".join(_text(row[key]).rjust(width) for key, width in widths.items()) for row in rows]
    return "\n".join(lines)


def save(
    rows: Rows, folder: Path, name: str, device: str, draw: Callable[[Any, Rows], None] | None = None
) -> list[Path]:
    """Writes NAME-DEVICE.csv, with machine and versions in every row, and its plot by `draw` where matplotlib is; the
    paths."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"device": device_name(device), "torch": torch.__version__, "threads": torch.get_num_threads()}
    path = folder / f"{name}-{device}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *about])
        writer.writeheader()
        writer.writerows(row | about for row in rows)
    if not draw:
        return [path]
    try:
        from matplotlib.figure import Figure
    except ImportError:  # a bare machine that is there to compute
        return [path]
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    draw(axes, rows)
    axes.set_title(f"{about['device']}, torch {about['torch']}", fontsize=7)
    figure.savefig(path.with_suffix(".png"), dpi=160)
    return [path, path.with_suffix(".png")]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3g}"
    return str(value)
