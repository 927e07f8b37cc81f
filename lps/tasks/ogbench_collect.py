"""Datasets that OGBench's scripted oracles collect (lps.tasks.ogbench_oracles), in its own file format.

Every episode draws from its own random streams, keyed by (seed, split, episode).  So the file does not depend on the
number of workers.
"""

import functools
import hashlib
import json
import os
import platform
import shutil
import zipfile
from collections.abc import Generator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lps.data.cache import BROKEN, record
from lps.data.names import data_dir as find_data_dir
from lps.data.names import plain_name
from lps.errors import UserError, suggest
from lps.files import locked, make_dir, replacing
from lps.tasks.ogbench_data import collect_command, default_name
from lps.tasks.ogbench_oracles import NOISE_SMOOTHING, Oracle, make_oracle, recipes
from lps.workers import WorkerPool

DTYPES = {
    "observations": np.float32,  # uint8 where they are frames
    "actions": np.float32,
    "terminals": np.bool_,
    "qpos": np.float32,
    "qvel": np.float32,
    "button_states": np.int64,  # only where there are buttons
}

EpisodeJob = tuple[str, int, int]
"""Split ('train' or 'val'), number of the episode in it, rows of the episode."""
CollectorArguments = tuple[str, int, float, Path]
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
    episode_length: int | None = None,
    noise: float | None = None,
) -> Path:
    """Collect a dataset and return the path of its npz file, which OGBench's loader reads.

    Args:
        dataset: kind, such as 'cube-single-play' or 'pointmaze-medium-navigate', with or without '-v0'.
        episodes: number of episodes.
        name: of the file, without .npz; by default such as 'cube-single-play-1000'.
        val: whether to collect a tenth as many episodes, at least one, into NAME-val.npz too.
        episode_length: rows of an episode; by default OGBench's.
        noise: standard deviation of the oracle's noise (lps.tasks.ogbench_oracles.Recipe); by default OGBench's.

    Arrays of the file, one row per step: observations, actions, terminals, qpos, qvel, and button_states where there
    are buttons.  NAME.json has the settings and the command, NAME.npz.sha256 the checksum.

    The bytes depend only on dataset, episodes, noise, seed, the versions of OGBench and MuJoCo, and the kind of
    processor, by which BLAS and the C library round; not on `workers`.  The same call resumes after an interruption,
    and returns at once when the file is there.  UserError: unknown dataset, a value out of range, or a file of this
    name that was made otherwise.
    """
    kind = dataset.removesuffix("-v0")
    if kind not in (known := recipes()):
        raise UserError(suggest(dataset, known, "dataset to collect"))
    recipe = known[kind]
    noise = recipe.noise if noise is None else noise
    episode_length = recipe.rows if episode_length is None else episode_length
    for argument, value, least in (("episodes", episodes, 1), ("workers", workers, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"{argument} must be at least {least}, not {value}. Correct the argument of collect")
    if not 0 <= noise <= 1:
        raise UserError(f"noise must be from 0 to 1, not {noise}. Correct the argument of collect")
    name = plain_name(name, "--name") if name is not None else default_name(dataset, episodes)
    directory = find_data_dir(data_dir)
    path = directory / f"{name}.npz"
    splits = {"train": episodes} | ({"val": max(1, episodes // 10)} if val else {})
    settings = {
        "dataset": f"{kind}-v0",
        "episodes": splits,
        "episode_length": episode_length,
        "seed": seed,
        "noise": noise,
        **({"noise_smoothing": NOISE_SMOOTHING} if kind.endswith("-play") else {}),
    }
    versions = {package: version(package) for package in ("ogbench", "mujoco", "numpy")}
    key = hashlib.sha256(json.dumps([settings, versions], sort_keys=True).encode()).hexdigest()[:12]
    parts = directory / ".collecting" / f"{name}-{key}"

    with locked(directory / ".collecting" / f"{name}.lock", f"it is collecting {path}"):
        if _finished(path, settings) and all(_file(path, split).exists() for split in splits):
            return path
        make_dir(parts)
        jobs: list[EpisodeJob] = [
            (s, episode, episode_length) for s, count in splits.items() for episode in range(count)
        ]
        todo = [job for job in jobs if not _intact(_part(parts, job))]
        bar = tqdm(
            total=len(jobs), initial=len(jobs) - len(todo), desc=f"collecting {name}", unit="ep", disable=not progress
        )
        with bar, closing(_run((recipe.group, seed, noise, parts), todo, workers)) as finished:
            for _ in finished:
                bar.update()
        about = {
            "made_by": "python -m lps collect",
            "command": collect_command(settings, name),
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


def _finished(path: Path, settings: dict[str, Any]) -> bool:
    """Whether `path` was collected with exactly these settings. UserError if it is something else."""
    if not path.exists():
        return False
    try:
        about = json.loads(path.with_suffix(".json").read_text())
    except FileNotFoundError:
        raise UserError(f"{path} exists and was not collected here. Give another --name or --data-dir") from None
    except ValueError:
        raise UserError(f"{path.with_suffix('.json')} is not readable as JSON. Remove it and {path}") from None
    other = [f"{key} {about.get(key)!r}, not {value!r}" for key, value in settings.items() if about.get(key) != value]
    if other:
        raise UserError(f"{path} was collected with {'; '.join(other)}. Give another --name, or remove the file")
    return True


def _run(how: CollectorArguments, todo: Sequence[EpisodeJob], workers: int) -> Generator[EpisodeJob, None, None]:
    """Collects the episodes of `todo` into their part files, in any order."""
    if workers == 1 or len(todo) <= 1:
        for job in todo:
            yield _work(how, job)
        return
    pool = WorkerPool(min(workers, len(todo)))
    try:
        for done in as_completed([pool.submit(_work, how, job) for job in todo]):
            yield done.result()
    except BrokenProcessPool:
        raise UserError(
            "a worker of collect was killed, perhaps because memory ran out. Repeat the command with fewer --workers; "
            "finished episodes are kept"
        ) from None
    finally:
        pool.close()


def _work(how: CollectorArguments, job: EpisodeJob) -> EpisodeJob:
    return _collector(*how)(job)


@functools.lru_cache(maxsize=1)
def _collector(group: str, seed: int, noise: float, parts: Path) -> "_Collector":
    """The collector of this process.  It is made by the first job and not when a worker starts, so that its errors
    come out as they are."""
    return _Collector(group, seed, noise, parts)


class _Collector:
    """Collects episodes into their part files."""

    def __init__(self, group: str, seed: int, noise: float, parts: Path):
        self.oracle: Oracle = make_oracle(group, noise)
        self.seed, self.parts = seed, parts

    def __call__(self, job: EpisodeJob) -> EpisodeJob:
        split, episode, rows = job
        streams = np.random.SeedSequence([self.seed, ("train", "val").index(split), episode]).generate_state(2)
        columns = self.oracle.episode(rows, *(int(stream) for stream in streams))
        frames = columns["observations"][0].dtype == np.uint8
        dtypes = DTYPES | ({"observations": np.uint8} if frames else {})
        arrays: dict[str, Any] = {key: np.array(values, dtypes[key]) for key, values in columns.items()}
        with replacing(_part(self.parts, job)) as path, open(path, "wb") as file:
            np.savez_compressed(file, **arrays)
        return job


def _part(parts: Path, job: EpisodeJob) -> Path:
    split, episode, _ = job
    return parts / f"{split}-{episode:06d}.npz"


def _intact(path: Path) -> bool:
    """Whether every array of a part file has its checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, *BROKEN):
        return False


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
