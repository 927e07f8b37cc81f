"""FM-LPS: latent policy steering through a flow-matching policy, the ablation of LPS (arXiv 2603.05296) on its base.

The latent actor's gradient goes back through all Euler steps of the flow.  `flow_steps=1` is FM-1step-LPS: one Euler
step of a policy that was trained as a flow.

    critic         y = R + discount^h m mean_k Qbar_k(s', flow(s', z(s'))),  loss = mean_k (Q_k(s, x) - y)^2
    base policy    flow matching on (s, x), latents on the sphere
    latent actor   loss = alpha lambda (-mean_B mean_k Q_k(s, flow(s, z(s)))), lambda = stopgrad(1 / mean_B |Q|);
                   critic and base are frozen but differentiated through

alpha is without effect under Adam, as in LPS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from lps.agents.base import Agent, Info, Noise, steering_loss, values
from lps.agents.config import PER_MEMBER, AgentConfig, Aggregation, Count, Range, Rho, Widths
from lps.agents.flows import flow_actions, flow_matching_loss
from lps.agents.latents import LatentDist, latent_noise, latent_size, project_latent
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.network import Bound, Network, Observation


@dataclass(frozen=True)
class Config(AgentConfig):
    """Defaults of the LPS release."""

    tau: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.005  # rate of the target critics
    alpha: Annotated[float, Range(0), PER_MEMBER] = 1.0  # weight of the latent loss; without effect under Adam
    critic_agg: Aggregation = "mean"  # over the target critics: "min", "mean" or "pessimistic"
    actor_agg: Aggregation = "mean"  # over the critics that the latent actor climbs: "min", "mean" or "pessimistic"
    rho: Rho = 0.5  # weight of the critics' standard deviation where an aggregation is pessimistic
    num_critics: Count = 2  # K
    flow_steps: Count = 10  # Euler steps of the flow, in acting and in its gradient
    latent_dist: LatentDist = "sphere"  # "sphere", "normal" or "truncated_normal"
    base_hidden: Widths = (512, 512, 512, 512)  # base policy
    critic_hidden: Widths = (256, 256, 256, 256)  # each critic, with layer norm
    latent_actor_hidden: Widths = (512, 512, 512, 512)  # the release gives it the base policy's widths


class FMLPS(Agent):
    title = "FM-LPS"
    colour = "#3E9B4F"
    Config = Config
    targets = {"target_critic": "critic"}
    acting = ("base", "latent_actor")
    acts_with_noise = False

    def networks(self) -> dict[str, Network]:
        c, d = self.config, self.chunk_dim
        return {
            "base": self.base_policy(1),
            "critic": self.critics(d),
            "target_critic": self.critics(d),
            "latent_actor": self.net(c.latent_actor_hidden),
        }

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {"t_uniform": stream.uniform(batch_size, 1), "e_normal": stream.normal(batch_size, self.chunk_dim)}

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        c, s, x = self.config, batch.observations, batch.actions

        with torch.no_grad():
            next_actions = self.act(batch.next_observations)
        critic_loss, info = self.td_loss(batch, next_actions, c.critic_agg)

        e = latent_noise(noise["e_normal"], c.latent_dist)
        base_loss = flow_matching_loss(self.base, s, x, e, noise["t_uniform"])

        z = self._latent(s)
        a = self._steered(s, z, self.base.frozen)
        q = self.aggregate(values(self.critic.frozen, s, a), c.actor_agg)
        latent_loss = self.alpha * steering_loss(q)

        losses = {"critic_loss": critic_loss, "base_loss": base_loss, "latent_loss": latent_loss}
        return losses, info | {"latent_size": latent_size(z)}

    def act(self, observations: Observation, e: Tensor | None = None) -> Tensor:
        return self._steered(observations, self._latent(observations), self.base)

    def _latent(self, s: Observation) -> Tensor:
        return project_latent(self.latent_actor(s), self.config.latent_dist)

    def _steered(self, s: Observation, z: Tensor, base: Bound) -> Tensor:
        return flow_actions(base, s, z, self.config.flow_steps)
