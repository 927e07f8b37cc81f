"""The minibatch of an update."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Batch:
    """One minibatch for M members; d = horizon * action_dim.

    observations, next_observations (M, B, obs): s_t and s_{t+h}.  actions (M, B, d): the chunk, flattened.
    rewards (M, B): sum_i discount^i r_{t+i}.  masks (M, B): product of the chunk's masks.
    """

    observations: Tensor
    actions: Tensor
    next_observations: Tensor
    rewards: Tensor
    masks: Tensor
