"""Play datasets made on the spot: OGBench's scripted oracles act in its environments, as for its own datasets.

The recipe is OGBench's (data_gen_scripts/generate_manipspace.py, dataset type 'play'): an oracle follows a noisy plan
to a random target, and gets a new target whenever its plan is done. Every episode draws from its own random streams,
keyed by (seed, split, episode), so the file does not depend on how many workers made it.
"""

import hashlib
import json
import os
import platform
import shutil
import zipfile
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lps.data.integrity import record
from lps.data.names import NOISE, default_name, plain_name
from lps.data.names import data_dir as find_data_dir
from lps.errors import UserError, suggest
from lps.files import locked, make_dir, replacing
from lps.tasks.suites import groups
from lps.workers import WorkerPool

NOISE_SMOOTHING = 0.5
"""OGBench's smoothing of the noise on the plan over time."""

# Range that each episode draws its probability of stacking from, in the groups with several cubes.
STACKING = {"cube-double": (0.0, 0.25), "cube-triple": (0.05, 0.35), "cube-quadruple": (0.1, 0.5)}

DTYPES = {
    "observations": np.float32,
    "actions": np.float32,
    "terminals": np.bool_,
    "qpos": np.float32,
    "qvel": np.float32,
    "button_states": np.int64,  # only where there are buttons
}

Job = tuple[str, int, int]
"""Split ('train' or 'val'), number of the episode in it, rows of the episode."""
How = tuple[str, int, float, Path]
"""Group, seed, noise, and the folder of the part files."""


def collect(
    dataset: str,
    *,
    episodes: int,
    workers: int = 1,
    seed: int = 0,
    name: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    val: bool = True,
    progress: bool = True,
    episode_length: int = 1001,
    noise: float = NOISE,
) -> Path:
    """Collects a play dataset and returns the path of its npz file, which OGBench's loader reads.

    `dataset` is the kind that OGBench has ('cube-single-play', with or without '-v0'); the file is called `name`.npz,
    by default 'cube-single-play-1000' with 1000 `episodes`: OGBench's own name would pass it off as theirs. With
    `val`, `name`-val.npz gets a tenth as many episodes more, at least one. `name`.json says how the files were made,
    `name`.npz.sha256 what they are checked against (lps.data.integrity). An episode has `episode_length` rows:
    observations, actions, terminals, qpos, qvel and button_states where there are buttons. `noise` is the standard
    deviation of what is added to the oracles' plans, times the range of each action.

    The bytes depend only on dataset, episodes, noise, seed, the versions of OGBench and MuJoCo, and the kind of
    processor, by which BLAS and C library round; not on `workers`.
    Finished episodes are kept: the same call goes on after an interruption, and returns at once when all is there.
    UserError: unknown dataset, senseless numbers or name, or a file in the way that was made otherwise.
    """
    group = _group(dataset)
    for argument, value, least in (("episodes", episodes, 1), ("workers", workers, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"collect: {argument} must be at least {least}, not {value}")
    if not 0 <= noise <= 1:
        raise UserError(f"collect: noise must be from 0 to 1, not {noise}")
    name = plain_name(name, "--name") if name is not None else default_name(dataset, episodes)
    directory = find_data_dir(data_dir)
    path = directory / f"{name}.npz"
    splits = {"train": episodes} | ({"val": max(1, episodes // 10)} if val else {})
    settings = {
        "dataset": f"{group}-play-v0",
        "episodes": splits,
        "episode_length": episode_length,
        "seed": seed,
        "noise": noise,
        "noise_smoothing": NOISE_SMOOTHING,
    }
    versions = {package: version(package) for package in ("ogbench", "mujoco", "numpy")}
    key = hashlib.sha256(json.dumps([settings, versions], sort_keys=True).encode()).hexdigest()[:12]
    parts = directory / ".collecting" / f"{name}-{key}"

    with locked(directory / ".collecting" / f"{name}.lock", f"it is collecting {path}"):
        if _finished(path, settings) and all(_file(path, split).exists() for split in splits):
            return path
        make_dir(parts)
        jobs: list[Job] = [(s, episode, episode_length) for s, count in splits.items() for episode in range(count)]
        todo = [job for job in jobs if not _intact(_part(parts, job))]
        bar = tqdm(
            total=len(jobs), initial=len(jobs) - len(todo), desc=f"collecting {name}", unit="ep", disable=not progress
        )
        with bar, closing(_run((group, seed, noise, parts), todo, workers)) as finished:
            for _ in finished:
                bar.update()
        about = {
            "made_by": "python -m lps collect",
            **settings,
            "versions": {"python": platform.python_version(), **versions},
        }
        # The train file comes last: when it is there, so is everything else.
        if val:
            _join([_part(parts, job) for job in jobs if job[0] == "val"], _file(path, "val"))
        with replacing(path.with_suffix(".json")) as file:
            file.write_text(json.dumps(about, indent=2) + "\n")
        _join([_part(parts, job) for job in jobs if job[0] == "train"], path)
        shutil.rmtree(parts)
    return path


def _file(path: Path, split: str) -> Path:
    return path if split == "train" else path.with_stem(f"{path.stem}-{split}")


def _group(dataset: str) -> str:
    known = {f"{group}-play": group for group in groups("ogbench")}
    short = dataset.removesuffix("-v0")
    if short not in known:
        raise UserError(suggest(dataset, known, "dataset"))
    return known[short]


def _finished(path: Path, settings: dict[str, Any]) -> bool:
    """Whether `path` was collected with exactly these settings. UserError if it is something else."""
    if not path.exists():
        return False
    try:
        about = json.loads(path.with_suffix(".json").read_text())
    except FileNotFoundError:
        raise UserError(f"{path} exists and was not collected here; give another --name or --data-dir") from None
    except ValueError:
        raise UserError(f"{path.with_suffix('.json')} is not readable as JSON; remove it and {path}") from None
    other = [f"{key} {about.get(key)!r}, not {value!r}" for key, value in settings.items() if about.get(key) != value]
    if other:
        raise UserError(f"{path} was collected with {'; '.join(other)}; give another --name, or remove the file")
    return True


def _run(how: How, todo: Sequence[Job], workers: int) -> Generator[Job, None, None]:
    """Collects the episodes of `todo` into their part files, in any order."""
    if workers == 1 or len(todo) <= 1:
        collector = _Collector(*how)
        for job in todo:
            collector(job)
            yield job
        return
    pool = WorkerPool(min(workers, len(todo)), _make_collector, *how)
    try:
        for done in as_completed([pool.submit(_work, job) for job in todo]):
            yield done.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker of collect was killed (out of memory?); the finished episodes are kept: run it again, "
            "perhaps with fewer workers"
        ) from None
    finally:
        pool.close()


_collector: "_Collector | None" = None  # one per worker process


def _make_collector(group: str, seed: int, noise: float, parts: Path) -> None:
    global _collector
    _collector = _Collector(group, seed, noise, parts)


def _work(job: Job) -> Job:
    assert _collector is not None
    return _collector(job)


class _Collector:
    """An environment and its oracles, used for many episodes one after the other."""

    def __init__(self, group: str, seed: int, noise: float, parts: Path):
        from lps.tasks.ogbench_env import import_ogbench

        import_ogbench()

        import gymnasium
        from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
        from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
        from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
        from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

        self.group, self.seed, self.parts = group, seed, parts
        self.env = gymnasium.make(
            f"{group}-v0", terminate_at_goal=False, mode="data_collection", disable_env_checker=True
        ).unwrapped
        # The first reset also compiles the model. Without this one, a worker's first episode would start otherwise.
        self.env.reset(seed=0)
        noisy: dict[str, Any] = {"env": self.env, "noise": noise, "noise_smoothing": NOISE_SMOOTHING}
        self.oracles = {
            "cube": CubePlanOracle(**noisy),
            "button": ButtonPlanOracle(**noisy, gripper_always_closed=group.startswith("puzzle")),
            "drawer": DrawerPlanOracle(**noisy),
            "window": WindowPlanOracle(**noisy),
        }

    def __call__(self, job: Job) -> Job:
        """Collects one episode into its part file."""
        split, episode, length = job
        streams = np.random.SeedSequence([self.seed, ("train", "val").index(split), episode]).generate_state(2)
        env_seed, oracle_seed = (int(stream) for stream in streams)
        with _numpy_seed(oracle_seed):
            rows = self.episode(length, env_seed)
            while self.group == "scene" and not _cube_in_sight(rows["qpos"]):
                rows = self.episode(length, None)
        with replacing(_part(self.parts, job)) as path, open(path, "wb") as file:
            np.savez(file, **rows)
        return job

    def episode(self, length: int, env_seed: int | None) -> dict[str, Any]:
        """The arrays of one episode, (length, ...) each. Without a seed, the environment's stream goes on."""
        env: Any = self.env
        observation, info = env.reset(seed=env_seed)
        p_stack = np.random.uniform(*STACKING.get(self.group, (0.0, 0.0)))
        oracle = self.oracles[info["privileged/target_task"]]
        oracle.reset(observation, info)
        columns: dict[str, list] = {}
        for step in range(length):
            action = np.clip(oracle.select_action(observation, info), -1, 1)
            next_observation, _, _, _, info = env.step(action)
            row = {
                "observations": observation,
                "actions": action,
                "terminals": step == length - 1,
                "qpos": info["prev_qpos"],
                "qvel": info["prev_qvel"],
            }
            if "prev_button_states" in info:
                row["button_states"] = info["prev_button_states"]
            for key, value in row.items():
                columns.setdefault(key, []).append(value)
            observation = next_observation
            if oracle.done:
                target_observation, target_info = env.set_new_target(p_stack=p_stack)
                oracle = self.oracles[target_info["privileged/target_task"]]
                oracle.reset(target_observation, target_info)
        return {key: np.array(values, dtype=DTYPES[key]) for key, values in columns.items()}


def _cube_in_sight(qpos: np.ndarray) -> bool:
    """OGBench's check of a scene episode: the cube stays within reach, unless it lies in the drawer."""
    _, y, z = qpos[:, 14:17].T
    return not ((y >= 0.29) | ((y <= -0.3) & ((z < 0.06) | (z > 0.08)))).any()


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """The oracles draw from numpy's global stream: seeds it, and gives it back as it was."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def _part(parts: Path, job: Job) -> Path:
    split, episode, _ = job
    return parts / f"{split}-{episode:06d}.npz"


def _intact(path: Path) -> bool:
    return path.exists() and zipfile.is_zipfile(path)


def _join(parts: Sequence[Path], path: Path) -> None:
    """Writes the episodes one after the other into one npz, without holding more than one of them in memory."""
    with np.load(parts[0]) as first:
        keys = {key: first[key] for key in DTYPES if key in first}
    with replacing(path) as part:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, example in keys.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                    shape = (len(parts) * len(example), *example.shape[1:])
                    descr = np.lib.format.dtype_to_descr(example.dtype)
                    header = {"descr": descr, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                    for episode in parts:
                        with np.load(episode) as rows:
                            file.write(np.ascontiguousarray(rows[key]).data)
        record(path, part)
