"""Evaluation as Ray tasks beside the learner: MuJoCo's work on whatever CPUs are free, while the learner goes on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import ray

from lps.evaluation.rollout import ChunkPolicy, evaluate
from lps.runs.record import Episode
from lps.runs.run import Run

MIN_EPISODES = 5
"""Fewest episodes of a task: less would be spent on starting an environment."""


@ray.remote(max_retries=3, scheduling_strategy="DEFAULT")  # DEFAULT: outside of the learner's own booking
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
    """Splits the episodes of each evaluation over Ray tasks. Episodes are seeded one by one, so the result is the
    same however they are split. An `lps.evaluation.evaluators.Evaluator`.

    Args:
        cpus: what one task books.
        tasks: how many tasks find room at the same time.
        members: runs that are evaluated at the same time.
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
        """The evaluations that are complete by now, in the order they were submitted; with `wait`, all of them."""
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
