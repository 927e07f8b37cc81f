"""Features of an observation: each image through an encoder of its own, beside the numbers of the other arrays.

M members, B rows.  An array is an image if its space says so (`Space.is_image`): uint8 (H, W, C).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from lps.members.streams import Stream
from lps.nets import ENCODERS
from lps.nets.network import Observation, Params
from lps.spaces import Space


class Encoder(Protocol):
    """A kind of image encoder.  `ENCODERS[kind](space, factor)` builds one for images of a space; `factor` scales the
    widths of its layers.  As for a network, the object holds sizes only."""

    width: int
    """Features of an image."""

    def init(self, stream: Stream) -> Params:
        """Fresh parameters, each (M, ...)."""
        ...

    def __call__(self, params: Params, image: Tensor) -> Tensor:
        """Features (M, B, width) float32 of images (M, B, H, W, C) uint8."""
        ...


class Flat:
    """The pixels themselves, from 0 to 1.  It has no parameters, and `factor` is without effect."""

    def __init__(self, space: Space, factor: float = 1.0):
        self.width = math.prod(space.shape)

    def init(self, stream: Stream) -> Params:
        return {}

    def __call__(self, params: Params, image: Tensor) -> Tensor:
        return numbers(image)


class ObservationEncoder:
    """The part of a network that sees the observation.  Its parameters have names "encoder.<array>.<name>".

    Args:
        observation: spaces of the arrays, by name.
        kind: the encoder of images, a name in ENCODERS.
        factor: factor on the widths of that encoder.
    """

    def __init__(self, observation: Mapping[str, Space], kind: str = "impala_small", factor: float = 1.0):
        self.images: dict[str, Encoder] = {
            name: ENCODERS[kind](space, factor) for name, space in observation.items() if space.is_image
        }
        self.widths = {
            name: self.images[name].width if name in self.images else math.prod(space.shape)
            for name, space in observation.items()
        }
        self.width = sum(self.widths.values())

    def init(self, stream: Stream) -> Params:
        return {
            f"encoder.{name}.{parameter}": value
            for name, encoder in self.images.items()
            for parameter, value in encoder.init(stream).items()
        }

    def __call__(self, params: Params, observation: Observation) -> Tensor:
        """Features (M, B, width): those of all arrays, joined in the order of the observation."""
        parts = [
            self.images[name](_of(params, f"encoder.{name}."), array) if name in self.images else numbers(array)
            for name, array in observation.items()
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def numbers(array: Tensor) -> Tensor:
    """(M, B, n) float32 of an array (M, B, *shape); uint8 is scaled to [0, 1]."""
    array = array.float() / 255.0 if array.dtype == torch.uint8 else array.float()
    return array if array.dim() == 3 else array.flatten(2)


def _of(params: Params, prefix: str) -> Params:
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
