"""Collected play data: what OGBench's files look like, the same bytes however it was made."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ogbench
import pytest

from lps.__main__ import main
from lps.errors import UserError
from lps.tasks import ogbench as ogbench_suite
from lps.tasks.ogbench_collect import collect
from lps.tasks.ogbench_oracles import PointMaze, recipes
from lps.tasks.suites import groups

LENGTH = 12


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in recipes() if not kind.startswith("visual-")])  # tests/test_pixels.py
def test_every_group_makes_files_that_ogbench_reads(kind: str, tmp_path: Path):
    path = collect(kind, episodes=2, data_dir=tmp_path, episode_length=LENGTH, progress=False)
    assert path == tmp_path / f"{kind}-2.npz", "no name of OGBench's"
    group = recipes()[kind].group
    assert not list((tmp_path / ".collecting").glob("*.npz")), "the parts are cleared away"
    task = groups("ogbench")[group][0]
    for file, episodes in ((path, 2), (tmp_path / f"{kind}-2-val.npz", 1)):
        with np.load(file) as arrays:
            data = dict(arrays)
        buttons = {"button_states": np.dtype("int64")} if group.startswith(("scene", "puzzle")) else {}
        float32 = dict.fromkeys(("observations", "actions", "qpos", "qvel"), np.dtype("float32"))
        assert {key: array.dtype for key, array in data.items()} == float32 | {"terminals": np.dtype(bool)} | buttons
        assert {len(array) for array in data.values()} == {episodes * LENGTH}
        assert data["observations"].shape[1:] == task.observation["state"].shape
        assert data["actions"].shape[1:] == task.action.shape
        np.testing.assert_array_equal(np.flatnonzero(data["terminals"]) % LENGTH, LENGTH - 1)
        assert np.abs(data["actions"]).max() <= 1
        # The state of a row is the state that was observed in it: the arm's joints come first in both.
        np.testing.assert_array_equal(data["qpos"][:, :6], data["observations"][:, :6])

    env, train, val = ogbench.make_env_and_datasets(task.name, dataset_path=str(path))
    assert env.observation_space.shape == train["observations"].shape[1:]
    assert [len(split["rewards"]) for split in (train, val)] == [2 * (LENGTH - 1), LENGTH - 1]


def test_the_point_follows_the_oracle_to_goal_after_goal(tmp_path: Path):
    path = collect("pointmaze-medium-navigate", episodes=1, data_dir=tmp_path, val=False, progress=False)
    with np.load(path) as data:
        xy, actions, terminals = data["observations"], data["actions"], data["terminals"]
    assert len(xy) == 1001 and terminals.sum() == 1
    cells = np.round((xy + 4) / 4).astype(int)
    assert len(np.unique(cells, axis=0)) > 15, "it goes all over the maze"
    assert np.abs(actions).max() <= 1
    maze: Any = PointMaze("pointmaze-medium", 0.0)
    assert all(maze.env.maze_map[y, x] == 0 for x, y in cells)
    assert len(maze.goals) < len(maze.cells), "goals are at ends and corners, as OGBench's"


def test_bytes_of_the_maze_do_not_depend_on_the_number_of_workers(tmp_path: Path):
    files = [
        collect("pointmaze-teleport-navigate", episodes=3, workers=workers, data_dir=tmp_path / str(workers), val=False)
        for workers in (1, 2)
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    with np.load(files[0]) as data:
        assert len(np.unique(data["observations"][::1001], axis=0)) == 3, "every episode is another one"


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path):
    # In the scene, an environment remembers the most from one episode to the next: locks, buttons, targets.
    before = np.random.get_state(legacy=False)
    for workers in (1, 2):
        directory = tmp_path / str(workers)
        collect("scene-play", episodes=3, workers=workers, data_dir=directory, episode_length=120, progress=False)
    for name in ("scene-play-3.npz", "scene-play-3-val.npz", "scene-play-3.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    np.testing.assert_equal(np.random.get_state(legacy=False), before, "the caller's random stream is left alone")
    with (
        np.load(tmp_path / "1" / "scene-play-3.npz") as train,
        np.load(tmp_path / "1" / "scene-play-3-val.npz") as val,
    ):
        starts = [*train["qpos"][::120], *val["qpos"][::120]]
    assert len(np.unique(starts, axis=0)) == 4, "every episode is another one"


@pytest.mark.slow
def test_killed_collection_goes_on_where_it_was(tmp_path: Path):
    script = f"""
from lps.tasks.ogbench_collect import collect
if __name__ == "__main__":
    collect("cube-single-play", episodes=16, workers=2, seed=3, data_dir={str(tmp_path)!r}, name="mine", val=False,
            episode_length=50, progress=False)
"""
    file = tmp_path / "run.py"
    file.write_text(script)
    process = subprocess.Popen([sys.executable, str(file)], start_new_session=True)
    while not (parts := list(tmp_path.glob(".collecting/*/train-*.npz"))):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "mine.npz").exists()
    for _ in range(600):  # the workers notice, and go
        if not _alive(process.pid):
            break
        time.sleep(0.1)
    else:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("the workers outlive their parent")

    done = {part: part.stat().st_mtime_ns for part in parts}
    parts[0].write_bytes(parts[0].read_bytes()[:1000])  # a full disk or a power cut can leave this
    if len(parts) > 1:  # a whole archive with a byte that a disk has flipped
        data = bytearray(parts[1].read_bytes())
        data[len(data) // 2] ^= 1
        parts[1].write_bytes(data)
    kept = parts[2:]
    link = tmp_path / "kept"
    link.mkdir()
    for part in kept:
        (link / part.name).hardlink_to(part)
    settings: dict[str, Any] = dict(episodes=16, seed=3, val=False, episode_length=50, progress=False)
    resumed = collect("cube-single-play", data_dir=tmp_path, name="mine", **settings)
    for part in kept:
        assert (link / part.name).stat().st_mtime_ns == done[part], "finished episodes are not made again"
    assert not list(tmp_path.glob(".collecting/*/*")), "the parts are cleared away"
    fresh = collect("cube-single-play", data_dir=tmp_path, name="fresh", **settings)
    assert resumed.read_bytes() == fresh.read_bytes()


def _alive(group: int) -> bool:
    """Whether a process of this process group still runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_finished_collection_is_not_made_again_nor_overwritten(tmp_path: Path):
    settings: dict[str, Any] = dict(episodes=1, data_dir=tmp_path, name="mine", episode_length=5, progress=False)
    path = collect("cube-single-play-v0", seed=0, **settings)
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["dataset"] == "cube-single-play-v0"
    assert about["episodes"] == {"train": 1, "val": 1}
    assert about["seed"] == 0
    assert about["command"].startswith("python -m lps collect cube-single-play-v0 --episodes 1 --seed 0 --name mine")
    content, changed = path.read_bytes(), path.stat().st_mtime_ns
    assert collect("cube-single-play", seed=0, **settings) == path
    assert path.stat().st_mtime_ns == changed
    with pytest.raises(UserError, match="seed 0, not 1"):
        collect("cube-single-play", seed=1, **settings)
    with pytest.raises(UserError, match="dataset 'cube-single-play-v0', not 'scene-play-v0'"):
        collect("scene-play", seed=0, **settings)
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match="was not collected here"):
        collect("cube-single-play", seed=0, **settings)
    assert path.read_bytes() == content


def test_other_seeds_make_other_episodes(tmp_path: Path):
    observations = []
    for seed in (0, 1):
        path = collect(
            "cube-double-play", episodes=1, seed=seed, data_dir=tmp_path / str(seed), episode_length=5, progress=False
        )
        observations += [np.load(file)["observations"] for file in (path, path.with_stem(f"{path.stem}-val"))]
    assert len(np.unique(observations, axis=0)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "cube-singel-play"}, "cube-single-play"),
        ({"dataset": "cube-single-noisy"}, "unknown dataset"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"name": "a/b"}, "--data-dir a --name b"),
        ({"name": ""}, "--name takes the name"),
        ({"noise": 2}, "noise must be from 0 to 1"),
    ],
)
def test_senseless_arguments(arguments: dict, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        collect(**({"dataset": "cube-single-play", "episodes": 1, "data_dir": tmp_path} | arguments))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cube-single-play-v0", "scene-play-v0.npz", "cube-single-play-v0-val"])
def test_the_suite_gives_no_dataset_the_name_of_ogbenchs(name: str, tmp_path: Path):
    with pytest.raises(UserError, match="OGBench's own.*such as cube-single-play-7"):
        ogbench_suite.collect("cube-single-play", episodes=7, name=name, data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_collects_and_says_how_to_train_on_it(tmp_path: Path, capsys: Any):
    arguments = ["--episodes", "1", "--workers", "1", "--data-dir", str(tmp_path)]
    assert main(["collect", "pointmaze-medium-navigate", *arguments, "--name", "mine"]) == 0
    assert "--dataset mine" in capsys.readouterr().out
    about = json.loads((tmp_path / "mine.json").read_text())
    assert about["noise"] == 0.5 and about["episode_length"] == 1001, "OGBench's recipe"
    for wrong in (["antmaze-large-navigate"], ["scene-play", "--suite", "ring"], ["scene-play", "--noise", "2"]):
        assert main(["collect", *wrong, *arguments]) == 2
