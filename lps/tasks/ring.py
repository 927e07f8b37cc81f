"""The ring bandit: one action in the plane, to see in a minute how an agent uses its data.

The dataset's actions lie on a ring, uniform in direction. Actions on an arc at the top right have the reward 1. Cloning
gives the whole ring, and improvement ends on the arc. An agent that trusts its critic outside the data leaves the ring.
After figure 2 of LPS's paper (arXiv 2603.05296): a task in the plane with the reward in the top right corner. It is
one ring and not two, because LPS's sphere is a circle here, and one pass of a network maps a circle to one closed
curve, which cannot follow two rings.

It needs no simulator and no file. Every episode is a single step.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from lps.data.episodes import Dataset
from lps.errors import UserError
from lps.spaces import Space
from lps.tasks.task import Task

RING = Task(
    name="ring-bandit-v0",
    suite="ring",
    group="ring",
    title="ring bandit",
    dataset="ring-bandit-v0",
    observation={"state": Space((1,))},
    action=Space((2,)),
    horizon=1,
    max_episode_steps=1,
)

TASKS: Mapping[str, Task] = {RING.name: RING}

RADIUS = 0.7
SPREAD = 0.08
"""Maximum distance of the data from the ring; the distance is uniform."""
BAND = 0.15
"""Maximum distance of an action that counts as on the ring."""
ARC = (math.pi / 4, math.pi / 6)
"""Middle and half width of the rewarded arc, in radians."""
NUM_ACTIONS = 20_000
"""Number of actions in the dataset."""


def on_ring(actions: np.ndarray) -> np.ndarray:
    """Return whether actions (..., 2) are on the ring, (...) bool."""
    return np.abs(np.linalg.norm(actions, axis=-1) - RADIUS) <= BAND


def reward(actions: np.ndarray) -> np.ndarray:
    """1 for the actions (..., 2) on the rewarded arc of the ring, else 0; (...) float32."""
    middle, half = ARC
    along = actions @ np.array([math.cos(middle), math.sin(middle)])
    towards = along >= math.cos(half) * np.linalg.norm(actions, axis=-1)
    return (on_ring(actions) & towards).astype(np.float32)


class RingBandit(gymnasium.Env):
    """One step: the observation is always [1], `info['success']` says whether the action was on the rewarded arc."""

    observation_space = gymnasium.spaces.Box(1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        value = float(reward(np.asarray(action)))
        return np.ones(1, np.float32), value, True, False, {"success": value == 1.0}

    def render(self) -> Any:
        raise UserError(f"{RING.name} is a single step without a picture; python sweeps/ring.py draws what agents do")


def data() -> np.ndarray:
    """The actions that were tried, (NUM_ACTIONS, 2) float32, the same in every process."""
    rng = np.random.default_rng(0)
    angles = rng.uniform(-math.pi, math.pi, NUM_ACTIONS)
    radii = RADIUS + rng.uniform(-SPREAD, SPREAD, NUM_ACTIONS)
    return (radii * [np.cos(angles), np.sin(angles)]).T.astype(np.float32)


def make_env(task: Task, *, render: bool = False) -> gymnasium.Env:
    """Make the bandit.  It has no picture."""
    return RingBandit()


def load(tasks: Sequence[Task], name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Return the data as agents train on it.  Each action is an episode of one step, in two rows, because the last row
    of an episode starts no transition.  UserError for any other dataset."""
    if name != RING.dataset:
        raise UserError(f"{RING.name} has no dataset {name}: its data is generated. Remove --dataset")
    tried = data()
    rows = 2 * NUM_ACTIONS
    actions, rewards = np.zeros((rows, 2), np.float32), np.zeros((1, rows), np.float32)
    actions[::2], rewards[0, ::2] = tried, reward(tried)
    return Dataset(
        name=RING.dataset,
        fingerprint=hashlib.sha256(tried.tobytes()).hexdigest(),
        observations={"state": np.ones((rows, 1), np.float32)},
        actions=actions,
        terminals=np.arange(rows) % 2 == 1,
        rewards=rewards.repeat(len(tasks), axis=0),
        masks=np.zeros((len(tasks), rows), np.float32),  # there is nothing after the step
        tasks=tuple(task.name for task in tasks),
    )
