"""Minibatches of action chunks, drawn on the device for M members at once.

Images stay uint8, and there is one copy of them: s' is another row of the same array.  Where the device has no room for
the images they stay in host memory (`Ahead`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from lps.data.batch import Batch
from lps.data.episodes import Dataset
from lps.members.streams import Stream

Frames = dict[str, Tensor]
"""Images of s and s' of U seeds by name, (2, U, B, k, H, W, C) uint8: stacks of k frames, the oldest first."""


class Batches:
    """Draws chunks from one dataset that all members share; a member sees the rewards of its own task.

    Args:
        dataset: observations and actions (N, *), rewards and masks (T, N) for its T tasks.
        tasks: name of each member's task.
        discounts: discount per environment step of each member.
        horizon: h, actions per chunk.
        device: where the data is kept.
        frame_stack: k, frames of an image that are stacked along its channels: those of the last k rows, and the first
            row of an episode again where there are fewer.
        seeds: run seed of each member.  Members of one seed draw the same rows, whose images are read once; None: each
            member by itself.
        room: bytes on the device for images; None for no limit.  More than that stay in host memory, and `ahead` draws
            them.
    """

    def __init__(
        self,
        dataset: Dataset,
        tasks: Sequence[str],
        discounts: Sequence[float],
        horizon: int,
        device: str | torch.device = "cpu",
        *,
        frame_stack: int = 1,
        seeds: Sequence[int] | None = None,
        room: float | None = None,
    ):
        def put(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        self.device, self.horizon = torch.device(device), horizon
        self.on_host = room is not None and dataset.image_bytes > room
        images = {name: array for name, array in dataset.observations.items() if name in dataset.images}
        self.images = {name: torch.from_numpy(array) if self.on_host else put(array) for name, array in images.items()}
        self.numbers = {name: put(array) for name, array in dataset.observations.items() if name not in images}
        self.names = tuple(dataset.observations)
        self.actions = put(dataset.actions)
        self.rewards, self.masks = put(dataset.rewards), put(dataset.masks)
        self.starts = put(dataset.starts(horizon))
        self.task = torch.tensor([dataset.tasks.index(task) for task in tasks], device=device)[:, None, None]
        self.steps = torch.arange(horizon, device=device)
        powers = np.array(discounts, dtype=np.float64)[:, None] ** np.arange(horizon)
        self.discount_powers = torch.tensor(powers, dtype=torch.float32, device=device)[:, None]

        images_at = torch.device("cpu") if self.on_host else self.device
        self.first_rows = torch.from_numpy(dataset.first_rows()).to(images_at) if images and frame_stack > 1 else None
        self.ages = torch.arange(frame_stack - 1, -1, -1, device=images_at)  # of the frames in a stack
        self.seeds = list(range(len(tasks))) if seeds is None else list(seeds)
        self.unique = list(dict.fromkeys(self.seeds))
        self.of_seed = torch.tensor([self.unique.index(seed) for seed in self.seeds], device=device)
        self.first_of_seed = torch.tensor([self.seeds.index(seed) for seed in self.unique], device=device)

    def sample(self, stream: Stream, batch_size: int, frames: Frames | None = None) -> Batch:
        """A batch for each member, decided by its stream alone: uniform over all starts whose chunk stays inside.

        frames: images of this batch, from `ahead`.
        """
        start = self.starts[stream.integers(len(self.starts), batch_size)]
        if self.images and frames is None:
            frames = self.frames(start[self.first_of_seed])
        return self._batch(start, {name: self._of_members(stack) for name, stack in (frames or {}).items()})

    def at(self, start: Tensor) -> Batch:
        """The batch of the chunks that begin in the rows start (M, B)."""
        return self._batch(start, self.frames(start))

    def ahead(self, batch_size: int) -> Ahead | None:
        """What draws the images of `sample`; None where they are on the device."""
        return Ahead(self, batch_size) if self.on_host else None

    def frames(self, start: Tensor) -> Frames:
        """The images of chunks that begin in the rows start (U, B), on the device."""
        rows = self.rows(start.to(self.ages.device))
        return {
            name: array.index_select(0, rows.flatten()).view(*rows.shape, *array.shape[1:]).to(self.device)
            for name, array in self.images.items()
        }

    def rows(self, start: Tensor) -> Tensor:
        """Rows (2, U, B, k) of the frames of s and s'."""
        rows = torch.stack((start, start + self.horizon))[..., None]
        if self.first_rows is None:
            return rows
        return torch.maximum(rows - self.ages, self.first_rows[rows])

    def _of_members(self, frames: Tensor) -> Tensor:
        """(2, M, ...) of (2, U, ...)."""
        if len(self.unique) == len(self.seeds):
            return frames
        if len(self.unique) == 1:
            return frames.expand(-1, len(self.seeds), *frames.shape[2:])
        return frames[:, self.of_seed]

    def _batch(self, start: Tensor, frames: Frames) -> Batch:
        chunk = start[..., None] + self.steps
        # (2, M, B, k, H, W, C) to (2, M, B, H, W, k C)
        images = {name: stack.movedim(3, -2).flatten(-2) for name, stack in frames.items()}

        def observations(which: int, rows: Tensor) -> dict[str, Tensor]:
            return {name: images[name][which] if name in images else self.numbers[name][rows] for name in self.names}

        return Batch(
            observations=observations(0, start),
            actions=self.actions[chunk].flatten(2),
            next_observations=observations(1, start + self.horizon),
            rewards=(self.rewards[self.task, chunk] * self.discount_powers).sum(-1),
            masks=self.masks[self.task, chunk].prod(-1),
        )


class Ahead:
    """Draws the images of updates in host memory, those of the next update while the device computes.

    A thread reads the rows into one of two buffers, pinned for CUDA.  They are copied to the device in the stream of
    the update, always into the same tensors, so that an update may be captured as a graph.  The rows follow from seeds
    and step by the same integer arithmetic as on the device.
    """

    def __init__(self, batches: Batches, batch_size: int):
        self.batches, self.batch_size = batches, batch_size
        self.on_gpu = batches.device.type == "cuda"
        self.seeds = torch.tensor(batches.unique, dtype=torch.int64)
        self.starts = batches.starts.cpu()
        shapes = {
            name: (2, len(self.seeds), batch_size, len(batches.ages), *array.shape[1:])
            for name, array in batches.images.items()
        }

        def empty(**where: object) -> Frames:
            return {name: torch.empty(shape, dtype=torch.uint8, **where) for name, shape in shapes.items()}  # type: ignore[call-overload]

        self.target = empty(device=batches.device)
        self.buffers = [empty(pin_memory=self.on_gpu) for _ in range(2)]
        self.copied = [torch.cuda.Event() for _ in self.buffers] if self.on_gpu else []
        self.thread = ThreadPoolExecutor(1)
        self.drawn: tuple[int, Future[Frames]] | None = None

    def __call__(self, step: int) -> Frames:
        """The images of update number `step`, on the device; valid until the next call."""
        if self.drawn is None or self.drawn[0] != step:
            self._begin(step)
        assert self.drawn is not None
        for name, buffer in self.drawn[1].result().items():
            self.target[name].copy_(buffer, non_blocking=True)
        if self.on_gpu:
            self.copied[step % 2].record()
        self._begin(step + 1)
        return self.target

    def _begin(self, step: int) -> None:
        """Start to draw an update's images."""
        if self.drawn is not None:
            self.drawn[1].result()
        if self.on_gpu:
            self.copied[step % 2].synchronize()  # here and not in the thread, which may not call CUDA during a capture
        self.drawn = step, self.thread.submit(self._draw, step)

    def _draw(self, step: int) -> Frames:
        stream, buffers = Stream(self.seeds, step, "batch"), self.buffers[step % 2]
        rows = self.batches.rows(self.starts[stream.integers(len(self.starts), self.batch_size)])
        for name, buffer in buffers.items():
            torch.index_select(self.batches.images[name], 0, rows.flatten(), out=buffer.view(-1, *buffer.shape[4:]))
        return buffers
