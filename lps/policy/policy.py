"""A trained policy on its own: numpy in, numpy out."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from lps.agents import AGENTS
from lps.agents.base import Agent
from lps.errors import UserError
from lps.files import read_file
from lps.members.streams import Stream
from lps.nets.mlp import Params
from lps.runs.checkpoint import Checkpoint
from lps.runs.run import Run

ROWS = 4
"""Observations that `act_batch` computes at once, and always as many: products of one shape are summed in one order, so
what a row's answer is does not depend on how many are asked with it."""


class Policy:
    """One member's way of acting, cut from its agent; can be pickled and sent to where the environments are.

    Attributes:
        run: the run it belongs to; step: the number of updates it has seen.
        horizon: h, actions per query, meant to be executed open loop.
        noise_dim: length of the standard normal draw that acting takes; 0 where a latent actor decides.
    """

    def __init__(self, run: Run, step: int, observation_dim: int, action_dim: int, params: dict[str, Params]):
        """params: {network: {name: tensor (1, ...)}} of the networks that the run's agent acts with."""
        self.run, self.step = run, step
        self.observation_dim, self.action_dim = observation_dim, action_dim
        self._agent = AGENTS[run.agent].for_acting(run.config, observation_dim, action_dim, params)
        self.horizon: int = self._agent.config.horizon
        self.noise_dim = self._agent.noise_dim
        self._queries = 0

    @classmethod
    def of_member(cls, agent: Agent, member: int, run: Run, step: int) -> Policy:
        """A snapshot of one member of a pack; training can go on."""

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[member : member + 1].detach().to("cpu", copy=True)

        params = {net: {name: copy(value) for name, value in agent.params[net].items()} for net in agent.acting}
        return cls(run, step, agent.observation_dim, agent.action_dim, params)

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint) -> Policy:
        """The policy of a run as it was kept."""
        acting = AGENTS[checkpoint.run.agent].acting
        params = {net: {name: value[None] for name, value in checkpoint.params[net].items()} for net in acting}
        return cls(checkpoint.run, checkpoint.step, checkpoint.observation_dim, checkpoint.action_dim, params)

    def to(self, device: str) -> Policy:
        """The same policy computing on another device; draws stay the same.  On a GPU one decision is usually slower
        than on the CPU (benchmarks/inference.py); many at once (`sample`) are faster."""
        params = {net: {k: v.to(device) for k, v in tensors.items()} for net, tensors in self._agent.params.items()}
        policy = Policy(self.run, self.step, *self._sizes, params)
        policy._queries = self._queries
        return policy

    def act(self, observation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """(h, action_dim) float32 in [-1, 1], the next h actions for one observation (observation_dim,).

        noise: (noise_dim,) standard normal.  Without it, draws follow from the run's seed and the number of queries
        so far, so a fresh policy always does the same.
        Raises UserError for an observation of another size.
        """
        s = self._observations(observation, 1)
        with torch.inference_mode():
            e = None
            if self.noise_dim:
                if noise is None:
                    seed = torch.tensor([self.run.seed])
                    e = Stream(seed, self._queries, "policy").normal(1, self.noise_dim).to(self._agent.device)
                    self._queries += 1
                else:
                    e = torch.tensor(noise, dtype=torch.float32, device=self._agent.device).view(1, 1, self.noise_dim)
            chunk = self._agent.act(s, e)
        return chunk.view(self.horizon, self.action_dim).cpu().numpy()

    def act_batch(self, observations: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """(B, h, action_dim) float32 in [-1, 1]: what `act` decides for each of B observations (B, observation_dim), up
        to rounding; each answer depends on its own row alone.

        noise: (B, noise_dim) standard normal; None where acting takes none.
        Raises UserError for observations of another size.
        """
        observations = np.asarray(observations, dtype=np.float32)
        if observations.ndim != 2 or observations.shape[1] != self.observation_dim:
            raise self._unfit(observations.shape)
        chunks = []
        with torch.inference_mode():
            for first in range(0, len(observations), ROWS):
                s = self._padded(observations[first : first + ROWS])
                e = None if noise is None else self._padded(noise[first : first + ROWS])
                chunks.append(self._agent.act(s, e).cpu().numpy()[0])
        return np.concatenate(chunks)[: len(observations)].reshape(-1, self.horizon, self.action_dim)

    def sample(self, observation: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
        """(count, h, action_dim) float32 in [-1, 1]: chunks for one observation (observation_dim,), all alike where a
        latent actor decides.  Raises UserError for an observation of another size."""
        s = self._observations(observation, count)
        with torch.inference_mode():
            e = None
            if self.noise_dim:
                e = Stream(torch.tensor([seed]), 0, "sample").normal(count, self.noise_dim).to(self._agent.device)
            chunks = self._agent.act(s, e)
        return chunks.view(count, self.horizon, self.action_dim).cpu().numpy()

    def _observations(self, observation: np.ndarray, count: int) -> torch.Tensor:
        """(1, count, observation_dim): the same observation `count` times."""
        observation = np.asarray(observation, dtype=np.float32)
        if observation.shape != (self.observation_dim,):
            raise self._unfit(observation.shape)
        return torch.from_numpy(observation).to(self._agent.device).expand(1, count, -1)

    def _padded(self, rows: np.ndarray) -> torch.Tensor:
        """(1, ROWS, *): up to ROWS rows (n, *), and zeros."""
        padded = np.zeros((1, ROWS, rows.shape[1]), dtype=np.float32)
        padded[0, : len(rows)] = rows
        return torch.from_numpy(padded).to(self._agent.device)

    def _unfit(self, shape: tuple[int, ...]) -> UserError:
        return UserError(
            f"this policy was trained on {self.run.task}, whose observations are vectors of "
            f"{self.observation_dim} numbers; it was given shape {shape}"
        )

    def __getstate__(self) -> dict[str, Any]:
        params = {
            net: {name: value.cpu().numpy() for name, value in t.items()} for net, t in self._agent.params.items()
        }
        return {"run": self.run.to_dict(), "step": self.step, "params": params, "sizes": self._sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copied, because what arrives through shared memory may not be written to, and torch warns of that.
        params = {net: {k: torch.tensor(v) for k, v in t.items()} for net, t in state["params"].items()}
        self.__init__(Run.from_dict(state["run"]), state["step"], *state["sizes"], params)  # type: ignore[misc]

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.observation_dim, self.action_dim


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """The policy of a checkpoint file, ready to act on the CPU; `load_policy(path).to("cuda")` acts on a GPU.

    path: of a local file, or a URI such as s3://bucket/results/checkpoints/RUN.pt.  Raises UserError where the file is
    missing, damaged or not a checkpoint.
    """
    return Policy.of_checkpoint(Checkpoint.from_bytes(read_file(path), str(path)))
