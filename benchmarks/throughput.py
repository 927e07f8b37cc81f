"""How many agent-updates a second this machine makes, for every agent and for packs of several sizes.

    python benchmarks/throughput.py
    python benchmarks/throughput.py --agents lps dsrl --members 1 40 --modes plain compiled --device cuda
    python benchmarks/throughput.py --pixels --agents lps --members 1 4

Networks and batch are the paper's, the data is made up in the shape of cube-single's, or of visual-cube-single's with
--pixels. An update is everything from drawing the batch to the target networks; `drawing` is the part of it that goes
into batch and noise (on a CPU, where it can be timed apart). Beside each rate stands its part of the matrix-product
ceiling measured in the same run (in float32, whatever the precision), so that results of different machines, or of a
busy one, can be read. Writes a CSV and a plot. No Ray.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import device_name, save, table
from torch.utils.flop_counter import FlopCounterMode

from lps.agents import AGENTS
from lps.data.batches import Batches
from lps.data.episodes import Dataset
from lps.errors import check_known, command_line
from lps.spaces import Space
from lps.tasks.suites import groups
from lps.training.options import PRECISIONS
from lps.training.program import Program, _draw, chosen_device

GROUPS = groups("ogbench")


TASK = GROUPS["cube-single"][0]
MODES = ("plain", "compiled")


PIXELS = {"pixels": Space((64, 64, 3), "uint8")}
"""Observation of OGBench's visual tasks."""


def made_up_data(observation: Mapping[str, Space] = TASK.observation, rows: int = 100_100) -> Dataset:
    """Noise in the shape of 100 episodes of cube-single."""
    rng = np.random.default_rng(0)

    def noise(space: Space) -> np.ndarray:
        if space.is_image:
            return rng.integers(0, 256, (rows, *space.shape), np.uint8)
        return rng.standard_normal((rows, *space.shape)).astype(np.float32)

    return Dataset(
        name="made up",
        fingerprint="",
        observations={name: noise(space) for name, space in observation.items()},
        actions=rng.uniform(-1, 1, (rows, *TASK.action.shape)).astype(np.float32),
        terminals=np.arange(rows) % 1001 == 1000,
        rewards=-np.ones((1, rows), np.float32),
        masks=np.ones((1, rows), np.float32),
        tasks=(TASK.name,),
    )


def seconds_each(
    run: Callable[[int], Any], device: str, at_least: float, wait: Callable[[], Any] | None = None
) -> float:
    """Seconds of one call of `run`: the best of several blocks of calls, which a busy machine disturbs least.

    wait: returns when what `run` has started is done (default: torch's wait for the device).
    """
    if wait is None:
        wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    count, step, best, spent = 1, 0, float("inf"), 0.0
    while spent < at_least:
        wait()
        start = time.perf_counter()
        for _ in range(count):
            step += 1
            run(step)
        wait()
        taken = time.perf_counter() - start
        spent += taken
        best = min(best, taken / count)
        count = max(1, int(0.2 * at_least / best))
    return best


def ceiling(device: str, members: int, at_least: float) -> float:
    """Multiply-adds times two per second of the pack's most frequent product, (M, 256, 512) by (M, 512, 512)."""
    x, w = torch.randn(members, 256, 512, device=device), torch.randn(members, 512, 512, device=device)
    return 2 * members * 256 * 512 * 512 / seconds_each(lambda _: torch.bmm(x, w), device, at_least)


def measure(
    name: str, members: int, mode: str, precision: str, dataset: Dataset, device: str, at_least: float
) -> dict[str, Any]:
    """One row of the table."""
    cls = AGENTS[name]
    configs, seeds = [cls.Config(horizon=TASK.horizon)] * members, list(range(members))
    observation = {name: Space(a.shape[1:], str(a.dtype)) for name, a in dataset.observations.items()}
    agent = cls(configs, seeds, observation, TASK.action.shape[0], device)
    batches = Batches(dataset, [TASK.name] * members, [0.99] * members, TASK.horizon, device, seeds=seeds)
    with FlopCounterMode(display=False) as flops:
        Program(agent, batches, seeds).update(1)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    program = Program(agent, batches, seeds, compiled=mode == "compiled", precision=precision)
    start = time.perf_counter()
    for step in range(1, 6):
        program.update(step)
    if device == "cuda":
        torch.cuda.synchronize()
    ready = time.perf_counter() - start
    seconds = seconds_each(program.update, device, at_least)
    drawing = float("nan")
    if device == "cpu":
        keys = torch.tensor(seeds)
        drawing = seconds_each(lambda step: _draw(agent, batches, keys, step), device, at_least / 3) / seconds
    achieved = flops.get_total_flops() / seconds
    return {
        "agent": name,
        "members": members,
        "mode": mode,
        "precision": precision,
        "agent_updates_per_s": members / seconds,
        "update_ms": seconds * 1e3,
        "drawing": drawing,
        "gflop_per_agent_update": flops.get_total_flops() / members / 1e9,
        "utilisation": achieved / ceiling(device, members, at_least / 3),
        "first_updates_s": ready,
        "memory_mib": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else float("nan"),
    }


@command_line
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), metavar="AGENT", help=", ".join(AGENTS))
    parser.add_argument("--members", nargs="+", type=int, default=[1, 8, 40], metavar="M")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--precision", default="float32", help=f"{', '.join(PRECISIONS)} (default: float32)")
    parser.add_argument("--pixels", action="store_true", help="observations are images of 64x64")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured for each row")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"), help="folder for the CSV and the plot")
    arguments = parser.parse_args()
    arguments.device = chosen_device(arguments.device)
    check_known(arguments.agents, AGENTS, "agent")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    dataset, rows = made_up_data(PIXELS, 20_020) if arguments.pixels else made_up_data(), []
    name_of_files = "throughput-pixels" if arguments.pixels else "throughput"
    print(f"{device_name(arguments.device)}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in arguments.agents:
        for mode in arguments.modes:
            for members in arguments.members:
                rows.append(
                    measure(name, members, mode, arguments.precision, dataset, arguments.device, arguments.seconds)
                )
                print(table(rows[-1:], header=len(rows) == 1), flush=True)
                save(rows, Path(arguments.out), name_of_files, arguments.device)  # at once: time may run out
    for path in save(rows, Path(arguments.out), name_of_files, arguments.device, _plot):
        print(f"written: {path}")
    return 0


def _plot(axes: Any, rows: list[dict[str, Any]]) -> None:
    for number, name in enumerate(dict.fromkeys(row["agent"] for row in rows)):
        for mode, style in zip(MODES, ("-o", "--s"), strict=True):
            own = [row for row in rows if row["agent"] == name and row["mode"] == mode]
            if own:
                rates = [row["agent_updates_per_s"] for row in own]
                label = AGENTS[name].title if mode == "plain" else f"{AGENTS[name].title}, {mode}"
                axes.plot([row["members"] for row in own], rates, style, color=f"C{number}", markersize=3, label=label)
    axes.set(xscale="log", yscale="log", xlabel="members in one program", ylabel="agent-updates per second")
    packs = sorted({row["members"] for row in rows})
    axes.set_xticks(packs, map(str, packs))
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))


if __name__ == "__main__":
    sys.exit(main())
