"""Datasets that bring their own rewards: npz in two sets of keys, Minari's folders, and what is refused."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces

from lps.data import minari as minari_reader
from lps.data import npz
from lps.data.episodes import Dataset
from lps.data.readers import Needs
from lps.errors import UserError
from lps.spaces import Space

LIMIT = np.float32(1 - 1e-5)
STATE = Needs({"state": Space((2,))}, np.array([-2, 0], np.float32), np.array([2, 1], np.float32), ("walk",))
BOTH = STATE._replace(
    observations={"pixels": Space((40, 36, 3), "uint8"), "state": Space((2,))}, tasks=("my.suite:up", "my.suite:down")
)


def _arrays(needs: Needs, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random observations, actions and rewards in the keys of an npz file."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {
        f"observations/{name}": (rng.uniform(0, 255, (rows, *space.shape))).astype(space.dtype)
        for name, space in needs.observations.items()
    }
    arrays["actions"] = rng.uniform(needs.low, needs.high, (rows, len(needs.low)))
    arrays["rewards"] = rng.normal(0, 1, rows)
    return arrays


def _flags(rows: int, *true: int) -> np.ndarray:
    return np.isin(np.arange(rows), true)


def _saved(path: Path, arrays: Mapping[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def _transitions(dataset: Dataset, name: str) -> list[tuple[np.ndarray, np.ndarray, float, float, np.ndarray]]:
    """(observation, action in the environment's units, reward, mask, next observation) of the first task."""
    observations, actions = dataset.observations[name], dataset.scale.to_env(dataset.actions)
    rows = dataset.starts(1)
    return [
        (observations[i], actions[i], float(dataset.rewards[0, i]), float(dataset.masks[0, i]), observations[i + 1])
        for i in rows
    ]


@pytest.mark.parametrize("following", [True, False])
def test_d4rl_keys_keep_true_ends_and_bootstrap_at_timeouts(following: bool, tmp_path: Path):
    arrays = _arrays(STATE, 9)
    arrays |= {"terminals": _flags(9, 2), "timeouts": _flags(9, 6)}  # episodes of 3, 4 and 2 rows, the last cut off
    states = arrays["observations/state"]
    following_states = np.concatenate([states[1:], states[:1]])
    following_states[[2, 6, 8]] = 300.0
    if following:
        arrays["next_observations/state"] = following_states
    dataset = npz.read(_saved(tmp_path / "mine.npz", arrays), STATE)
    transitions = _transitions(dataset, "state")
    kept = list(range(9)) if following else [0, 1, 2, 3, 4, 5, 7]
    assert len(transitions) == len(kept)
    for row, (state, action, reward, mask, after) in zip(kept, transitions, strict=True):
        np.testing.assert_array_equal(state, states[row])
        np.testing.assert_allclose(action, arrays["actions"][row], atol=1e-4)
        assert (reward, mask) == (np.float32(arrays["rewards"][row]), float(row != 2))
        if following or row != 2:
            np.testing.assert_array_equal(after, following_states[row])
    assert not dataset.scale.is_identity and np.abs(dataset.actions).max() <= LIMIT
    assert isinstance(dataset.observations["state"], np.memmap) and dataset.name == "mine"


def test_ogbench_keys_end_with_an_observation(tmp_path: Path):
    arrays = _arrays(STATE, 7)
    arrays["observations"] = arrays.pop("observations/state").astype(np.float64)
    arrays |= {"terminals": _flags(7, 3, 6), "masks": 1.0 - _flags(7, 2)}
    transitions = _transitions(npz.read(_saved(tmp_path / "mine.npz", arrays), STATE), "state")
    assert [mask for *_, mask, _ in transitions] == [1, 1, 0, 1, 1]
    rewards = np.float32(arrays["rewards"])[[0, 1, 2, 4, 5]]
    np.testing.assert_array_equal([reward for _, _, reward, _, _ in transitions], rewards)


def test_several_arrays_and_tasks(tmp_path: Path):
    arrays = _arrays(BOTH, 12)
    arrays["observations.state"] = arrays.pop("observations/state")
    arrays["rewards/up"] = np.arange(12.0)
    arrays |= {"terminals": _flags(12, 5), "timeouts": _flags(12, 11)}
    dataset = npz.read(_saved(tmp_path / "mine.npz", arrays), BOTH)
    assert dataset.tasks == BOTH.tasks and dataset.rewards.shape == (2, 13)
    rows = dataset.starts(1)
    np.testing.assert_array_equal(dataset.rewards[0, rows], np.arange(11))
    np.testing.assert_array_equal(dataset.rewards[1, rows], np.float32(arrays["rewards"][:11]))
    pixels = dataset.observations["pixels"]
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[rows], arrays["observations/pixels"][:11])
    again = npz.read(tmp_path / "mine.npz", BOTH._replace(tasks=("down",)))
    assert len(list((tmp_path / ".converted").glob("mine-*/*"))) == 1, "a selection of tasks is no new conversion"
    np.testing.assert_array_equal(again.rewards[0], dataset.rewards[1])
    arrays["masks/down"] = 1.0 - _flags(12, 3)
    dataset = npz.read(_saved(tmp_path / "mine.npz", arrays | {"infos": np.array([{}] * 12)}), BOTH)
    assert np.flatnonzero(dataset.masks[0, rows] == 0).tolist() == [5], "the true end"
    assert np.flatnonzero(dataset.masks[1, rows] == 0).tolist() == [3], "this task's own masks"
    del arrays["rewards"]
    with pytest.raises(UserError, match="no rewards for the task 'down'. Add the array 'rewards/down'"):
        npz.read(_saved(tmp_path / "mine.npz", arrays), BOTH)


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.update({key: value})


def _drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.pop(key)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_drop("rewards"), "no rewards, and the suite does not compute them. Add"),
        (_drop("actions"), "no array 'actions'. Add"),
        (_drop("observations/state"), "no observations for 'state'. Add"),
        (_set("observations/state", np.zeros((6, 3))), r"float64 \(3,\).*needs.*float32 \(2,\)"),
        (_set("observations/pixels", np.zeros((6, 40, 36, 3))), r"float64 \(40, 36, 3\).*needs.*uint8"),
        (_set("observations/state", np.full((6, 2), np.nan)), "'state' has NaN or infinity in row 0. Repair"),
        (_set("actions", np.full((6, 2), np.inf)), "actions has NaN or infinity in row 0. Repair"),
        (_set("rewards", np.full(6, np.nan)), "rewards has NaN or infinity in row 0. Repair"),
        (_set("actions", np.full((6, 2), 1.5)), r"\[1.5, 1.5\] in row 0 is outside the action space.*Rescale"),
        (_set("actions", np.zeros((6, 3))), r"an action has shape \(3,\)"),
        (_set("rewards", np.zeros((6, 2))), "Write one number per step"),
        (_set("rewards", np.zeros(5)), "rewards 5.*Write one row per step"),
        (_set("terminals", np.full(6, np.nan)), "terminals has NaN or infinity"),
        (_set("terminals", np.zeros(6)), "never true. Mark the last row"),
        (_set("next_observations/state", np.zeros((6, 2))), "no next_observations for 'pixels'"),
        (_set("rewards", np.array([None] * 6)), "rewards is an array of objects"),
    ],
)
def test_unfit_npz(spoil: Callable[[dict[str, Any]], None], message: str, tmp_path: Path):
    arrays: dict[str, Any] = _arrays(BOTH, 6) | {"terminals": _flags(6, 5)}
    spoil(arrays)
    with pytest.raises(UserError, match=message):
        npz.read(_saved(tmp_path / "mine.npz", arrays), BOTH)
    assert not list((tmp_path / ".converted").glob("mine-*/*")), "nothing half converted is left"


# --- Minari -----------------------------------------------------------------------------------------------------------


class Walk(gymnasium.Env):
    """A random walk that ends at 3, seen as numbers and, with `pixels`, as a picture."""

    action_space = spaces.Box(STATE.low, STATE.high)

    def __init__(self, pixels: bool = False):
        state = spaces.Box(-100, 100, (2,), np.float64)
        picture = spaces.Box(0, 255, (40, 36, 3), np.uint8)
        self.pixels = pixels
        self.observation_space = spaces.Dict({"pixels": picture, "state": state}) if pixels else state

    def _see(self) -> Any:
        state = np.array([self.at, self.steps], np.float64)
        return {"pixels": np.full((40, 36, 3), 10 * self.steps, np.uint8), "state": state} if self.pixels else state

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.steps = 0.0, 0
        return self._see(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at, self.steps = self.at + float(action[0]), self.steps + 1
        return self._see(), self.at, self.at > 3, self.steps == 8, {"note": self.at}


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """Makes a dataset with Minari's own package, once for each form."""
    root = tmp_path_factory.mktemp("minari")

    def collect(form: str, pixels: bool) -> Path:
        name = f"walk/{form}{'-pixels' if pixels else ''}-v0"
        if not (root / name).exists():
            env = Walk(pixels)
            env.action_space.seed(0)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MINARI_DATASETS_PATH", str(root))
                minari.create_dataset_from_buffers(
                    name,
                    [_buffer(env) for _ in range(5)],
                    observation_space=env.observation_space,
                    action_space=env.action_space,
                    data_format=form,
                )
        return root / name

    return collect


def _buffer(env: Walk) -> minari.data_collector.EpisodeBuffer:
    seen, steps, over = [env.reset()[0]], [], False
    while not over:
        action = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        steps.append((action, reward, terminated, truncated))
        over = terminated or truncated
    actions, rewards, terminations, truncations = (list(values) for values in zip(*steps, strict=True))
    observations = {key: np.stack([o[key] for o in seen]) for key in seen[0]} if env.pixels else np.stack(seen)
    return minari.data_collector.EpisodeBuffer(
        observations=observations,
        actions=np.stack(actions),
        rewards=rewards,
        terminations=terminations,
        truncations=truncations,
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("form", ["hdf5", "arrow", "parquet"])
def test_minari_folders_are_read_as_minari_reads_them(form: str, pixels: bool, collected: Any, monkeypatch: Any):
    path = collected(form, pixels)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(path.parents[1]))
    needs = BOTH if pixels else STATE
    dataset = minari_reader.read(path, needs)
    theirs = minari.load_dataset(f"walk/{path.name}")
    assert f"walk/{path.name}" in minari.list_local_datasets(), "the conversion beside it does not disturb Minari"
    assert len(dataset.terminals) == theirs.total_steps + theirs.total_episodes
    assert 0 < (dataset.masks == 0).sum(1)[0] < 5, "some episodes end truly, some by truncation"
    start = 0
    for episode in theirs.iterate_episodes():
        steps = len(episode.rewards)
        here = slice(start, start + steps)
        for name, values in episode.observations.items() if pixels else [("state", episode.observations)]:
            np.testing.assert_array_equal(
                dataset.observations[name][start : start + steps + 1], values.astype(needs.observations[name].dtype)
            )
        np.testing.assert_allclose(dataset.scale.to_env(dataset.actions[here]), episode.actions, atol=1e-4)
        np.testing.assert_array_equal(dataset.rewards[:, here], [episode.rewards.astype(np.float32)] * len(needs.tasks))
        np.testing.assert_array_equal(dataset.masks[0, here], 1 - episode.terminations)
        assert dataset.terminals[start : start + steps + 1].tolist() == [False] * steps + [True]
        start += steps + 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unfit_minari_folders(collected: Any, tmp_path: Path):
    path = Path(shutil.copytree(collected("hdf5", False), tmp_path / "walk-v0"))
    about = path / "data" / "metadata.json"
    content = json.loads(about.read_text())
    for change, message in (
        ({"minari_version": "0.6.0"}, "made by Minari 0.6.0.*not supported. Load it"),
        ({"data_format": "zarr"}, "in the form 'zarr'"),
        ({"total_episodes": 0}, "no episodes"),
    ):
        about.write_text(json.dumps(content | change))
        with pytest.raises(UserError, match=message):
            minari_reader.read(path, STATE)
    about.write_text("{}")
    with pytest.raises(UserError, match="is not Minari's"):
        minari_reader.read(path, STATE)
    about.write_text(json.dumps(content))
    with pytest.raises(UserError, match="one array of observations"):
        minari_reader.read(path, BOTH)
    with pytest.raises(UserError, match=r"needs float32 \(5,\)"):
        minari_reader.read(path, STATE._replace(observations={"state": Space((5,))}))
    with pytest.raises(UserError, match="outside the action space"):
        minari_reader.read(path, STATE._replace(high=np.array([0.5, 1], np.float32)))
    (path / "data" / "main_data.hdf5").write_bytes(b"damaged")
    with pytest.raises(UserError, match="is damaged"):
        minari_reader.read(path, STATE)
