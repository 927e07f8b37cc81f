"""QC-MFQL: QC-FQL with a one-step MeanFlow policy in place of the flow, as the LPS release implements it.

    critic           y = R + discount^h m min_k Qbar_k(s', clip mu(s', e)),  loss = mean_k (Q_k(s, x) - y)^2
    base policy      MeanFlow loss on (s, x)
    one-step actor   loss = alpha |mu(s, e) - base(s, e)|^2 / d - lambda mean_B mean_k Q_k(s, mu(s, e)),
                     lambda = stopgrad(1 / mean_B |Q|)

Unlike QC-FQL's, the release's actor is not clipped inside Q, and its critic takes the minimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from lps.agents.base import Agent, Info, Noise, steering_loss, values
from lps.agents.config import PER_MEMBER, AgentConfig, Aggregation, Count, PerMember, Range, Rho, Widths
from lps.agents.flows import MeanFlowForm, meanflow_actions, meanflow_loss
from lps.agents.latents import LatentDist, latent_noise
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.network import Network, Observation


@dataclass(frozen=True)
class Config(AgentConfig):
    """Defaults of the LPS release; its alphas for QC-MFQL are not published, QC-FQL's stand in
    (lps.agents.variants)."""

    tau: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.005  # rate of the target critics
    alpha: Annotated[float, Range(0), PER_MEMBER] = 1.0  # weight of the distillation loss
    critic_agg: Aggregation = "min"  # over the target critics: "min", "mean" or "pessimistic"
    actor_agg: Aggregation = "mean"  # over the critics that the actor climbs: "min", "mean" or "pessimistic"
    rho: Rho = 0.5  # weight of the critics' standard deviation where an aggregation is pessimistic
    num_critics: Count = 2  # K
    flow_ratio: Annotated[float, Range(0, 1), PerMember(exact=True)] = 0.25  # share of the batch with r < t
    meanflow_form: MeanFlowForm = "noise_to_action"  # what the base policy predicts (lps.agents.flows)
    latent_dist: LatentDist = "normal"  # "sphere", "normal" or "truncated_normal"
    base_hidden: Widths = (512, 512, 512, 512)  # base policy
    critic_hidden: Widths = (256, 256, 256, 256)  # each critic, with layer norm
    actor_hidden: Widths = (512, 512, 512, 512)  # one-step actor


class QCMFQL(Agent):
    title = "QC-MFQL"
    colour = "#D75FC4"
    Config = Config
    targets = {"target_critic": "critic"}
    acting = ("actor",)

    def networks(self) -> dict[str, Network]:
        c, d = self.config, self.chunk_dim
        return {
            "base": self.base_policy(1, 1),
            "critic": self.critics(d),
            "target_critic": self.critics(d),
            "actor": self.net(c.actor_hidden, d),
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
        ratio = self.flow_ratio, self.largest["flow_ratio"]
        base_loss = meanflow_loss(self.base, s, x, e, noise, *ratio, c.meanflow_form)

        e = latent_noise(noise["distill_e_normal"], c.latent_dist)
        with torch.no_grad():
            cloned = meanflow_actions(self.base, s, e, c.meanflow_form)
        mu = self.actor(s, e)
        distill_loss = (mu - cloned).square().mean((1, 2))
        q = self.aggregate(values(self.critic.frozen, s, mu), c.actor_agg)
        actor_loss = self.alpha * distill_loss + steering_loss(q)

        losses = {"critic_loss": critic_loss, "base_loss": base_loss, "actor_loss": actor_loss}
        return losses, info | {"distill_mse": distill_loss}

    def act(self, observations: Observation, e: Tensor | None = None) -> Tensor:
        assert e is not None, "QC-MFQL samples: it needs a latent"
        e = latent_noise(e, self.config.latent_dist)
        return self.actor(observations, e).clamp(-1.0, 1.0)
