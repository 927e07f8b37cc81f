"""Latent geometry: where the noise of a one-step policy lives, and how a latent actor's output is brought there.

sphere            uniform directions of length sqrt(d): e = n / sqrt(|n|^2 + 1e-6) * sqrt(d)   (LPS, arXiv 2603.05296)
normal            standard normal noise; a latent actor's output is used as it is
truncated_normal  the normal distribution within +-2; a latent actor's output is 2 tanh(.)
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

LatentDist = Literal["sphere", "normal", "truncated_normal"]
LATENTS = get_args(LatentDist)


def _to_sphere(n: Tensor) -> Tensor:
    return n * ((n.square().sum(-1, keepdim=True) + 1e-6).rsqrt() * math.sqrt(n.shape[-1]))


def latent_noise(normal: Tensor, latent_dist: str) -> Tensor:
    """(..., d) standard normal draws as latents of the given geometry, same shape."""
    if latent_dist == "sphere":
        return _to_sphere(normal)
    if latent_dist == "truncated_normal":
        # The quantile of each draw, taken within +-2: erf is the normal's mass between -x and x.
        return math.sqrt(2.0) * torch.erfinv(torch.erf(normal / math.sqrt(2.0)) * math.erf(math.sqrt(2.0)))
    return normal


def latent_size(z: Tensor) -> Tensor:
    """(M,) mean square of the components of latents (M, B, d), without gradient: 1 on the sphere and for normal noise,
    at most 4 for a truncated actor.  What the LPS release logs as z_norm, and panel (c) of its ablations shows."""
    return z.detach().square().mean((1, 2))


def project_latent(output: Tensor, latent_dist: str) -> Tensor:
    """(..., d) raw outputs of a latent actor as latents of the given geometry, same shape."""
    if latent_dist == "sphere":
        return _to_sphere(output)
    if latent_dist == "truncated_normal":
        return 2.0 * output.tanh()
    return output
