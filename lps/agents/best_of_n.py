"""QC best-of-N: Q-learning over action chunks with rejection sampling (Li, Zhou and Levine 2025, arXiv 2507.07969).

A flow policy is cloned from the data.  To act, N chunks are sampled from it and the one that the critics like best is
taken, in the environment as in the TD target.  There is no actor to optimise.

    pi(s)          argmax over a_1 .. a_N = flow(s, e_n) of mean_k Q_k(s, a_n)
    critic         y = R + discount^h m mean_k Qbar_k(s', pi(s')),  loss = mean_k (Q_k(s, x) - y)^2
    base policy    flow matching on (s, x)

Networks, batch and rates are those of the other methods here, not the larger ones of its paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from lps.agents.base import Agent, Info, Noise, take, values
from lps.agents.config import PER_MEMBER, AgentConfig, Aggregation, Count, Range, Rho, Widths
from lps.agents.flows import flow_actions, flow_matching_loss
from lps.agents.latents import LatentDist, latent_noise
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.network import Network, Observation


@dataclass(frozen=True)
class Config(AgentConfig):
    """Defaults of the paper for N and the aggregation, of LPS's release for the rest."""

    tau: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.005  # rate of the target critics
    critic_agg: Aggregation = "mean"  # over the target critics: "min", "mean" or "pessimistic"
    choice_agg: Aggregation = "mean"  # over the critics that choose: "min", "mean" or "pessimistic"
    rho: Rho = 0.5  # weight of the critics' standard deviation where an aggregation is pessimistic
    num_critics: Count = 2  # K
    num_samples: Count = 32  # N, chunks to choose from
    flow_steps: Count = 10  # Euler steps of the flow
    latent_dist: LatentDist = "normal"  # "sphere", "normal" or "truncated_normal"
    base_hidden: Widths = (512, 512, 512, 512)  # base policy
    critic_hidden: Widths = (256, 256, 256, 256)  # each critic, with layer norm


class BestOfN(Agent):
    title = "QC best-of-N"
    colour = "#6B3A0A"
    Config = Config
    targets = {"target_critic": "critic"}
    acting = ("base", "critic")

    def networks(self) -> dict[str, Network]:
        d = self.chunk_dim
        return {"base": self.base_policy(1), "critic": self.critics(d), "target_critic": self.critics(d)}

    @property
    def noise_dim(self) -> int:
        return self.config.num_samples * self.chunk_dim

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {
            "next_e_normal": stream.normal(batch_size, self.noise_dim),
            "t_uniform": stream.uniform(batch_size, 1),
            "e_normal": stream.normal(batch_size, self.chunk_dim),
        }

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        c, s, x = self.config, batch.observations, batch.actions

        with torch.no_grad():
            next_actions = self.act(batch.next_observations, noise["next_e_normal"])
        critic_loss, info = self.td_loss(batch, next_actions, c.critic_agg)

        e = latent_noise(noise["e_normal"], c.latent_dist)
        base_loss = flow_matching_loss(self.base, s, x, e, noise["t_uniform"])

        return {"critic_loss": critic_loss, "base_loss": base_loss}, info

    def act(self, observations: Observation, e: Tensor | None = None) -> Tensor:
        assert e is not None, "best-of-N samples: it needs latents"
        c, (members, batch, _) = self.config, e.shape
        e = latent_noise(e.reshape(members, batch * c.num_samples, self.chunk_dim), c.latent_dist)
        a = flow_actions(self.base, observations, e, c.flow_steps)
        q = self.aggregate(values(self.critic, observations, a), c.choice_agg).view(members, batch, c.num_samples)
        return take(a, q.argmax(-1))
