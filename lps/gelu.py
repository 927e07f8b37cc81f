"""GELU in its tanh form, in the arithmetic that the device is quick at.

    gelu(x) = x / 2 (1 + tanh(k (x + a x^3))) = x sigmoid(y),   y = 2k (x + a x^3),   k = sqrt(2 / pi), a = 0.044715

Hendrycks and Gimpel 2016, arXiv 1606.08415.  The two are one function, since (1 + tanh(y / 2)) / 2 = sigmoid(y).  On a
CPU torch takes its tanh three times as slowly as its exponential, and as often again in the derivative, so there the
sigmoid is taken, once, and kept for the derivative.  GPUs, half precision and the few rows of a decision have torch's
own kernel.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_C = 2.0 * math.sqrt(2.0 / math.pi)
_CA = _C * 0.044715
MANY = 1 << 14
"""Elements for which five operations instead of one save more than it costs to start them."""


def gelu(x: Tensor) -> Tensor:
    """gelu(x) by element; once differentiable."""
    return _BySigmoid.apply(x) if _by_sigmoid(x) else F.gelu(x, approximate="tanh")


def gelu_jvp(x: Tensor, dx: Tensor) -> Tensor:
    """gelu'(x) dx by element, without a graph."""
    with torch.no_grad():
        if _by_sigmoid(x):
            return _times_derivative(dx, x, _sigmoid(x))
        return torch.ops.aten.gelu_backward(dx, x, approximate="tanh")


def _by_sigmoid(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() >= MANY


def _sigmoid(x: Tensor) -> Tensor:
    """sigmoid(y)."""
    return (x * x).mul_(_CA).add_(_C).mul_(x).sigmoid_()


def _times_derivative(g: Tensor, x: Tensor, s: Tensor) -> Tensor:
    """g gelu'(x) = g (s + x s (1 - s) y'), y' = 2k (1 + 3a x^2), for s = sigmoid(y)."""
    inner = (x * x).mul_(3.0 * _CA).add_(_C).mul_(x).mul_(g)
    return torch.ops.aten.sigmoid_backward(inner, s).addcmul_(g, s)


class _BySigmoid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        s = _sigmoid(x)
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _times_derivative(g, *ctx.saved_tensors)
