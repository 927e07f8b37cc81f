"""DSRL (SAC): DSRL (Wagenmaker et al. 2025, arXiv 2506.15799) with a stochastic latent actor, as QAM's release has it.

The release of QAM (Li and Levine 2026, arXiv 2601.14234; github.com/ColinQiyangLi/qam, agents/dsrl.py) differs from
that of LPS (lps.agents.dsrl) in its critics, its target and its actor.  A soft actor-critic (SAC, arXiv 1812.05905)
acts in the latent space of flow', the flow policy with slowly moving parameters.  d is the length of a chunk.

    latent actor   u ~ Normal(mean(s), sd(s)),  z = noise_scale tanh u,  pi(z|s) the density of tanh u
    critic         y = R + discount^h m (mean_k - rho sd_k) Qbar_k(s', flow'(s', z')),  loss = mean_k (Q_k(s, x) - y)^2
    base policy    flow matching on (s, x), latents e standard normal
    noise critic   loss = mean_k (Q^z_k(s, e) - Q_k(s, flow'(s, e)))^2,  e standard normal, Q_k a constant
    latent actor   loss = mean_B (b log pi(z|s) - mean_k Q^z_k(s, z)),  b a constant
    temperature    loss = b (H - H_target),  H = -mean_B log pi(z|s),  H_target = -entropy_multiplier d

One Adam trains all of them from the first step, log b from 0.  Qbar and flow' follow Q and flow at the rate tau.  The
policy samples z when it acts, in training targets and in evaluation.  Each noise critic has its own action critic as
target, and the actor's Q is not normalised.

Deviations: batches hold whole chunks only.  The release draws all starts, and masks the losses of critic and flow for
chunks that cross the end of an episode.  Mean and sd are two halves of one output layer, whose initial bound is 2 %
smaller than that of the release's two layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from lps.agents.base import Agent, Info, Noise, values
from lps.agents.config import PER_MEMBER, AgentConfig, Aggregation, Count, Range, Rho, Widths
from lps.agents.flows import flow_actions, flow_matching_loss
from lps.agents.latents import latent_size
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.network import Network, Observation
from lps.nets.scalar import Scalar

LOG_SD = (-20.0, 2.0)
"""Range to which the logarithm of the latent actor's sd is clipped."""


@dataclass(frozen=True)
class Config(AgentConfig):
    """Defaults of QAM's release; the noise scales of each group are in lps.agents.variants."""

    tau: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.005  # rate of the target critics and of flow'
    critic_agg: Aggregation = "pessimistic"  # over the target critics: "min", "mean" or "pessimistic"
    rho: Rho = 0.5  # weight of the critics' standard deviation where the aggregation is pessimistic
    num_critics: Count = 10  # K, of both kinds of critic
    noise_scale: Annotated[float, Range(0, open_low=True), PER_MEMBER] = 1.0  # largest size of a latent's component
    entropy_multiplier: Annotated[float, Range(0), PER_MEMBER] = 0.5  # target entropy of pi(z|s), in units of -d
    flow_steps: Count = 10  # Euler steps of the flow
    base_hidden: Widths = (512, 512, 512, 512)  # base policy
    critic_hidden: Widths = (512, 512, 512, 512)  # each critic of both kinds, with layer norm
    latent_actor_hidden: Widths = (512, 512, 512, 512)  # latent actor


class DSRLSAC(Agent):
    title = "DSRL (SAC)"
    colour = "#8B1E3F"
    Config = Config
    targets = {"target_critic": "critic", "target_base": "base"}
    heads = {"noise_critic": "critic"}
    acting = ("target_base", "latent_actor")

    def networks(self) -> dict[str, Network]:
        c, d = self.config, self.chunk_dim
        critic = self.critics(d)
        return {
            "base": self.base_policy(1),
            "target_base": self.base_policy(1),
            "critic": critic,
            "target_critic": self.critics(d),
            "noise_critic": self.critics(d, features_of=critic),
            "latent_actor": self.net(c.latent_actor_hidden, output=2 * d),
            "log_temperature": Scalar(),
        }

    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        return {
            "next_e_normal": stream.normal(batch_size, self.chunk_dim),
            "t_uniform": stream.uniform(batch_size, 1),
            "e_normal": stream.normal(batch_size, self.chunk_dim),
            "distill_e_normal": stream.normal(batch_size, self.chunk_dim),
            "actor_e_normal": stream.normal(batch_size, self.chunk_dim),
        }

    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        c, s, x = self.config, batch.observations, batch.actions

        with torch.no_grad():
            next_actions = self.act(batch.next_observations, noise["next_e_normal"])
        critic_loss, info = self.td_loss(batch, next_actions, c.critic_agg)

        base_loss = flow_matching_loss(self.base, s, x, noise["e_normal"], noise["t_uniform"])

        e = noise["distill_e_normal"]
        with torch.no_grad():
            q = values(self.critic, s, flow_actions(self.target_base, s, e, c.flow_steps))
        distill_loss = (values(self.noise_critic, s, e) - q).square().mean((1, 2))

        b = self.log_temperature(s).exp()
        z, log_pi = self._latent(s, noise["actor_e_normal"])
        q_z = values(self.noise_critic.frozen, s, z).mean(1)
        latent_loss = (b.detach()[:, None] * log_pi - q_z).mean(-1)

        entropy = -log_pi.detach().mean(-1)
        temperature_loss = b * (entropy + self.entropy_multiplier * self.chunk_dim)

        losses = {"critic_loss": critic_loss, "base_loss": base_loss, "distill_loss": distill_loss}
        losses |= {"latent_loss": latent_loss, "temperature_loss": temperature_loss}
        return losses, info | {"latent_size": latent_size(z), "entropy": entropy, "temperature": b}

    def act(self, observations: Observation, e: Tensor | None = None) -> Tensor:
        assert e is not None, "DSRL (SAC) samples: it needs a draw"
        z, _ = self._latent(observations, e)
        return flow_actions(self.target_base, observations, z, self.config.flow_steps)

    def _latent(self, s: Observation, e: Tensor) -> tuple[Tensor, Tensor]:
        """Latents z (M, B, d) for standard normal draws e, and log pi(z|s) (M, B)."""
        mean, log_sd = self.latent_actor(s).float().chunk(2, -1)
        log_sd = log_sd.clamp(*LOG_SD)
        u = mean + log_sd.exp() * e
        log_normal = -0.5 * (e.square() + math.log(2 * math.pi)) - log_sd
        log_slope = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))  # log tanh'(u), finite for every u
        return self.noise_scale[:, None, None] * u.tanh(), (log_normal - log_slope).sum(-1)
