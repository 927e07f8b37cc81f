"""The two base policies: flow matching in n Euler steps, and MeanFlow in one step.

Shapes: s observations (arrays (M, B, *shape) by name), x (M, B, d) action chunks, e (M, B, d) latents, t, r (M, B, 1)
times.  Losses come back per member, (M,).  Actions may be asked for N latents of each observation, (M, B N, d).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from lps.nets.network import Bound, Observation

# --- Flow matching: t = 0 is noise, t = 1 is data ----------------------------------------------------------------


def flow_matching_loss(net: Bound, s: Observation, x: Tensor, e: Tensor, t: Tensor) -> Tensor:
    """Squared error of the velocity: net(s, (1 - t) e + t x, t) against x - e.  Lipman et al. 2023, eq. 23."""
    x_t = (1 - t) * e + t * x
    return (net(s, x_t, t) - (x - e)).square().mean((-2, -1))


def flow_actions(net: Bound, s: Observation, e: Tensor, flow_steps: int) -> Tensor:
    """(M, B, d) actions in [-1, 1]: `flow_steps` Euler steps from the latent e."""
    return flow_from(net, net.encode(s, rows=e.shape[1]), e, flow_steps)


def flow_from(net: Bound, features: Tensor, e: Tensor, flow_steps: int) -> Tensor:
    """The same for encoded observations (M, B, *)."""
    x = e
    for i in range(flow_steps):
        t = torch.full_like(x[..., :1], i / flow_steps)
        x = x + net.apply(features, x, t) / flow_steps
    return x.clamp(-1.0, 1.0)


# --- MeanFlow: t = 1 is noise, t = 0 is data ----------------------------------------------------------------------
# Geng et al. 2025, arXiv 2505.13447; the residual form u = z - f is MeanFlowQL's, arXiv 2511.13035.

MeanFlowForm = Literal["noise_to_action", "original", "original_released"]
MEANFLOW_FORMS = get_args(MeanFlowForm)
"""Meaning of the network f(s, z, t, t - r), and the direction (dz, dt, dr) of its derivative:

noise_to_action    u = z - f, along (v, 1, 0); acting a = f   (LPS, QC-MFQL)
original           u = f, along (v, 1, 0), MeanFlow's own identity; acting a = e - f
original_released  as "original", but along (v, 0, 1), as LPS's release has it in its ablation
"""


def meanflow_times(t_normal: Tensor, r_normal: Tensor, flow_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Times t >= r from two standard normals (M, B, 1).

    Logit-normal(-0.4, 1) draws, sorted; the first int(B (1 - flow_ratio)) of each member's batch have r = t and learn
    the instantaneous velocity.
    """
    a, b = torch.sigmoid(t_normal - 0.4), torch.sigmoid(r_normal - 0.4)
    t, r = torch.maximum(a, b), torch.minimum(a, b)
    size = t.shape[-2]
    rows = torch.arange(1, size + 1, dtype=torch.float64, device=t.device)[:, None]
    return t, torch.where(rows <= size * (1 - flow_ratio)[:, None, None], t, r)


def meanflow_loss(
    net: Bound,
    s: Observation,
    x: Tensor,
    e: Tensor,
    noise: Mapping[str, Tensor],
    flow_ratio: Tensor,
    largest_ratio: float,
    form: str = "noise_to_action",
) -> Tensor:
    """MeanFlow loss of the average velocity u, with the adaptive weight (|err|^2 + 1e-3)^-1/2.

    v = e - x, z = (1 - t) x + t e; the target is v - (t - r) du/dt, a constant.  Where r = t the second term
    vanishes, so the derivative is taken only on the last rows of the batch: as many as the member with the largest
    flow ratio needs.

    noise: standard normal t_normal and r_normal, (M, B, 1).  flow_ratio: (M,) float64, for rows are counted by it.
    largest_ratio: its largest, known to the host, because it decides shapes.  form: see MEANFLOW_FORMS.
    """
    t, r = meanflow_times(noise["t_normal"], noise["r_normal"], flow_ratio)
    z, v = (1 - t) * x + t * e, e - x
    rows = slice(int(t.shape[-2] * (1 - largest_ratio)), None)
    one, zero = torch.ones_like(t[:, rows]), torch.zeros_like(t[:, rows])
    # The network sees (s, z, t, t - r): along (v, 1, 0) its last two inputs move by (1, 1), along (v, 0, 1) by (0, -1).
    times = (zero, -one) if form == "original_released" else (one, one)
    f, df = net.jvp(net.encode(s), (z, t, t - r), (v[:, rows], *times))
    residual = form == "noise_to_action"
    u = z - f if residual else f
    with torch.no_grad():
        du = v[:, rows] - df if residual else df
        u_target = v.clone()
        u_target[:, rows] -= (t - r)[:, rows].clamp(0.0, 1.0) * du
    error = (u - u_target).square().mean(-1)
    weight = (error.detach() + 1e-3).rsqrt()
    return (weight * error).mean(-1)


def meanflow_actions(net: Bound, s: Observation, e: Tensor, form: str = "noise_to_action") -> Tensor:
    """(M, B, d) actions in [-1, 1] from latents e, by one forward pass over the whole interval t - r = 1."""
    one = torch.ones_like(e[..., :1])
    f = net(s, e, one, one)
    return (f if form == "noise_to_action" else e - f).clamp(-1.0, 1.0)
