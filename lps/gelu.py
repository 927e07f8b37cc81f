"""GELU in its tanh form, in the arithmetic that the device is quick at.

    gelu(x) = x / 2 (1 + tanh(k (x + a x^3))) = x sigmoid(y),   y = 2k (x + a x^3),   k = sqrt(2 / pi), a = 0.044715

Hendrycks and Gimpel 2016, arXiv 1606.08415.  The two are one function, since (1 + tanh(y / 2)) / 2 = sigmoid(y).  On a
CPU torch takes its tanh three times as slowly as its exponential, and again for the derivative, so there the sigmoid is
taken, once for both.  GPUs, half precision and the few rows of a decision have torch's own kernel.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_2K, _A = 2.0 * math.sqrt(2.0 / math.pi), 0.044715
MANY = 1 << 14
"""Elements for which five operations instead of one save more than it costs to start them."""


def gelu(x: Tensor) -> Tensor:
    """gelu(x) by element; once differentiable."""
    by_sigmoid = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() >= MANY
    return _BySigmoid.apply(x) if by_sigmoid else F.gelu(x, approximate="tanh")


class _BySigmoid(torch.autograd.Function):
    """Keeps the derivative and nothing else: as much memory as torch's kernel, which keeps x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        two_kx, x_squared = _2K * x, x * x
        s = torch.addcmul(two_kx, x, x_squared, value=_2K * _A).sigmoid_()
        if ctx.needs_input_grad[0]:  # gelu'(x) = s + x y' s (1 - s), x y' = 2k (x + 3a x^3)
            xdy = two_kx.addcmul_(x, x_squared, value=3.0 * _2K * _A)
            ctx.save_for_backward(torch.ops.aten.sigmoid_backward(xdy, s).add_(s))
        return s.mul_(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (derivative,) = ctx.saved_tensors
        return g * derivative
