"""Base of all agents: parameters of M members, one Adam, target networks, and the critic's TD loss.

An agent's own page holds its networks, its losses and how it acts; nothing here knows a method.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lps.agents.config import PerMember, field_types, marks, member_scalars
from lps.data.batch import Batch
from lps.members.adam import MemberAdam, Schedule, move_targets
from lps.members.streams import Stream
from lps.nets import NETWORKS
from lps.nets.network import Bound, Network, Observation, Params, Remembering, Spec
from lps.spaces import Space

Noise = Mapping[str, Tensor]
Info = dict[str, Tensor]
Spaces = Mapping[str, Space]


class Agent(ABC):
    """M members of one method.  Its networks are attributes by their names (`self.critic`), each bound to its
    parameters; so are the hyperparameters that may differ between members, (M,) each (`self.discount`).

    Args:
        configs: one Config per member; they differ in `member_scalars` only.
        seeds: run seed of each member; decides its initial parameters.
        observation: spaces of the arrays of an observation, by name.
        action_dim: numbers in one (not chunked) action.
        device: where the parameters live.
    """

    title: ClassVar[str]
    """Name in figures and tables."""
    Config: ClassVar[Any]
    """Dataclass of the method's hyperparameters, an AgentConfig with the defaults of the paper."""
    targets: ClassVar[Mapping[str, str]] = {}
    """Target network -> the network it follows, at rate `tau`."""
    rates: ClassVar[Mapping[str, str]] = {}
    """Target network -> the hyperparameter that is its rate, where that is not `tau`."""
    heads: ClassVar[Mapping[str, str]] = {}
    """Network -> the network whose features it takes.  It has no encoder of its own, and its losses train that one."""
    acting: ClassVar[tuple[str, ...]] = ("base",)
    """The networks that `act` needs: all that a policy carries."""
    acts_with_noise: ClassVar[bool] = True
    """Whether acting needs a latent draw; False where a latent actor decides."""
    reward_free: ClassVar[bool] = False
    """Whether training sees neither rewards nor masks: then it is the same on every task of a group."""
    colour: ClassVar[str] = ""
    """Colour in figures, as '#rrggbb'; '' for a spare one."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(
        self,
        configs: Sequence[Any],
        seeds: Sequence[int],
        observation: Spaces,
        action_dim: int,
        device: str | torch.device = "cpu",
    ):
        self.device = torch.device(device)
        self._build(configs, observation, action_dim)
        seeds_ = torch.tensor(list(seeds), dtype=torch.int64, device=self.device)
        self.params: dict[str, Params] = {
            name: {} if name in self.following else net.init(Stream(seeds_, 0, f"init {name}"))
            for name, net in self.nets.items()
        }
        for target, source in self.following.items():
            self.params[target] = {name: value.clone() for name, value in self.params[source].items()}
        self._trained = [name for name in self.nets if name not in self.following]
        for tensor in self.trained_tensors():
            tensor.requires_grad_()
        self._bind()
        c = self.config
        schedule = Schedule(c.weight_decay, c.warmup_steps, c.decay_steps, c.clip_norm)
        self.adam = MemberAdam(self.trained_tensors(), [float(config.lr) for config in configs], schedule)

    @classmethod
    def for_acting(cls, config: Any, observation: Spaces, action_dim: int, params: dict[str, Params]) -> Agent:
        """A single member that can only act, where the parameters (1, ...) of its `acting` networks are."""
        agent = cls.__new__(cls)
        agent.device = next(value for net in params.values() for value in net.values()).device
        agent.params = params
        agent._build([config], observation, action_dim)
        agent._bind()
        return agent

    def _build(self, configs: Sequence[Any], observation: Spaces, action_dim: int) -> None:
        self.config, self.members = configs[0], len(configs)
        hints = field_types(self.Config)
        self.largest: dict[str, float] = {}
        self.shared: dict[str, float] = {}  # those that are the same for all members
        for name in member_scalars(self.Config):
            values = [float(getattr(config, name)) for config in configs]
            exact = any(mark.exact for mark in marks(hints[name], PerMember))
            dtype = torch.float64 if exact else torch.float32
            setattr(self, name, torch.tensor(values, dtype=dtype, device=self.device))
            self.largest[name] = max(values)
            if min(values) == max(values):
                self.shared[name] = values[0]
        self.observation, self.action_dim = dict(observation), action_dim
        self.chunk_dim: int = self.config.horizon * action_dim
        self.nets: dict[str, Network] = self.networks()
        averages = {average: name for name, average in acting_networks(self, self.config).items() if average != name}
        self.nets |= {average: self.nets[name] for average, name in averages.items()}
        self.following = {**self.targets, **averages}
        """Target or averaged network -> the network it follows."""

    def _bind(self) -> None:
        bound = {name: Bound(self.nets[name], params) for name, params in self.params.items()}
        for name, net in bound.items():
            if name in self.heads:
                net.encoder = bound[self.heads[name]]
            setattr(self, name, net)

    # --- a method's page -----------------------------------------------------------------------------------------

    @abstractmethod
    def networks(self) -> dict[str, Network]:
        """Every network by its name in the paper."""

    @abstractmethod
    def noise(self, stream: Stream, batch_size: int) -> dict[str, Tensor]:
        """All random draws of one update, by name, each (M, batch_size, *)."""

    @abstractmethod
    def losses(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        """The losses by name, (M,) each, and further quantities worth a plot, (M,) each."""

    @abstractmethod
    def act(self, observations: Observation, e: Tensor | None) -> Tensor:
        """Action chunks (M, B, d) in [-1, 1] for observations, arrays (M, B, *shape) by name.

        e: (M, B, noise_dim) standard normal draws where `acts_with_noise`, else None.
        """

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal draw of one decision; 0 where a latent actor decides."""
        return self.chunk_dim if self.acts_with_noise else 0

    # --- networks --------------------------------------------------------------------------------------------------

    def net(
        self, hidden: Sequence[int], *inputs: int, output: int | None = None, kind: str = "", **spec: Any
    ) -> Network:
        """A network over the observation and further inputs of these widths; its output is a chunk unless given.

        kind: a name in NETWORKS; "": the hyperparameter `network`.  spec: further fields of a Spec.
        """
        c = self.config
        fields = {"observation": self.observation, "encoder": c.encoder, "encoder_width": c.encoder_width, **spec}
        output = self.chunk_dim if output is None else output
        return NETWORKS[kind or c.network](
            Spec(inputs=inputs, output=output, hidden=tuple(hidden), horizon=c.horizon, **fields)
        )

    def base_policy(self, *inputs: int) -> Network:
        """The network of the base policy over the observation, a chunk and further inputs, such as times."""
        c = self.config
        kind = c.network if c.base_network == "same" else c.base_network
        return self.net(c.base_hidden, self.chunk_dim, *inputs, kind=kind)

    def critics(self, *inputs: int, features_of: Network | None = None) -> Network:
        """K value heads (`num_critics`) over the observation and further inputs, with layer norm.

        features_of: the network whose features they take instead of an observation (`heads`).
        """
        c = self.config
        spec = {"output": 1, "layer_norm": True, "ensemble": c.num_critics}
        if features_of is not None:
            return self.net(c.critic_hidden, features_of.width, *inputs, observation={}, **spec)
        return self.net(c.critic_hidden, *inputs, **spec)

    # --- one update ----------------------------------------------------------------------------------------------

    def update(self, batch: Batch, noise: Noise, losses_of: Callable[..., tuple[Info, Info]] | None = None) -> Info:
        """One gradient step on the sum of the losses; members share no parameter, so no gradient crosses.

        losses_of: a compiled form of `objective`.
        """
        losses, info = (losses_of or self.objective)(batch, noise)
        grads = self.gradients(losses)
        # The LPS release moves the target towards the critic from BEFORE the step, and so do we.
        for target, source in self.following.items():
            name = self.rates.get(target, "tau")
            rate = self.shared.get(name, getattr(self, name)) if target in self.targets else self.config.policy_tau
            move_targets(list(self.params[target].values()), list(self.params[source].values()), rate)
        self.adam.step(grads)
        return {name: value.detach() for name, value in (losses | info).items()}

    def objective(self, batch: Batch, noise: Noise) -> tuple[dict[str, Tensor], Info]:
        """`losses`, for which each network encodes an observation once."""
        s, s_next = Remembering(batch.observations), Remembering(batch.next_observations)
        return self.losses(dataclasses.replace(batch, observations=s, next_observations=s_next), noise)

    def gradients(self, losses: Mapping[str, Tensor]) -> list[Tensor]:
        """Gradient of the summed losses for `trained_tensors()`; zero where no loss reaches."""
        total = torch.stack(list(losses.values())).sum()
        grads = torch.autograd.grad(total, self.trained_tensors(), materialize_grads=True)
        return list(grads)

    def trained_tensors(self) -> list[Tensor]:
        """Every trained parameter (M, ...), in a fixed order."""
        return [tensor for name in self._trained for tensor in self.params[name].values()]

    # --- shared by all methods with a critic ----------------------------------------------------------------------

    def aggregate(self, q: Tensor, rule: str) -> Tensor:
        """One value (M, B) of K critics' values q (M, K, B).

        rule: "min", "mean", or "pessimistic", mean_k q_k - rho sd_k q_k with the population's sd, over K and not K - 1
        (QAM, arXiv 2601.14234, with 10 critics and rho 0.5).  Differentiable; K = 1 has sd 0.
        """
        if rule == "min":
            return q.amin(1)
        if rule == "mean":
            return q.mean(1)
        return q.mean(1) - self.rho[:, None] * q.std(1, correction=0)

    def td_loss(self, batch: Batch, next_actions: Tensor, critic_agg: str) -> tuple[Tensor, Info]:
        """Chunked TD error: mean (Q_k(s, x) - R - discount^h m AGG_k Qbar_k(s', a'))^2 over batch and critics.

        next_actions: (M, B, d).  critic_agg: rule of `aggregate` for the target critics.
        """
        with torch.no_grad():
            q_bar = values(self.target_critic, batch.next_observations, next_actions)
            v_next = self.aggregate(q_bar, critic_agg)[:, None]
        return self.td_loss_towards(batch, v_next)

    def td_loss_towards(self, batch: Batch, v_next: Tensor) -> tuple[Tensor, Info]:
        """The same for given values of s', constants: v_next (M, 1, B), or (M, K, B) with one for each critic."""
        discount = (self.discount**self.config.horizon)[:, None, None]
        y = batch.rewards[:, None] + discount * batch.masks[:, None] * v_next
        q = values(self.critic, batch.observations, batch.actions)
        loss, q = (q - y).square().mean((1, 2)), q.detach().mean(1)
        return loss, {"q_mean": q.mean(-1), "q_min": q.amin(-1), "q_max": q.amax(-1)}


def acting_networks(agent: type[Agent] | Agent, config: Any) -> dict[str, str]:
    """Network that acts -> the network that a policy takes its parameters from: its average, where there is one."""
    return {name: f"average_{name}" if config.policy_tau else name for name in agent.acting}


def values(critic: Bound, s: Observation, *inputs: Tensor) -> Tensor:
    """(M, K, B) values of observations and inputs, such as actions (M, B, d)."""
    return critic(s, *inputs).squeeze(-1)


def take(a: Tensor, index: Tensor) -> Tensor:
    """(M, B, d): of N candidates for each observation, a (M, B N, d), the ones at index (M, B), from 0 to N - 1."""
    candidates = a.view(*index.shape, -1, a.shape[-1])
    return candidates.gather(2, index[..., None, None].expand(-1, -1, 1, a.shape[-1])).squeeze(2)


def steering_loss(q: Tensor) -> Tensor:
    """lambda * (-mean_B Q) with lambda = stopgrad(1 / mean_B |Q|), per member; q (M, B)."""
    scale = 1.0 / q.detach().abs().mean(-1)
    return scale * -q.mean(-1)
