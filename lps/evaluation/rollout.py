"""Evaluate a policy in a task, episode by episode.

An episode is a pure function of (policy, task, run seed, step, episode): its environment and the policy's noise have
their own random streams keyed by these three numbers. So the result depends neither on training nor on how many
processes share the episodes or how many run side by side in one, and any episode can be replayed alone.
"""

import collections
import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lps.errors import UserError
from lps.runs.record import Episode
from lps.spaces import FrameStack, as_observation
from lps.tasks.suites import get_suite, make_env
from lps.tasks.task import Task

if TYPE_CHECKING:
    import gymnasium

_ENVIRONMENT, _NOISE = 1, 2  # the first word of a stream's key

EPISODES_PER_QUERY = 4
"""Number of episodes that query the policy together. Four decisions cost little beside the physics, for every agent
(benchmarks/inference.py), and each further environment takes 160 MB."""


class ChunkPolicy(Protocol):
    """A policy that evaluation can run.  The actions of a row must not depend on the other rows.  With an attribute
    `frame_stack` above 1 it gets images of that many frames (lps.spaces.FrameStack).  With a method `begin()`, which is
    called at the start of each episode, episodes run one after the other."""

    @property
    def noise_dim(self) -> int:
        """Number of standard normal draws of one decision; 0 for a deterministic policy."""
        ...

    def act_batch(self, observations: Mapping[str, np.ndarray], noise: np.ndarray | None) -> np.ndarray:
        """Return the actions (B, k, act) to execute next, in the environment's units, for B observations: arrays
        (B, *shape) by name, and noise (B, noise_dim)."""
        ...


def environment_seed(seed: int, step: int, episode: int) -> int:
    """The seed in [0, 2^31) that an environment is reset with: the upper 31 bits of the first 32-bit word of
    `numpy.random.SeedSequence((1, seed, step, episode))`."""
    return int(np.random.SeedSequence((_ENVIRONMENT, seed, step, episode)).generate_state(1)[0]) >> 1


def noise_stream(seed: int, step: int, episode: int) -> np.random.Generator:
    """The policy's noise in one episode: a Philox generator keyed by SeedSequence((2, seed, step, episode))."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((_NOISE, seed, step, episode))))


def evaluate(
    policy: ChunkPolicy,
    task: Task,
    *,
    seed: int,
    step: int,
    episodes: Sequence[int] | int = 50,
    progress: Callable[[Episode], None] | None = None,
    frames: Callable[[np.ndarray], None] | None = None,
    observations: Callable[[int, Mapping[str, np.ndarray], "gymnasium.Env"], None] | None = None,
    steps: Callable[[int, np.ndarray, float, bool, bool], None] | None = None,
) -> list[Episode]:
    """Run the given episodes (a number n stands for 0 .. n-1) and return them in this order.

    The policy is queried once per chunk, for up to EPISODES_PER_QUERY episodes at once. All actions of a chunk are
    executed before the next query, unless the episode ends. `progress` is called with every finished episode, `frames`
    with the picture (height, width, 3) uint8 after the reset and after every step, episode after episode.
    `observations` is called at the same moments with the number of the episode, the arrays of its observation by name,
    and its environment, and `steps` after every step with the number of the episode, the action, the reward, and
    whether the episode has terminated and succeeded. Raises ValueError if the policy does not return finite
    (h, action_dim) actions.
    """
    wanted = list(range(episodes) if isinstance(episodes, int) else episodes)
    waiting = collections.deque(wanted)
    running: list[_Rollout] = []
    over: dict[int, Episode] = {}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_one_thread())
        begin = getattr(policy, "begin", None)
        waves = len(wanted) if frames or begin else math.ceil(len(wanted) / EPISODES_PER_QUERY)
        together = math.ceil(len(wanted) / waves) if wanted else 0  # five as three and two, not as four and one
        free = [stack.enter_context(_environment(task, frames is not None)) for _ in range(together)]
        frame_stack = getattr(policy, "frame_stack", 1)
        while waiting or running:
            while waiting and free:
                if begin:
                    begin()
                images = FrameStack(task.observation, frame_stack)
                hooks = frames, observations, steps
                running.append(_Rollout(free.pop(), task, images, seed, step, waiting.popleft(), *hooks))
            for rollout, chunk in zip(running, _decide(policy, task, running), strict=True):
                rollout.play(chunk)
                if rollout.over:
                    over[rollout.episode] = rollout.result()
                    free.append(rollout.env)
                    if progress:
                        progress(over[rollout.episode])
            running = [rollout for rollout in running if not rollout.over]
    return [over[episode] for episode in wanted]


def _decide(policy: ChunkPolicy, task: Task, rollouts: Sequence["_Rollout"]) -> np.ndarray:
    """The next chunk of each, (B, h, action_dim)."""
    observations = {name: np.stack([rollout.observation[name] for rollout in rollouts]) for name in task.observation}
    noise = np.stack([rollout.draw(policy.noise_dim) for rollout in rollouts]) if policy.noise_dim else None
    chunks = np.asarray(policy.act_batch(observations, noise))
    if chunks.ndim != 3 or chunks.shape[::2] != (len(rollouts), *task.action.shape) or not chunks.size:
        expected = f"({len(rollouts)}, k, {task.action.shape[0]})"
        raise ValueError(f"the policy returned actions of shape {chunks.shape}, not {expected}")
    if not np.isfinite(chunks).all():
        raise ValueError("the policy returned actions that are not finite")
    return chunks


class _Rollout:
    """An episode on its way, alone in its environment."""

    def __init__(
        self,
        env: "gymnasium.Env",
        task: Task,
        stack: FrameStack,
        seed: int,
        step: int,
        episode: int,
        frames: Callable[[np.ndarray], None] | None,
        observations: Callable[[int, Mapping[str, np.ndarray], "gymnasium.Env"], None] | None,
        steps: Callable[[int, np.ndarray, float, bool, bool], None] | None,
    ):
        self.env, self.task, self.stack, self.episode = env, task, stack, episode
        self.frames, self.observations, self.steps = frames, observations, steps
        self.env_seed = environment_seed(seed, step, episode)
        self.noise = noise_stream(seed, step, episode)
        self.length, self.return_, self.over = 0, 0.0, False
        self.success: bool | None = None if task.metric == "return" else False
        self._see(env.reset(seed=self.env_seed)[0])

    def draw(self, noise_dim: int) -> np.ndarray:
        """The noise of the next decision."""
        return self.noise.standard_normal(noise_dim, np.float32)

    def play(self, chunk: np.ndarray) -> None:
        """Executes a chunk, as far as the episode goes."""
        for action in chunk:
            observation, reward, terminated, truncated, info = self.env.step(action)
            self.length, self.return_ = self.length + 1, self.return_ + float(reward)
            self.over = terminated or truncated
            if self.success is not None:
                if "success" not in info:
                    raise UserError(
                        f"the environment of {self.task.name} reports no info['success']. Report it, or give the task "
                        "the metric 'return'"
                    )
                self.success = bool(info["success"])
            if self.steps:
                self.steps(self.episode, action, float(reward), terminated, bool(self.success))
            self._see(observation)
            if self.over:
                return

    def result(self) -> Episode:
        return Episode(self.episode, self.env_seed, self.success, self.return_, self.length)

    def _see(self, observation: Any) -> None:
        source = f"the observation of {self.task.name}"
        seen = as_observation(observation, self.task.observation, source)
        self.observation = self.stack(seen)
        if self.frames:
            self.frames(np.asarray(self.env.render()))
        if self.observations:
            self.observations(self.episode, seen, self.env)


_env_cache: list[tuple[Any, "gymnasium.Env"]] = []
"""(`_key`, environment) of unused environments: building an environment can take longer than an episode."""
MAX_CACHED_ENVS = 8


def _key(task: Task) -> Any:
    """Tasks with the same key share environments.  A suite that can turn an environment to another task of its group
    (`set_task`) shares them in the group, as far as the options of runs agree."""
    suite = get_suite(task.suite)
    if hasattr(suite, "set_task"):
        options = [task.options.get(name) for name in getattr(suite, "OPTIONS", ())]
        return task.suite, task.group, task.max_episode_steps, options
    return task.name, task.max_episode_steps, dict(task.options)


@contextlib.contextmanager
def _environment(task: Task, render: bool) -> Iterator["gymnasium.Env"]:
    """Yield an environment for this caller alone and cache it afterwards: a seeded reset removes all traces."""
    key = _key(task)
    found = next((i for i, (kept, _) in enumerate(_env_cache) if kept == key), None)
    if render or found is None:
        env = make_env(task, render=render)
    else:
        env = _env_cache.pop(found)[1]
        if hasattr(suite := get_suite(task.suite), "set_task"):
            suite.set_task(env, task)
    try:
        yield env
    except BaseException:
        env.close()
        raise
    if render:
        env.close()
        return
    _env_cache.append((key, env))
    if len(_env_cache) > MAX_CACHED_ENVS:
        _env_cache.pop(0)[1].close()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread: the fastest for one observation at a time, and the same sums in every process."""
    torch: Any = sys.modules.get("torch")  # a policy of another library does not pay for importing it
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
