"""M runs in one optimizer: Adam and target averages whose scalars may differ from member to member."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw


def per_member(values: Tensor, like: Tensor) -> Tensor:
    """(M,) scalars shaped to broadcast over (M, ...) tensors like `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


class Schedule(NamedTuple):
    """Changes of Adam's step size and gradients; the defaults change nothing."""

    weight_decay: float = 0.0
    """Decoupled: each step also shrinks the parameters by lr * weight_decay (AdamW)."""
    warmup_steps: int = 0
    """Updates in which the step size grows linearly from 0; the first of them has the step size 0."""
    decay_steps: int = 0
    """Updates after which the step size has fallen to a tenth, along a cosine that begins after the warm-up; 0: it
    stays."""
    clip_norm: float = 0.0
    """Largest norm of a member's whole gradient; 0: any."""


CONSTANT = Schedule()
"""Constant step size, no weight decay, no clipping."""

FINAL = 0.1
"""Step size at the end of the decay, as a fraction of lr."""


class MemberAdam:
    """Adam (Kingma and Ba 2015; b1 .9, b2 .999, eps 1e-8) over (M, ...) tensors with one step size per member.

    torch's fused kernel takes one step size a call.  Members that share theirs share a call; where all do (the usual
    pack: seeds) it is a single call over the whole tensors.

    Args:
        params: tensors with a leading member axis, updated in place.
        lr: step size of each member.
        schedule: weight decay, warm-up, decay and clipping.
    """

    def __init__(self, params: Sequence[Tensor], lr: Sequence[float], schedule: Schedule = CONSTANT):
        self.params = list(params)
        self.schedule = schedule
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
        if self.schedule.clip_norm:
            grads = clipped(grads, self.schedule.clip_norm)
        # The kernel takes gradients in the layout of their parameters; compiled ones may be slices of padded tensors.
        grads = [g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)
                 for p, g in zip(self.params, grads, strict=True)]  # fmt: skip
        decay = self.schedule.weight_decay
        for rate, members in self.groups.items():
            params, grads_, first, second = (
                self._of(members, tensors) for tensors in (self.params, grads, self.first, self.second)
            )
            (adamw if decay else adam)(
                params, grads_, first, second, [], self.counts[rate],
                fused=True, grad_scale=None, found_inf=None, amsgrad=False, maximize=False,
                beta1=0.9, beta2=0.999, lr=self._rate(rate), weight_decay=decay, eps=1e-8,
            )  # fmt: skip

    def _rate(self, lr: float) -> float | Tensor:
        """Return the step size of the next update; on the device if it changes, because updates may be captured."""
        warmup, decay = self.schedule.warmup_steps, self.schedule.decay_steps
        if not warmup and not decay:
            return lr
        done = self.counts[lr][0]  # updates made so far
        factor = torch.ones_like(done)
        if decay:
            progress = ((done - warmup) / max(decay - warmup, 1)).clamp(0.0, 1.0)
            factor = FINAL + (1 - FINAL) * (1 + torch.cos(math.pi * progress)) / 2
        if warmup:
            factor = torch.where(done < warmup, done / warmup, factor)
        return lr * factor

    def resume(self, steps: int) -> None:
        """Go on as after `steps` steps; the moments are put into `first` and `second` by the caller."""
        for counts in self.counts.values():
            for count in counts:
                count.fill_(steps)

    def _of(self, members: list[int], tensors: Sequence[Tensor]) -> list[Tensor]:
        if len(self.groups) == 1:
            return list(tensors)
        return [tensor[i] for i in members for tensor in tensors]


def clipped(grads: Sequence[Tensor], largest: float) -> list[Tensor]:
    """Gradients (M, ...) scaled so that no member's norm over all of them is above `largest`."""
    norm = torch.stack([grad.flatten(1).square().sum(1) for grad in grads]).sum(0).sqrt()
    scale = largest / norm.clamp(min=largest)
    return [grad * per_member(scale, grad) for grad in grads]


@torch.no_grad()
def move_targets(targets: Sequence[Tensor], sources: Sequence[Tensor], tau: Tensor | float) -> None:
    """target <- (1 - tau) target + tau source, in place.  tau: one rate for each member, (M,), or one for all, which
    is a single kernel on a GPU."""
    if isinstance(tau, float):
        torch._foreach_lerp_(list(targets), list(sources), tau)
        return
    for target, source in zip(targets, sources, strict=True):
        target.lerp_(source, per_member(tau, target))
