"""Datasets from npz file to training arrays, and how the npz file gets there."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ogbench
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lps.data.episodes import Dataset
from lps.data.names import data_dir
from lps.errors import UserError
from lps.tasks.ogbench_collect import collect
from lps.tasks.ogbench_data import dataset_path
from lps.tasks.suites import check_options, groups, load_dataset, make_env
from lps.tasks.task import Task

NAME = "cube-single-play-v0"
GROUPS = groups("ogbench")
CUBE = GROUPS["cube-single"]


# --- Chunk starts -----------------------------------------------------------------------------------------------------


def _dataset(lengths: list[int]) -> Dataset:
    ends = np.cumsum(lengths) - 1
    terminals = np.zeros(sum(lengths), bool)
    terminals[ends] = True
    empty = np.zeros((len(terminals), 0), np.float32)
    return Dataset("random", "", {"state": empty}, empty, terminals, empty.T, empty.T, ())


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20), st.integers(1, 8))
def test_starts_are_all_chunks_inside_an_episode(lengths: list[int], horizon: int):
    episode = np.repeat(np.arange(len(lengths)), lengths)
    expected = [i for i in range(len(episode) - horizon) if episode[i] == episode[i + horizon]]
    dataset = _dataset(lengths)
    if not expected:
        with pytest.raises(UserError, match=f"{horizon + 1} rows"):
            dataset.starts(horizon)
        return
    starts = dataset.starts(horizon)
    assert starts.dtype == np.int64
    np.testing.assert_array_equal(starts, expected)


# --- Loading ----------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def _write(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)
    path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)


def _solve(env: Any, arrays: dict[str, np.ndarray], rows: slice) -> None:
    """Puts the objects of some rows where the environment's task wants them."""
    for cube in range(getattr(env, "_num_cubes", 0)):
        arrays["qpos"][rows, 14 + 7 * cube : 17 + 7 * cube] = env.data.mocap_pos[cube]
    if "button_states" in arrays:
        arrays["button_states"][rows] = env._target_button_states
    if hasattr(env, "_target_window_pos"):
        arrays["qpos"][rows, -2] = env._target_drawer_pos
        arrays["qpos"][rows, -1] = env._target_window_pos


def _rewards_of_states(env: Any, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The reward in each row's state, asked from the environment, one state at a time."""
    rewards = []
    for row in range(len(arrays["qpos"])):
        buttons = [arrays["button_states"][row]] if "button_states" in arrays else []
        env.set_state(arrays["qpos"][row], arrays["qvel"][row], *buttons)
        rewards.append(env.compute_reward())
    return np.array(rewards)


def _at(tasks: Sequence[Task], timing: str) -> list[Task]:
    """The tasks with rewards of this timing."""
    return [replace(task, options={**task.options, "reward_timing": timing}) for task in tasks]


@pytest.mark.parametrize(
    "group", ["scene", *(pytest.param(group, marks=pytest.mark.slow) for group in ("cube-double", "puzzle-3x3"))]
)
def test_rewards_and_masks_equal_a_plain_loop(group: str, tmp_path: Path):
    path = collect(f"{group}-play", episodes=3, data_dir=tmp_path, episode_length=10, progress=False)
    arrays = _read(path)
    tasks = [GROUPS[group][4], GROUPS[group][1]]
    envs: list[Any] = [make_env(task).unwrapped for task in tasks]
    for env, rows in zip(envs, (slice(3, 6), slice(19, 22)), strict=True):  # the second across the end of an episode
        env.reset(seed=0)
        _solve(env, arrays, rows)
    _write(path, arrays)

    post = load_dataset(_at(tasks, "post"), dataset=path.stem, data_dir=tmp_path)
    pre = load_dataset(tasks, dataset=path.stem, data_dir=tmp_path)
    assert post.rewards.shape == post.masks.shape == (2, 30)
    assert post.rewards.dtype == post.masks.dtype == np.float32
    for column, (task, env) in enumerate(zip(tasks, envs, strict=True)):
        of_state = _rewards_of_states(env, arrays)
        assert 0 < np.sum(of_state == 0) < 30, "both outcomes occur"
        for row in np.flatnonzero(~arrays["terminals"]):
            for dataset, reward in ((post, of_state[row + 1]), (pre, of_state[row])):
                expected = -1.0 * (reward != 0) if task.options["reward"] == "sparse" else reward
                assert dataset.rewards[column, row] == expected
                assert dataset.masks[column, row] == float(reward != 0)

    # OGBench's own loader knows one timing, 'pre'.
    _, theirs, _ = ogbench.make_env_and_datasets(tasks[0].name, dataset_path=str(path))
    starts = pre.starts(1)
    np.testing.assert_array_equal(theirs["observations"], pre.observations["state"][starts])
    np.testing.assert_array_equal(theirs["next_observations"], pre.observations["state"][starts + 1])
    np.testing.assert_array_equal(theirs["masks"], pre.masks[0][starts])
    if tasks[0].options["reward"] == "none":
        np.testing.assert_array_equal(theirs["rewards"], pre.rewards[0][starts])


@pytest.fixture(scope="module")
def cube_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cube")
    collect("cube-single-play", episodes=3, data_dir=directory, name=NAME, episode_length=20, progress=False)
    return directory


@pytest.fixture
def cube_file(cube_dir: Path, tmp_path: Path) -> Path:
    """A dataset of its own, for tests that spoil it."""
    file = tmp_path / f"{NAME}.npz"
    file.write_bytes((cube_dir / file.name).read_bytes())
    return file


def test_loads_the_file_clipped_and_mapped(cube_file: Path):
    arrays = _read(cube_file)
    arrays["actions"][3] = [1, -1, 0.5, 0, 1]
    _write(cube_file, arrays)
    dataset = load_dataset(CUBE, data_dir=cube_file.parent)
    assert dataset.tasks == tuple(task.name for task in CUBE)
    assert dataset.name == NAME
    assert len(dataset.fingerprint) == 64
    np.testing.assert_array_equal(dataset.observations["state"], arrays["observations"])
    np.testing.assert_array_equal(dataset.terminals, arrays["terminals"])
    assert (dataset.observations["state"].dtype, dataset.actions.dtype, dataset.terminals.dtype) == ("f4", "f4", "?")
    np.testing.assert_array_equal(dataset.actions[3], np.array([1 - 1e-5, -1 + 1e-5, 0.5, 0, 1 - 1e-5], np.float32))
    assert isinstance(dataset.observations["state"], np.memmap)
    dataset.observations["state"][0] = 7  # in memory only
    assert (load_dataset(CUBE, data_dir=cube_file.parent).observations["state"][0] != 7).all()


def test_converts_once_and_notices_a_changed_file(cube_file: Path):
    first = load_dataset(CUBE[:1], data_dir=cube_file.parent)
    converted = cube_file.parent / ".converted" / f"{NAME}-{first.fingerprint[:16]}"
    changed = {file: file.stat().st_mtime_ns for file in converted.rglob("*")}
    assert load_dataset(CUBE, data_dir=cube_file.parent).fingerprint == first.fingerprint
    assert {file: file.stat().st_mtime_ns for file in converted.rglob("*")} == changed
    arrays = _read(cube_file)
    arrays["observations"] += 1
    _write(cube_file, arrays)
    second = load_dataset(CUBE, data_dir=cube_file.parent)
    assert second.fingerprint != first.fingerprint
    np.testing.assert_array_equal(second.observations["state"], first.observations["state"] + 1)


def test_name_chooses_the_file(cube_file: Path):
    cube_file.rename(cube_file.with_stem("half-of-it"))
    assert load_dataset(CUBE, dataset="half-of-it", data_dir=cube_file.parent).name == "half-of-it"
    with pytest.raises(UserError, match="did you mean 'half-of-it'"):
        load_dataset(CUBE, dataset="half-of-ti", data_dir=cube_file.parent)


def _without_qpos(arrays: dict) -> None:
    del arrays["qpos"]


def _short_actions(arrays: dict) -> None:
    arrays["actions"] = arrays["actions"][:-1]


def _wide_observations(arrays: dict) -> None:
    arrays["observations"] = np.zeros((60, 37), np.float32)


def _not_finite(arrays: dict) -> None:
    arrays["observations"][5, 3] = np.nan


def _no_state(arrays: dict) -> None:
    arrays["qpos"][7, 0] = np.inf


def _no_ends(arrays: dict) -> None:
    arrays["terminals"][:] = False


def _far_actions(arrays: dict) -> None:
    arrays["actions"] *= 50


def _words(arrays: dict) -> None:
    arrays["observations"] = arrays["observations"].astype(str)


def _complex(arrays: dict) -> None:
    arrays["actions"] = arrays["actions"].astype(complex)


def _objects(arrays: dict) -> None:
    arrays["observations"] = arrays["observations"].astype(object)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_qpos, "no qpos"),
        (_short_actions, r"actions of shape \(59, 5\)"),
        (_wide_observations, r"observations of shape \(60, 37\), but cube-single needs \(60, 28\)"),
        (_not_finite, "observations has NaN or infinity in row 5"),
        (_no_state, "qpos has NaN or infinity in row 7"),
        (_no_ends, "terminals are never true. Mark"),
        (_objects, "array of objects"),
        (_far_actions, "an action is .*Rescale them"),
        (_words, "observations holds <U32 and not real numbers"),
        (_complex, "actions holds complex128 and not real numbers"),
    ],
)
def test_unfit_files(spoil: Callable[[dict], None], message: str, cube_file: Path):
    arrays = _read(cube_file)
    spoil(arrays)
    _write(cube_file, arrays)
    with pytest.raises(UserError, match=message):
        load_dataset(CUBE, data_dir=cube_file.parent)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_truncated_file(kept: float, cube_file: Path):
    content = cube_file.read_bytes()
    cube_file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match="truncated"):
        load_dataset(CUBE, data_dir=cube_file.parent)
    cube_file.write_bytes(content)
    assert len(load_dataset(CUBE, data_dir=cube_file.parent).terminals) == 60


def test_damaged_inside(cube_file: Path):
    content = bytearray(cube_file.read_bytes())
    content[1000] ^= 255
    cube_file.write_bytes(content)
    with pytest.raises(UserError, match="truncated or damaged.*cannot be downloaded again"):
        load_dataset(CUBE, data_dir=cube_file.parent)


def test_file_of_another_group_with_observations_of_the_same_size(tmp_path: Path):
    collect("puzzle-3x3-play", episodes=1, data_dir=tmp_path, name="mine", episode_length=5, progress=False)
    load_dataset(GROUPS["puzzle-3x3"], dataset="mine", data_dir=tmp_path)
    with pytest.raises(UserError, match="qpos of shape"):
        load_dataset(GROUPS["cube-quadruple"], dataset="mine", data_dir=tmp_path)


def test_senseless_arguments():
    with pytest.raises(UserError, match="one group"):
        load_dataset([CUBE[0], GROUPS["scene"][0]])
    with pytest.raises(UserError, match="did you mean 'post'"):
        check_options(CUBE[0], {"reward_timing": "past"})
    assert check_options(CUBE[0], {}) == {"success_timing": "post", "reward_timing": "pre"}


def test_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LPS_DATA_DIR", "~/data")
    assert data_dir() == Path.home() / "data"
    assert data_dir(tmp_path) == tmp_path
    monkeypatch.delenv("LPS_DATA_DIR")
    assert data_dir() == Path.home() / ".ogbench" / "data"


# --- Damage -----------------------------------------------------------------------------------------------------------


def _flip(path: Path, at: float = 0.5) -> None:
    """Turns over one byte, as if behind the back of the file's size."""
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 255
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _arrays_of(data_dir: Path) -> Path:
    [directory] = (data_dir / ".converted").glob(f"{NAME}-*/cube-single")
    return directory


def _values(dataset: Dataset) -> list[bytes]:
    arrays = [*dataset.observations.values(), dataset.actions, dataset.terminals, dataset.rewards, dataset.masks]
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize("damage", [_truncate, Path.unlink])
def test_damaged_arrays_are_named_and_made_again(damage: Callable[[Path], None], cube_file: Path):
    whole = _values(load_dataset(CUBE, data_dir=cube_file.parent))
    damage((folder := _arrays_of(cube_file.parent)) / "actions.npy")
    with pytest.raises(UserError, match="array actions.*damaged.*Remove the folder"):
        load_dataset(CUBE, data_dir=cube_file.parent)
    shutil.rmtree(folder)
    assert _values(load_dataset(CUBE, data_dir=cube_file.parent)) == whole


def test_an_interrupted_conversion_leaves_nothing_that_counts(cube_file: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lps.tasks.ogbench_data.check_finite", full)
        with pytest.raises(UserError, match="cannot convert.*No space left"):
            load_dataset(CUBE, data_dir=cube_file.parent)
    assert len(load_dataset(CUBE, data_dir=cube_file.parent).terminals) == 60


@pytest.mark.parametrize("damage", [_flip, _truncate])
def test_a_damaged_download_is_downloaded_again(
    damage: Callable[[Path], None], server: "Server", tmp_path: Path, capsys: Any
):
    whole = _values(load_dataset(CUBE, data_dir=tmp_path))
    path = tmp_path / f"{NAME}.npz"
    damage(path)
    damaged = path.read_bytes()
    assert _values(load_dataset(CUBE, data_dir=tmp_path)) == whole
    assert path.read_bytes() == server.content
    assert (tmp_path / f"{NAME}.npz.damaged").read_bytes() == damaged
    assert "not as recorded" in capsys.readouterr().err
    assert server.requests == 2


def test_a_conversion_reads_all_bytes_even_where_size_and_time_are_the_same(server: "Server", tmp_path: Path):
    whole = _values(load_dataset(CUBE, data_dir=tmp_path))
    path = tmp_path / f"{NAME}.npz"
    stat = path.stat()
    _flip(path)  # as on a failing disk
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert _values(load_dataset(CUBE, data_dir=tmp_path)) == whole
    assert server.requests == 1, "nobody needs the file: its arrays are there"
    shutil.rmtree(_arrays_of(tmp_path))
    assert _values(load_dataset(CUBE, data_dir=tmp_path)) == whole
    assert path.read_bytes() == server.content
    assert server.requests == 2


def test_a_file_damaged_on_its_way_is_downloaded_again(server: "Server", tmp_path: Path):
    server.damaged = 1
    assert len(load_dataset(CUBE, data_dir=tmp_path).terminals) == 60
    assert (tmp_path / f"{NAME}.npz").read_bytes() == server.content
    assert server.requests == 2


def test_a_source_that_is_always_damaged_is_asked_twice(server: "Server", tmp_path: Path):
    server.damaged = 99
    with pytest.raises(UserError, match="truncated or damaged.*after a second download.*LPS_DATA_MIRROR"):
        load_dataset(CUBE, data_dir=tmp_path)
    assert server.requests == 2
    assert [file.name for file in tmp_path.glob("*.npz*")] == [f"{NAME}.npz.damaged", f"{NAME}.npz.sha256"]
    server.damaged = 0
    assert len(load_dataset(CUBE, data_dir=tmp_path).terminals) == 60


def test_ogbenchs_own_download_that_broke_off_is_downloaded_again(server: "Server", tmp_path: Path):
    (tmp_path / f"{NAME}.npz").write_bytes(server.content[:5000])  # OGBench writes under the final name
    assert len(load_dataset(CUBE, data_dir=tmp_path).terminals) == 60
    assert server.requests == 1


@pytest.mark.parametrize(("damage", "name"), [(_flip, NAME), (_truncate, "mine")])
def test_a_damaged_collected_file_is_kept_aside_and_can_be_collected_again(
    damage: Callable[[Path], None], name: str, server: "Server", tmp_path: Path
):
    def again() -> Path:
        return collect("cube-single-play", episodes=2, seed=3, name=name, data_dir=tmp_path, episode_length=9)

    path = again()
    whole, values = path.read_bytes(), _values(load_dataset(CUBE, dataset=name, data_dir=tmp_path))
    for aside in (f"{name}.npz.damaged", f"{name}.npz.damaged2"):
        damage(path)
        damaged = path.read_bytes()
        with pytest.raises(UserError, match=f"{name}.npz is not as recorded.*is now {aside}") as error:
            load_dataset(CUBE, dataset=name, data_dir=tmp_path)
        own = "cube-single-play-2" if name == NAME else name  # the command line takes no name of OGBench's
        command = f"python -m lps collect cube-single-play-v0 --episodes 2 --seed 3 --name {own} --noise 0.1"
        assert f"{command} --data-dir {tmp_path}." in str(error.value)
        assert (tmp_path / aside).read_bytes() == damaged
        with pytest.raises(UserError, match="was collected here and is gone"):  # OGBench's is another one
            load_dataset(CUBE, dataset=name, data_dir=tmp_path)
        assert again().read_bytes() == whole
        assert _values(load_dataset(CUBE, dataset=name, data_dir=tmp_path)) == values
    assert server.requests == 0


def test_a_collected_file_that_is_gone_names_its_command_also_in_files_of_version_0_1(tmp_path: Path):
    path = collect("cube-single-play", episodes=1, name="mine", data_dir=tmp_path, episode_length=5, progress=False)
    path.unlink()
    about = json.loads(path.with_suffix(".json").read_text())
    with pytest.raises(UserError, match="is gone. Collect it again: python -m lps collect") as now:
        dataset_path("mine", tmp_path)
    path.with_suffix(".json").write_text(json.dumps({key: about[key] for key in about if key != "command"}))
    with pytest.raises(UserError) as before:
        dataset_path("mine", tmp_path)
    assert str(before.value) == str(now.value)


def test_a_damaged_file_of_somebody_else_is_left_alone(cube_file: Path):
    path = cube_file.rename(cube_file.with_stem("theirs"))
    _truncate(path)
    with pytest.raises(UserError, match="truncated or damaged.*Copy it again"):
        load_dataset(CUBE, dataset="theirs", data_dir=path.parent)
    assert path.exists()


def test_sha256sum_reads_the_checksums(server: "Server", tmp_path: Path):
    collect("cube-single-play", episodes=1, name="mine", data_dir=tmp_path, episode_length=5, progress=False)
    dataset_path(NAME, tmp_path)
    records = sorted(path.name for path in tmp_path.glob("*.sha256"))
    assert records == [f"{NAME}.npz.sha256", "mine-val.npz.sha256", "mine.npz.sha256"]
    subprocess.run(["sha256sum", "--check", "--strict", *records], cwd=tmp_path, check=True)
    (tmp_path / "mine.npz.sha256").write_text("nothing that means anything")
    assert load_dataset(CUBE, dataset="mine", data_dir=tmp_path).fingerprint


# --- Downloading ------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` for every path, as badly as asked."""

    def __init__(self, content: bytes):
        self.content = content
        self.damaged = 0  # requests that are answered with a wrong byte
        self.breaks = 0  # requests whose connection breaks
        self.delay = 0.0
        self.requests = 0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests += 1
        time.sleep(server.delay)
        if self.path != f"/{NAME}.npz":
            self.send_error(404)
            return
        content = bytearray(server.content)
        if server.damaged:
            server.damaged -= 1
            content[len(content) // 2] ^= 255
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if server.breaks:
            server.breaks -= 1
            content = content[:4000]
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def content(cube_dir: Path) -> bytes:
    return (cube_dir / f"{NAME}.npz").read_bytes()


@pytest.fixture
def server(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(content)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("LPS_DATA_MIRROR", server.url)
    monkeypatch.setattr("pooch.core.time", types.SimpleNamespace(sleep=lambda seconds: None))
    yield server
    server.shutdown()
    server.server_close()


def test_downloads_once(server: Server, tmp_path: Path):
    path = dataset_path(NAME, tmp_path)
    assert path == tmp_path / f"{NAME}.npz"
    assert path.read_bytes() == server.content
    assert dataset_path(NAME, tmp_path) == path
    assert server.requests == 1


def test_a_connection_that_breaks_is_tried_again(server: Server, tmp_path: Path):
    server.breaks = 2
    assert dataset_path(NAME, tmp_path).read_bytes() == server.content
    assert server.requests == 3
    server.breaks = 99
    with pytest.raises(UserError, match="cannot download.*LPS_DATA_MIRROR.*lps collect cube-single-play "):
        dataset_path(NAME, tmp_path / "again")
    assert not list((tmp_path / "again").glob("*.npz"))


def test_damaged_source_leaves_nothing(server: Server, tmp_path: Path):
    whole, server.content = server.content, server.content[:-100]
    with pytest.raises(UserError, match="damaged"):
        dataset_path(NAME, tmp_path)
    assert not (tmp_path / f"{NAME}.npz").exists()
    server.content = whole
    assert dataset_path(NAME, tmp_path).read_bytes() == whole


def test_mirror_directory(cube_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LPS_DATA_MIRROR", str(cube_dir))
    path = dataset_path(NAME, tmp_path)
    assert path.read_bytes() == (cube_dir / path.name).read_bytes()
    with pytest.raises(UserError, match="does not exist.*LPS_DATA_MIRROR"):
        dataset_path("scene-play-v0", tmp_path)


def test_no_network(server: Server, tmp_path: Path):
    with pytest.raises(UserError, match="404.*python -m lps collect scene-play .*--dataset scene-play-1000"):
        dataset_path("scene-play-v0", tmp_path)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="(?i)refused.*LPS_DATA_MIRROR.*python -m lps collect"):
        dataset_path(NAME, tmp_path)


@pytest.mark.parametrize("path", ["data/tiny.npz", "data/tiny", "/data/tiny"])
def test_a_path_for_a_name_says_where_its_parts_go(path: str, tmp_path: Path):
    with pytest.raises(UserError, match="--data-dir /?data --dataset tiny$"):
        dataset_path(path, tmp_path)


@pytest.mark.parametrize("name", ["pointmaze-medium-stitch-v0", "cube-single-noisy-v0", "antmaze-large-explore-v0"])
def test_other_kinds_of_ogbenchs_datasets_are_downloaded_too(name: str, server: Server, tmp_path: Path):
    with pytest.raises(UserError, match=f"cannot download.*{name}.npz.*404"):
        dataset_path(name, tmp_path)


def test_a_name_may_come_with_its_ending(cube_file: Path):
    assert dataset_path(f"{NAME}.npz", cube_file.parent) == cube_file


def test_unknown_dataset_and_unusable_directory(tmp_path: Path):
    with pytest.raises(UserError, match="did you mean 'cube-single-play-v0'"):
        dataset_path("cube-singel-play-v0", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the directory"):
        dataset_path(NAME, tmp_path / "file" / "data")


@pytest.mark.slow
def test_two_processes_share_one_download_and_one_conversion(server: Server, tmp_path: Path):
    server.delay = 0.5
    script = f"""
import json, sys
from lps.tasks.suites import groups, load_dataset
dataset = load_dataset(groups("ogbench")["cube-single"], data_dir={str(tmp_path)!r})
print(json.dumps([dataset.fingerprint, float(dataset.rewards.sum())]))
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    answers = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
    assert server.requests == 1
    assert answers[0] == answers[1]
    assert len(list((tmp_path / ".converted").glob(f"{NAME}-*/cube-single"))) == 1
