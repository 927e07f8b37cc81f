import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from lps.errors import UserError
from lps.evaluation import video
from lps.evaluation.rollout import evaluate
from lps.evaluation.video import Actor, record
from lps.tasks.suites import get_task

TASK = replace(get_task("cube-single-play-singletask-task1-v0"), max_episode_steps=1)


class Reach:
    """Moves the gripper by its noise."""

    noise_dim = 5

    def act_batch(self, observations, noise):
        return noise[:, None]


class Broken(Reach):
    def __setstate__(self, state):
        raise ValueError("this policy cannot be loaded")

    def __getstate__(self):
        return {"anything": 1}


def left(path):
    return sorted(file.name for file in path.iterdir())


def record_or_skip(actors, path, **options):
    pytest.importorskip("imageio_ffmpeg")
    try:
        return record(actors, TASK, path, **options)
    except UserError as error:
        if "cannot render" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.slow
def test_a_video_shows_the_policies_side_by_side(tmp_path):
    seen, actors = [], [Actor(Reach(), seed=5, step=3), Actor(Reach(), seed=6)]
    filmed = record_or_skip(actors, tmp_path / "new" / "v.mp4", episodes=2, progress=lambda *now: seen.append(now))
    assert filmed == [
        evaluate(Reach(), TASK, seed=5, step=3, episodes=2),
        evaluate(Reach(), TASK, seed=6, step=0, episodes=2),
    ]
    filming = [now for e in range(4) for now in ((e, 1), (e, 2), (e + 1, 0))]
    assert seen == [*filming, (4, 1), (4, 2)], "at the end the films are put side by side"
    frames = pictures(tmp_path / "new" / "v.mp4")
    assert len(frames) == 2 and all(frame.shape == (960, 960, 3) for frame in frames)
    tiles = [frames[0][y : y + 480, x : x + 480] for y in (0, 480) for x in (0, 480)]
    assert all(tile.std() > 10 for tile in tiles)  # not one flat colour
    assert left(tmp_path / "new") == ["v.mp4"]


@pytest.mark.slow
def test_a_gif_shows_the_episodes_of_one_policy_as_a_grid(tmp_path):
    record_or_skip([Actor(Reach())], tmp_path / "v.gif", episodes=5)
    (frame,) = pictures(tmp_path / "v.gif")  # every second one of two
    assert frame.shape[:2] == (2 * 240, 3 * 240)  # three columns of 480 pixels are too wide: half the size
    assert frame[240:, 480:].max() < 10 and frame[:, :480].std() > 10


def pictures(path):
    imageio = pytest.importorskip("imageio.v2")
    return [np.asarray(frame)[..., :3] for frame in imageio.get_reader(path)]


def test_episodes_of_different_lengths_stand_still_at_their_end(tmp_path):
    imageio = pytest.importorskip("imageio.v2")
    for name, shades in (("a", [0, 100, 200]), ("b", [50])):
        with imageio.get_writer(tmp_path / f"{name}.gif", duration=100) as writer:
            for shade in shades:
                writer.append_data(np.full((16, 16, 3), shade, np.uint8))
    video._side_by_side(imageio, [str(tmp_path / "a.gif"), str(tmp_path / "b.gif")], 2, str(tmp_path / "v.gif"), 10)
    assert [(f[0, 0, 0], f[0, -1, 0]) for f in pictures(tmp_path / "v.gif")] == [(0, 50), (100, 50), (200, 50)]


def test_a_picture_is_made_smaller_by_averaging():
    picture = np.arange(5 * 4, dtype=np.uint8).reshape(5, 4, 1).repeat(3, 2)
    assert video._smaller(picture, 2)[..., 0].tolist() == [[2, 4], [10, 12]]


def test_an_error_of_the_policy_comes_out_and_leaves_nothing(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    try:
        with pytest.raises(ValueError, match="cannot be loaded"):
            record([Actor(Broken())], TASK, tmp_path / "v.mp4")
    except UserError as error:
        pytest.skip(str(error))
    assert left(tmp_path) == []


def test_where_nothing_renders_the_error_says_what_was_tried(tmp_path, monkeypatch):
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setenv("MUJOCO_GL", "crayons")
    (tmp_path / "v.mp4").write_bytes(b"an older video")
    with pytest.raises(UserError, match="cannot render.*crayons.*libosmesa6"):
        record([Actor(Reach())], TASK, tmp_path / "v.mp4")
    assert left(tmp_path) == ["v.mp4"] and (tmp_path / "v.mp4").read_bytes() == b"an older video"


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"\.mp4 or \.gif"):
        record([Actor(Reach())], TASK, tmp_path / "v.avi")


def test_a_video_of_nothing_is_refused(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"an older video")
    with pytest.raises(UserError, match="at least 1 episode, not 0"):
        record([Actor(Reach())], TASK, tmp_path / "v.mp4", episodes=0)
    assert (tmp_path / "v.mp4").read_bytes() == b"an older video"


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install imageio imageio-ffmpeg"):
        record([Actor(Reach())], TASK, tmp_path / "v.mp4")


def test_a_folder_that_cannot_be_made(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the video .*file/v\.mp4"):
        record([Actor(Reach())], TASK, tmp_path / "file" / "v.mp4")
