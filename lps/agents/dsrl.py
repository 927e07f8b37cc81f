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

import torch
from torch import Tensor

from lps.agents.base import Agent, Info, Noise, steering_loss
from lps.agents.flows import flow_actions, flow_matching_loss
from lps.agents.latents import latent_noise, latent_size, project_latent
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.mlp import MLP, frozen


@dataclass(frozen=True)
class Config:
    """Defaults of the LPS release."""

    lr: float = 3e-4  # Adam step size of every network
    batch_size: int = 256  # chunks per update
    horizon: int = 5  # h, actions per chunk, executed open loop
    discount: float = 0.99  # gamma, per environment step
    tau: float = 0.005  # rate of the target critics
    alpha: float = 1.0  # weight of the latent loss; without effect under Adam
    critic_agg: str = "mean"  # over the target critics: "min" or "mean"
    num_critics: int = 2  # K, of both kinds of critic
    flow_steps: int = 10  # Euler steps of the flow
    latent_dist: str = "sphere"  # "sphere", "normal" or "truncated_normal"
    detach_distillation: bool = False  # stop the distillation loss from training the action critic
    base_hidden: tuple[int, ...] = (512, 512, 512, 512)  # base policy
    critic_hidden: tuple[int, ...] = (256, 256, 256, 256)  # each critic, with layer norm
    latent_actor_hidden: tuple[int, ...] = (512, 512, 512, 512)  # the release gives it the base policy's widths


class DSRL(Agent):
    title = "DSRL"
    Config = Config
    targets = {"target_critic": "critic"}
    acting = ("base", "latent_actor")
    acts_with_noise = False

    def networks(self) -> dict[str, MLP]:
        c, obs, d = self.config, self.observation_dim, self.chunk_dim
        return {
            "base": MLP(obs + d + 1, *c.base_hidden, d),
            "critic": self.critics(obs + d),
            "target_critic": self.critics(obs + d),
            "noise_critic": self.critics(obs + d),
            "latent_actor": MLP(obs, *c.latent_actor_hidden, d),
        }

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {
            "t_uniform": stream.uniform(batch_size, 1),
            "e_normal": stream.normal(batch_size, self.chunk_dim),
            "distill_e_normal": stream.normal(batch_size, self.chunk_dim),
        }

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        c, s, x = self.config, batch.observations, batch.actions

        with torch.no_grad():
            next_actions = self.act(batch.next_observations)
        critic_loss, info = self.td_loss(batch, next_actions, c.critic_agg)

        e = latent_noise(noise["e_normal"], c.latent_dist)
        base_loss = flow_matching_loss(self.nets["base"], self.params["base"], s, x, e, noise["t_uniform"])

        e = latent_noise(noise["distill_e_normal"], c.latent_dist)
        with torch.no_grad():
            a = self._flow(s, e)
        critic = frozen(self.params["critic"]) if c.detach_distillation else self.params["critic"]
        q = self.q("critic", s, a, critic).mean(1, keepdim=True)
        distill_loss = (self.q("noise_critic", s, e) - q).square().mean((1, 2))

        z = self._latent(s)
        q_z = self.q("noise_critic", s, z, frozen(self.params["noise_critic"])).mean(1)
        latent_loss = self.alpha * steering_loss(q_z)

        return {
            "critic_loss": critic_loss,
            "base_loss": base_loss,
            "distill_loss": distill_loss,
            "latent_loss": latent_loss,
        }, info | {"latent_size": latent_size(z)}

    def act(self, observations: Tensor, e: Tensor | None = None) -> Tensor:
        return self._flow(observations, self._latent(observations))

    def _latent(self, s: Tensor) -> Tensor:
        return project_latent(self.nets["latent_actor"](self.params["latent_actor"], s), self.config.latent_dist)

    def _flow(self, s: Tensor, e: Tensor) -> Tensor:
        return flow_actions(self.nets["base"], self.params["base"], s, e, self.config.flow_steps)
