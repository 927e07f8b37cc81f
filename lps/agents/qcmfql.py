"""QC-MFQL: QC-FQL with a one-step MeanFlow policy in place of the flow, as the LPS release implements it.

    critic           y = R + discount^h m min_k Qbar_k(s', clip mu(s', e)),  loss = mean_k (Q_k(s, x) - y)^2
    base policy      MeanFlow loss on (s, x)
    one-step actor   loss = alpha |mu(s, e) - base(s, e)|^2 / d - lambda mean_B mean_k Q_k(s, mu(s, e)),
                     lambda = stopgrad(1 / mean_B |Q|)

Unlike QC-FQL's, the release's actor is not clipped inside Q, and its critic takes the minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lps.agents.base import Agent, Info, Noise, steering_loss
from lps.agents.flows import meanflow_actions, meanflow_loss
from lps.agents.latents import latent_noise
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.mlp import MLP, frozen


@dataclass(frozen=True)
class Config:
    """Defaults of the LPS release; its alphas for QC-MFQL are not published, QC-FQL's stand in
    (lps.agents.variants)."""

    lr: float = 3e-4  # Adam step size of every network
    batch_size: int = 256  # chunks per update
    horizon: int = 5  # h, actions per chunk, executed open loop
    discount: float = 0.99  # gamma, per environment step
    tau: float = 0.005  # rate of the target critics
    alpha: float = 1.0  # weight of the distillation loss
    critic_agg: str = "min"  # over the target critics: "min" or "mean"
    num_critics: int = 2  # K
    flow_ratio: float = 0.25  # share of the batch with r < t
    meanflow_form: str = "noise_to_action"  # what the base policy predicts; see lps.agents.flows.MEANFLOW_FORMS
    latent_dist: str = "normal"  # "sphere", "normal" or "truncated_normal"
    base_hidden: tuple[int, ...] = (512, 512, 512, 512)  # base policy
    critic_hidden: tuple[int, ...] = (256, 256, 256, 256)  # each critic, with layer norm
    actor_hidden: tuple[int, ...] = (512, 512, 512, 512)  # one-step actor


class QCMFQL(Agent):
    title = "QC-MFQL"
    Config = Config
    targets = {"target_critic": "critic"}
    acting = ("actor",)

    def networks(self) -> dict[str, MLP]:
        c, obs, d = self.config, self.observation_dim, self.chunk_dim
        return {
            "base": MLP(obs + d + 2, *c.base_hidden, d),
            "critic": self.critics(obs + d),
            "target_critic": self.critics(obs + d),
            "actor": MLP(obs + d, *c.actor_hidden, d),
        }

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {
            "next_e_normal": stream.normal(batch_size, self.chunk_dim),
            "t_normal": stream.normal(batch_size, 1),
            "r_normal": stream.normal(batch_size, 1),
            "e_normal": stream.normal(batch_size, self.chunk_dim),
            "distill_e_normal": stream.normal(batch_size, self.chunk_dim),
        }

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        c, s, x = self.config, batch.observations, batch.actions

        with torch.no_grad():
            next_actions = self.act(batch.next_observations, noise["next_e_normal"])
        critic_loss, info = self.td_loss(batch, next_actions, c.critic_agg)

        e = latent_noise(noise["e_normal"], c.latent_dist)
        times = noise["t_normal"], noise["r_normal"]
        ratios = self.flow_ratio, self.largest_ratio
        base_loss = meanflow_loss(self.nets["base"], self.params["base"], s, x, e, *times, *ratios, c.meanflow_form)

        e = latent_noise(noise["distill_e_normal"], c.latent_dist)
        with torch.no_grad():
            cloned = meanflow_actions(self.nets["base"], self.params["base"], s, e, c.meanflow_form)
        mu = self.nets["actor"](self.params["actor"], s, e)
        distill_loss = (mu - cloned).square().mean((1, 2))
        q = self.q("critic", s, mu, frozen(self.params["critic"])).mean(1)
        actor_loss = self.alpha * distill_loss + steering_loss(q)

        losses = {"critic_loss": critic_loss, "base_loss": base_loss, "actor_loss": actor_loss}
        return losses, info | {"distill_mse": distill_loss}

    def act(self, observations: Tensor, e: Tensor | None = None) -> Tensor:
        assert e is not None, "QC-MFQL samples: it needs a latent"
        e = latent_noise(e, self.config.latent_dist)
        return self.nets["actor"](self.params["actor"], observations, e).clamp(-1.0, 1.0)
