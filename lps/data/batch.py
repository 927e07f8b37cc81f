"""The minibatch of an update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Batch:
    """One minibatch for M members; d = horizon * act.

    observations, next_observations: arrays (M, B, *shape) by name, of s_t and s_{t+h}.  actions (M, B, d): the chunk,
    flattened.  rewards (M, B): sum_i discount^i r_{t+i}.  masks (M, B): product of the chunk's masks.
    """

    observations: Mapping[str, Tensor]
    actions: Tensor
    next_observations: Mapping[str, Tensor]
    rewards: Tensor
    masks: Tensor
