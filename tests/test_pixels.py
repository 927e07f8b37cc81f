"""Visual tasks: their frames, the files that hold them, and policies that act on them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ogbench
import pytest
from small import small_hyperparameters

from analysis.numbers.published import records
from lps.__main__ import main
from lps.agents import AGENTS
from lps.errors import UserError
from lps.evaluation.evaluators import InlineEvaluator, PoolEvaluator
from lps.evaluation.rollout import evaluate
from lps.policy.file import load_policy, save_policy
from lps.policy.policy import Policy
from lps.runs.run import Run
from lps.spaces import FrameStack, Space, stacked
from lps.tasks import rendering
from lps.tasks.ogbench_collect import collect
from lps.tasks.ogbench_data import published
from lps.tasks.suites import groups, load_dataset, make_env

GROUPS = groups("ogbench")
SMALL = GROUPS["visual-pointmaze-medium"]
TINY = {"encoder_width": 0.25, "frame_stack": 2}


@pytest.fixture(scope="module")
def renderer() -> None:
    """Skip where nothing renders."""
    try:
        rendering.use_renderer()
    except UserError as error:
        pytest.skip(str(error))


def frames_file(directory: Path, **changes: Any) -> Path:
    """A file of visual-pointmaze-medium with random frames: three episodes of 20 steps, the last at the first goal."""
    rng, rows = np.random.default_rng(0), 60
    goal = np.array([20.0, 20.0])
    arrays = {
        "observations": rng.integers(0, 256, (rows, 32, 32, 3)).astype(np.uint8),
        "actions": rng.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "terminals": np.arange(rows) % 20 == 19,
        "qpos": np.where(np.arange(rows)[:, None] >= 50, goal, 0.0).astype(np.float32),
        "qvel": np.zeros((rows, 2), np.float32),
    }
    np.savez_compressed(path := directory / "mine.npz", **{**arrays, **changes})
    return path


def load(path: Path) -> Any:
    return load_dataset(SMALL, dataset=path.stem, data_dir=path.parent)


def policy(run: Run) -> Policy:
    """An untrained policy."""
    task, config = run.resolved_task, run.config
    observation = stacked(task.observation, config.frame_stack)
    return Policy.of_member(AGENTS[run.agent]([config], [run.seed], observation, task.action.shape[0]), 0, run, 0)


# --- Tasks ------------------------------------------------------------------------------------------------------------


def test_a_visual_group_is_its_group_of_states_in_frames():
    visual = {group for group in GROUPS if group.startswith("visual-")}
    assert len(visual) == 17
    for group in visual:
        for ours, states in zip(GROUPS[group], GROUPS[group.removeprefix("visual-")], strict=True):
            size = 32 if "pointmaze" in group else 64
            assert ours.observation == {"pixels": Space((size, size, 3), "uint8")}
            same = ("action", "horizon", "max_episode_steps", "metric")
            assert all(getattr(ours, name) == getattr(states, name) for name in same)
            assert ours.options["reward"] == states.options["reward"]
            assert (ours.name, ours.dataset) == (f"visual-{states.name}", f"visual-{states.dataset}")
            assert published(ours.dataset) == ("pointmaze" not in group), "the small maze is not OGBench's"


def test_the_frames_show_where_the_point_is(renderer: None):
    env = make_env(SMALL[0], render=True)
    first, _ = env.reset(seed=3)
    assert first.shape == env.observation_space.shape == (32, 32, 3) and first.dtype == np.uint8
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    core: Any = env.unwrapped
    places = []
    for cell in ((1, 1), (6, 6), (3, 3)):
        core.set_xy(np.array(core.ij_to_xy(cell)))
        yellow = (core.get_ob()[..., :2] > 150).all(-1) & (core.get_ob()[..., 2] < 60)
        assert 4 <= yellow.sum() <= 25
        places.append(np.argwhere(yellow).mean(0))
    assert np.linalg.norm(places[0] - places[1]) > 20 and np.linalg.norm(places[0] - places[2]) > 8
    assert env.render().shape == (480, 480, 3), "videos show the policy's frames, enlarged"


@pytest.mark.slow
@pytest.mark.parametrize("group", [group for group in GROUPS if group.startswith("visual-")])
def test_every_visual_environment_has_the_frames_of_its_task(group: str, renderer: None):
    env = make_env(task := GROUPS[group][0])
    observation, _ = env.reset(seed=0)
    assert Space(observation.shape, str(observation.dtype)) == task.observation["pixels"]
    assert env.action_space.shape == task.action.shape
    moved = env.step(env.action_space.sample())[0]
    assert moved.shape == observation.shape and observation.std() > 10


def test_rendering_is_tried_without_a_display_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    assert rendering.backends() == ["egl", "osmesa"]
    monkeypatch.setenv("DISPLAY", ":0")
    assert rendering.backends() == ["egl", "osmesa", "glfw"]
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert rendering.backends() == ["osmesa"]


def test_where_nothing_renders_the_error_says_what_was_tried(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MUJOCO_GL", "crayons")
    with pytest.raises(UserError, match=r"cannot render on this machine \(crayons: .*apt-get install libosmesa6"):
        make_env(SMALL[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pointmaze-medium-navigate", "visual-pointmaze-medium-navigate"])
def test_workers_that_cannot_load_mujoco_say_why(kind: str, tmp_path: Path):
    command = [sys.executable, "-m", "lps", "collect", kind, "--episodes", "2", "--workers", "2"]
    environment = {**os.environ, "MUJOCO_GL": "crayons"}
    done = subprocess.run([*command, "--data-dir", str(tmp_path)], capture_output=True, text=True, env=environment)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and "crayons" in last and "memory" not in last


# --- Files ------------------------------------------------------------------------------------------------------------


def test_frames_become_one_map_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lps.tasks.ogbench_data.BLOCK_BYTES", 100_000)  # in several blocks
    monkeypatch.setattr(rendering, "use_renderer", lambda: pytest.fail("loading renders nothing"))
    path = frames_file(tmp_path)
    dataset = load(path)
    frames = dataset.observations["pixels"]
    assert isinstance(frames, np.memmap) and frames.dtype == np.uint8
    with np.load(path) as file:
        np.testing.assert_array_equal(frames, file["observations"])
    assert (dataset.rewards[0] == np.where(np.arange(60) >= 50, 0, -1)).all(), "rewards come from the states"
    folder = Path(str(frames.filename)).parent
    assert sum(file.stat().st_size for file in folder.iterdir()) < 60 * (32 * 32 * 3 + 100) + 2000, "there is one copy"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.zeros((60, 64, 64, 3), np.uint8)}, r"shape \(60, 64, 64, 3\).*needs \(60, 32, 32, 3\)"),
        ({"observations": np.zeros((60, 32, 32), np.uint8)}, r"shape \(60, 32, 32\).*Use a dataset of that group"),
        ({"observations": np.zeros((60, 32, 32, 3), np.float32)}, "float32.*needs frames of uint8. Convert them"),
        ({"observations": np.zeros((60, 32, 32, 3), np.int64)}, "int64.*needs frames of uint8"),
    ],
)
def test_other_frames_are_refused(changes: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message) as refused:
        load(frames_file(tmp_path, **changes))
    assert "\n" not in str(refused.value)


def test_a_file_that_ends_in_its_middle_is_refused(tmp_path: Path):
    path = frames_file(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated or damaged"):
        load(path)
    assert not list(tmp_path.glob(".converted/mine-*/*")), "nothing half made counts"


def test_a_disk_that_is_too_small_is_told_before_the_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, used = frames_file(tmp_path), shutil.disk_usage(tmp_path)
    needed = 60 * (32 * 32 * 3 + 2 * 4 + 1 + 2 * 5 * 4)
    monkeypatch.setattr("shutil.disk_usage", lambda _: used._replace(free=needed - 1))
    monkeypatch.setattr("lps.tasks.ogbench_data.create", lambda *_: pytest.fail("the conversion has begun"))
    with pytest.raises(UserError, match=rf"needs {needed:,} bytes .*has {needed - 1:,} .*free. Free the disk"):
        load(path)


def collected(kind: str, directory: Path, **settings: Any) -> tuple[Path, dict[str, np.ndarray]]:
    path = collect(kind, episodes=2, data_dir=directory, progress=False, **settings)
    with np.load(path) as file:
        return path, dict(file)


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        ("pointmaze-medium-navigate", 30),
        *(pytest.param(f"{g}-play", 8, marks=pytest.mark.slow) for g in ("cube-single", "scene", "puzzle-3x3")),
    ],
)
def test_a_file_of_frames_holds_the_trajectories_of_the_file_of_states(
    kind: str, length: int, tmp_path: Path, renderer: None
):
    _, states = collected(kind, tmp_path, episode_length=length)
    path, frames = collected(f"visual-{kind}", tmp_path, episode_length=length)
    assert states.keys() == frames.keys()
    for key in states.keys() - {"observations"}:
        np.testing.assert_array_equal(states[key], frames[key])
    group = f"visual-{kind}".rsplit("-", 1)[0]
    seen = frames["observations"]
    assert seen.dtype == np.uint8 and seen.shape[1:] == GROUPS[group][0].observation["pixels"].shape
    assert (seen[1] != seen[length - 1]).any()
    # OGBench's loader reads the file, and so do we: the same frames, rewards and masks.
    _, train, val = ogbench.make_env_and_datasets(GROUPS[group][1].name, dataset_path=str(path))
    ours = load_dataset(GROUPS[group], dataset=path.stem, data_dir=tmp_path)
    starts = ours.starts(1)
    np.testing.assert_array_equal(train["observations"], ours.observations["pixels"][starts])
    np.testing.assert_array_equal(train["next_observations"], ours.observations["pixels"][starts + 1])
    np.testing.assert_array_equal(train["masks"], ours.masks[1, starts])
    assert len(val["observations"]) == length - 1 and val["observations"].dtype == np.uint8


@pytest.mark.slow
def test_the_bytes_of_frames_do_not_depend_on_the_number_of_workers(tmp_path: Path, renderer: None):
    for workers in (1, 2):
        collected("visual-pointmaze-medium-navigate", tmp_path / str(workers), episode_length=20, workers=workers)
    name = "visual-pointmaze-medium-navigate-2.npz"
    assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


# --- Policies ---------------------------------------------------------------------------------------------------------


def test_a_stack_begins_with_the_first_frame():
    stack = FrameStack({"camera": Space((2, 2, 1), "uint8"), "arm": Space((1,))}, 3)
    for _ in range(2):
        stack.reset()
        found = []
        for step in range(4):
            seen = stack({"camera": np.full((2, 2, 1), step, np.uint8), "arm": np.array([step])})
            assert seen["camera"].shape == (2, 2, 3) and seen["arm"].tolist() == [step]
            found.append(seen["camera"][0, 0].tolist())
        assert found == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]


def test_a_rollout_stacks_frames(renderer: None):
    class Watcher:
        noise_dim, frame_stack = 0, 3

        def __init__(self) -> None:
            self.asked: list[np.ndarray] = []

        def act_batch(self, observations: Any, noise: Any) -> np.ndarray:
            self.asked.append(observations["pixels"])
            return np.full((len(self.asked[-1]), 2, 2), 0.9)

    watcher, frames = Watcher(), list[np.ndarray]()
    task = replace(SMALL[0], max_episode_steps=5)
    evaluate(watcher, task, seed=0, step=0, episodes=1, observations=lambda _, seen, __: frames.append(seen["pixels"]))
    for asked, at in zip(watcher.asked, ([0, 0, 0], [0, 1, 2], [2, 3, 4]), strict=True):
        np.testing.assert_array_equal(asked[0], np.concatenate([frames[i] for i in at], -1))


@pytest.mark.parametrize("agent", ["lps", "dsrl", "cfgrl"])
def test_a_policy_of_frames_is_one_file_that_loads_lightly(agent: str, tmp_path: Path):
    run = Run.create(agent, SMALL[0].name, 1, **(small_hyperparameters(agent) | TINY))
    made = policy(run)
    save_policy(made, path := tmp_path / "policy.safetensors")
    assert made.metadata["frame_stack"] == 2 and made.metadata["observation"] == {"pixels": [[32, 32, 6], "uint8"]}
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 6)).astype(np.uint8)
    np.save(tmp_path / "frame.npy", frame)
    script = f"""
import sys
import numpy, torch, safetensors.torch
known = {{name.partition(".")[0] for name in sys.modules}}
from lps.policy.file import load_policy
actions = load_policy({str(path)!r}).act(numpy.load({str(tmp_path / "frame.npy")!r}))
print(*({{name.partition(".")[0] for name in sys.modules}} - known - set(sys.stdlib_module_names)))
print(actions.tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded, actions = done.stdout.splitlines()
    assert loaded == "lps"
    np.testing.assert_allclose(json.loads(actions), made.act(frame), atol=1e-6)
    with pytest.raises(UserError, match=r"'pixels' of uint8 \(32, 32, 3\). It needs uint8 \(32, 32, 6\)"):
        load_policy(path).act(frame[..., :3])


@pytest.mark.slow
def test_workers_evaluate_frames_as_this_process_does(renderer: None, monkeypatch: pytest.MonkeyPatch):
    run = Run.create("lps", SMALL[0].name, 1, eval_episodes=3, **(small_hyperparameters("lps") | TINY))
    made, found = policy(run), []
    for evaluator in (InlineEvaluator(), PoolEvaluator(2)):
        try:
            evaluator.submit(made, run, 0)
            ((_, _, episodes),) = evaluator.poll(wait=True)
        finally:
            evaluator.close()
        found.append(episodes)
    assert found[0] == found[1] and len(found[0]) == 3


@pytest.mark.slow
def test_training_evaluating_filming_and_drawing_from_frames(tmp_path: Path, renderer: None, capsys: Any):
    path = frames_file(tmp_path)
    widths = [f"{name}=[16,16]" for name in small_hyperparameters("lps") if name.endswith("_hidden")]
    settings = ["--set", "batch_size=4", "encoder_width=0.25", "frame_stack=2", *widths]
    length = ["--steps", "4", "--eval-interval", "4", "--eval-episodes", "1"]
    data = ["--dataset", path.stem, "--data-dir", str(tmp_path), "--results", str(tmp_path / "results")]
    assert main(["train", "--agent", "lps", "--task", SMALL[0].name, *length, *data, *settings]) == 0
    (checkpoint,) = (tmp_path / "results").glob("checkpoints/*.pt")
    assert main(["export", str(checkpoint), str(tmp_path / "p.safetensors")]) == 0
    assert main(["evaluate", str(tmp_path / "p.safetensors"), "--episodes", "1"]) == 0
    assert f"over 1 episodes of {SMALL[0].name}" in capsys.readouterr().out
    assert main(["trajectories", str(checkpoint), str(tmp_path / "t.npz"), "--episodes", "1"]) == 0
    with np.load(tmp_path / "t.npz") as drawn:
        steps = np.isfinite(drawn["positions"][0, 0]).all(1).sum()
        assert steps > 2 and np.isnan(drawn["values"]).all()
    pytest.importorskip("imageio_ffmpeg")
    assert main(["video", str(checkpoint), str(tmp_path / "v.gif")]) == 0 and (tmp_path / "v.gif").stat().st_size > 0


def test_published_numbers_of_visual_groups_have_the_rewards_of_our_tasks():
    (record,) = records("visual-cube-single", "task1")
    assert (record.by, record.mean) == ("ReBRAC", 0.83)
    assert records("visual-cube-double")[0].by == "Value Flows"
    assert not records("visual-scene", "task1"), "those are with other rewards"
