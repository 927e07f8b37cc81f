"""Random crops of images (DrQ, arXiv 2004.13649), by the rule of the LPS release.

A coin decides for a whole batch.  If it shows heads, each row is padded by 3 pixels at every side, which repeat the
edge, and cut to its size at a random corner.  The images of s and s' move together, and so do all cameras.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from lps.data.batch import Batch
from lps.members.streams import Stream

PADDING = 3
"""Pixels; an image moves by at most so many."""


def random_crop(images: Tensor, offsets: Tensor) -> Tensor:
    """Images (M, B, H, W, C) cut at offsets (M, B, 2) int64, down and right, from 0 to 2 PADDING.  PADDING is the image
    itself."""
    members, size, height, width, channels = images.shape
    device = images.device
    # A row of the padded image is the nearest row of the image.
    y = (torch.arange(height, device=device) + offsets[..., :1] - PADDING).clamp(0, height - 1)
    x = (torch.arange(width, device=device) + offsets[..., 1:] - PADDING).clamp(0, width - 1)
    first = torch.arange(members * size, device=device).view(members, size, 1, 1) * height
    pixels = (first + y[..., None]) * width + x[..., None, :]  # one index is 10 times faster than four on a CPU
    return images.reshape(-1, channels).index_select(0, pixels.flatten()).view(images.shape)


def augmented(batch: Batch, stream: Stream, probability: Tensor) -> Batch:
    """The batch with its images (uint8 of five axes) cropped, for each member with its probability (M,)."""
    size = batch.actions.shape[1]
    heads = stream.uniform(1, 1) < probability[:, None, None]
    offsets = torch.where(heads, stream.integers(2 * PADDING + 1, size, 2), PADDING)

    def cropped(observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: random_crop(array, offsets) if array.dtype == torch.uint8 and array.dim() == 5 else array
            for name, array in observation.items()
        }

    return dataclasses.replace(
        batch, observations=cropped(batch.observations), next_observations=cropped(batch.next_observations)
    )
