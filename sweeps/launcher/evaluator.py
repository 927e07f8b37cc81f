"""Evaluation as Ray tasks on free CPUs, while the learner continues."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import ray

from lps.evaluation.rollout import ChunkPolicy, evaluate
from lps.runs.record import Episode
from lps.runs.run import Run

MIN_EPISODES = 5
"""Minimum number of episodes of a task; fewer do not repay the start of an environment."""


@ray.remote(max_retries=3, scheduling_strategy="DEFAULT")  # DEFAULT: outside the placement group of the learner
def _evaluate(policy: ChunkPolicy, run: Run, step: int, episodes: Sequence[int]) -> list[Episode]:
    return evaluate(policy, run.resolved_task, seed=run.seed, step=step, episodes=episodes)


@dataclass
class _Job:
    run: Run
    step: int
    parts: list[ray.ObjectRef]
    waiting: list[ray.ObjectRef] = field(init=False)

    def __post_init__(self) -> None:
        self.waiting = list(self.parts)


class RayEvaluator:
    """An `lps.evaluation.evaluators.Evaluator` that splits the episodes of each evaluation over Ray tasks.

    Each episode has its own seed, so the result does not depend on the split.

    Args:
        cpus: CPUs that one task books.
        tasks: number of tasks that run at the same time.
        members: number of runs that are evaluated at the same time.
    """

    def __init__(self, cpus: float = 1.0, tasks: int = 1, members: int = 1):
        self._cpus = cpus
        self._parts = max(1, math.ceil(tasks / members))
        self._jobs: list[_Job] = []

    def submit(self, policy: ChunkPolicy, run: Run, step: int) -> None:
        shared = ray.put(policy)
        parts = min(self._parts, math.ceil(run.eval_episodes / MIN_EPISODES))
        episodes = [range(run.eval_episodes)[part::parts] for part in range(parts)]
        task = _evaluate.options(num_cpus=self._cpus, name=f"evaluate {run.agent}")
        self._jobs.append(_Job(run, step, [task.remote(shared, run, step, part) for part in episodes]))

    def poll(self, wait: bool = False) -> list[tuple[Run, int, list[Episode]]]:
        """Return the complete evaluations in the order of submission; with `wait`, all evaluations."""
        waiting = [ref for job in self._jobs for ref in job.waiting]
        if waiting:
            ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=None if wait else 0, fetch_local=False)
            done = set(ready)
            for job in self._jobs:
                job.waiting = [ref for ref in job.waiting if ref not in done]
        complete = [job for job in self._jobs if not job.waiting]
        self._jobs = [job for job in self._jobs if job.waiting]
        return [(job.run, job.step, _gather(job)) for job in complete]

    def close(self) -> None:
        for job in self._jobs:
            for ref in job.waiting:
                ray.cancel(ref, force=True)
        self._jobs = []


def _gather(job: _Job) -> list[Episode]:
    episodes = [episode for part in ray.get(job.parts) for episode in part]
    return sorted(episodes, key=lambda episode: episode.episode)
