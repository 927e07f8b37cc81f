"""Divide the cluster among the packs, so that all devices have work and no pack waits forever."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lps.errors import UserError, suggest
from lps.runs.run import Run
from sweeps.watch.estimate import cost

MAX_MEMBERS = {"cpu": 8, "cuda": 64}
"""Maximum number of runs in a pack. On a GPU members are nearly free until it is full; on a CPU they share the data."""
EVALUATION = 0.25
"""Share of a pack's CPUs that is reserved for its evaluations."""
LEAST, MOST = 0.01, 1e6
"""Bounds of the numbers of CPUs and GPUs."""


@dataclass(frozen=True)
class Limits:
    """Resources of a pack, as chosen by the user."""

    device: str = "auto"
    """'cpu', 'cuda', or 'auto': cuda if the cluster has a GPU."""
    cpus: float = 1.0
    """CPUs of a pack."""
    gpus: float = 1.0
    """GPUs of a pack that trains on GPUs: a fraction (0.25 puts four packs on a GPU) or a whole number."""
    at_once: int | None = None
    """Number of packs that train at the same time; default: as many as fit."""
    max_members: int | None = None
    """Maximum number of runs in a pack; default: MAX_MEMBERS of the device."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise UserError(suggest(self.device, ("auto", "cpu", "cuda"), "device"))
        if not LEAST <= self.cpus <= MOST:
            raise UserError(f"CPUs per pack must be from {LEAST:g} to {MOST:g}, not {self.cpus:g}")
        if not LEAST <= self.gpus <= MOST or (self.gpus > 1 and not float(self.gpus).is_integer()):
            raise UserError(
                f"GPUs per pack must be a fraction of one or a whole number, and at least {LEAST:g}, not {self.gpus:g}"
            )
        for name, number in {"packs at once": self.at_once, "members of a pack": self.max_members}.items():
            if number is not None and not 1 <= number <= MOST:
                raise UserError(f"{name} must be at least 1 and at most {MOST:g}, not {number}")


@dataclass(frozen=True)
class PackResources:
    """Resources of one pack. Ray books these CPUs and GPUs."""

    at_once: int
    """Number of packs that train at the same time."""
    cpus: float
    """CPUs of one learner."""
    gpus: float
    """GPUs of one learner; 0 trains on the CPU."""
    eval_cpus: float
    """CPUs of one evaluation task."""
    eval_tasks: int
    """Number of evaluation tasks of one pack that run at the same time."""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    @property
    def evaluating_cores(self) -> float:
        """Cores that evaluate a pack's policies at the same time."""
        return self.eval_tasks * self.eval_cpus

    @property
    def cpus_of_pack(self) -> float:
        """CPUs of the learner and of its evaluations."""
        return self.cpus / (1 - EVALUATION)


Nodes = Sequence[Mapping[str, float]]
"""The resources of each machine: {"CPU": 8.0, "GPU": 1.0, ...}."""


def divide_cluster(nodes: Nodes, limits: Limits) -> PackResources:
    """Divide a cluster into equal shares. UserError if no pack fits.

    The learner books three quarters of its pack's CPUs. The rest is reserved for evaluation. Learners wait for
    evaluations and evaluations wait for nothing, so there is no deadlock.
    """
    gpus = limits.gpus if limits.device != "cpu" else 0.0
    if limits.device == "auto" and not any(node.get("GPU", 0) for node in nodes):
        gpus = 0.0
    at_once = limits.at_once or sum(_packs_on(node, limits.cpus, gpus) for node in nodes)
    if not at_once:
        need = f"{limits.cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        raise UserError(
            f"no node has {need} for a pack. Lower --cpus-per-pack or --gpus-per-pack, or choose another --device"
        )
    free = max(sum(node.get("CPU", 0) for node in nodes) - at_once * limits.cpus * (1 - EVALUATION), 0)
    eval_cpus = 1.0 if free >= at_once else EVALUATION * min(limits.cpus, 1.0)
    return PackResources(
        at_once, limits.cpus * (1 - EVALUATION), gpus, eval_cpus, max(int(free / eval_cpus / at_once), 1)
    )


def _packs_on(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    packs = int(node.get("CPU", 0) / cpus)
    if not gpus:
        return packs
    # A pack uses a fraction of one GPU: two GPUs hold four packs of 0.4, not five.
    on_gpus = int(node.get("GPU", 0)) * int(1 / gpus) if gpus < 1 else int(node.get("GPU", 0) / gpus)
    return min(packs, on_gpus)


def plan_packs(runs: Sequence[Run], nodes: Nodes, limits: Limits) -> tuple[list[list[Run]], PackResources]:
    """Return packs of runs and the share of each. Packs are as large as possible while the whole cluster has work. The
    most expensive pack comes first, so that no long pack starts at the end."""
    from lps.training.packs import pack  # it imports torch, which a trial does without

    share = divide_cluster(nodes, limits)
    packs: list[list[Run]] = []
    for members in range(min(limits.max_members or MAX_MEMBERS[share.device], len(runs)), 0, -1):
        packs = pack(runs, members)
        if len(packs) >= share.at_once:
            break
    # Fewer packs than would fit leave more room for the evaluation of each.
    share = divide_cluster(nodes, replace(limits, at_once=min(share.at_once, len(packs))))
    return sorted(packs, key=cost, reverse=True), share
