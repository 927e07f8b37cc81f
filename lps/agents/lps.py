"""LPS: Latent Policy Steering through One-Step Flow Policies (Im, Kolobov, Fu, Lee, RSS 2026, arXiv 2603.05296).

A MeanFlow policy is cloned from the data and maps a latent e on a sphere to an action chunk in one forward pass.
A small latent actor z(s) chooses the latent, and follows the gradient of an action-space critic through that pass:
no critic over latents, no weight between imitation and improvement.

    critic        y = R + discount^h m min_k Qbar_k(s', pi(s')),  loss = mean_k (Q_k(s, x) - y)^2
    base policy   MeanFlow loss on (s, x), latents on the sphere
    latent actor  loss = alpha lambda (-mean_B Q),  Q = mean_k Q_k(s, base(s, z(s))),  lambda = 1 / mean |Q|

One Adam trains the three from the first step.  As in the authors' release, the latent loss sees the base policy and the
critics as constants.  NOTE: alpha scales the only loss that reaches the latent actor, and Adam does not see scale, so
alpha changes nothing beyond Adam's epsilon.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lps.agents.base import Agent, Info, Noise, steering_loss
from lps.agents.flows import meanflow_actions, meanflow_loss
from lps.agents.latents import latent_noise, latent_size, project_latent
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.mlp import MLP, Params, frozen


@dataclass(frozen=True)
class Config:
    """Defaults of the paper."""

    lr: float = 3e-4  # Adam step size of every network
    batch_size: int = 256  # chunks per update
    horizon: int = 5  # h, actions per chunk, executed open loop
    discount: float = 0.99  # gamma, per environment step
    tau: float = 0.005  # rate of the target critics
    alpha: float = 1.0  # weight of the latent loss; without effect under Adam
    critic_agg: str = "min"  # over the target critics: "min" or "mean"
    num_critics: int = 2  # K
    flow_ratio: float = 0.25  # share of the batch with r < t
    meanflow_form: str = "noise_to_action"  # what the base policy predicts; see lps.agents.flows.MEANFLOW_FORMS
    latent_dist: str = "sphere"  # "sphere", "normal" or "truncated_normal"
    base_hidden: tuple[int, ...] = (512, 512, 512, 512)  # base policy
    critic_hidden: tuple[int, ...] = (256, 256, 256, 256)  # each critic, with layer norm
    latent_actor_hidden: tuple[int, ...] = (256, 256)  # latent actor


class LPS(Agent):
    title = "LPS"
    Config = Config
    targets = {"target_critic": "critic"}
    acting = ("base", "latent_actor")
    acts_with_noise = False

    def networks(self) -> dict[str, MLP]:
        c, obs, d = self.config, self.observation_dim, self.chunk_dim
        return {
            "base": MLP(obs + d + 2, *c.base_hidden, d),
            "critic": self.critics(obs + d),
            "target_critic": self.critics(obs + d),
            "latent_actor": MLP(obs, *c.latent_actor_hidden, d),
        }

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {
            "t_normal": stream.normal(batch_size, 1),
            "r_normal": stream.normal(batch_size, 1),
            "e_normal": stream.normal(batch_size, self.chunk_dim),
        }

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        c, s, x = self.config, batch.observations, batch.actions

        with torch.no_grad():
            next_actions = self.act(batch.next_observations)
        critic_loss, info = self.td_loss(batch, next_actions, c.critic_agg)

        e = latent_noise(noise["e_normal"], c.latent_dist)
        times = noise["t_normal"], noise["r_normal"]
        ratios = self.flow_ratio, self.largest_ratio
        base_loss = meanflow_loss(self.nets["base"], self.params["base"], s, x, e, *times, *ratios, c.meanflow_form)

        z = self._latent(s)
        a = self._steered(s, z, frozen(self.params["base"]))
        q = self.q("critic", s, a, frozen(self.params["critic"])).mean(1)
        latent_loss = self.alpha * steering_loss(q)

        losses = {"critic_loss": critic_loss, "base_loss": base_loss, "latent_loss": latent_loss}
        return losses, info | {"latent_size": latent_size(z)}

    def act(self, observations: Tensor, e: Tensor | None = None) -> Tensor:
        return self._steered(observations, self._latent(observations), self.params["base"])

    def _latent(self, s: Tensor) -> Tensor:
        return project_latent(self.nets["latent_actor"](self.params["latent_actor"], s), self.config.latent_dist)

    def _steered(self, s: Tensor, z: Tensor, base: Params) -> Tensor:
        return meanflow_actions(self.nets["base"], base, s, z, self.config.meanflow_form)
