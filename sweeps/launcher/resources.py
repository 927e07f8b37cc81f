"""The cluster divided among the packs, so that all of it has work and nobody waits for ever."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lps.errors import UserError, suggest
from lps.runs.run import Run
from lps.training.packs import pack
from sweeps.watch.estimate import cost

MAX_MEMBERS = {"cpu": 8, "cuda": 64}
"""Most runs in one pack. On a GPU members are nearly free until it is full; on a CPU they only share the data."""
EVALUATION = 0.25
"""The part of a pack's CPUs that is kept for its evaluations."""
LEAST, MOST = 0.01, 1e6
"""Bounds of the numbers of CPUs and GPUs."""


@dataclass(frozen=True)
class Limits:
    """What a pack may take, where the defaults do not suit."""

    device: str = "auto"
    """'cpu', 'cuda', or 'auto': cuda where the cluster has a GPU."""
    cpus: float = 1.0
    """CPUs of a pack."""
    gpus: float = 1.0
    """GPUs of a pack, where it trains on GPUs: a fraction of one (0.25 puts four packs on a GPU) or a whole number."""
    at_once: int | None = None
    """Packs that train at the same time; default: as many as fit."""
    max_members: int | None = None
    """Most runs in a pack; default by device."""

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
class Share:
    """What one pack gets. CPUs and GPUs are those that Ray books."""

    at_once: int
    """Packs that train at the same time."""
    cpus: float
    """Of one learner."""
    gpus: float
    """Of one learner; 0 trains on the CPU."""
    eval_cpus: float
    """Of one evaluation task."""
    eval_tasks: int
    """Evaluation tasks of one pack that find room at the same time."""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    @property
    def evaluating_cores(self) -> float:
        """Cores that evaluate a pack's policies at the same time."""
        return self.eval_tasks * self.eval_cpus

    @property
    def cpus_of_pack(self) -> float:
        """The learner's, and those kept for its evaluations."""
        return self.cpus / (1 - EVALUATION)


Nodes = Sequence[Mapping[str, float]]
"""The resources of each machine: {"CPU": 8.0, "GPU": 1.0, ...}."""


def divide(nodes: Nodes, limits: Limits) -> Share:
    """Divides a cluster into equal shares.

    The learner books three quarters of its pack's CPUs; the rest is for evaluation, so that there is always room for
    it: learners wait for evaluations and evaluations for nothing, hence no deadlock.

    Raises UserError where not one pack fits.
    """
    gpus = limits.gpus if limits.device != "cpu" else 0.0
    if limits.device == "auto" and not any(node.get("GPU", 0) for node in nodes):
        gpus = 0.0
    at_once = limits.at_once or sum(_fit(node, limits.cpus, gpus) for node in nodes)
    if not at_once:
        need = f"{limits.cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
        raise UserError(f"no machine of the cluster has {need} for a pack: give packs less, or another device")
    free = max(sum(node.get("CPU", 0) for node in nodes) - at_once * limits.cpus * (1 - EVALUATION), 0)
    eval_cpus = 1.0 if free >= at_once else EVALUATION * min(limits.cpus, 1.0)
    return Share(at_once, limits.cpus * (1 - EVALUATION), gpus, eval_cpus, max(int(free / eval_cpus / at_once), 1))


def _fit(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    fit = int(node.get("CPU", 0) / cpus)
    if not gpus:
        return fit
    # A part of a GPU is a part of one: two GPUs hold four packs of 0.4, not five.
    on_gpus = int(node.get("GPU", 0)) * int(1 / gpus) if gpus < 1 else int(node.get("GPU", 0) / gpus)
    return min(fit, on_gpus)


def split(runs: Sequence[Run], nodes: Nodes, limits: Limits) -> tuple[list[list[Run]], Share]:
    """Packs of runs, and each one's share: packs as large as possible while all of the cluster has work, the costliest
    first so that none is left over at the end."""
    share = divide(nodes, limits)
    packs: list[list[Run]] = []
    for members in range(min(limits.max_members or MAX_MEMBERS[share.device], len(runs)), 0, -1):
        packs = pack(runs, members)
        if len(packs) >= share.at_once:
            break
    # Fewer packs than would fit leave more room for the evaluation of each.
    share = divide(nodes, replace(limits, at_once=min(share.at_once, len(packs))))
    return sorted(packs, key=cost, reverse=True), share
