"""Linear layers of M members, and their initial values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lps.members.streams import Stream


def glorot(stream: Stream, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    """(M, *shape) uniform on +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    return (stream.uniform(*shape) * 2.0 - 1.0) * (6.0 / (fan_in + fan_out)) ** 0.5


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ matrix for each member, (M, B, n) by (M, n, m), in the form that is fastest on a GPU.

    Tensor cores take widths in multiples of 8, and zeros change no sum.  A single output is a weighted sum, which the
    compiler joins to the operation before it.
    """
    fan_in, fan_out = matrix.shape[1:]
    if fan_out == 1:
        return (x * matrix.mT).sum(-1, keepdim=True)
    more_in, more_out = -fan_in % 8, -fan_out % 8
    if more_in or more_out:
        x, matrix = F.pad(x, (0, more_in)), F.pad(matrix, (0, more_out, 0, more_in))
    return torch.bmm(x, matrix)[..., :fan_out]


def affine(x: Tensor, matrix: Tensor, row: Tensor) -> Tensor:
    """x @ matrix + row for each member; row (M, 1, m)."""
    if x.device.type != "cuda":
        return torch.baddbmm(row, x, matrix)
    return product(x, matrix) + row  # apart, the compiler joins the sum to the activation
