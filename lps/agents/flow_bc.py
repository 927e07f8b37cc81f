"""Flow BC: behaviour cloning with a flow-matching policy (Lipman et al. 2023; the BC baseline of arXiv 2603.05296).

base policy   flow-matching loss on (s, x);  acting: clip of `flow_steps` Euler steps from a fresh latent e
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lps.agents.base import Agent, Info, Noise
from lps.agents.config import AgentConfig, Count, Widths
from lps.agents.flows import flow_actions, flow_matching_loss
from lps.agents.latents import LatentDist, latent_noise
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.network import Network, Observation


@dataclass(frozen=True)
class Config(AgentConfig):
    """Defaults of the paper."""

    flow_steps: Count = 10  # Euler steps of the flow
    latent_dist: LatentDist = "normal"  # "sphere", "normal" or "truncated_normal"
    base_hidden: Widths = (512, 512, 512, 512)  # base policy


class FlowBC(Agent):
    title = "Flow BC"
    colour = "#BDBDBD"
    Config = Config
    reward_free = True

    def networks(self) -> dict[str, Network]:
        return {"base": self.base_policy(1)}

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {"t_uniform": stream.uniform(batch_size, 1), "e_normal": stream.normal(batch_size, self.chunk_dim)}

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        e = latent_noise(noise["e_normal"], self.config.latent_dist)
        base_loss = flow_matching_loss(self.base, batch.observations, batch.actions, e, noise["t_uniform"])
        return {"base_loss": base_loss}, {}

    def act(self, observations: Observation, e: Tensor | None = None) -> Tensor:
        assert e is not None, "Flow BC samples: it needs a latent"
        e = latent_noise(e, self.config.latent_dist)
        return flow_actions(self.base, observations, e, self.config.flow_steps)
