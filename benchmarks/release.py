"""How many updates a second the authors' own release makes on this machine: their code, their defaults, JAX.

    python benchmarks/release.py CHECKOUT
    python benchmarks/release.py CHECKOUT --members 1 40 --device cuda
    python benchmarks/release.py CHECKOUT --pixels

CHECKOUT is a folder with github.com/jellyho/LPS (tried with commit c87dee0). Python needs jax, flax, optax and
ml_collections beside what this project needs. Data are made up in the shape of cube-single's: observations (256, 28),
chunks (256, 5, 5); with --pixels, images (256, 64, 64, 3) and the encoder impala_small. Batches lie on the device:
drawing one, which their program does in numpy before every update, is not in the time, while in throughput.py it is.

    update  their jitted update, called once for each update, as their training does
    scan    their `batch_update`: 20 updates, each on a batch of its own, in one call, which leaves out JAX's calls
    M > 1   either one under `jax.vmap`, over M members with batches of their own: their program has no such thing, but
            it tells what JAX itself gains by a pack

On an NVIDIA GPU both of JAX's precisions are measured: `default`, with which their program runs and which allows TF32
in products (compare with throughput.py's tf32), and `highest`, which is float32.

Nothing of theirs is changed, except what JAX itself has changed: `jnp.clip` knows its bounds as `min` and `max` today,
and the release calls them `a_min` and `a_max`. Two packages that their modules import, and that no update of a task
here calls, are left empty: distrax (Gaussian actors) and flaxmodels (pretrained encoders). Writes a CSV. No Ray.
"""

import argparse
import importlib
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import device_name, save, table
from throughput import PIXELS, TASK, seconds_each

from lps.errors import UserError, at_least, check_known, command_line
from lps.training.program import chosen_device

BATCH, SCANNED = 256, 20
MODES = {"update": "update", "scan": "batch_update"}


def load(checkout: Path, device: str) -> types.ModuleType:
    """Their package `agents`, ready to be called.  UserError without it, or without JAX."""
    if not (checkout / "agents" / "lps.py").exists():
        raise UserError(f"{checkout} has no agents/lps.py. Give the path of a checkout of github.com/jellyho/LPS")
    os.environ["JAX_PLATFORMS"] = device
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a card may have other users
    for name, content in {"distrax": {"Transformed": object}, "flaxmodels": {}}.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    sys.path.insert(0, str(checkout))
    try:
        import jax.numpy as jnp

        clip = jnp.clip
        jnp.clip = lambda x, *bounds, **named: clip(x, *bounds, **{k.removeprefix("a_"): v for k, v in named.items()})
        return importlib.import_module("agents")
    except ImportError as error:
        raise UserError(
            f"{error}. Install jax, flax, optax and ml_collections, in the versions of your choice"
        ) from error


def measure(
    package: types.ModuleType, name: str, members: int, mode: str, precision: str, seconds: float, pixels: bool = False
) -> Any:
    """One row of the table."""
    import jax

    cls, module = package.agents[name], importlib.import_module(f"agents.{name}")
    batch = made_up_batches((members, SCANNED) if mode == "scan" else (members,), pixels)
    example = made_up_batches((), pixels)  # of which networks take their shapes

    def create(seed: Any) -> Any:
        config = module.get_config()
        config["horizon_length"] = TASK.horizon
        config["encoder"] = "impala_small" if pixels else None
        return cls.create(seed, example["observations"], example["actions"], config)

    update = getattr(cls, MODES[mode])
    if members == 1:
        agent, batch = create(0), {key: value[0] for key, value in batch.items()}
    else:
        agent, update = jax.vmap(create)(np.arange(members)), jax.jit(jax.vmap(update))
    batch = jax.device_put(batch)
    info: Any = None

    def run(_: int) -> None:
        nonlocal agent, info
        agent, info = update(agent, batch)

    def wait() -> None:
        jax.block_until_ready((agent, info))

    with jax.default_matmul_precision(precision):
        start = time.perf_counter()
        for step in range(5):
            run(step)
        wait()
        ready = time.perf_counter() - start
        per_call = seconds_each(run, "", seconds, wait)
    if not all(np.isfinite(value).all() for value in jax.device_get(info).values()):
        raise UserError(f"{name}: the release's losses are not finite. Check the versions of jax, flax and optax")
    in_call = SCANNED if mode == "scan" else 1
    return {
        "agent": name,
        "members": members,
        "mode": mode,
        "precision": precision,
        "agent_updates_per_s": members * in_call / per_call,
        "update_ms": per_call / in_call * 1e3,
        "first_calls_s": ready,
        "jax": jax.__version__,
    }


def made_up_batches(shape: tuple[int, ...], pixels: bool = False) -> dict[str, np.ndarray]:
    """Noise in the form of their batches, (*shape, 256, ...)."""
    rng, rows = np.random.default_rng(0), (*shape, BATCH)
    action = (TASK.horizon, *TASK.action.shape)

    def observations() -> np.ndarray:
        if pixels:
            return rng.integers(0, 256, (*rows, *PIXELS["pixels"].shape), np.uint8)
        return rng.standard_normal((*rows, *TASK.observation["state"].shape), np.float32)

    return {
        "observations": observations(),
        "next_observations": observations(),
        "actions": rng.uniform(-1, 1, (*rows, *action)).astype(np.float32),
        "rewards": -np.ones(rows, np.float32),
        "masks": np.ones(rows, np.float32),
    }


@command_line
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder with the release")
    parser.add_argument("--agents", nargs="+", default=["lps"], metavar="AGENT", help="the release's names")
    parser.add_argument("--members", nargs="+", type=at_least(1), default=[1], metavar="M")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--pixels", action="store_true", help="observations are images of 64x64")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--seconds", type=at_least(0.1), default=3.0, help="measured for each row (default: 3)")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"), help="folder for the CSV")
    arguments = parser.parse_args()
    device = chosen_device(arguments.device)
    package = load(arguments.checkout.resolve(), device)
    check_known(arguments.agents, package.agents, "agent of the release")
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # for the table, which names torch's: XLA takes every core
    print(device_name(device))
    rows: list[dict[str, Any]] = []
    files = "release-pixels" if arguments.pixels else "release"
    for name in arguments.agents:
        for precision in ("default", "highest") if device == "cuda" else ("default",):
            for mode in arguments.modes:
                for members in arguments.members:
                    rows.append(measure(package, name, members, mode, precision, arguments.seconds, arguments.pixels))
                    print(table(rows[-1:], header=len(rows) == 1), flush=True)
                    (path,) = save(rows, Path(arguments.out), files, device)  # at once: time may run out
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
