"""The steps of evaluation episodes as a dataset: an npz file with D4RL's keys, as `lps serve --record` writes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lps.errors import UserError
from lps.evaluation.evaluators import InlineEvaluator
from lps.evaluation.rollout import ChunkPolicy, evaluate
from lps.files import replacing
from lps.runs.run import Run


class RecordingEvaluator(InlineEvaluator):
    """Evaluates while `submit` waits, and keeps every step in memory for `save`."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, list[Mapping[str, np.ndarray]]] = defaultdict(list)
        self._steps: dict[int, list[tuple[np.ndarray, float, bool, bool]]] = defaultdict(list)

    def submit(self, policy: ChunkPolicy, run: Run, step: int) -> None:
        def see(episode: int, observation: Mapping[str, np.ndarray], _: Any) -> None:
            self._seen[episode].append({name: array.copy() for name, array in observation.items()})

        def keep(episode: int, *values: Any) -> None:
            self._steps[episode].append(values)

        task, seed, count = run.resolved_task, run.seed, run.eval_episodes
        rows = evaluate(policy, task, seed=seed, step=step, episodes=count, observations=see, steps=keep)
        self._done.append((run, step, rows))

    def save(self, path: Path) -> None:
        """Write the file: observations/NAME (N, *shape), actions (N, act), rewards, terminals, timeouts and success
        (N,), one row per step.  UserError if it cannot be written."""
        rows: dict[str, Any] = defaultdict(list)
        for episode, steps in sorted(self._steps.items()):
            for row, (action, reward, terminated, success) in enumerate(steps):
                for name, array in self._seen[episode][row].items():
                    rows[f"observations/{name}"].append(array)
                rows["actions"].append(np.asarray(action, np.float32))
                rows["rewards"].append(np.float32(reward))
                rows["terminals"].append(terminated)
                rows["timeouts"].append(row == len(steps) - 1 and not terminated)
                rows["success"].append(success)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part, open(part, "wb") as file:
                arrays: dict[str, Any] = {name: np.stack(values) for name, values in rows.items()}
                np.savez_compressed(file, **arrays)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}. Choose another --record") from error
