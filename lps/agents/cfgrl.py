"""CFGRL: policy improvement by classifier-free guidance (Frans et al. 2025, arXiv 2505.23458), as LPS's release has it.

An implicit critic (IQL, arXiv 2110.06169) says which chunks of the data are better than the policy; a flow policy is
cloned with that verdict as a class input g, and guided towards g = 1 when it acts.  There is no actor to optimise.

    critic        y_k = R + discount^h m V_k(s'),  loss = mean_k (Q_k(s, x) - y_k)^2
    value         u_k = min_j Qbar_j(s, x) - V_k(s),  loss = mean_k |expectile - 1[u_k < 0]| u_k^2
    base policy   flow matching with class g: on all rows as g = 0, with weight 0.1, and as g = 1 with the share of
                  values that find the chunk better, mean_k 1[u_k > 0]
    acting        clip of `flow_steps` Euler steps along v_0 + guidance (v_1 - v_0) from a fresh latent e
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from lps.agents.base import Agent, Info, Noise, values
from lps.agents.config import PER_MEMBER, AgentConfig, Count, Range, Widths
from lps.agents.latents import LatentDist, latent_noise
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.network import Network, Observation

UNCONDITIONAL_WEIGHT = 0.1
"""Weight of the g = 0 part of the cloning loss."""


@dataclass(frozen=True)
class Config(AgentConfig):
    """Defaults of the LPS release."""

    tau: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.005  # rate of the target critics
    expectile: Annotated[float, Range(0, 1, open_low=True, open_high=True), PER_MEMBER] = 0.9  # of the value loss
    guidance: Annotated[float, Range(0), PER_MEMBER] = 1.5  # w, of g = 1 over g = 0 when acting; 1 is none
    num_critics: Count = 2  # K, of critics and of values
    flow_steps: Count = 10  # Euler steps of the flow
    latent_dist: LatentDist = "normal"  # "sphere", "normal" or "truncated_normal"
    base_hidden: Widths = (512, 512, 512, 512)  # base policy
    critic_hidden: Widths = (256, 256, 256, 256)  # each critic and value, with layer norm


class CFGRL(Agent):
    title = "CFGRL"
    colour = "#E8D44D"
    Config = Config
    targets = {"target_critic": "critic"}
    heads = {"value": "critic"}

    def networks(self) -> dict[str, Network]:
        d = self.chunk_dim
        critic = self.critics(d)
        return {
            "base": self.base_policy(1, 1),
            "critic": critic,
            "target_critic": self.critics(d),
            "value": self.critics(features_of=critic),
        }

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {"t_uniform": stream.uniform(batch_size, 1), "e_normal": stream.normal(batch_size, self.chunk_dim)}

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        c, s, x = self.config, batch.observations, batch.actions

        with torch.no_grad():
            v_next = values(self.value, batch.next_observations)
            q_bar = values(self.target_critic, s, x).amin(1, keepdim=True)
        critic_loss, info = self.td_loss_towards(batch, v_next)

        v = values(self.value, s)
        u = q_bar - v
        expectile = self.expectile[:, None, None]
        weight = torch.where(u < 0, 1 - expectile, expectile)
        value_loss = (weight * u.square()).mean((1, 2))

        better = (u > 0).float().mean(1)
        e, t = latent_noise(noise["e_normal"], c.latent_dist), noise["t_uniform"]
        x_t, v_t = (1 - t) * e + t * x, x - e
        features = self.base.encode(s)
        errors = [(self._velocity(features, x_t, t, g) - v_t).square().mean(-1) for g in (0.0, 1.0)]
        base_loss = (better * errors[1] + UNCONDITIONAL_WEIGHT * errors[0]).mean(-1)

        losses = {"critic_loss": critic_loss, "value_loss": value_loss, "base_loss": base_loss}
        v = v.detach().flatten(1)
        info |= {"v_mean": v.mean(-1), "v_min": v.amin(-1), "v_max": v.amax(-1), "better": better.mean(-1)}
        return losses, info

    def act(self, observations: Observation, e: Tensor | None = None) -> Tensor:
        assert e is not None, "CFGRL samples: it needs a latent"
        c, x, w = self.config, latent_noise(e, self.config.latent_dist), self.guidance[:, None, None]
        features = self.base.encode(observations)
        for i in range(c.flow_steps):
            t = torch.full_like(x[..., :1], i / c.flow_steps)
            v_0, v_1 = (self._velocity(features, x, t, g) for g in (0.0, 1.0))
            x = x + (v_0 + w * (v_1 - v_0)) / c.flow_steps
        return x.clamp(-1.0, 1.0)

    def _velocity(self, features: Tensor, x_t: Tensor, t: Tensor, g: float) -> Tensor:
        return self.base.apply(features, x_t, t, torch.full_like(t, g))
