import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from lps.errors import UserError
from lps.evaluation import video
from lps.evaluation.rollout import evaluate
from lps.evaluation.video import record
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


@pytest.mark.slow
def test_a_video_shows_the_episodes(tmp_path):
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    seen = []
    try:
        filmed = record(Reach(), TASK, tmp_path / "new" / "v.mp4", seed=5, step=3, episodes=2, progress=seen.append)
    except UserError as error:
        if "cannot render" not in str(error):
            raise
        pytest.skip(str(error))
    assert filmed == evaluate(Reach(), TASK, seed=5, step=3, episodes=2)
    frames = [np.asarray(frame) for frame in imageio.get_reader(tmp_path / "new" / "v.mp4")]
    assert seen == list(range(1, 2 * (1 + 1) + 1)) and len(frames) == len(seen)
    assert all(frame.shape == (480, 480, 3) and frame.std() > 10 for frame in frames)  # not one flat colour
    assert left(tmp_path / "new") == ["v.mp4"]


def test_an_error_of_the_policy_comes_out_and_leaves_nothing(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    try:
        with pytest.raises(ValueError, match="cannot be loaded"):
            record(Broken(), TASK, tmp_path / "v.mp4")
    except UserError as error:
        pytest.skip(str(error))
    assert left(tmp_path) == []


def test_where_nothing_renders_the_error_says_what_was_tried(tmp_path, monkeypatch):
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setenv("MUJOCO_GL", "crayons")
    (tmp_path / "v.mp4").write_bytes(b"an older video")
    with pytest.raises(UserError, match="cannot render.*crayons.*libosmesa6"):
        record(Reach(), TASK, tmp_path / "v.mp4")
    assert left(tmp_path) == ["v.mp4"] and (tmp_path / "v.mp4").read_bytes() == b"an older video"


def test_headless_rendering_is_tried_before_a_display(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(video.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    assert video.backends() == ["egl", "osmesa"]
    monkeypatch.setenv("DISPLAY", ":0")
    assert video.backends() == ["egl", "osmesa", "glfw"]
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert video.backends() == ["osmesa"]


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"\.mp4"):
        record(Reach(), TASK, tmp_path / "v.avi")


def test_a_video_of_nothing_is_refused(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"an older video")
    with pytest.raises(UserError, match="at least 1 episode, not 0"):
        record(Reach(), TASK, tmp_path / "v.mp4", episodes=0)
    assert (tmp_path / "v.mp4").read_bytes() == b"an older video"


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install imageio imageio-ffmpeg"):
        record(Reach(), TASK, tmp_path / "v.mp4")


def test_a_folder_that_cannot_be_made(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the video .*file/v\.mp4"):
        record(Reach(), TASK, tmp_path / "file" / "v.mp4")
