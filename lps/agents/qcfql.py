"""QC-FQL: flow Q-learning over action chunks (arXiv 2507.07969 on arXiv 2502.02538), as the LPS release implements it.

A flow policy is cloned from the data.  A one-step actor mu(s, e) climbs the critic and is held to the flow policy by
distillation; alpha weighs the two, and has to be tuned for every group of tasks (lps.agents.variants).

    critic           y = R + discount^h m mean_k Qbar_k(s', clip mu(s', e)),  loss = mean_k (Q_k(s, x) - y)^2
    base policy      flow matching on (s, x)
    one-step actor   loss = alpha |mu(s, e) - flow(s, e)|^2 / d - lambda mean_B mean_k Q_k(s, clip mu(s, e)),
                     lambda = stopgrad(1 / mean_B |Q|)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from lps.agents.base import Agent, Info, Noise, steering_loss, values
from lps.agents.config import PER_MEMBER, AgentConfig, Aggregation, Count, Range, Rho, Widths
from lps.agents.flows import flow_actions, flow_matching_loss
from lps.agents.latents import LatentDist, latent_noise
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.network import Network, Observation


@dataclass(frozen=True)
class Config(AgentConfig):
    """Defaults of the LPS release; alpha is that of scene, the other groups' are in lps.agents.variants."""

    tau: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.005  # rate of the target critics
    alpha: Annotated[float, Range(0), PER_MEMBER] = 1.0  # weight of the distillation loss
    critic_agg: Aggregation = "mean"  # over the target critics: "min", "mean" or "pessimistic"
    actor_agg: Aggregation = "mean"  # over the critics that the actor climbs: "min", "mean" or "pessimistic"
    rho: Rho = 0.5  # weight of the critics' standard deviation where an aggregation is pessimistic
    num_critics: Count = 2  # K
    flow_steps: Count = 10  # Euler steps of the flow
    latent_dist: LatentDist = "normal"  # "sphere", "normal" or "truncated_normal"
    base_hidden: Widths = (512, 512, 512, 512)  # base policy
    critic_hidden: Widths = (256, 256, 256, 256)  # each critic, with layer norm
    actor_hidden: Widths = (512, 512, 512, 512)  # one-step actor


class QCFQL(Agent):
    title = "QC-FQL"
    colour = "#7FC8F0"
    Config = Config
    targets = {"target_critic": "critic"}
    acting = ("actor",)

    def networks(self) -> dict[str, Network]:
        c, d = self.config, self.chunk_dim
        return {
            "base": self.base_policy(1),
            "critic": self.critics(d),
            "target_critic": self.critics(d),
            "actor": self.net(c.actor_hidden, d),
        }

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {
            "next_e_normal": stream.normal(batch_size, self.chunk_dim),
            "t_uniform": stream.uniform(batch_size, 1),
            "e_normal": stream.normal(batch_size, self.chunk_dim),
            "distill_e_normal": stream.normal(batch_size, self.chunk_dim),
        }

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        c, s, x = self.config, batch.observations, batch.actions

        with torch.no_grad():
            next_actions = self.act(batch.next_observations, noise["next_e_normal"])
        critic_loss, info = self.td_loss(batch, next_actions, c.critic_agg)

        e = latent_noise(noise["e_normal"], c.latent_dist)
        base_loss = flow_matching_loss(self.base, s, x, e, noise["t_uniform"])

        e = latent_noise(noise["distill_e_normal"], c.latent_dist)
        with torch.no_grad():
            cloned = flow_actions(self.base, s, e, c.flow_steps)
        mu = self.actor(s, e)
        distill_loss = (mu - cloned).square().mean((1, 2))
        q = self.aggregate(values(self.critic.frozen, s, mu.clamp(-1.0, 1.0)), c.actor_agg)
        actor_loss = self.alpha * distill_loss + steering_loss(q)

        losses = {"critic_loss": critic_loss, "base_loss": base_loss, "actor_loss": actor_loss}
        return losses, info | {"distill_mse": distill_loss}

    def act(self, observations: Observation, e: Tensor | None = None) -> Tensor:
        assert e is not None, "QC-FQL samples: it needs a latent"
        e = latent_noise(e, self.config.latent_dist)
        return self.actor(observations, e).clamp(-1.0, 1.0)
