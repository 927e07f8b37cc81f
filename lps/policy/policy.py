"""A trained policy on its own: arrays in, actions out.  It needs torch and numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lps.agents import AGENTS
from lps.agents.base import Agent, acting_networks
from lps.data.scale import ActionScale
from lps.members.streams import Stream
from lps.nets.network import Params
from lps.runs.run import Run
from lps.spaces import Space, as_observation

QUERY_ROWS = 4
"""Rows of every query of `act_batch`.  A fixed shape gives bitwise equal actions for equal observations, whatever else
is in the batch."""


class Policy:
    """One member's way of acting, cut from its agent; can be pickled and sent to where the environments are.

    Observations are mappings of arrays by name, or one array where the policy takes one.  Actions are in the units of
    the environment.

    Attributes:
        run: the run it belongs to; step: the number of updates it has seen.
        observation: spaces of the arrays of an observation, by name; images have the channels of `frame_stack` frames.
        frame_stack: frames of an image that are stacked along its channels (lps.spaces.FrameStack).
        scale: units of actions.
        horizon: h, actions of a chunk; execute: k, those to execute open loop before the next query.
        noise_dim: length of the standard normal draw of one decision; 0 where a latent actor decides.
    """

    def __init__(
        self,
        run: Run,
        step: int,
        observation: Mapping[str, Space],
        scale: ActionScale,
        params: dict[str, Params],
        provenance: Mapping[str, Any] | None = None,
    ):
        """params: {network: {name: tensor (1, ...)}} of the networks that the run's agent acts with.  provenance: facts
        about its training, for `metadata`."""
        self.run, self.step = run, step
        self.observation, self.scale, self.provenance = dict(observation), scale, dict(provenance or {})
        self.action_dim = len(scale.scale)
        self._agent = AGENTS[run.agent].for_acting(run.config, observation, self.action_dim, params)
        self.horizon: int = self._agent.config.horizon
        self.frame_stack: int = self._agent.config.frame_stack
        self.execute: int = self._agent.config.execute or self.horizon
        self.noise_dim = self._agent.noise_dim
        self.reset()

    @classmethod
    def of_member(cls, agent: Agent, member: int, run: Run, step: int, scale: ActionScale | None = None) -> Policy:
        """Return a snapshot of one member of a pack; training may continue."""

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[member : member + 1].detach().to("cpu", copy=True)

        params = {
            net: {name: copy(value) for name, value in agent.params[source].items()}
            for net, source in acting_networks(agent, agent.config).items()
        }
        return cls(run, step, agent.observation, scale or ActionScale.identity(agent.action_dim), params)

    @property
    def params(self) -> dict[str, Params]:
        """{network: {name: tensor (1, ...)}} of the networks that it acts with."""
        return self._agent.params

    @property
    def metadata(self) -> dict[str, Any]:
        """Return plain values that a caller needs to use the policy."""
        return {
            "agent": self.run.agent,
            "task": self.run.task,
            "run": self.run.id,
            "step": self.step,
            "observation": {name: [list(space.shape), space.dtype] for name, space in self.observation.items()},
            "action_dim": self.action_dim,
            "action_low": (self.scale.offset - self.scale.scale).tolist(),
            "action_high": (self.scale.offset + self.scale.scale).tolist(),
            "horizon": self.horizon,
            "execute": self.execute,
            "frame_stack": self.frame_stack,
            **self.provenance,
        }

    def to(self, device: str) -> Policy:
        """The same policy computing on another device; draws stay the same.  On a GPU one decision is usually slower
        than on the CPU (benchmarks/inference.py); many at once (`sample`) are faster."""
        params = {net: {k: v.to(device) for k, v in tensors.items()} for net, tensors in self.params.items()}
        policy = Policy(self.run, self.step, self.observation, self.scale, params, self.provenance)
        policy._queries = self._queries
        return policy

    def reset(self) -> None:
        """Begin an episode: the draws of a sampling policy start over, so that it does the same again."""
        self._queries = 0

    def infer(self, observation: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return {"actions": (k, act) float32} for one observation.  UserError for an observation that does not fit."""
        return {"actions": self.act(observation)}

    def act(self, observation: Any, noise: np.ndarray | None = None) -> np.ndarray:
        """Return the next k actions (k, act) float32 for one observation.

        noise: (noise_dim,) standard normal.  Without it, draws follow from the run's seed and the number of queries
        since `reset`.
        Raises UserError for an observation that does not fit.
        """
        s = self._observations(observation, 1)
        with torch.inference_mode():
            e = None
            if self.noise_dim:
                if noise is None:
                    noise = self.draw(self._queries)
                    self._queries += 1
                e = torch.tensor(noise, dtype=torch.float32, device=self._agent.device).view(1, 1, self.noise_dim)
            chunks = self._agent.act(s, e)
        return self._actions(chunks)[0, : self.execute]

    def draw(self, query: int, seed: int | None = None) -> np.ndarray:
        """Return the noise (noise_dim,) float32 of query number `query` after a `reset`.  seed: default, the run's."""
        stream = Stream(torch.tensor([self.run.seed if seed is None else seed]), query, "policy")
        return stream.normal(1, self.noise_dim)[0, 0].numpy()

    def act_batch(self, observations: Any, noise: np.ndarray | None) -> np.ndarray:
        """Return (B, k, act) float32: the actions of `act` for each of B observations, arrays (B, *shape), up to
        rounding.  Each row depends on its own observation alone.

        noise: (B, noise_dim) standard normal; None where acting takes none.
        Raises UserError for observations that do not fit.
        """
        first = next(iter(observations.values())) if isinstance(observations, Mapping) else observations
        rows = np.shape(first)[0] if np.ndim(first) else 0
        arrays = as_observation(observations, self.observation, self._source, rows)
        chunks = []
        with torch.inference_mode():
            for first in range(0, rows, QUERY_ROWS):
                s = {name: self._padded(array[first : first + QUERY_ROWS]) for name, array in arrays.items()}
                e = None if noise is None else self._padded(noise[first : first + QUERY_ROWS].astype(np.float32))
                chunks.append(self._actions(self._agent.act(s, e)))
        return np.concatenate(chunks)[:rows, : self.execute]

    def sample(self, observation: Any, count: int, seed: int = 0) -> np.ndarray:
        """Return (count, h, act) float32: chunks for one observation, all alike where a latent actor decides.
        Raises UserError for an observation that does not fit."""
        s = self._observations(observation, count)
        with torch.inference_mode():
            e = None
            if self.noise_dim:
                e = Stream(torch.tensor([seed]), 0, "sample").normal(count, self.noise_dim).to(self._agent.device)
            return self._actions(self._agent.act(s, e))

    def _actions(self, chunks: torch.Tensor) -> np.ndarray:
        """(B, h, act) in the environment's units, from normalised chunks (1, B, d)."""
        return self.scale.to_env(chunks.cpu().numpy().reshape(-1, self.horizon, self.action_dim))

    def _observations(self, observation: Any, count: int) -> dict[str, torch.Tensor]:
        """Arrays (1, count, *shape): the same observation `count` times."""
        arrays = as_observation(observation, self.observation, self._source)
        return {
            name: torch.from_numpy(array).to(self._agent.device).expand(1, count, *array.shape)
            for name, array in arrays.items()
        }

    def _padded(self, rows: np.ndarray) -> torch.Tensor:
        """(1, QUERY_ROWS, *): up to QUERY_ROWS rows (n, *), and zeros."""
        padded = np.zeros((1, QUERY_ROWS, *rows.shape[1:]), dtype=rows.dtype)
        padded[0, : len(rows)] = rows
        return torch.from_numpy(padded).to(self._agent.device)

    @property
    def _source(self) -> str:
        return f"the observation for the policy of {self.run.task}"

    def __getstate__(self) -> dict[str, Any]:
        params = {net: {name: value.cpu().numpy() for name, value in t.items()} for net, t in self.params.items()}
        parts = (self.run.to_dict(), self.step, self.observation, tuple(self.scale), params, self.provenance)
        return dict(zip(("run", "step", "observation", "scale", "params", "provenance"), parts, strict=True))

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copied, because what arrives through shared memory may not be written to, and torch warns of that.
        params = {net: {k: torch.tensor(v) for k, v in t.items()} for net, t in state["params"].items()}
        run, scale = Run.from_dict(state["run"]), ActionScale(*state["scale"])
        self.__dict__.update(vars(Policy(**state | {"run": run, "scale": scale, "params": params})))
