"""Minibatches of action chunks, drawn on the device for M members at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lps.data.batch import Batch
from lps.data.episodes import Dataset
from lps.members.streams import Stream


class Batches:
    """Draws chunks from one dataset that all members share; a member sees the rewards of its own task.

    Args:
        dataset: observations and actions (N, *), rewards and masks (T, N) for its T tasks.
        tasks: name of each member's task.
        discounts: discount per environment step of each member.
        horizon: h, actions per chunk.
        device: where the data is kept.
    """

    def __init__(
        self,
        dataset: Dataset,
        tasks: Sequence[str],
        discounts: Sequence[float],
        horizon: int,
        device: str | torch.device = "cpu",
    ):
        def put(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        self.observations = {name: put(array) for name, array in dataset.observations.items()}
        self.actions = put(dataset.actions)
        self.rewards, self.masks = put(dataset.rewards), put(dataset.masks)
        self.starts = put(dataset.starts(horizon))
        self.task = torch.tensor([dataset.tasks.index(task) for task in tasks], device=device)[:, None, None]
        self.steps = torch.arange(horizon, device=device)
        powers = np.array(discounts, dtype=np.float64)[:, None] ** np.arange(horizon)
        self.discount_powers = torch.tensor(powers, dtype=torch.float32, device=device)[:, None]
        self.horizon = horizon

    def sample(self, stream: Stream, batch_size: int) -> Batch:
        """A batch for each member, decided by its stream alone: uniform over all starts whose chunk stays inside."""
        return self.at(self.starts[stream.integers(len(self.starts), batch_size)])

    def at(self, start: Tensor) -> Batch:
        """The batch of the chunks that begin in the rows start (M, B)."""
        chunk = start[..., None] + self.steps
        return Batch(
            observations={name: array[start] for name, array in self.observations.items()},
            actions=self.actions[chunk].flatten(2),
            next_observations={name: array[start + self.horizon] for name, array in self.observations.items()},
            rewards=(self.rewards[self.task, chunk] * self.discount_powers).sum(-1),
            masks=self.masks[self.task, chunk].prod(-1),
        )
