"""Recordings: LeRobot, Minari, robomimic and DROID files in, the same arrays out; and the errors of damaged files."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recorded import CAMERAS, LENGTHS, episodes, frames, write_droid, write_robomimic, write_v21
from small import made_up_data

from lps.data import FORMATS, export_lerobot, export_minari
from lps.data import frames as video
from lps.data.recipe import Recipe, RewardRule, load_recipe
from lps.data.recordings import Recordings, Rewarded, open_recordings
from lps.errors import UserError
from lps.spaces import Space

STATE = {"state": (("observation.state",), Space((4,)))}
WRIST = {"wrist": ((CAMERAS[1],), Space((16, 16, 3), "uint8"))}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same episodes in every form."""
    root, recordings = tmp_path_factory.mktemp("recordings"), episodes()
    whole = export_lerobot.FRAMES
    export_lerobot.FRAMES = 40  # several files
    export_lerobot.export(recordings, root / "v3", codec="lossless")
    export_lerobot.FRAMES = whole
    write_v21(recordings, root / "v21")
    write_v21(recordings, root / "v21-images", images=True)
    export_minari.export(recordings, root / "minari-v0")
    write_robomimic(recordings, root / "robomimic.hdf5")
    return root


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a dataset for a test that damages it."""
    return lambda name: Path(shutil.copytree(root / name, tmp_path / name))


def read_all(recordings: Recordings) -> list[dict[str, np.ndarray]]:
    every = range(len(recordings.lengths))
    return [dict(recording.columns) for recording in recordings.read(every, recordings.columns)]


@pytest.mark.parametrize("name", ["v3", "v21", "v21-images"])
def test_lerobot_gives_the_arrays_that_were_written(root: Path, name: str):
    found = open_recordings(root / name)
    assert found.rate == 10 and tuple(found.lengths) == LENGTHS and found.roles == episodes().roles
    for written, read in zip(episodes().episodes, read_all(found), strict=True):
        for column, rows in written.columns.items():
            np.testing.assert_array_equal(read[column], rows, err_msg=column)


def test_a_dataset_that_lerobot_wrote(tmp_path: Path):
    """tests/lerobot is of LeRobot 0.6.1: AV1, two episodes, made from the numbers below."""
    found = open_recordings(Path(__file__).parent / "lerobot")
    rng = np.random.default_rng(0)
    assert found.format == "LeRobot v3.0" and found.lengths == [7, 5] and found.roles.reward == "next.reward"
    for recording in found.read([0, 1], found.columns):
        rows = len(recording.columns["action"])
        expected = [rng.standard_normal((rows, 4)), rng.standard_normal((rows, 3)), frames(rng, rows, (64, 64))]
        np.testing.assert_allclose(recording.columns["observation.state"], expected[0], rtol=1e-6)
        np.testing.assert_allclose(recording.columns["action"], expected[1], rtol=1e-6)
        assert np.abs(recording.columns[CAMERAS[0]].astype(float) - expected[2]).mean() < 5
        np.testing.assert_allclose(recording.columns["next.reward"][:, 0], np.arange(rows) / 10, rtol=1e-6)


def test_lerobot_v3_has_several_files(root: Path):
    assert len(list((root / "v3/data").rglob("*.parquet"))) == 2
    assert len(list((root / "v3/videos").rglob("*.mp4"))) == 2 * len(CAMERAS)


def test_episodes_come_in_the_order_that_is_asked_for(root: Path):
    found = open_recordings(root / "v3")
    order = [5, 0, 3]
    for number, recording in zip(order, found.read(order, {CAMERAS[0]: found.columns[CAMERAS[0]]}), strict=True):
        np.testing.assert_array_equal(recording.columns[CAMERAS[0]], episodes().episodes[number].columns[CAMERAS[0]])


def test_frames_are_resized_on_reading_as_they_are_elsewhere(root: Path):
    found = open_recordings(root / "v3")
    (recording,) = found.read([1], {CAMERAS[0]: Space((8, 12, 3), "uint8")})
    expected = video.resized(episodes().episodes[1].columns[CAMERAS[0]], (8, 12))
    np.testing.assert_array_equal(recording.columns[CAMERAS[0]], expected)


@pytest.mark.parametrize("codec", ["av1", "h264"])
def test_lossy_videos_are_close(tmp_path: Path, codec: str):
    rows = frames(np.random.default_rng(0), 30, (64, 64))
    with video.VideoWriter(tmp_path / "a.mp4", 10, (64, 64), codec) as writer:
        writer.add(rows)
    found = video.decoded_video(tmp_path / "a.mp4", 1.0, 20, 10, (64, 64)).astype(float)
    assert np.abs(found - rows[10:]).mean() < 8


def test_an_export_takes_the_rewards_of_a_task(root: Path, tmp_path: Path):
    recordings = open_recordings(root / "v3")
    rewards = np.arange(sum(LENGTHS) + len(LENGTHS), dtype=np.float32)  # a row for the last observation of each episode
    terminals = np.isin(np.arange(len(rewards)), np.cumsum([length + 1 for length in LENGTHS]) - 1)
    made = replace(made_up_data("a", rows=len(rewards)), rewards=rewards[None], terminals=terminals)
    export_lerobot.export(Rewarded.of(recordings, made), tmp_path / "again", codec="lossless")
    again = open_recordings(tmp_path / "again")
    columns = {name: again.columns[name] for name in ("next.reward", "next.done", "observation.state")}
    found = list(again.read(range(len(LENGTHS)), columns))
    first = list(recordings.read(range(len(LENGTHS)), {"observation.state": columns["observation.state"]}))
    for name, expected in (("next.reward", rewards), ("next.done", made.masks[0] == 0)):
        written = np.concatenate([episode.columns[name][:, 0] for episode in found])
        np.testing.assert_array_equal(written, expected[~terminals])
    for ours, theirs in zip(found, first, strict=True):
        np.testing.assert_array_equal(ours.columns["observation.state"], theirs.columns["observation.state"])
    with pytest.raises(UserError, match="episodes of different lengths. Remove --task"):
        Rewarded.of(recordings, made_up_data("a"))


def test_minari_opens_the_exported_dataset_with_equal_arrays(root: Path):
    minari = pytest.importorskip("minari")
    opened = minari.MinariDataset(root / "minari-v0" / "data")
    assert len(opened) == len(LENGTHS)
    for written, read in zip(episodes().episodes, opened.iterate_episodes(), strict=True):
        for name, own in (("state", "observation.state"), ("wrist", CAMERAS[1])):
            np.testing.assert_array_equal(read.observations[name][:-1], written.columns[own])
        np.testing.assert_array_equal(read.actions, written.columns["action"])
        np.testing.assert_array_equal(read.rewards, written.columns["next.reward"][:, 0])
        assert read.terminations[-1] and not read.truncations.any()


def test_minari_folders_are_recordings(root: Path):
    found = open_recordings(root / "minari-v0")
    assert found.format == "Minari" and tuple(found.lengths) == LENGTHS
    for written, read in zip(episodes().episodes, read_all(found), strict=True):
        np.testing.assert_array_equal(read["observations/wrist"][:-1], written.columns[CAMERAS[1]])
        np.testing.assert_array_equal(read["actions"], written.columns["action"])


def test_robomimic_demos_are_in_the_order_of_their_numbers(root: Path):
    found = open_recordings(root / "robomimic.hdf5")
    assert tuple(found.lengths) == LENGTHS
    assert found.roles.state == ("obs/robot0_eef_pos", "obs/object") and found.last_observation
    for written, read in zip(episodes().episodes, read_all(found), strict=True):
        state = np.concatenate([read["obs/robot0_eef_pos"], read["obs/object"]], axis=1)
        np.testing.assert_array_equal(state[:-1], written.columns["observation.state"])
        np.testing.assert_array_equal(read["obs/agentview_image"][:-1], written.columns[CAMERAS[0]])


def test_robomimic_filters_and_files_without_next_obs(root: Path, tmp_path: Path):
    write_robomimic(episodes(), tmp_path / "a.hdf5", next_obs=False)
    found = open_recordings(tmp_path / "a.hdf5", {"filter": "valid"})
    assert found.lengths == [LENGTHS[1], LENGTHS[4]] and not found.last_observation and len(found.skipped) == 4
    with pytest.raises(UserError, match="unknown filter .*vlaid.*valid"):
        open_recordings(tmp_path / "a.hdf5", {"filter": "vlaid"})
    names = ("obs/robot0_eef_pos", "obs/object")
    recipe = Recipe({"state": (names, Space((4,)))}, (("actions",), 3), "min_max", RewardRule(shift=-1), held_out=0)
    dataset = load_recipe(tmp_path / "a.hdf5", recipe, "robot:a", 3)
    assert len(dataset.actions) == sum(LENGTHS) + len(LENGTHS)  # every episode ends with done: no step is lost
    assert dataset.rewards[0, 0] == -2 and dataset.masks[0, LENGTHS[0] - 1] == 0


def test_droid_follows_the_release(tmp_path: Path):
    recordings = episodes()
    write_droid(recordings, tmp_path / "pick")
    found = open_recordings(tmp_path / "pick")
    assert found.format == "DROID (LPS)"
    assert found.lengths == [length - 1 for number, length in enumerate(LENGTHS) if number % 3 != 2]
    assert len(found.skipped) == 3 and "cameras" in " ".join(found.skipped)
    assert [name.rpartition("/")[2] for name in found.roles.cameras] == ["111_left", "222_left"]
    read = read_all(found)
    np.testing.assert_array_equal(read[0][found.roles.cameras[0]], recordings.episodes[0].columns[CAMERAS[0]])
    both = open_recordings(tmp_path / "pick", {"failures": True})
    assert [recording.success for recording in both.read(range(6), {})] == [False] * 2 + [True] * 4

    names = found.roles.state, found.roles.action
    recipe = Recipe({"state": (names[0], Space((7,)))}, (names[1], 7), "none", RewardRule("dense", end=4), 0)
    h, rows = 5, LENGTHS[0]
    dataset = load_recipe(tmp_path / "pick", recipe, "robot:a", h)
    assert dataset.actions.shape[1] == 7 and np.abs(dataset.actions).max() <= 1 - 1e-5
    assert dataset.starts(h).tolist()[: rows - h] == list(range(rows - h))  # 0 .. T-1-h
    rewards, masks = dataset.rewards[0, : rows - 1], dataset.masks[0, : rows - 1]
    assert rewards.tolist() == [-1] * (rows - h) + [0] * (h - 1)
    assert masks.tolist() == [1] * (rows - h) + [0] * (h - 1)


def test_the_defects_of_the_release_are_options(tmp_path: Path):
    write_droid(episodes(), tmp_path / "success_rate", ending=".hdf5")
    path = tmp_path / "success_rate"
    assert len(open_recordings(path).lengths) == 4
    with pytest.raises(UserError, match="has no episodes"):
        open_recordings(path, {"only_h5": True})
    assert len(open_recordings(path, {"success_anywhere": True}).lengths) == 6
    broken = next((path / "success").iterdir())
    broken.write_bytes(b"no")
    with pytest.raises(UserError, match=f"{broken.name} is damaged"):
        open_recordings(path)
    assert len(open_recordings(path, {"skip_damaged": True}).lengths) == 3
    with pytest.raises(UserError, match="unknown option of the format droid 'faliures'"):
        open_recordings(path, {"faliures": True})


def test_folders_named_success_and_failure_make_one_dataset(tmp_path: Path):
    for part, seed in (("failure", 1), ("success", 2)):
        export_lerobot.export(episodes(seed, (8, 9), cameras=False), tmp_path / "pick" / part)
    recipe = Recipe(STATE, (("action",), 3), "min_max", RewardRule("dense", success="next.success"), held_out=0)
    dataset = load_recipe(tmp_path / "pick", recipe, "robot:a", 3)
    ends = dataset.rewards[0][dataset.masks[0] == 0]
    assert ends.tolist() == [0, 0, 0, 0]  # the column says that all succeed
    found = open_recordings(tmp_path / "pick")
    assert [r.success for r in found.read([3, 0, 1], {"action": found.columns["action"]})] == [True, False, False]


@pytest.mark.parametrize(
    ("rule", "success", "expected"),
    [
        (RewardRule("dense"), True, [-1, -1, -1, -1, 0]),
        (RewardRule("dense"), False, [-1, -1, -1, -1, -100]),
        (RewardRule("dense", failure=0.0), False, [-1, -1, -1, -1, 0]),
        (RewardRule("dense", end=3), True, [-1, -1, 0, 0, 0]),
        (RewardRule("dense", end=3, costs_after_end=True), True, [-1, -1, 0, -1, -1]),
        (RewardRule("sparse"), True, [0, 0, 0, 0, 1]),
        (RewardRule("sparse", end=2), None, [0, 0, 0, 1, 0]),
        (RewardRule("sparse"), False, [0, 0, 0, 0, 0]),
    ],
)
def test_reward_rules(rule: RewardRule, success: bool | None, expected: list[float]):
    from lps.data.recipe import rewards_and_masks
    from lps.data.recordings import Recording

    rewards, masks = rewards_and_masks(Recording({}, success), 5, rule, "here")
    assert rewards.tolist() == expected and masks.tolist() == [1] * (5 - rule.end) + [0] * rule.end
    with pytest.raises(UserError, match="here has 1 actions"):
        rewards_and_masks(Recording({}, success), 1, rule, "here")


@pytest.mark.parametrize("scale", ["none", "min_max", "quantiles", "mean_std"])
def test_scales_give_back_the_actions(root: Path, scale: str):
    recipe = Recipe(STATE, (("action",), 3), scale, RewardRule(), held_out=0)
    if scale == "none":
        with pytest.raises(UserError, match="outside the action space"):
            load_recipe(root / "v3", recipe, "robot:a", 3)
        return
    dataset = load_recipe(root / "v3", recipe, "robot:a", 3)
    inside = np.abs(dataset.actions[: LENGTHS[0]]) < 0.999
    written = episodes().episodes[0].columns["action"]
    np.testing.assert_allclose(dataset.scale.to_env(dataset.actions[: LENGTHS[0]])[inside], written[inside], atol=1e-3)


def test_held_out_episodes_are_not_in_the_training_data(root: Path):
    recipe = Recipe(STATE, (("action",), 3), "min_max", RewardRule(), held_out=0.34)
    dataset = load_recipe(root / "v3", recipe, "robot:a", 3)
    held = dataset.held_out
    assert held is not None and held.terminals.sum() == 2 and dataset.terminals.sum() == 4
    written = episodes().episodes[1].columns["observation.state"]
    np.testing.assert_array_equal(held.observations["state"][: LENGTHS[1]], written)
    assert not (dataset.observations["state"][:, None] == written[None]).all(-1).any()


def test_an_unknown_path_names_the_formats(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        open_recordings(tmp_path / "none")
    with pytest.raises(UserError, match=", ".join(FORMATS)):
        open_recordings(tmp_path)


def edit_info(path: Path, **changes: object) -> None:
    info = json.loads((path / "meta/info.json").read_text())
    (path / "meta/info.json").write_text(json.dumps(info | changes))


def rewrite(path: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    file = sorted(path.rglob(name))[0]
    pq.write_table(change(pq.read_table(file, partitioning=None)), file)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def videos(path: Path) -> list[Path]:
    return sorted((path / "videos" / CAMERAS[1]).rglob("*.mp4"))


BAD = {
    "the video .* is missing": lambda path: videos(path)[0].unlink(),
    "the video .* is damaged": lambda path: truncate(videos(path)[0]),
    "the table .* is missing": lambda path: sorted((path / "data").rglob("*.parquet"))[0].unlink(),
    "the table .* is damaged": lambda path: truncate(sorted((path / "data").rglob("*.parquet"))[0]),
    "the codebase version 'v9.1'": lambda path: edit_info(path, codebase_version="v9.1"),
    "the template data_path": lambda path: edit_info(path, data_path="data/{episode}.parquet"),
    "the template video_path .*leads out": lambda path: edit_info(path, video_path="../{video_key}.mp4"),
    "fps is 0": lambda path: edit_info(path, fps=0),
    "not LeRobot's: it has no 'dtype'": lambda path: edit_info(path, features={"a": {}}),
    "cannot read": lambda path: (path / "meta/info.json").write_text("[]"),
    "has 10 rows of episode 0, but": lambda path: rewrite(path, "data/**/*.parquet", lambda t: t.slice(2)),
    "has no column 'action'": lambda path: rewrite(path, "data/**/*.parquet", lambda t: t.drop_columns(["action"])),
    "NaN or infin": lambda path: rewrite(path, "data/**/*.parquet", lambda t: with_column(t, "action", [[np.nan] * 3])),
    "the observation 'state' has NaN": lambda path: rewrite(
        path, "data/**/*.parquet", lambda t: with_column(t, "observation.state", [[np.nan] * 4])
    ),
    "observation.state holds": lambda path: rewrite(
        path, "data/**/*.parquet", lambda t: with_column(t, "observation.state", [["x"] * 4])
    ),
}


def with_column(table: pa.Table, name: str, value: list) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(value * len(table)))


@pytest.mark.parametrize("message", BAD)
def test_damaged_lerobot_datasets_are_one_sentence(copy: Callable[[str], Path], message: str):
    path = copy("v3")
    BAD[message](path)
    recipe = Recipe({**STATE, **WRIST}, (("action",), 3), "min_max")
    with pytest.raises(UserError, match=message) as error:
        load_recipe(path, recipe, "robot:a", 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe({"s": (("observation.stat",), Space((4,)))}, (("action",), 3)), "unknown column .*observation.state"),
        (Recipe({"s": (("observation.state",), Space((5,)))}, (("action",), 3)), "have 4 numbers, not 5"),
        (Recipe(STATE, (("action",), 2)), "have 3 numbers, not 2. Write size = 3"),
        (Recipe(WRIST | {"x": (("observation.state",), Space((8, 8, 3), "uint8"))}, (("action",), 3)), "has shape"),
        (Recipe(STATE, (("action",), 3), reward=RewardRule(column="reward")), "unknown column .*next.reward"),
        (Recipe(STATE, (("action",), 3), held_out=0.5, reward=RewardRule("dense", end=12)), "are its end"),
    ],
)
def test_recipes_that_do_not_fit_name_the_key(root: Path, recipe: Recipe, message: str):
    with pytest.raises(UserError, match=message):
        load_recipe(root / "v3", recipe, "robot:a", 3)


def test_episodes_shorter_than_the_horizon_are_told(root: Path, caplog: pytest.LogCaptureFixture):
    recipe = Recipe(STATE, (("action",), 3), "min_max", held_out=0)
    load_recipe(root / "v3", recipe, "robot:a", 11)
    assert "2 episodes of" in caplog.text and "shorter than the horizon" in caplog.text
    with pytest.raises(UserError, match="no episode of the dataset v3 has the 31 rows"):
        load_recipe(root / "v3", recipe, "robot:a", 30).starts(30)


def test_exports_refuse_what_they_cannot_write(root: Path, tmp_path: Path):
    recordings = episodes()
    with pytest.raises(UserError, match="exists"):
        export_lerobot.export(recordings, root / "v3")
    with pytest.raises(UserError, match="does not say its control rate"):
        export_lerobot.export(open_recordings(root / "robomimic.hdf5"), tmp_path / "a")
    with pytest.raises(UserError, match="unknown codec 'h265'"):
        export_lerobot.export(recordings, tmp_path / "a", codec="h265")
    with pytest.raises(UserError, match="has no version"):
        export_minari.export(recordings, tmp_path / "minari")


@pytest.mark.slow
def test_lerobot_itself_opens_the_exported_dataset(root: Path, tmp_path: Path):
    """In an environment of its own: LeRobot needs Python 3.12 and other packages than ours."""
    python = os.environ.get("LEROBOT_PYTHON")
    if not python:
        pytest.skip("LEROBOT_PYTHON names no Python 3.12 with pip install 'lerobot[dataset]', which takes 5 GB")
    export_lerobot.export(episodes(), tmp_path / "data", codec="lossless")
    code = (
        "import sys, numpy as np\nfrom lerobot.datasets.lerobot_dataset import LeRobotDataset\n"
        "d = LeRobotDataset('a/b', root=sys.argv[1], video_backend='pyav')\n"
        f"rows = [d[i] for i in range(len(d))]\n"
        "np.savez(sys.argv[2], **{k.replace('.', '_'): np.stack([r[k].numpy() for r in rows])"
        f" for k in ('observation.state', 'action', '{CAMERAS[0]}')}})"
    )
    subprocess.run([python, "-c", code, tmp_path / "data", tmp_path / "out.npz"], check=True)
    read, written = np.load(tmp_path / "out.npz"), episodes().episodes
    for name in ("observation.state", "action", CAMERAS[0]):
        rows = np.concatenate([episode.columns[name] for episode in written])
        found = read[name.replace(".", "_")]
        found = (found.transpose(0, 2, 3, 1) * 255).round() if name == CAMERAS[0] else found
        np.testing.assert_allclose(found, rows, atol=1.0 if name == CAMERAS[0] else 1e-6)
