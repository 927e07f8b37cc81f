"""Quantile LPS: latent steering by a quantile of sampled values instead of the critic's maximum.

LPS (arXiv 2603.05296) steers a one-step policy along the gradient of an action-space critic, and best-of-N takes the
highest of N values.  Both maximise the critic, and so they favour actions whose value it overestimates.  This method
keeps the critic, the one-step policy and the latent actor of LPS.  It takes a quantile in place of the maximum.

    candidates     e_n = sphere(beta z(s) + sqrt(1 - beta^2) eps_n), eps_n uniform on the sphere, a_n = basebar(s, e_n)
    values         q_n = AGG_k Qbar_k(s, a_n)
    quantile       of rank p = kappa (N + 1), from 1 to N: F(q_1 .. q_N) = q_(p), interpolated between two ranks
    critic         y = R + discount^h m F(q_1 .. q_N) at s',  loss = mean_k (Q_k(s, x) - y)^2
    base policy    MeanFlow loss on (s, x), latents on the sphere; basebar averages its parameters at rate `base_tau`
    latent actor   loss = -mean_B mean_n w_n z(s') . e_n / d,  w_n = (2 rank(q_n) - N - 1) / N,  ranks from 1
    acting         the candidate of the rank nearest to p, from N' candidates

kappa (`quantile`).  The maximum of n samples has the expected rank n / (n + 1).  So kappa = 0.8 with N = 4 is
best-of-4, and kappa = 1 is best-of-N.  With kappa fixed, N is a number of samples and not a strength of optimisation:
as N grows, the estimate of the quantile improves, and the level of the chosen candidate stays.  Overestimated
candidates, if they are fewer than the share 1 - kappa, shift the rank but are never chosen.

beta (`steering`).  Candidates lie around the latent actor's z(s), at the angle arccos beta on average: beta = 0 draws
from the base policy, beta = 1 is z(s) alone.  The loss of the actor is an evolution-strategies gradient with ranks as
utilities (Wierstra et al., JMLR 2014).  It sees the order of the candidates that the target has evaluated already, and
no derivative of the critic.  With `latent_loss` "gradient" the actor climbs Q through the base policy, at one candidate
of s; then beta = 1 is LPS with averaged networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from lps.agents.base import Agent, Info, Noise, steering_loss, take, values
from lps.agents.config import PER_MEMBER, AgentConfig, Aggregation, Count, PerMember, Range, Rho, Widths
from lps.agents.flows import MeanFlowForm, meanflow_actions, meanflow_loss
from lps.agents.latents import latent_noise, project_latent
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.nets.network import Bound, Network, Observation


@dataclass(frozen=True)
class Config(AgentConfig):
    """Networks and base policy of LPS; latents on the sphere."""

    tau: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.005  # rate of the target critics
    base_tau: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.005  # rate of the averaged base policy
    quantile: Annotated[float, Range(0, 1), PER_MEMBER] = 0.8  # kappa, of the candidates' values; 1: the maximum
    steering: Annotated[float, Range(0, 1), PER_MEMBER] = 0.3  # beta, pull of the latent actor on the candidates
    latent_loss: Literal["ranks", "gradient"] = "ranks"  # of the latent actor: candidates' ranks or gradient of Q
    critic_agg: Aggregation = "mean"  # over the critics, in target and choice: "min", "mean" or "pessimistic"
    rho: Rho = 0.5  # weight of the critics' standard deviation where an aggregation is pessimistic
    num_critics: Count = 2  # K
    num_samples: Count = 8  # N, candidates in the TD target
    act_samples: Count = 16  # N', candidates in acting
    flow_ratio: Annotated[float, Range(0, 1), PerMember(exact=True)] = 0.25  # share of the batch with r < t
    meanflow_form: MeanFlowForm = "noise_to_action"  # what the base policy predicts (lps.agents.flows)
    base_hidden: Widths = (512, 512, 512, 512)  # base policy
    critic_hidden: Widths = (256, 256, 256, 256)  # each critic, with layer norm
    latent_actor_hidden: Widths = (256, 256)  # latent actor


class QuantileLPS(Agent):
    title = "Quantile LPS"
    colour = "#E0523C"
    Config = Config
    targets = {"target_critic": "critic", "target_base": "base"}
    rates = {"target_base": "base_tau"}
    acting = ("target_base", "target_critic", "latent_actor")

    def networks(self) -> dict[str, Network]:
        c, d = self.config, self.chunk_dim
        return {
            "base": self.net(c.base_hidden, d, 1, 1),
            "target_base": self.net(c.base_hidden, d, 1, 1),
            "critic": self.critics(d),
            "target_critic": self.critics(d),
            "latent_actor": self.net(c.latent_actor_hidden),
        }

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

        z = self._latent(batch.next_observations)
        with torch.no_grad():
            e_next = self._candidates(z, noise["next_e_normal"])
            _, q_bar = self._valued(batch.next_observations, e_next, self.target_critic)
            v_next = self._quantile(q_bar)
        critic_loss, info = self.td_loss_towards(batch, v_next[:, None])

        e = latent_noise(noise["e_normal"], "sphere")
        ratio = self.flow_ratio, self.largest["flow_ratio"]
        base_loss = meanflow_loss(self.base, s, x, e, noise, *ratio, c.meanflow_form)

        cosine = (z[:, :, None] * e_next).mean(-1)
        if c.latent_loss == "ranks":
            ranks = q_bar.argsort(-1).argsort(-1)
            utilities = (2 * ranks - (c.num_samples - 1)) / c.num_samples
            latent_loss = -(utilities * cosine).mean((1, 2))
        else:
            steered = self._candidates(self._latent(s), noise["e_normal"])
            _, q = self._valued(s, steered, self.critic.frozen)
            latent_loss = steering_loss(q.squeeze(-1))

        losses = {"critic_loss": critic_loss, "base_loss": base_loss, "latent_loss": latent_loss}
        best = cosine.detach().gather(-1, q_bar.argmax(-1, keepdim=True)).mean((1, 2))
        return losses, info | {"candidates_sd": q_bar.std(-1, correction=0).mean(-1), "best_cosine": best}

    def act(self, observations: Observation, e: Tensor | None = None) -> Tensor:
        """As many candidates as e (M, B, N' d) has latents."""
        assert e is not None, "Quantile LPS samples: it needs latents"
        candidates = self._candidates(self._latent(observations), e)
        a, q = self._valued(observations, candidates, self.target_critic)
        rank = self._position(q.shape[-1]).round().long()[:, None, None].expand(-1, q.shape[1], 1)
        return take(a, q.argsort(-1).gather(-1, rank).squeeze(-1))

    def _latent(self, s: Observation) -> Tensor:
        return project_latent(self.latent_actor(s), "sphere")

    def _candidates(self, z: Tensor, normal: Tensor) -> Tensor:
        """(M, B, N, d) latents around z (M, B, d), from draws (M, B, N d)."""
        eps = latent_noise(normal.unflatten(-1, (-1, self.chunk_dim)), "sphere")
        beta = self.steering[:, None, None, None]
        return project_latent(beta * z[:, :, None] + (1 - beta.square()).sqrt() * eps, "sphere")

    def _valued(self, s: Observation, e: Tensor, critic: Bound) -> tuple[Tensor, Tensor]:
        """Chunks (M, B N, d) of the latents e (M, B, N, d), and their values (M, B, N)."""
        a = meanflow_actions(self.target_base, s, e.flatten(1, 2), self.config.meanflow_form)
        return a, self.aggregate(values(critic, s, a), self.config.critic_agg).view(e.shape[:3])

    def _position(self, count: int) -> Tensor:
        """(M,) the rank of the quantile among `count` values, from 0."""
        return (self.quantile * (count + 1) - 1).clamp(0, count - 1)

    def _quantile(self, q: Tensor) -> Tensor:
        """(M, B) quantile of values q (M, B, N), interpolated."""
        p, q = self._position(q.shape[-1])[:, None, None].expand(-1, q.shape[1], 1), q.sort(-1).values
        low, high = q.gather(-1, p.floor().long()), q.gather(-1, p.ceil().long())
        return (low + (p - p.floor()) * (high - low)).squeeze(-1)
