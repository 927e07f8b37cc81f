"""A made-up suite: frames and a state, three action numbers, returns without success."""

import hashlib

import gymnasium
import numpy as np

from lps.data.episodes import Dataset
from lps.spaces import Space
from lps.tasks.task import Task

LENGTH = 12
GOALS = {"dust-the-shelf": np.array([0.5, -0.5, 0.0]), "Wipe: Table (slow)": np.array([-0.5, 0.5, 0.5])}

TASKS = {
    name: Task(
        name=name,
        suite="house.chores",
        group="living room",
        title=name.replace("-", " "),
        dataset="recordings",
        observation={"camera": Space((8, 8, 3), "uint8"), "arm": Space((4,))},
        action=Space((3,)),
        horizon=2,
        max_episode_steps=LENGTH,
        metric="return",
        return_range=(-20.0, 0.0),
        options={"goal": goal.tolist()},
    )
    for name, goal in GOALS.items()
}
OPTIONS = {"light": ("day", "night")}


def observe(position, light="day"):
    frame = np.full((8, 8, 3), 200 if light == "day" else 20, np.uint8)
    frame[..., 0] = np.clip(128 + 60 * position[0], 0, 255)
    return {"camera": frame, "arm": np.append(position, 1.0)}


class Room(gymnasium.Env):
    observation_space = gymnasium.spaces.Dict(
        camera=gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8), arm=gymnasium.spaces.Box(-9, 9, (4,), np.float64)
    )
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, task):
        self.goal, self.light = np.array(task.options["goal"]), task.options["light"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.uniform(-1, 1, 3), 0
        return observe(self.position, self.light), {}

    def step(self, action):
        self.position = self.position + 0.3 * np.asarray(action)
        self.steps += 1
        reward = -float(np.linalg.norm(self.position - self.goal))
        return observe(self.position, self.light), reward, False, self.steps == LENGTH, {}


def make_env(task, *, render=False):
    return Room(task)


def load(tasks, name, data_dir):
    """Recordings of random motion, made on the spot."""
    rng, episodes = np.random.default_rng(0), 40
    rows = episodes * (LENGTH + 1)
    actions = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
    last = np.arange(rows) % (LENGTH + 1) == LENGTH
    position, seen = rng.uniform(-1, 1, 3), []
    for i in range(rows):
        seen.append(observe(position))
        position = rng.uniform(-1, 1, 3) if last[i] else position + 0.3 * actions[i]
    arm = np.stack([o["arm"] for o in seen]).astype(np.float32)
    after = np.roll(arm[:, :3], -1, axis=0)
    rewards = np.stack([-np.linalg.norm(after - np.array(task.options["goal"]), axis=1) for task in tasks])
    return Dataset(
        name=name,
        fingerprint=hashlib.sha256(actions.tobytes()).hexdigest(),
        observations={"camera": np.stack([o["camera"] for o in seen]), "arm": arm},
        actions=actions,
        terminals=last,
        rewards=rewards.astype(np.float32),
        masks=np.ones((len(tasks), rows), np.float32),
        tasks=tuple(task.name for task in tasks),
    )
