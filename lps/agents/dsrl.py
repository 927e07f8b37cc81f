"""DSRL: steering by a latent critic (Wagenmaker et al. 2025, arXiv 2506.15799), as the LPS release implements it.

A flow policy is cloned from the data.  A second critic Q^z(s, e) over latents is distilled from the action critic
through the flow, and a latent actor z(s) maximises it: no gradient passes through the flow.

    critic         y = R + discount^h m mean_k Qbar_k(s', flow(s', z(s'))),  loss = mean_k (Q_k(s, x) - y)^2
    base policy    flow matching on (s, x), latents on the sphere
    noise critic   loss = mean_k (Q^z_k(s, e) - mean_k Q_k(s, flow(s, e)))^2 for random e
    latent actor   loss = alpha lambda (-mean_B mean_k Q^z_k(s, z(s)))

Deviation of the release, kept as the default for parity: the distillation target is not detached, so that loss also
trains the action critic; `detach_distillation=True` is the method as published.  alpha is without effect under Adam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from lps.agents.base import Agent, Info, Noise, steering_loss, values
from lps.agents.config import PER_MEMBER, AgentConfig, Aggregation, Count, Range, Rho, Widths
from lps.agents.flows import flow_actions, flow_from, flow_matching_loss
from lps.agents.latents import LatentDist, latent_noise, latent_size, project_latent
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.network import Network, Observation


@dataclass(frozen=True)
class Config(AgentConfig):
    """Defaults of the LPS release."""

    tau: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.005  # rate of the target critics
    alpha: Annotated[float, Range(0), PER_MEMBER] = 1.0  # weight of the latent loss; without effect under Adam
    critic_agg: Aggregation = "mean"  # over the target critics: "min", "mean" or "pessimistic"
    rho: Rho = 0.5  # weight of the critics' standard deviation where an aggregation is pessimistic
    num_critics: Count = 2  # K, of both kinds of critic
    flow_steps: Count = 10  # Euler steps of the flow
    latent_dist: LatentDist = "sphere"  # "sphere", "normal" or "truncated_normal"
    detach_distillation: bool = False  # stop the distillation loss from training the action critic
    base_hidden: Widths = (512, 512, 512, 512)  # base policy
    critic_hidden: Widths = (256, 256, 256, 256)  # each critic, with layer norm
    latent_actor_hidden: Widths = (512, 512, 512, 512)  # the release gives it the base policy's widths


class DSRL(Agent):
    title = "DSRL"
    colour = "#E38B1E"
    Config = Config
    targets = {"target_critic": "critic"}
    heads = {"noise_critic": "critic"}
    acting = ("base", "latent_actor")
    acts_with_noise = False

    def networks(self) -> dict[str, Network]:
        c, d = self.config, self.chunk_dim
        critic = self.critics(d)
        return {
            "base": self.base_policy(1),
            "critic": critic,
            "target_critic": self.critics(d),
            "noise_critic": self.critics(d, features_of=critic),
            "latent_actor": self.net(c.latent_actor_hidden),
        }

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {
            "t_uniform": stream.uniform(batch_size, 1),
            "e_normal": stream.normal(batch_size, self.chunk_dim),
            "distill_e_normal": stream.normal(batch_size, self.chunk_dim),
        }

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        c, s, x = self.config, batch.observations, batch.actions

        e = latent_noise(noise["e_normal"], c.latent_dist)
        base_loss = flow_matching_loss(self.base, s, x, e, noise["t_uniform"])

        # One flow for the actions at s', for the target, and for those of the distillation: half as many calls.
        e = latent_noise(noise["distill_e_normal"], c.latent_dist)
        with torch.no_grad():
            features = torch.cat((self.base.encode(batch.next_observations), self.base.encode(s)), 1)
            latents = torch.cat((self._latent(batch.next_observations), e), 1)
            next_actions, a = flow_from(self.base, features, latents, c.flow_steps).chunk(2, 1)
        critic_loss, info = self.td_loss(batch, next_actions, c.critic_agg)

        critic = self.critic.frozen if c.detach_distillation else self.critic
        q = values(critic, s, a).mean(1, keepdim=True)
        distill_loss = (values(self.noise_critic, s, e) - q).square().mean((1, 2))

        z = self._latent(s)
        q_z = values(self.noise_critic.frozen, s, z).mean(1)
        latent_loss = self.alpha * steering_loss(q_z)

        losses = {"critic_loss": critic_loss, "base_loss": base_loss, "distill_loss": distill_loss}
        return losses | {"latent_loss": latent_loss}, info | {"latent_size": latent_size(z)}

    def act(self, observations: Observation, e: Tensor | None = None) -> Tensor:
        return flow_actions(self.base, observations, self._latent(observations), self.config.flow_steps)

    def _latent(self, s: Observation) -> Tensor:
        return project_latent(self.latent_actor(s), self.config.latent_dist)
