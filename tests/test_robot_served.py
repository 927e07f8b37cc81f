"""A robot without a robot: LeRobot files of rendered episodes, a policy on pixels and state that is trained on them, a
server in another process, and the rendered environment in this one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from serving import Process
from small import small_hyperparameters
from test_serve_client import driven, driven_through_a_restart

from lps.__main__ import main
from lps.commands.policies import ServedPolicy
from lps.data.recordings import open_recordings
from lps.errors import UserError
from lps.evaluation.rollout import evaluate
from lps.policy.client import Client
from lps.policy.file import load_policy
from lps.runs.scores import last_checks
from lps.runs.store import Store
from lps.spaces import Space
from lps.tasks import rendering
from lps.tasks.ogbench_collect import collect
from lps.tasks.suites import get_task, load_dataset, make_env

pytestmark = pytest.mark.slow

MAZE = "visual-pointmaze-medium-navigate-singletask-task1-v0"
SEEN = {"state": Space((2,)), "pixels": Space((32, 32, 3), "uint8")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with LeRobot files `maze`, the task file maze.toml, results, and policy.safetensors."""
    try:
        rendering.use_renderer()
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("robot")
    collect(f"{MAZE.partition('-singletask')[0]}", episodes=3, name="file", data_dir=folder, episode_length=41)
    export = ["data", "export", str(folder / "file.npz"), str(folder / "maze"), "--format", "lerobot", "--rate", "10"]
    assert main([*export, "--codec", "lossless", "--task", MAZE]) == 0
    assert main([*export[:2], str(folder / "maze"), str(folder / "no"), *export[4:], "--task", MAZE]) == 2  # no npz
    toml, results = folder / "maze.toml", folder / "results"
    assert main(["data", "describe", str(folder / "maze"), "--write-task", str(toml), "--horizon", "2"]) == 0
    toml.write_text(toml.read_text().replace("rate =", f'simulator = "{MAZE}"\nrate ='))
    small = [f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
             for name, value in small_hyperparameters("lps").items() if name != "horizon"]  # fmt: skip
    train = ["train", "--agent", "lps", "--task", str(toml), "--data-dir", str(folder), "--results", str(results)]
    assert main([*train, "--device", "cpu", "--steps", "2", "--eval-episodes", "1", "--set", *small]) == 0
    (checkpoint,) = (results / "checkpoints").iterdir()
    assert main(["export", str(checkpoint), str(folder / "policy.safetensors")]) == 0
    return folder


def test_the_files_have_frames_positions_and_the_rewards_of_the_task(folder: Path):
    task = get_task(str(folder / "maze.toml"))
    assert task.observation == SEEN and (task.metric, task.max_episode_steps) == ("success", 1000)
    dataset, collected = load_dataset([task], data_dir=folder), np.load(folder / "file.npz")
    theirs = load_dataset([get_task(MAZE)], dataset="file", data_dir=folder)
    assert dataset.held_out is not None  # the second of three episodes; the last observation of each is lost
    for name, key in (("pixels", "observations"), ("state", "qpos")):
        first, last = collected[key][:40], collected[key][82:122]
        np.testing.assert_array_equal(dataset.observations[name], np.concatenate([first, last]))
    np.testing.assert_array_equal(dataset.rewards[0, :39], theirs.rewards[0, :39])
    np.testing.assert_array_equal(dataset.masks[0, :39], theirs.masks[0, :39])


def test_a_run_with_a_simulator_has_checks_and_evaluations(folder: Path):
    store = Store(folder / "results", create=False)
    policy = load_policy(folder / "policy.safetensors")
    assert policy.observation == SEEN and policy.run.resolved_task == get_task(str(folder / "maze.toml"))
    assert np.isfinite(last_checks(store, policy.run)["heldout/action_error"])
    assert [len(episodes) for episodes in store.episodes(policy.run.id).values()] == [1, 1]


def test_a_simulator_that_cannot_be_is_one_sentence(folder: Path, tmp_path: Path):
    text, toml = (folder / "maze.toml").read_text(), tmp_path / "other.toml"
    toml.write_text(text.replace(MAZE, "cube-single-play-singletask-task1-v0"))
    with pytest.raises(UserError, match=r"whose actions have 5 numbers, but action.size is 2"):
        get_task(str(toml))
    for name, said in ((str(toml), "which is a robot itself"), ("nothing-v0", "the key simulator: unknown task")):
        toml.write_text(text.replace(MAZE, name))
        with pytest.raises(UserError, match=said):
            get_task(str(toml))
    toml.write_text(text.replace("[observation.pixels]", "[observation.wrist]"))
    task = get_task(str(toml))
    with pytest.raises(UserError, match="Give a mapping with state, wrist"):
        evaluate(load_policy(folder / "policy.safetensors"), task, seed=0, step=0, episodes=1)


def test_a_served_policy_acts_on_pixels_bitwise_as_in_evaluation(folder: Path, tmp_path: Path):
    """The server alone, with delays and lost connections, and killed and restarted in the middle of an episode."""
    path = folder / "policy.safetensors"
    policy = load_policy(path)
    task = replace(policy.run.resolved_task, max_episode_steps=24)
    expected = evaluate(policy, task, seed=policy.run.seed, step=policy.step, episodes=2)
    with Process(path) as server:
        out = {name: tmp_path / f"{name}.csv" for name in ("file", "served")}
        for name, source in (("file", str(path)), ("served", server.url)):
            assert main(["evaluate", source, "--episodes", "1", "--out", str(out[name])]) == 0
        assert out["file"].read_bytes() == out["served"].read_bytes()
        plain, reconnects = driven(server.url, policy, task)
        assert [(row.success, row.return_, row.length, 0) for row in expected] == [result for _, result in plain]
        assert reconnects == 0
        faulty, reconnects = driven(server.url, policy, task, delay=0.001, jitter=0.01, drop=0.5)
        assert reconnects > 0
        killed, reconnects = driven_through_a_restart(server, path, 9, policy, task)
        assert reconnects == 1
    for others in (faulty, killed):
        for (actions, result), (theirs, other) in zip(plain, others, strict=True):
            np.testing.assert_array_equal(actions, theirs)
            assert result == other


def test_a_simulated_robot_in_real_time_ends_its_episodes(folder: Path):
    policy = load_policy(folder / "policy.safetensors")
    task = replace(policy.run.resolved_task, max_episode_steps=20)
    with Process(folder / "policy.safetensors") as server:
        (((_, (_, _, length, held)),), _) = driven(
            server.url, policy, task, rate=20, episodes=1, delay=0.1, jitter=0.05, drop=0.2, ahead=2
        )
    assert length == 20 and held > 0


@pytest.mark.parametrize("form", ["lerobot", "minari"])
def test_recordings_of_the_server_become_a_dataset(folder: Path, tmp_path: Path, form: str, capsys):
    env, seen = make_env(get_task(str(folder / "maze.toml"))), []
    with Process(folder / "policy.safetensors", "--record", str(tmp_path / "recorded")) as server:
        with Client(server.url) as client:
            for seed in range(2):
                observation, _ = env.reset(seed=seed)
                for step in range(6 + seed):
                    sent = {name: observation[name].astype(space.dtype) for name, space in SEEN.items()}
                    action = client.infer(sent, reset=not step)["actions"][0]
                    seen.append((sent, action))
                    observation = env.step(action)[0]
        server.process.terminate()
        server.process.wait(60)
    assert main(["data", "describe", str(tmp_path / "recorded")]) == 0
    said = capsys.readouterr().out
    assert "episodes: 2 with 13 actions" in said and "uint8 (32, 32, 3)" in said and "rewards: none" in said
    rate = ["--rate", "10", "--codec", "lossless"]
    command = ["data", "export", str(tmp_path / "recorded"), str(tmp_path / "new-v0"), "--format", form]
    assert main(command) == (2 if form == "lerobot" else 0)
    if form == "lerobot":
        assert "does not say its control rate. Give --rate HZ" in capsys.readouterr().err
        assert main([*command, *rate]) == 0
    found = open_recordings(tmp_path / "new-v0")
    columns = {name: found.columns[name] for name in (*found.roles.cameras, *found.roles.state, *found.roles.action)}
    episodes = sorted(found.read(range(2), columns), key=lambda episode: len(episode.columns[found.roles.action[0]]))
    rows = [np.concatenate([e.columns[name][: 6 + n] for n, e in enumerate(episodes)]) for name in columns]
    expected = [[sent["pixels"] for sent, _ in seen], [sent["state"] for sent, _ in seen], [a for _, a in seen]]
    for ours, theirs in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert main(["data", "describe", str(tmp_path / "new-v0"), "--write-task", str(tmp_path / "new.toml")]) == 0


def test_an_evaluation_through_a_server_is_recorded_episode_by_episode(folder: Path, tmp_path: Path):
    policy = load_policy(folder / "policy.safetensors")
    task = replace(policy.run.resolved_task, max_episode_steps=12)
    with Process(folder / "policy.safetensors", "--record", str(tmp_path / "recorded")) as server:
        with Client(server.url) as client:
            episodes = evaluate(ServedPolicy(client), task, seed=3, step=7, episodes=3)
        server.process.terminate()
        server.process.wait(60)
    assert episodes == evaluate(policy, task, seed=3, step=7, episodes=3)
    assert open_recordings(tmp_path / "recorded").lengths == [6] * 3  # requests for chunks of 2 actions


def test_episodes_of_an_evaluation_become_a_dataset(folder: Path, tmp_path: Path, capsys):
    """They go around the loop: recorded, exported, described, and loaded as the data of a task."""
    record, out = tmp_path / "episodes.npz", tmp_path / "again"
    policy = str(folder / "policy.safetensors")
    assert main(["evaluate", policy, "--episodes", "2", "--record", str(record)]) == 0
    export = ["data", "export", str(record), str(out), "--format", "lerobot", "--codec", "lossless"]
    assert main([*export, "--rate", "10"]) == 0
    capsys.readouterr()
    assert main(["data", "describe", str(out), "--write-task", str(tmp_path / "again.toml")]) == 0
    said = capsys.readouterr().out
    assert "episodes: 2 with" in said and "successes: " in said and "of 2 episodes" in said
    dataset = load_dataset([get_task(str(tmp_path / "again.toml"))], data_dir=tmp_path)
    recorded = np.load(record)
    for name in SEEN:
        np.testing.assert_array_equal(dataset.observations[name][0], recorded[f"observations/{name}"][0])
