"""Shared by all tests: one thread, no access to the files and services of the user, and a tiny dataset."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before anything imports torch or ray, which read these once. Processes that tests start inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # by default a local Ray leaves a token in the home directory
os.environ.pop("MLFLOW_TRACKING_URI", None)  # or tests would write to somebody's server

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give torch one thread, an empty data directory, no downloads, and no pauses after failed writes."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPS_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        patch.setenv("LPS_DATA_MIRROR", str(tmp_path_factory.mktemp("mirror")))
        patch.setattr("lps.runs.store.PAUSES", (0.01, 0.02))
        yield


@pytest.fixture(scope="session")
def tiny_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a tiny `cube-single-play-v0`: 4 episodes, and 1 in its validation split."""
    directory = tmp_path_factory.mktemp("tiny-data")
    write_tiny_dataset(directory / "cube-single-play-v0.npz", episodes=4, seed=0)
    write_tiny_dataset(directory / "cube-single-play-v0-val.npz", episodes=1, seed=1)
    return directory


def write_tiny_dataset(path: Path, *, episodes: int, seed: int) -> None:
    """Write a dataset of cube-single in OGBench's format, of about 60 steps an episode.

    Observations, actions and the arm are noise; the cube goes from where one task starts it to that task's goal and on
    to the next task's, staying a while at each. So four episodes hold successes and failures of all five tasks.
    Arrays: observations (N, 28), actions (N, 5), qpos (N, nq), qvel (N, nv) float32, terminals (N,) bool.
    """
    import gymnasium
    import ogbench  # noqa: F401  (registers the environments)

    env = gymnasium.make("cube-single-v0", disable_env_checker=True).unwrapped
    env.reset()
    nq, nv, tasks = env.model.nq, env.model.nv, env.task_infos  # type: ignore[attr-defined]
    env.close()

    rng = np.random.default_rng(seed)
    arrays: dict[str, list[np.ndarray]] = {key: [] for key in ("observations", "actions", "terminals", "qpos", "qvel")}
    for episode in range(episodes):
        steps = int(rng.integers(55, 66))
        first, second = tasks[episode % len(tasks)], tasks[(episode + 1) % len(tasks)]
        way = np.stack([first["init_xyzs"][0], *[first["goal_xyzs"][0]] * 2, *[second["goal_xyzs"][0]] * 2])
        at = np.linspace(0, len(way) - 1, steps)
        cube = np.stack([np.interp(at, np.arange(len(way)), way[:, axis]) for axis in range(3)], axis=1)

        qpos = rng.normal(0, 0.1, (steps, nq))
        qpos[:, 14:17] = cube  # 6 joints of the arm and 8 of the gripper come first
        qpos[:, 17:21] = [1, 0, 0, 0]
        arrays["observations"].append(rng.normal(0, 1, (steps, 28)))
        arrays["actions"].append(rng.uniform(-1, 1, (steps, 5)))
        arrays["terminals"].append(np.arange(steps) == steps - 1)
        arrays["qpos"].append(qpos)
        arrays["qvel"].append(rng.normal(0, 0.1, (steps, nv)))
    np.savez_compressed(
        path,
        **{k: np.concatenate(v).astype(bool if k == "terminals" else np.float32) for k, v in arrays.items()},
    )
