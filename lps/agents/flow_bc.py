"""Flow BC: behaviour cloning with a flow-matching policy (Lipman et al. 2023; the BC baseline of arXiv 2603.05296).

base policy   flow-matching loss on (s, x);  acting: clip of `flow_steps` Euler steps from a fresh latent e
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lps.agents.base import Agent, Info, Noise
from lps.agents.flows import flow_actions, flow_matching_loss
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
    flow_steps: int = 10  # Euler steps of the flow
    latent_dist: str = "normal"  # "sphere", "normal" or "truncated_normal"
    base_hidden: tuple[int, ...] = (512, 512, 512, 512)  # base policy


class FlowBC(Agent):
    title = "Flow BC"
    Config = Config
    reward_free = True

    def networks(self) -> dict[str, MLP]:
        return {"base": MLP(self.observation_dim + self.chunk_dim + 1, *self.config.base_hidden, self.chunk_dim)}

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {"t_uniform": stream.uniform(batch_size, 1), "e_normal": stream.normal(batch_size, self.chunk_dim)}

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        e = latent_noise(noise["e_normal"], self.config.latent_dist)
        base_loss = flow_matching_loss(
            self.nets["base"], self.params["base"], batch.observations, batch.actions, e, noise["t_uniform"]
        )
        return {"base_loss": base_loss}, {}

    def act(self, observations: Tensor, e: Tensor | None = None) -> Tensor:
        assert e is not None, "Flow BC samples: it needs a latent"
        e = latent_noise(e, self.config.latent_dist)
        return flow_actions(self.nets["base"], self.params["base"], observations, e, self.config.flow_steps)
