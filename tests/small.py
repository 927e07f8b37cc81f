"""Small agents for tests: every registered agent with narrow networks, on random data of vectors or of images."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from lps.agents import AGENTS
from lps.agents.base import Agent
from lps.data.batch import Batch
from lps.data.episodes import Dataset
from lps.members.streams import Stream
from lps.nets.dit import DiT
from lps.nets.network import Spec
from lps.spaces import Space

OBSERVATION_DIM, ACTION_DIM = 7, 3
OBSERVATION = {"state": Space((OBSERVATION_DIM,))}
IMAGES = {"front": Space((8, 10, 3), "uint8"), "wrist": Space((9, 6, 3), "uint8"), "state": Space((2,))}
SEEN = {"state": OBSERVATION, "images": IMAGES}


def small_config(agent: str, **overrides: Any) -> Any:
    """The agent's Config with two hidden layers of 16 everywhere, a narrow encoder and a batch of 16."""
    cls = AGENTS[agent].Config
    small: dict[str, Any] = {"batch_size": 16, "horizon": 2, "encoder_width": 0.125}
    small |= {f.name: (16, 16) for f in dataclasses.fields(cls) if f.name.endswith("hidden")}
    return cls(**(small | overrides))


def small_hyperparameters(agent: str, **overrides: Any) -> dict[str, Any]:
    """The same as plain values for Run.create."""
    config, default = small_config(agent, **overrides), AGENTS[agent].Config()
    names = [f.name for f in dataclasses.fields(config)]
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(default, name)}


def make_agent(
    agent: str, seeds: list[int], overrides: list[dict[str, Any]] | None = None, observation: Any = OBSERVATION
) -> Agent:
    configs = [small_config(agent, **(overrides[i] if overrides else {})) for i in range(len(seeds))]
    return AGENTS[agent](configs, seeds, observation, ACTION_DIM)


def random_batch(agent: Agent, seeds: torch.Tensor, step: int) -> Batch:
    """A batch that depends on (seed, step) alone, as the real ones do."""
    stream, size, d = Stream(seeds, step, "batch"), agent.config.batch_size, agent.chunk_dim
    return Batch(
        observations=random_observation(agent, stream, size),
        actions=stream.uniform(size, d) * 2 - 1,
        next_observations=random_observation(agent, stream, size),
        rewards=-stream.uniform(size),
        masks=(stream.uniform(size) > 0.1).float(),
    )


def random_observation(agent: Agent, stream: Stream, size: int) -> dict[str, torch.Tensor]:
    return {
        name: stream.integers(256, size, *space.shape).to(torch.uint8)
        if space.is_image
        else stream.normal(size, *space.shape)
        for name, space in agent.observation.items()
    }


def made_up_data(task: str, observation: Any = OBSERVATION, rows: int = 60) -> Dataset:
    """Three episodes of noise."""
    rng = np.random.default_rng(0)
    return Dataset(
        name="made",
        fingerprint="",
        observations={
            name: rng.integers(0, 256, (rows, *space.shape), np.uint8)
            if space.is_image
            else rng.standard_normal((rows, *space.shape)).astype(np.float32)
            for name, space in observation.items()
        },
        actions=rng.uniform(-1, 1, (rows, ACTION_DIM)).astype(np.float32),
        terminals=np.arange(rows) % 20 == 19,
        rewards=-rng.random((1, rows)).astype(np.float32),
        masks=(rng.random((1, rows)) > 0.1).astype(np.float32),
        tasks=(task,),
    )


def run_updates(agent: Agent, seeds: list[int], first: int, last: int) -> dict[str, torch.Tensor]:
    """Updates first .. last; returns the last one's metrics."""
    seeds_, info = torch.tensor(seeds), {}
    for step in range(first, last + 1):
        noise = agent.noise(Stream(seeds_, step, "noise"), agent.config.batch_size)
        info = agent.update(random_batch(agent, seeds_, step), noise)
    return info


def member_params(agent: Agent, member: int) -> dict[str, torch.Tensor]:
    return {
        f"{net}/{name}": tensor[member].detach().clone()
        for net, tensors in agent.params.items()
        for name, tensor in tensors.items()
    }


def small_dit(spec: Spec) -> DiT:
    """A transformer of two blocks; as a hyperparameter: base_network="small.small_dit"."""
    return DiT(spec, token=16, depth=2, heads=2)
