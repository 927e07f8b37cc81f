"""Robots as tasks: TOML files, runs without an environment, held-out checks, `lps data`."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from recorded import CAMERAS, episodes, write_droid, write_robomimic
from small import small_hyperparameters

from analysis import actions
from analysis.__main__ import main as analyse
from lps.__main__ import main
from lps.agents import AGENTS
from lps.data import export_lerobot
from lps.data.episodes import Dataset
from lps.data.recordings import open_recordings
from lps.errors import UserError
from lps.evaluation.heldout import calibration, returns_to_go
from lps.policy.file import load_policy
from lps.runs.run import Run
from lps.runs.scores import last_checks
from lps.runs.store import Store
from lps.spaces import Space
from lps.tasks.suites import get_task, load_dataset, make_env
from lps.training.options import TrainOptions
from lps.training.trainer import train

FILE = """
name = "pick"
dataset = "recorded"
rate = 10
horizon = 2
held_out = 0.2

[observation.state]
columns = ["observation.state"]
size = 4

[action]
columns = ["action"]
size = 3
scale = "quantiles"

[reward]
rule = "file"
"""
CPU = TrainOptions(device="cpu", log_interval=2, checkpoint_seconds=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with recordings, and a task file beside it."""
    folder = tmp_path_factory.mktemp("data")
    export_lerobot.export(episodes(), folder / "recorded", codec="lossless")
    (folder / "pick.toml").write_text(FILE)
    return folder


def options(data: Path) -> TrainOptions:
    return dataclasses.replace(CPU, data_dir=str(data))


def test_a_file_is_a_task(data: Path):
    task = get_task(str(data / "pick.toml"))
    assert (task.name, task.suite, task.group, task.metric) == ("robot:pick", "robot", "pick", "none")
    assert task.observation == {"state": Space((4,))} and task.action == Space((3,)) and task.horizon == 2
    assert task.options["rate"] == 10.0
    dataset = load_dataset([task], data_dir=data)
    assert dataset.held_out is not None and dataset.action_scale is not None
    with pytest.raises(UserError, match="robot:pick has recordings and no environment"):
        make_env(task)


def test_a_run_has_the_content_of_its_file(data: Path, tmp_path: Path):
    run = Run.create("lps", str(data / "pick.toml"), steps=4)
    again = Run.from_dict(json.loads(json.dumps(run.to_dict())))
    assert again.id == run.id == "6e654d8ac3d853cb" and again.task == "robot:pick"  # keys that came later change no id
    assert again.resolved_task == get_task(str(data / "pick.toml"))  # without the file
    named = Run.create("lps", "robot:pick", steps=4, options={"robot": run.options["robot"]})
    assert named.id == run.id  # as the report's commands name it
    other = tmp_path / "other.toml"
    other.write_text(FILE.replace("quantiles", "min_max"))
    assert Run.create("lps", str(other), steps=4).id != run.id
    other.write_text("# a comment\n" + FILE)
    assert Run.create("lps", str(other), steps=4).id == run.id
    with pytest.raises(UserError, match="robot:pick is not known without its file. Give the path"):
        get_task("robot:pick")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate = 10", "", "lacks the key rate. Add it"),
        ("rate = 10", 'rate = "ten"', "the key rate is 'ten'"),
        ("rate = 10", "rate = 0", "the key rate is 0"),
        ("horizon = 2", "horizon = 2.5", "the key horizon is 2.5"),
        ("held_out = 0.2", "held_out = 0.8", "the key held_out is 0.8"),
        ('"quantiles"', '"quantile"', "the key action.scale is 'quantile'.*'quantiles'"),
        ("size = 4", 'size = "4"', "the key observation.state.size is '4'. Give"),
        ("size = 4", "sizes = 4", "lacks the key observation.state.size|unknown key observation.state.sizes"),
        ("[reward]", "[rewards]", "unknown key rewards. Use one of name, dataset"),
        ('rule = "file"', 'rule = "file"\nfailures = -1', "unknown key reward.failures. Use one of rule"),
        ("rate = 10", "rate = = 10", "is not TOML"),
        ('name = "pick"', 'name = "a b"', "the key name is 'a b'"),
        ('["observation.state"]\nsize = 4', '["a", "b"]\nsize = [8, 8]', "observation.state.columns has 2 cameras"),
    ],
)
def test_bad_files_name_the_key(tmp_path: Path, old: str, new: str, message: str):
    path = tmp_path / "bad.toml"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as error:
        get_task(str(path))
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_training_without_an_environment_stores_held_out_checks(data: Path, tmp_path: Path):
    store = Store(tmp_path / "results")
    runs = [
        Run.create("lps", str(data / "pick.toml"), seed, steps=6, eval_interval=3, **small_hyperparameters("lps"))
        for seed in (0, 1)
    ]
    assert set(train(runs, store, options(data)).values()) == {"done"}
    rows = store.read_metrics(runs[0].id).to_pylist()
    checked = {row["step"] for row in rows if row["metric"].startswith("heldout/")}
    assert checked == {3, 6} and not store.episodes(runs[0].id)
    checks = last_checks(store, runs[0])
    assert {"heldout/action_error", "heldout/q_minus_return", "heldout/calibration_return_5"} <= checks.keys()
    assert 0 < checks["heldout/action_error"] < 2
    assert checks != last_checks(store, runs[1])
    assert not any("success" in name for name in checks)


@pytest.mark.slow
def test_the_report_shows_held_out_checks_and_calls_them_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    runs = [
        Run.create(agent, str(data / "pick.toml"), steps=2, **small_hyperparameters(agent))
        for agent in ("lps", "flow_bc")
    ]
    train(runs, Store(tmp_path), options(data))
    assert analyse(["compare", str(tmp_path)]) == analyse(["report", str(tmp_path)]) == 0
    table = (tmp_path / "report/tables/held_out.csv").read_text().splitlines()
    assert len(table) == 3 and not (tmp_path / "report/tables/success.csv").exists()
    assert "incomplete" not in capsys.readouterr().out
    page = (tmp_path / "report/report.html").read_text()
    assert "Held-out checks (no success rates)" in page and "not how often it succeeds" in page


def test_a_member_alone_has_the_checks_of_a_pack_and_a_resumed_run_those_of_an_uninterrupted(
    data: Path, tmp_path: Path
):
    def run(seed: int, steps: int = 6) -> Run:
        path = str(data / "pick.toml")
        return Run.create("lps", path, seed, steps=steps, eval_interval=3, **small_hyperparameters("lps"))

    pack, alone = Store(tmp_path / "pack"), Store(tmp_path / "alone")
    train([run(0), run(1)], pack, options(data))

    class Stopped(Exception):
        pass

    def stop(progress) -> None:
        if progress.event == "checkpoint" and progress.step >= 3:
            raise Stopped

    with pytest.raises(Stopped):
        train([run(1)], alone, options(data), callback=stop)
    train([run(1)], alone, options(data))
    rows = [store.read_metrics(run(1).id).to_pylist() for store in (pack, alone)]
    key = [[(row["step"], row["metric"]) for row in own] for own in rows]
    assert sorted(key[0]) == sorted(key[1]) and len(set(key[0])) == len(key[0])
    first, second = ({(r["step"], r["metric"]): r["value"] for r in own} for own in rows)
    for name, value in first.items():
        assert second[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_has_checks(data: Path, tmp_path: Path, agent: str):
    run = Run.create(agent, str(data / "pick.toml"), steps=1, **small_hyperparameters(agent))
    store = Store(tmp_path)
    train([run], store, options(data))
    checks = last_checks(store, run)
    assert np.isfinite(checks["heldout/action_error"])
    assert ("heldout/q_policy" in checks) == (not AGENTS[agent].reward_free)


def dataset_of(rewards: list[float], masks: list[float]) -> Dataset:
    """Two episodes of the same four transitions; the second one is cut off."""
    rows = 5
    return Dataset(
        name="toy",
        fingerprint="",
        observations={"state": np.zeros((2 * rows, 1), np.float32)},
        actions=np.zeros((2 * rows, 1), np.float32),
        terminals=np.tile(np.arange(rows) == rows - 1, 2),
        rewards=np.array([[*rewards, 9, *rewards, 9]], np.float32),
        masks=np.array([[*masks, 1, 1, 1, 1, 1, 1]], np.float32),
        tasks=("a",),
    )


def test_returns_to_go_end_where_the_task_does():
    found = returns_to_go(dataset_of([1, 2, 4, 8], [1, 1, 0, 1]), 0, 0.5)
    assert found[:3].tolist() == [1 + 0.5 * (2 + 0.5 * 4), 2 + 0.5 * 4, 4]
    assert np.isnan(found[3:]).all()  # after the end, and in the episode that is cut off


def test_calibration_of_a_perfect_critic():
    returns = torch.arange(20.0)[None]
    found = calibration(returns.clone(), returns)
    assert found["q_minus_return"].item() == 0 and found["q_return_correlation"].item() == pytest.approx(1)
    for number in range(1, 6):
        assert found[f"calibration_q_{number}"] == found[f"calibration_return_{number}"]
    assert calibration(returns, torch.full_like(returns, float("nan"))) == {}


def test_the_commands_from_recordings_to_a_policy(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    toml, results = tmp_path / "mine.toml", tmp_path / "results"
    described = ["data", "describe", str(data / "recorded"), "--csv", str(tmp_path / "a.csv"), "--horizon", "2"]
    assert main([*described, "--write-task", str(toml)]) == 0
    text = capsys.readouterr().out
    for words in ("LeRobot v3.0", "6 with 70 actions, 7.0 s at 10 Hz", "4 of 6 episodes", "action[2]", "left out: 0"):
        assert words in text
    with open(tmp_path / "a.csv") as file:
        assert sum(int(row["count"]) for row in csv.DictReader(file)) == 70 * 3
    assert analyse(["actions", str(tmp_path / "a.csv"), "--out", str(tmp_path / "new" / "a")]) == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"a.png", "a.pdf"}
    toml.write_text(toml.read_text().replace("[32, 48]", "[6, 6]"))
    small = [f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
             for name, value in small_hyperparameters("lps").items() if name != "horizon"]  # fmt: skip
    common = ["--task", str(toml), "--data-dir", str(data), "--results", str(results), "--device", "cpu"]
    assert main(["train", "--agent", "lps", *common, "--steps", "2", "--set", *small]) == 0
    out = capsys.readouterr().out
    assert "held-out action error" in out and "success" not in out
    (checkpoint,) = (results / "checkpoints").iterdir()
    assert main(["export", str(checkpoint), str(tmp_path / "policy.safetensors")]) == 0
    policy = load_policy(tmp_path / "policy.safetensors")
    seen = {name: np.zeros(space.shape, space.dtype) for name, space in policy.observation.items()}
    assert policy.observation["wrist"] == Space((6, 6, 3), "uint8") and policy.act(seen).shape == (2, 3)
    assert main(["evaluate", str(checkpoint)]) == 2
    assert "has recordings and no environment" in capsys.readouterr().err


def test_histograms_are_drawn_as_the_file_has_them(tmp_path: Path):
    (tmp_path / "a.csv").write_text("action,low,high,count\nx[0],-1,0,3\nx[0],0,1,1\n$y[1],0,2,4\n")
    panels = [axes for axes in actions.draw(actions.read(tmp_path / "a.csv")).axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["x[0]", "$y[1]"]
    assert [[bar.get_height() for bar in axes.patches] for axes in panels] == [[75, 25], [100]]
    assert [(bar.get_x(), bar.get_width()) for bar in panels[0].patches] == [(-1, 1), (0, 1)]
    for text in ("", "action,low\nx,1\n", "action,low,high,count\nx,a,1,1\n"):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(UserError, match=r"a.csv cannot be read: .*\. Write it with: python -m lps data describe"):
            actions.read(tmp_path / "a.csv")


@pytest.mark.parametrize("form", ["lerobot", "minari"])
def test_export_command(data: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "new-v0"
    assert main(["data", "export", str(data / "recorded"), str(out), "--format", form]) == 0
    assert "6 episodes, 70 steps" in capsys.readouterr().out
    assert main(["data", "describe", str(out)]) == 0
    assert main(["data", "export", str(data / "recorded"), str(out), "--format", form]) == 2


def test_files_that_describe_writes_are_tasks_that_load(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_robomimic(episodes(cameras=False), tmp_path / "lift.hdf5")
    write_droid(episodes(), tmp_path / "pick")
    for name, horizon in (("lift.hdf5", 3), ("pick", 5)):
        toml = tmp_path / f"{name}.toml"
        command = ["data", "describe", str(tmp_path / name), "--write-task", str(toml), "--horizon", str(horizon)]
        assert main(command) == 0
        task = get_task(str(toml))
        assert load_dataset([task], data_dir=tmp_path).starts(horizon).size
    assert task.observation["111_left"] == Space((32, 48, 3), "uint8") and CAMERAS
    assert "failure" in capsys.readouterr().out  # of the DROID files that are left out


def test_recordings_of_a_policy_server_become_a_dataset(tmp_path: Path):
    """Files as lps.policy.recorder writes them: one per episode, D4RL's keys without rewards."""
    for number in range(3):
        rows = 6 + number
        last = np.arange(rows) == rows - 1
        np.savez(
            tmp_path / f"{number}.npz",
            **{
                "observations/state": np.full((rows, 4), number, np.float32),
                "actions": np.zeros((rows, 3), np.float32),
            },
            chunks=np.zeros((rows, 2, 3), np.float32),
            terminals=np.zeros(rows, bool),
            timeouts=last,
            times=np.arange(rows) / 10,
            timesteps=np.arange(rows),
        )
    found = open_recordings(tmp_path)
    assert found.format == "npz" and found.lengths == [6, 7, 8] and found.roles.state == ("observations/state",)
    export_lerobot.export(found, tmp_path / "out", rate=10)
    again = open_recordings(tmp_path / "out")
    assert again.lengths == [6, 7, 8] and again.columns["observation.state"] == Space((4,))


def test_evaluation_episodes_become_a_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = Run.create("lps", "ring-bandit-v0", steps=1, eval_episodes=1, **small_hyperparameters("lps") | {"horizon": 1})
    train([run], Store(tmp_path / "results"), CPU)
    checkpoint, file = tmp_path / f"results/checkpoints/{run.id}.pt", tmp_path / "episodes.npz"
    assert main(["evaluate", str(checkpoint), "--episodes", "5", "--record", str(file)]) == 0
    shown = [line.split()[3] for line in capsys.readouterr().out.splitlines()[1:6]]
    found = open_recordings(file)
    assert found.lengths == [1] * 5 and not found.last_observation
    read = list(found.read(range(5), {"rewards": found.columns["rewards"], "actions": found.columns["actions"]}))
    assert [f"{episode.columns['rewards'].sum():.1f}" for episode in read] == shown
    assert main(["data", "export", str(file), str(tmp_path / "ring-v0"), "--format", "minari"]) == 0
    assert main(["data", "describe", str(tmp_path / "ring-v0")]) == 0
    assert "episodes: 5 with 5 actions" in capsys.readouterr().out
