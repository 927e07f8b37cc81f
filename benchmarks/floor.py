"""What the card can do, what an update of a pack costs at least, and where its time goes.

    python benchmarks/floor.py --device cuda --members 1 40 --precisions float32 tf32 bf16

1. Ceilings, measured: a large copy (bytes read and written), a large product, and the pack's most frequent product.
2. The floor of an update: its multiply-adds at the product's ceiling, and its bytes at the copy's. Every product reads
   its operands and writes its result once; Adam reads parameter, gradient and two moments and writes three of them;
   a target reads itself and its source and writes itself. What the caches keep is not counted.
3. The update as it is (compiled, captured on CUDA), its part of the floor, and its kernels by share of time.

The data is made up in the shape of cube-single's; networks and batch are the paper's. Writes CSVs. No Ray.
"""

import argparse
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from common import Rows, device_name, save, table
from throughput import TASK, made_up_data, seconds_each
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lps.agents import AGENTS
from lps.agents.base import Agent
from lps.data.batches import Batches
from lps.errors import check_known, command_line
from lps.training.options import PRECISIONS
from lps.training.program import Program, chosen_device

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")


class ProductBytes(TorchDispatchMode):
    """Counts the bytes of operands and results of matrix products, `width` bytes a number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.bytes = width, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in PRODUCTS:
            *_, a, b = (x for x in args if isinstance(x, torch.Tensor))
            self.bytes += self.width * (a.numel() + b.numel() + out.numel())
        return out


def set_precision(precision: str) -> torch.dtype:
    """Let float32 products be tf32 where asked; the type of the operands."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return torch.bfloat16 if precision == "bf16" else torch.float32


def copied_bytes(device: str, numbers: int, seconds: float) -> float:
    """Bytes per second, read and written, of a copy of so many float32."""
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_each(lambda _: target.copy_(source), device, seconds)


def ceilings(device: str, members: int, precision: str, seconds: float, size: int, copied: int) -> dict[str, float]:
    """TB/s of a copy, TFLOP/s of a square product, and of the pack's (M, 256, 512) by (M, 512, 512)."""
    dtype = set_precision(precision)
    copy = copied_bytes(device, copied, seconds)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    square = 2 * size**3 / seconds_each(lambda _: torch.mm(a, b), device, seconds)
    x = torch.randn(members, 256, 512, device=device, dtype=dtype)
    w = torch.randn(members, 512, 512, device=device, dtype=dtype)
    pack = 2 * members * 256 * 512 * 512 / seconds_each(lambda _: torch.bmm(x, w), device, seconds)
    set_precision("float32")
    return {"copy_tb_s": copy / 1e12, "product_tflop_s": square / 1e12, "pack_product_tflop_s": pack / 1e12}


def built(name: str, members: int, device: str) -> tuple[Agent, Batches, list[int]]:
    cls = AGENTS[name]
    configs, seeds = [cls.Config(horizon=TASK.horizon)] * members, list(range(members))
    agent = cls(configs, seeds, TASK.observation, TASK.action.shape[0], device)
    return agent, Batches(made_up_data(), [TASK.name] * members, [0.99] * members, TASK.horizon, device), seeds


def counted(name: str, members: int, precision: str, device: str) -> tuple[float, float]:
    """Multiply-adds times two and bytes of one update, counted on a plain one."""
    agent, batches, seeds = built(name, members, device)
    width = 2 if precision == "bf16" else 4
    with FlopCounterMode(display=False) as flops:
        Program(agent, batches, seeds).update(1)
    with ProductBytes(width) as products:
        Program(agent, batches, seeds).update(2)
    adam = 7 * sum(tensor.nbytes for tensor in agent.trained_tensors())
    targets = 3 * sum(tensor.nbytes for net in agent.following for tensor in agent.params[net].values())
    return float(flops.get_total_flops()), float(products.bytes + adam + targets)


def kernels(program: Program, device: str, updates: int, first: int) -> tuple[Rows, float]:
    """Kernels of an update by kind: calls, microseconds, share of the busy time; and the busy microseconds."""
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as trace:
        for step in range(first, first + updates):
            program.update(step)
        if device == "cuda":
            torch.cuda.synchronize()
    time: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for event in trace.key_averages():
        spent = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        name = re.sub(r"\s+", " ", event.key)[:110]
        time[name] += spent / updates
        calls[name] += event.count
    busy = sum(time.values())
    rows = [
        {"us": us, "share": us / busy, "calls": calls[name] / updates, "kernel": name}
        for name, us in sorted(time.items(), key=lambda item: -item[1])
        if us
    ]
    return rows, busy


def measure(name: str, members: int, precision: str, device: str, seconds: float, most: dict[str, float]) -> Any:
    """A row of the table, and the rows of the update's kernels."""
    flops, moved = counted(name, members, precision, device)
    agent, batches, seeds = built(name, members, device)
    program = Program(agent, batches, seeds, compiled=device == "cuda", precision=precision)
    for step in range(1, 6):
        program.update(step)
    took = seconds_each(program.update, device, seconds)
    found, busy = kernels(program, device, 20 if device == "cuda" else 2, 10_000)
    by_products, by_bytes = flops / most["product_tflop_s"] / 1e12, moved / most["copy_tb_s"] / 1e12
    row = {
        "agent": name,
        "members": members,
        "precision": precision,
        **most,
        "gflop": flops / 1e9,
        "gbyte": moved / 1e9,
        "floor_flop_ms": by_products * 1e3,
        "floor_byte_ms": by_bytes * 1e3,
        "update_ms": took * 1e3,
        "of_floor": max(by_products, by_bytes) / took,
        "mfu": flops / took / most["product_tflop_s"] / 1e12,
        "busy_ms": busy / 1e3,
        "kernels": sum(kernel["calls"] for kernel in found),
        "agent_updates_per_s": members / took,
    }
    about = {"agent": name, "members": members, "precision": precision}
    return row, [about | kernel for kernel in found[:40]]


@command_line
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=["lps"], metavar="AGENT", help=", ".join(AGENTS))
    parser.add_argument("--members", nargs="+", type=int, default=[1, 40], metavar="M")
    parser.add_argument("--precisions", nargs="+", default=["float32"], choices=PRECISIONS)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of each measurement (default: 1)")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"), help="folder for the CSVs")
    arguments = parser.parse_args()
    device = chosen_device(arguments.device)
    check_known(arguments.agents, AGENTS, "agent")
    size, copied = (8192, 1 << 30) if device == "cuda" else (1024, 1 << 24)
    print(f"{device_name(device)}, torch {torch.__version__}")
    rows: Rows = []
    parts: Rows = []
    for members in arguments.members:
        for precision in arguments.precisions:
            most = ceilings(device, members, precision, arguments.seconds / 5, size, copied)
            for name in arguments.agents:
                row, found = measure(name, members, precision, device, arguments.seconds, most)
                rows.append(row)
                parts += found
                print("\n".join(f"  {key:22} {value:.4g}" if isinstance(value, float) else f"{key:24} {value}"
                                for key, value in row.items()), flush=True)  # fmt: skip
                print(table([{**part, "kernel": part["kernel"][:90]} for part in found[:25]]), flush=True)
    for path in save(rows, Path(arguments.out), "floor", device) + save(parts, Path(arguments.out), "kernels", device):
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
