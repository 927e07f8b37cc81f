"""M runs in one optimizer: Adam and target averages whose scalars may differ from member to member."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam


def per_member(values: Tensor, like: Tensor) -> Tensor:
    """(M,) scalars shaped to broadcast over (M, ...) tensors like `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


class MemberAdam:
    """Adam (Kingma and Ba 2015; b1 .9, b2 .999, eps 1e-8) over (M, ...) tensors with one step size per member.

    torch's fused kernel takes one step size a call.  Members that share theirs share a call; where all do (the usual
    pack: seeds) it is a single call over the whole tensors.

    Args:
        params: tensors with a leading member axis, updated in place.
        lr: step size of each member.
    """

    def __init__(self, params: Sequence[Tensor], lr: Sequence[float]):
        self.params = list(params)
        self.first = [torch.zeros_like(p) for p in self.params]
        self.second = [torch.zeros_like(p) for p in self.params]
        self.groups = {rate: [i for i, value in enumerate(lr) if value == rate] for rate in dict.fromkeys(lr)}
        # The kernel counts its steps on the device, once per tensor.
        self.counts = {
            rate: [torch.zeros((), device=p.device) for p in self._of(members, self.params)]
            for rate, members in self.groups.items()
        }

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> None:
        """One step along `grads`, given in the order of the parameters."""
        for rate, members in self.groups.items():
            params, grads_, first, second = (
                self._of(members, tensors) for tensors in (self.params, grads, self.first, self.second)
            )
            adam(
                params, grads_, first, second, [], self.counts[rate],
                fused=True, grad_scale=None, found_inf=None, amsgrad=False, maximize=False,
                beta1=0.9, beta2=0.999, lr=rate, weight_decay=0.0, eps=1e-8,
            )  # fmt: skip

    def resume(self, steps: int) -> None:
        """Go on as after `steps` steps; the moments are put into `first` and `second` by the caller."""
        for counts in self.counts.values():
            for count in counts:
                count.fill_(steps)

    def _of(self, members: list[int], tensors: Sequence[Tensor]) -> list[Tensor]:
        if len(self.groups) == 1:
            return list(tensors)
        return [tensor[i] for i in members for tensor in tensors]


@torch.no_grad()
def move_targets(targets: Sequence[Tensor], sources: Sequence[Tensor], tau: Tensor) -> None:
    """target <- (1 - tau) target + tau source, in place, with one rate per member (M,)."""
    for target, source in zip(targets, sources, strict=True):
        target.lerp_(source, per_member(tau, target))
