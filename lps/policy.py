"""A trained policy on its own: numpy in, numpy out, on the CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lps.agents import AGENTS, Agent
from lps.checkpoint import Checkpoint
from lps.errors import UserError
from lps.run import Run
from lps.streams import Stream


class Policy:
    """One member's way of acting, cut from its agent; can be pickled and sent to where the environments are.

    Attributes:
        run: the run it belongs to; step: the number of updates it has seen.
        horizon: h, actions per query, meant to be executed open loop.
        noise_dim: length of the standard normal draw that acting takes; 0 where a latent actor decides.
    """

    def __init__(self, agent: Agent, run: Run, step: int):
        assert agent.members == 1
        self.run, self.step = run, step
        self.observation_dim, self.action_dim = agent.observation_dim, agent.action_dim
        self.horizon: int = agent.config.horizon
        self.noise_dim = agent.chunk_dim if agent.acts_with_noise else 0
        self._agent = agent
        self._queries = 0

    @classmethod
    def of_member(cls, agent: Agent, member: int, run: Run, step: int) -> Policy:
        """A snapshot of one member of a pack; training can go on."""
        single = AGENTS[run.agent]([run.config], [run.seed], agent.observation_dim, agent.action_dim)
        with torch.no_grad():
            for net, tensors in single.params.items():
                for name, tensor in tensors.items():
                    tensor.copy_(agent.params[net][name][member : member + 1])
        return cls(single, run, step)

    def act(self, observation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """(h, action_dim) float32 in [-1, 1], the next h actions for one observation (observation_dim,).

        noise: (noise_dim,) standard normal.  Without it, draws follow from the run's seed and the number of queries
        so far, so a fresh policy always does the same.
        Raises UserError for an observation of another size.
        """
        observation = np.asarray(observation, dtype=np.float32)
        if observation.shape != (self.observation_dim,):
            raise UserError(
                f"this policy was trained on {self.run.task}, whose observations are vectors of "
                f"{self.observation_dim} numbers; it was given shape {observation.shape}"
            )
        with torch.inference_mode():
            e = None
            if self.noise_dim:
                if noise is None:
                    seed = torch.tensor([self.run.seed])
                    e = Stream(seed, self._queries, "policy").normal(1, self.noise_dim)
                    self._queries += 1
                else:
                    e = torch.from_numpy(np.asarray(noise, dtype=np.float32)).view(1, 1, self.noise_dim)
            chunk = self._agent.act(torch.from_numpy(observation).view(1, 1, -1), e)
        return chunk.view(self.horizon, self.action_dim).numpy()

    def __getstate__(self) -> dict[str, Any]:
        # Only what acting needs crosses to another process: no optimizer.
        params = {net: {k: v.detach().numpy() for k, v in t.items()} for net, t in self._agent.params.items()}
        return {"run": self.run.to_dict(), "step": self.step, "params": params, "sizes": self._sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        run = Run.from_dict(state["run"])
        agent = AGENTS[run.agent]([run.config], [run.seed], *state["sizes"])
        with torch.no_grad():
            for net, tensors in agent.params.items():
                for name, tensor in tensors.items():
                    tensor.copy_(torch.tensor(state["params"][net][name]))
        self.__init__(agent, run, state["step"])

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.observation_dim, self.action_dim


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """The policy of a checkpoint file, ready to act.

    Raises UserError where the file is missing, damaged or not a checkpoint.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise UserError(f"cannot read the checkpoint {path}: {problem.strerror}") from problem
    checkpoint = Checkpoint.from_bytes(data, str(path))
    return Policy(checkpoint.agent(), checkpoint.run, checkpoint.step)
