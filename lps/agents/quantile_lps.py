"""Quantile LPS: latent steering by a quantile of sampled values instead of the critic's maximum.

LPS (arXiv 2603.05296) steers a one-step policy along the gradient of an action-space critic, and best-of-N takes the
highest of N values.  Both maximise the critic, and so they favour actions whose value it overestimates, the more the
larger N is.  This method keeps the critic, the one-step policy and the latent actor of LPS.  It draws a quantile.

    candidates     e_n = sphere(beta z(s) + sqrt(1 - beta^2) eps_n), eps_n uniform on the sphere, a_n = basebar(s, e_n)
    values         q_n = AGG_k Q_k(s, a_n), in increasing order q_(1) .. q_(N)
    quantile       u ~ Beta(j, 1), j = kappa / (1 - kappa): the law of the maximum of j uniform draws, with mean kappa
    ranks          w_n(kappa) = C(n - 1, j - 1) / C(N, j): the probability that q_(n) is the best of j of N candidates
    critic         y = R + discount^h m sum_n w_n(kappa) qbar_(n) at s',  loss = mean_k (Q_k(s, x) - y)^2
    base policy    MeanFlow loss on (s, x), latents on the sphere; basebar averages its parameters at rate `base_tau`
    latent actor   loss = -mean_B mean_n v_n z(s') . e_n / d,  v_n = (2 rank(qbar_n) - N - 1) / N
    acting         the candidate of a rank that is drawn from w(kappa'), of N' candidates

kappa (`quantile`).  kappa = 0.8 is best-of-4, whatever N is: N is a number of samples and not a strength of
optimisation.  The target is the expectation of best-of-j over all choices of j among the N candidates, so its variance
falls as N grows and its mean stays.  kappa = 1 is best-of-N.  With `quantile_law` "fixed", u is kappa itself.

kappa' (`act_quantile`) is higher, 0.9 or best-of-9.  Optimism in the target feeds on itself: the values that it
overestimates are the targets of the next update.  Optimism in acting does not, because no value is learned from it.

beta (`steering`).  Candidates lie around the latent actor's z(s), at the angle arccos beta on average: beta = 0 draws
from the base policy, beta = 1 is z(s) alone.  The loss of the actor is an evolution-strategies gradient with ranks as
utilities (Wierstra et al., JMLR 2014).  It sees the order of the candidates that the target has evaluated already, and
no derivative of the critic.  With `latent_loss` "gradient" the actor climbs Q through the base policy, at one candidate
of s; then beta = 1 is LPS with an averaged base policy.
"""

from __future__ import annotations

import math
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

    tau: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.02  # rate of the target critics
    base_tau: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.005  # rate of the averaged base policy
    quantile: Annotated[float, Range(0.5, 1), PER_MEMBER] = 0.8  # kappa, mean quantile in the target; 1: maximum
    act_quantile: Annotated[float, Range(0.5, 1), PER_MEMBER] = 0.9  # kappa', the same in acting
    quantile_law: Literal["drawn", "fixed"] = "drawn"  # "drawn": as the best of kappa / (1 - kappa); "fixed": kappa
    steering: Annotated[float, Range(0, 1), PER_MEMBER] = 0.0  # beta, pull of the latent actor on the candidates
    latent_loss: Literal["ranks", "gradient"] = "ranks"  # of the latent actor: candidates' ranks or gradient of Q
    critic_agg: Aggregation = "mean"  # over the critics, in target and choice: "min", "mean" or "pessimistic"
    rho: Rho = 0.5  # weight of the critics' standard deviation where an aggregation is pessimistic
    num_critics: Count = 2  # K
    num_samples: Count = 8  # N, candidates in the TD target
    act_samples: Count = 32  # N', candidates in acting
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
    acting = ("target_base", "critic", "latent_actor")

    def networks(self) -> dict[str, Network]:
        c, d = self.config, self.chunk_dim
        return {
            "base": self.base_policy(1, 1),
            "target_base": self.base_policy(1, 1),
            "critic": self.critics(d),
            "target_critic": self.critics(d),
            "latent_actor": self.net(c.latent_actor_hidden),
        }

    @property
    def noise_dim(self) -> int:
        return self.config.act_samples * self.chunk_dim + 1

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
            v_next = (self._ranks(self.quantile, c.num_samples)[:, None] * q_bar.sort(-1).values).sum(-1)
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
        """As many candidates as e (M, B, N' d + 1) has latents; its last number draws the rank."""
        assert e is not None, "Quantile LPS samples: it needs latents"
        candidates = self._candidates(self._latent(observations), e[..., :-1])
        a, q = self._valued(observations, candidates, self.critic)
        u = 0.5 + 0.5 * torch.erf(e[..., -1:] / math.sqrt(2.0))
        below = self._ranks(self.act_quantile, q.shape[-1]).cumsum(-1)[:, None, :-1]  # of every rank but the highest
        rank = (u > below).sum(-1, keepdim=True)
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

    def _ranks(self, kappa: Tensor, count: int) -> Tensor:
        """(M, N) probability of each of `count` ranks, from the lowest, for the quantile kappa (M,)."""
        n, kappa = torch.arange(1, count + 1, device=kappa.device), kappa[:, None]
        if self.config.quantile_law == "fixed":
            return (1 - (n - (kappa * (count + 1)).clamp(1, count)).abs()).clamp(min=0)
        j = (kappa / (1 - kappa)).clamp(1, count)  # C(n - 1, j - 1) / C(N, j) ~ Gamma(n) / Gamma(n - j + 1)
        log_w = torch.lgamma(n.float()) - torch.lgamma((n - j + 1).clamp(min=1e-6))
        return torch.where(n > j - 1, log_w, -torch.inf).softmax(-1)
