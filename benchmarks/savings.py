"""What each saving of arithmetic is worth: an update of LPS without it, against the update as it is.

    python benchmarks/savings.py [--savings jvp critics ...] [--members 1] [--device cpu]

Both forms run in turn in one process, a few updates each, first one and then the other first; reported are median and
quartiles of the ratios of neighbours, `time without / time with`: 1.2 means that an update would take 20 % longer. On
the CPU time is the CPU time of this process, on a GPU the clock. So other work on the machine, which both forms meet
alike, leaves the ratios honest, if wider; the seconds would mean nothing. `flops_ratio` is the same of multiplications
and additions in matrix products, counted. Networks and batch are the paper's, the data is made up. Before it is timed,
each form is checked to have the losses of the other. Writes a CSV and a plot. No Ray. benchmarks/NOTES.md has what was
expected and what was found.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common import device_name, save, table
from throughput import TASK, made_up_data
from torch.utils.flop_counter import FlopCounterMode

from lps import cpu as gelu
from lps.agents import lps as page
from lps.agents.base import steering_loss, values
from lps.agents.flows import meanflow_loss
from lps.agents.latents import latent_noise
from lps.data.batches import Batches
from lps.data.episodes import Dataset
from lps.errors import check_known, command_line
from lps.members import adam as members
from lps.nets.mlp import MLP
from lps.nets.network import Bound
from lps.training.program import Program, chosen_device

_forward, _adam = MLP.__call__, members.adam


def jvp_of_all_rows() -> AbstractContextManager[Any]:
    """MeanFlow's derivative along all rows of the batch, three quarters of which multiply it by t - r = 0."""

    def loss(*arguments: Any) -> Any:
        *inputs, _, form = arguments
        return meanflow_loss(*inputs, 1.0, form)

    return patch.object(page, "meanflow_loss", loss)


def critics_one_by_one() -> AbstractContextManager[Any]:
    """Each critic of an ensemble as a network of its own."""

    def forward(net: MLP, params: Any, *inputs: Any) -> Any:
        if net.ensemble is None:
            return _forward(net, params, *inputs)
        alone = MLP(*net.sizes, layer_norm=net.layer_norm)
        heads = range(net.ensemble)
        return torch.stack([_forward(alone, {k: v[:, i] for k, v in params.items()}, *inputs) for i in heads], 1)

    return patch.object(MLP, "__call__", forward)


def weight_gradients_of_frozen_nets() -> AbstractContextManager[Any]:
    """The latent loss also reaches base policy and critics (which then learn something else: only its cost counts)."""
    return patch.object(Bound, "frozen", property(lambda net: net))


def adam_by_tensor() -> AbstractContextManager[Any]:
    """torch's own choice where no fused kernel is asked for: a loop over tensors, on a GPU over lists of them."""

    def adam(*lists: Any, fused: bool, **settings: Any) -> None:
        on_gpu = lists[0][0].is_cuda  # capturable: it keeps its step counts there, too
        _adam(*lists, fused=False, foreach=on_gpu, capturable=on_gpu, **settings)

    return patch.object(members, "adam", adam)


def gelu_by_tanh() -> AbstractContextManager[Any]:
    """torch's own kernel of GELU everywhere, as GPUs have it anyway."""
    return patch.object(gelu, "MANY", sys.maxsize)


def joint_actions() -> AbstractContextManager[Any]:
    """The policy's actions for s' (a constant) and for s (with gradient) in one pass over twice the rows."""

    def losses(self: page.LPS, batch: Any, noise: Any) -> Any:
        c, s, x = self.config, batch.observations, batch.actions
        rows = {name: torch.cat([batch.next_observations[name], s[name]], 1) for name in s}
        both = self._steered(rows, self._latent(rows), self.base.frozen)
        critic_loss, info = self.td_loss(batch, both[:, : x.shape[1]].detach(), c.critic_agg)
        e, ratio = latent_noise(noise["e_normal"], c.latent_dist), (self.flow_ratio, self.largest["flow_ratio"])
        base_loss = meanflow_loss(self.base, s, x, e, noise, *ratio, c.meanflow_form)
        q = values(self.critic.frozen, s, both[:, x.shape[1] :]).mean(1)
        latent_loss = self.alpha * steering_loss(q)
        return {"critic_loss": critic_loss, "base_loss": base_loss, "latent_loss": latent_loss}, info

    return patch.object(page.LPS, "losses", losses)


SAVINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "control": contextlib.nullcontext,
    "jvp": jvp_of_all_rows,
    "critics": critics_one_by_one,
    "frozen": weight_gradients_of_frozen_nets,
    "adam": adam_by_tensor,
    "gelu": gelu_by_tanh,
    "separate": joint_actions,
    "compile": contextlib.nullcontext,
}
"""What is done -> the update without it. `control` compares the update with itself: what noise does. In `compile`, the
one with it is compiled."""


def measure(name: str, size: int, rounds: int, updates: int, dataset: Dataset, device: str) -> dict[str, Any]:
    """One row of the table."""
    compiled = name == "compile"
    with_it = program(size, dataset, device, compiled)
    with SAVINGS[name]():
        without = program(size, dataset, device)
    flops, losses = [], []
    for subject, form in ((with_it, contextlib.nullcontext), (without, SAVINGS[name])):
        # A compiled update is one operation to the counter; it does the arithmetic of the plain one.
        with form(), FlopCounterMode(display=False) if not compiled else contextlib.nullcontext() as counter:
            info = subject.update(1)
        flops.append(counter.get_total_flops() if counter else 1)
        losses.append(torch.stack([info[key] for key in info if key.endswith("loss")]))
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)
    for step in range(2, 6):  # warm; on a GPU also until the compiled update is captured
        with_it.update(step)
    ratios = []
    for i in range(rounds):
        taken: dict[bool, float] = {}
        for bare in (False, True) if i % 2 else (True, False):
            with SAVINGS[name]() if bare else contextlib.nullcontext():
                taken[bare] = seconds(without if bare else with_it, updates, device)
        ratios.append(taken[True] / taken[False])
    low, median, high = np.percentile(ratios, [25, 50, 75])
    return {
        "saving": name,
        "members": size,
        "ratio": median,
        "quartile_25": low,
        "quartile_75": high,
        "flops_ratio": flops[1] / flops[0],
        "rounds": rounds,
        "updates": updates,
    }


def program(size: int, dataset: Dataset, device: str, compiled: bool = False) -> Program:
    config, seeds = page.Config(horizon=TASK.horizon), list(range(size))
    agent = page.LPS([config] * size, seeds, TASK.observation, TASK.action.shape[0], device)
    batches = Batches(dataset, [TASK.name] * size, [config.discount] * size, TASK.horizon, device)
    return Program(agent, batches, seeds, compiled)


def seconds(subject: Program, updates: int, device: str) -> float:
    """Of so many updates: CPU time of all threads, or the clock where the GPU does the work."""
    clock = time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
        clock = time.perf_counter
    start = clock()
    for step in range(1, updates + 1):
        subject.update(step)
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


@command_line
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--savings", nargs="+", default=list(SAVINGS), metavar="NAME", help=", ".join(SAVINGS))
    parser.add_argument("--members", type=int, default=1, metavar="M")
    parser.add_argument("--rounds", type=int, default=20, help="pairs of neighbours")
    parser.add_argument("--updates", type=int, default=3, help="of each form in a round")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1; idle ones would count)")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"), help="folder for the CSV and the plot")
    arguments = parser.parse_args()
    arguments.device = chosen_device(arguments.device)
    check_known(arguments.savings, SAVINGS, "saving")
    torch.set_num_threads(arguments.threads)
    print(f"{device_name(arguments.device)}, torch {torch.__version__}, {arguments.threads} threads")
    dataset, rows = made_up_data(), []
    for name in arguments.savings:
        rows.append(measure(name, arguments.members, arguments.rounds, arguments.updates, dataset, arguments.device))
        print(table(rows[-1:], header=len(rows) == 1), flush=True)
    for path in save(rows, Path(arguments.out), "savings", arguments.device, _draw):
        print(f"written: {path}")
    return 0


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    ratios = np.array([row["ratio"] for row in rows])
    ends = np.array([[row["quartile_25"] for row in rows], [row["quartile_75"] for row in rows]])
    axes.barh([row["saving"] for row in rows], ratios - 1, left=1, color="#1F4FA3", xerr=np.abs(ends - ratios))
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set(xlabel="time of an update of LPS without it, as a multiple")


if __name__ == "__main__":
    sys.exit(main())
