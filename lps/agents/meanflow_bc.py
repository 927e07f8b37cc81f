"""MeanFlow BC: behaviour cloning with a one-step policy (MeanFlow, arXiv 2505.13447; LPS's base policy on its own).

base policy   MeanFlow loss on (s, x);  acting: clip(net(s, e, 1, 1)) for a fresh latent e
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from lps.agents.base import Agent, Info, Noise
from lps.agents.config import AgentConfig, PerMember, Range, Widths
from lps.agents.flows import MeanFlowForm, meanflow_actions, meanflow_loss
from lps.agents.latents import LatentDist, latent_noise
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.network import Network, Observation


@dataclass(frozen=True)
class Config(AgentConfig):
    """Defaults of the paper."""

    flow_ratio: Annotated[float, Range(0, 1), PerMember(exact=True)] = 0.25  # share of the batch with r < t
    meanflow_form: MeanFlowForm = "noise_to_action"  # what the base policy predicts (lps.agents.flows)
    latent_dist: LatentDist = "normal"  # "sphere", "normal" or "truncated_normal"
    base_hidden: Widths = (512, 512, 512, 512)  # base policy


class MeanFlowBC(Agent):
    title = "MeanFlow BC"
    colour = "#6F6F6F"
    Config = Config
    reward_free = True

    def networks(self) -> dict[str, Network]:
        return {"base": self.base_policy(1, 1)}

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {
            "t_normal": stream.normal(batch_size, 1),
            "r_normal": stream.normal(batch_size, 1),
            "e_normal": stream.normal(batch_size, self.chunk_dim),
        }

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        c, s, x = self.config, batch.observations, batch.actions
        e = latent_noise(noise["e_normal"], c.latent_dist)
        ratio = self.flow_ratio, self.largest["flow_ratio"]
        base_loss = meanflow_loss(self.base, s, x, e, noise, *ratio, c.meanflow_form)
        return {"base_loss": base_loss}, {}

    def act(self, observations: Observation, e: Tensor | None = None) -> Tensor:
        assert e is not None, "MeanFlow BC samples: it needs a latent"
        e = latent_noise(e, self.config.latent_dist)
        return meanflow_actions(self.base, observations, e, self.config.meanflow_form)
