"""MeanFlow BC: behaviour cloning with a one-step policy (MeanFlow, arXiv 2505.13447; LPS's base policy on its own).

base policy   MeanFlow loss on (s, x);  acting: clip(net(s, e, 1, 1)) for a fresh latent e
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lps.agents.base import Agent, Info, Noise
from lps.agents.flows import meanflow_actions, meanflow_loss
from lps.agents.latents import latent_noise
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.mlp import MLP


@dataclass(frozen=True)
class Config:
    """Defaults of the paper."""

    lr: float = 3e-4  # Adam step size
    batch_size: int = 256  # chunks per update
    horizon: int = 5  # h, actions per chunk, executed open loop
    discount: float = 0.99  # gamma; only the logged return of a chunk sees it
    flow_ratio: float = 0.25  # share of the batch with r < t
    meanflow_form: str = "noise_to_action"  # what the base policy predicts; see lps.agents.flows.MEANFLOW_FORMS
    latent_dist: str = "normal"  # "sphere", "normal" or "truncated_normal"
    base_hidden: tuple[int, ...] = (512, 512, 512, 512)  # base policy


class MeanFlowBC(Agent):
    title = "MeanFlow BC"
    Config = Config
    reward_free = True

    def networks(self) -> dict[str, MLP]:
        return {"base": MLP(self.observation_dim + self.chunk_dim + 2, *self.config.base_hidden, self.chunk_dim)}

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {
            "t_normal": stream.normal(batch_size, 1),
            "r_normal": stream.normal(batch_size, 1),
            "e_normal": stream.normal(batch_size, self.chunk_dim),
        }

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        c, s, x = self.config, batch.observations, batch.actions
        e = latent_noise(noise["e_normal"], c.latent_dist)
        times = noise["t_normal"], noise["r_normal"]
        ratios = self.flow_ratio, self.largest_ratio
        base_loss = meanflow_loss(self.nets["base"], self.params["base"], s, x, e, *times, *ratios, c.meanflow_form)
        return {"base_loss": base_loss}, {}

    def act(self, observations: Tensor, e: Tensor | None = None) -> Tensor:
        assert e is not None, "MeanFlow BC samples: it needs a latent"
        e = latent_noise(e, self.config.latent_dist)
        return meanflow_actions(self.nets["base"], self.params["base"], observations, e, self.config.meanflow_form)
