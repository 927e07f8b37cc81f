"""Evaluators: they evaluate the policies of runs, in this process or in a pool of processes."""

import contextlib
import itertools
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Protocol

from lps.errors import UserError
from lps.evaluation.rollout import ChunkPolicy, evaluate
from lps.runs.record import Episode
from lps.tasks.task import Task
from lps.workers import WorkerPool

if TYPE_CHECKING:
    from lps.runs.run import Run


Evaluation = tuple["Run", int, list[Episode]]


class Evaluator(Protocol):
    """Evaluates policies of runs, perhaps beside the training that submits them."""

    def submit(self, policy: ChunkPolicy, run: "Run", step: int) -> None:
        """Takes the policy, as it is now, of a run after `step` updates."""
        ...

    def poll(self, wait: bool = False) -> list[Evaluation]:
        """The evaluations (run, step, episodes) that were completed and not handed out yet; with `wait`, all that
        were submitted. Raises what an evaluation raised."""
        ...

    def close(self) -> None:
        """Stop the evaluator and drop pending evaluations."""
        ...


class InlineEvaluator:
    """Evaluates while `submit` waits."""

    def __init__(self) -> None:
        self._done: list[Evaluation] = []

    def submit(self, policy: ChunkPolicy, run: "Run", step: int) -> None:
        episodes = evaluate(policy, run.resolved_task, seed=run.seed, step=step, episodes=run.eval_episodes)
        self._done.append((run, step, episodes))

    def poll(self, wait: bool = False) -> list[Evaluation]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        self._done = []


class PoolEvaluator:
    """Evaluates in `workers` processes on this machine, which share the episodes of an evaluation.

    Its processes import the main module again, so a script that uses it needs `if __name__ == "__main__":`.
    """

    def __init__(self, workers: int):
        self.workers = workers
        self._pool = WorkerPool(workers, _one_thread)
        self._jobs: list[tuple[Run, int, list[Future[list[Episode]]]]] = []
        self._done: list[Evaluation] = []

    def submit(self, policy: ChunkPolicy, run: "Run", step: int) -> None:
        pickled = pickle.dumps(policy)  # now and once, because training changes the parameters
        # One evaluation alone is shared by all workers; of many, such as a pack's, each goes to few, for every part
        # costs a copy of the policy and an environment's start.
        shares = max(1, self.workers // (1 + len(self._jobs)))
        parts = [range(first, run.eval_episodes, shares) for first in range(shares)]
        job = (pickled, run.resolved_task, run.seed, step)
        with self._explained():
            futures = [self._pool.submit(_evaluate_part, *job, part) for part in parts if part]
        self._jobs.append((run, step, futures))

    def poll(self, wait: bool = False) -> list[Evaluation]:
        for job in list(self._jobs):
            run, step, futures = job
            if wait or all(future.done() for future in futures):
                self._jobs.remove(job)
                with self._explained():
                    episodes = itertools.chain.from_iterable(future.result() for future in futures)
                    self._done.append((run, step, sorted(episodes, key=lambda episode: episode.episode)))
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        self._jobs, self._done = [], []
        self._pool.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool as error:
            raise UserError(
                f"one of the {self.workers} evaluation workers died: killed, or out of memory. "
                "Run the same command again, with fewer workers if memory was short"
            ) from error


def _evaluate_part(policy: bytes, task: Task, seed: int, step: int, episodes: range) -> list[Episode]:
    return evaluate(pickle.loads(policy), task, seed=seed, step=step, episodes=episodes)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
