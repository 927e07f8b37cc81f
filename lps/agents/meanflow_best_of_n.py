"""One-step best-of-N: QC's best-of-N (arXiv 2507.07969) on the one-step policy of LPS (arXiv 2603.05296).

A MeanFlow policy is cloned from the data.  To act, N latents are drawn on the sphere, decoded in one forward pass, and
the chunk with the highest value is taken.  The TD target chooses in the same way.  There is no actor to optimise.

    pi_N(s)        argmax over a_n = base(s, e_n), n = 1 .. N, of mean_k Q_k(s, a_n)
    critic         y = R + discount^h m mean_k Qbar_k(s', pi_N(s')),  loss = mean_k (Q_k(s, x) - y)^2
    base policy    MeanFlow loss on (s, x), latents on the sphere

N in the target (`num_samples`) and N in acting (`act_samples`) are separate.  The nearest published method is MVP
(arXiv 2602.13810), known here from its abstract and from notes: a MeanFlow policy with best-of-N for online RL, trained
with a further loss on the instantaneous velocity.  Here training is offline, the MeanFlow form and its loss are LPS's,
and the latents are on the sphere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from lps.agents.base import Agent, Info, Noise, take, values
from lps.agents.config import PER_MEMBER, AgentConfig, Aggregation, Count, PerMember, Range, Rho, Widths
from lps.agents.flows import MeanFlowForm, meanflow_actions, meanflow_loss
from lps.agents.latents import LatentDist, latent_noise
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.network import Network, Observation


@dataclass(frozen=True)
class Config(AgentConfig):
    """Defaults of LPS for the networks and the base policy, of QC for the aggregation."""

    tau: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.005  # rate of the target critics
    critic_agg: Aggregation = "mean"  # over the target critics: "min", "mean" or "pessimistic"
    choice_agg: Aggregation = "mean"  # over the critics that choose: "min", "mean" or "pessimistic"
    rho: Rho = 0.5  # weight of the critics' standard deviation where an aggregation is pessimistic
    num_critics: Count = 2  # K
    num_samples: Count = 4  # N, chunks to choose from in the TD target
    act_samples: Count = 4  # N, chunks to choose from in acting
    flow_ratio: Annotated[float, Range(0, 1), PerMember(exact=True)] = 0.25  # share of the batch with r < t
    meanflow_form: MeanFlowForm = "noise_to_action"  # what the base policy predicts (lps.agents.flows)
    latent_dist: LatentDist = "sphere"  # "sphere", "normal" or "truncated_normal"
    base_hidden: Widths = (512, 512, 512, 512)  # base policy
    critic_hidden: Widths = (256, 256, 256, 256)  # each critic, with layer norm


class MeanFlowBestOfN(Agent):
    title = "One-step best-of-N"
    colour = "#55517B"
    Config = Config
    targets = {"target_critic": "critic"}
    acting = ("base", "critic")

    def networks(self) -> dict[str, Network]:
        d = self.chunk_dim
        return {"base": self.base_policy(1, 1), "critic": self.critics(d), "target_critic": self.critics(d)}

    @property
    def noise_dim(self) -> int:
        return self.config.act_samples * self.chunk_dim

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {
            "next_e_normal": stream.normal(batch_size, self.config.num_samples * self.chunk_dim),
            "t_normal": stream.normal(batch_size, 1),
            "r_normal": stream.normal(batch_size, 1),
            "e_normal": stream.normal(batch_size, self.chunk_dim),
        }

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        c, s, x = self.config, batch.observations, batch.actions

        with torch.no_grad():
            next_actions = self.act(batch.next_observations, noise["next_e_normal"])
        critic_loss, info = self.td_loss(batch, next_actions, c.critic_agg)

        e = latent_noise(noise["e_normal"], c.latent_dist)
        ratio = self.flow_ratio, self.largest["flow_ratio"]
        base_loss = meanflow_loss(self.base, s, x, e, noise, *ratio, c.meanflow_form)

        return {"critic_loss": critic_loss, "base_loss": base_loss}, info

    def act(self, observations: Observation, e: Tensor | None = None) -> Tensor:
        """As many candidates as e (M, B, N d) has latents."""
        assert e is not None, "best-of-N samples: it needs latents"
        c, (members, batch, _) = self.config, e.shape
        e = latent_noise(e.view(members, -1, self.chunk_dim), c.latent_dist)
        a = meanflow_actions(self.base, observations, e, c.meanflow_form)
        q = self.aggregate(values(self.critic, observations, a), c.choice_agg).view(members, batch, -1)
        return take(a, q.argmax(-1))
