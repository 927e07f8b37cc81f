"""A suite, an agent and a network of a package that is not ours go through everything: one file and one name each.

The suite is tests/foreign/house/chores.py; agent and network are the examples of docs/adding-an-agent.md and
docs/adding-a-network.md, which are thereby executed.
"""

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lps.__main__ import main
from lps.errors import UserError
from lps.policy.file import load_policy
from lps.runs.checkpoint import Checkpoint, checkpoint_path
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.suites import get_task, load_dataset, make_env
from lps.training.options import TrainOptions
from lps.training.trainer import train

HERE, DOCS = Path(__file__).parent, Path(__file__).parents[1] / "docs"
SHELF, TABLE = "house.chores:dust-the-shelf", "house.chores:Wipe: Table (slow)"
SMALL = {"batch_size": 16, "base_hidden": (16, 16), "critic_hidden": (16,), "latent_actor_hidden": (16,),
         "encoder_width": 0.125}  # fmt: skip
NETWORK, AGENT = "house.nets.Residual", "house.mean.MeanBC"


def example(page: str) -> str:
    """The first block of Python of a page."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)[0]


@pytest.fixture(scope="module", autouse=True)
def house(tmp_path_factory):
    """The package, outside of the repository, where Python and the processes that it starts find it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(HERE / "foreign" / "house", folder / "house")
    (folder / "house" / "mean.py").write_text(example("adding-an-agent.md"))
    (folder / "house" / "nets.py").write_text(example("adding-a-network.md"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "house"]:
        del sys.modules[name]


def runs_of(*agents: str, steps: int = 12, **settings) -> list[Run]:
    own = {name: SMALL[name] for name in ("batch_size", "base_hidden", "encoder_width")}
    return [
        Run.create(
            agent,
            task,
            0,
            steps=steps,
            eval_interval=6,
            eval_episodes=3,
            **(SMALL if agent == "lps" else own),
            **settings,
        )
        for agent in agents
        for task in (SHELF, TABLE)
    ]


def test_the_tasks_of_a_package_have_names_with_their_suite(capsys):
    assert main(["tasks", "--suite", "house.chores"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith(SHELF) and "uint8 (8, 8, 3)" in lines[0] and "return" in lines[1]
    run = Run.create("lps", SHELF)
    assert run.options == {"light": "day"} and run.hyperparameters["horizon"] == 2
    assert Run.create("lps", SHELF, options={"light": "night"}).id != run.id
    assert Run.from_dict(run.to_dict()).id == run.id


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("house.chorse:dust-the-shelf", "unknown suite 'house.chorse'"),
        ("house.chores:dust-the-self", "did you mean 'house.chores:dust-the-shelf'"),
        ("house.mean:anything", "has no TASKS, make_env, load"),
    ],
)
def test_what_is_not_there_is_named(name, said):
    with pytest.raises(UserError, match=said):
        get_task(name)


@pytest.mark.parametrize(
    "what", ["--agent house.broken.Agent --task ring-bandit-v0", "--agent lps --suite house.broken --task x"]
)
def test_a_module_that_misses_another_is_one_sentence(house, what, capsys):
    (house / "house" / "broken.py").write_text("import not_installed_anywhere\n")
    assert main(["train", *what.split(), "--results", "nowhere"]) == 2
    assert "not_installed_anywhere" in capsys.readouterr().err


def test_an_unknown_option_of_the_suite_is_named():
    with pytest.raises(UserError, match="light"):
        Run.create("lps", SHELF, options={"light": "dusk"})


@pytest.mark.parametrize("network", ["mlp", NETWORK])
def test_packed_and_alone_train_alike(network, tmp_path):
    packed, alone = Store(tmp_path / "packed"), Store(tmp_path / "alone")
    runs = runs_of("lps", "meanflow_bc", AGENT, network=network)
    assert set(train(runs, packed, TrainOptions(device="cpu")).values()) == {"done"}
    for run in runs:
        train([run], alone, TrainOptions(device="cpu"))
        ours, theirs = (Checkpoint.from_bytes(store.read_bytes(checkpoint_path(run)), "") for store in (packed, alone))
        for net, tensors in ours.params.items():
            for name, tensor in tensors.items():
                torch.testing.assert_close(tensor, theirs.params[net][name], atol=1e-4, rtol=1e-3)
        rows = packed.read_episodes(run.id).to_pylist()
        assert len(rows) == 6 and all(row["success"] is None and row["return"] < 0 for row in rows)


def test_a_run_that_was_cut_goes_on_to_the_same_bits(tmp_path):
    whole, cut = Store(tmp_path / "whole"), Store(tmp_path / "cut")
    (run, _) = runs_of("lps", network=NETWORK)
    train([run], whole, TrainOptions(device="cpu"))

    def stop(progress):
        if progress.event == "checkpoint" and progress.step >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train([run], cut, TrainOptions(device="cpu", checkpoint_seconds=0.0), callback=stop)
    train([run], cut, TrainOptions(device="cpu"))
    ends = [Checkpoint.from_bytes(store.read_bytes(checkpoint_path(run)), "") for store in (whole, cut)]
    for net, tensors in ends[0].params.items():
        assert all(torch.equal(tensor, ends[1].params[net][name]) for name, tensor in tensors.items())
    assert whole.read_episodes().equals(cut.read_episodes())


@pytest.mark.parametrize("frame_stack", [1, 3])
def test_images_that_stay_in_host_memory_train_to_the_same_bits(frame_stack, tmp_path, monkeypatch):
    runs, stores = runs_of("lps", frame_stack=frame_stack), [Store(tmp_path / "device"), Store(tmp_path / "host")]
    for store, room in zip(stores, (None, 0.0), strict=True):
        monkeypatch.setattr("lps.training.trainer.image_room", lambda *_, room=room: room)
        train(runs, store, TrainOptions(device="cpu"))
    for run in runs:
        ends = [Checkpoint.from_bytes(store.read_bytes(checkpoint_path(run)), "") for store in stores]
        assert ends[0].observation["camera"].shape == (8, 8, 3 * frame_stack)
        for net, tensors in ends[0].params.items():
            assert all(torch.equal(tensor, ends[1].params[net][name]) for name, tensor in tensors.items())
    assert stores[0].read_episodes().equals(stores[1].read_episodes())


def test_an_encoder_of_a_package_is_an_import_path():
    run = Run.create("lps", SHELF, encoder="lps.nets.encoder.Flat")
    assert run.config.encoder == "lps.nets.encoder.Flat" and run.id != Run.create("lps", SHELF).id
    with pytest.raises(UserError, match="unknown encoder 'impla'; did you mean 'impala'"):
        Run.create("lps", SHELF, encoder="impla")


def test_the_command_line_trains_evaluates_and_exports(tmp_path, capsys):
    results = tmp_path / "results"
    command = ["train", "--agent", "lps", "--suite", "house.chores", "--task", "dust-the-shelf", "Wipe: Table (slow)"]
    command += ["--steps", "6", "--eval-episodes", "2", "--results", str(results), "--device", "cpu", "--option"]
    command += ["light=night", "--set", f"network={NETWORK}", *(f"{name}={value}" for name, value in SMALL.items())]
    assert main(command) == 0
    assert "normalised return" in capsys.readouterr().out
    store = Store(results)
    for document in store.runs():
        path = f"{results}/{checkpoint_path(Run.from_dict(document['run']))}"
        assert main(["evaluate", path, "--episodes", "2", "--out", str(tmp_path / "rows.csv")]) == 0
        assert "normalised return" in capsys.readouterr().out
        assert main(["export", path, str(tmp_path / "policy.safetensors")]) == 0
        policy = load_policy(tmp_path / "policy.safetensors")
        task = policy.run.resolved_task
        assert task.options["light"] == "night"
        env = make_env(task)
        observation, _ = env.reset(seed=0)
        actions = policy.infer(observation)["actions"]
        assert actions.shape == (2, 3) and np.abs(actions).max() <= 1
        with pytest.raises(UserError, match="camera"):
            policy.infer(observation | {"camera": observation["camera"][:4]})


def test_the_data_of_a_group_have_a_row_of_rewards_for_each_task():
    tasks = [get_task(SHELF), get_task(TABLE)]
    dataset = load_dataset(tasks)
    assert dataset.rewards.shape[0] == 2 and not np.array_equal(*dataset.rewards)
    assert dataset.observations["camera"].dtype == np.uint8
    with pytest.raises(UserError, match="one group"):
        load_dataset([tasks[0], get_task("ring-bandit-v0")])
