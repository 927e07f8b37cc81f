"""On a GPU: every agent's update is the same plain, compiled and captured, packed and alone, and as on the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small import ACTION_DIM, OBSERVATION, OBSERVATION_DIM, make_agent, small_config, small_hyperparameters
from test_train import FakeEvaluator

from lps.agents import AGENTS
from lps.data.batches import Batches
from lps.data.episodes import Dataset
from lps.policy.policy import Policy
from lps.runs.checkpoint import Checkpoint, checkpoint_path
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.suites import groups
from lps.training.memory import members_that_fit
from lps.training.options import TrainOptions
from lps.training.program import Program
from lps.training.trainer import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

TASK = groups("ogbench")["cube-single"][0]
SEEDS = [3, 1]
CLOSE = {"atol": 2e-5, "rtol": 1e-3}
UPDATES = 20


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng, rows = np.random.default_rng(0), 60
    return Dataset(
        name="made",
        fingerprint="",
        observations={"state": rng.standard_normal((rows, OBSERVATION_DIM)).astype(np.float32)},
        actions=rng.uniform(-1, 1, (rows, ACTION_DIM)).astype(np.float32),
        terminals=np.arange(rows) % 20 == 19,
        rewards=-rng.random((1, rows)).astype(np.float32),
        masks=(rng.random((1, rows)) > 0.1).astype(np.float32),
        tasks=(TASK.name,),
    )


def updated(agent: str, dataset: Dataset, device: str, seeds=SEEDS, compiled=False, precision="float32"):
    """Parameters (M, ...) after some updates, in their fixed order, on the CPU."""
    config = small_config(agent)
    subject = AGENTS[agent]([config] * len(seeds), seeds, OBSERVATION, ACTION_DIM, device)
    batches = Batches(dataset, [TASK.name] * len(seeds), [0.99] * len(seeds), config.horizon, device)
    program = Program(subject, batches, seeds, compiled, precision)
    for step in range(1, UPDATES + 1):
        program.update(step)
    return [tensor.detach().cpu() for tensor in subject.trained_tensors()]


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_compiled_and_captured_update_is_the_plain_one(agent, dataset):
    assert_close(updated(agent, dataset, "cuda", compiled=True), updated(agent, dataset, "cuda"))


@pytest.mark.parametrize("agent", AGENTS)
def test_an_update_on_the_gpu_is_that_on_the_cpu(agent, dataset):
    assert_close(updated(agent, dataset, "cuda"), updated(agent, dataset, "cpu"))


@pytest.mark.parametrize("agent", AGENTS)
def test_a_member_of_a_pack_is_the_member_alone(agent, dataset):
    packed, alone = updated(agent, dataset, "cuda"), updated(agent, dataset, "cuda", seeds=SEEDS[:1])
    assert_close([tensor[:1] for tensor in packed], alone)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_policy_decides_on_a_gpu_as_on_the_cpu(agent):
    run = Run.create(agent, TASK.name, **small_hyperparameters(agent))
    policy = Policy.of_member(make_agent(agent, SEEDS), 0, run, 0)
    observation = np.linspace(-1, 1, OBSERVATION_DIM, dtype=np.float32)
    np.testing.assert_allclose(policy.to("cuda").act(observation), policy.act(observation), atol=1e-5)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_shorter_precision_stays_near_float32(precision, dataset):
    """After a few updates of LPS every parameter has moved by some learning rates; they differ by less than ten."""
    exact, short = (updated("lps", dataset, "cuda", precision=p) for p in ("float32", precision))
    for a, b in zip(exact, short, strict=True):
        torch.testing.assert_close(b, a, atol=10 * 3e-4, rtol=0)


def test_a_captured_training_resumes_where_it_was_stopped(tmp_path, tiny_data_dir):
    settings = {"steps": 40, "eval_interval": 40, "eval_episodes": 1, **small_hyperparameters("lps")}
    runs = [Run.create("lps", TASK.name, seed=seed, **settings) for seed in range(2)]

    def trained(folder: Path, stop_at: int | None) -> list[torch.Tensor]:
        store = Store(folder)
        options = TrainOptions("cuda", compile=True, data_dir=str(tiny_data_dir), checkpoint_seconds=0.0)

        def stop(progress):
            if progress.event == "checkpoint" and progress.step == stop_at:
                raise KeyboardInterrupt

        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                train(runs, store, options, evaluator=FakeEvaluator(), callback=stop)
        assert set(train(runs, store, options, evaluator=FakeEvaluator()).values()) == {"done"}
        checkpoints = [Checkpoint.from_bytes(store.read_bytes(checkpoint_path(run)), "") for run in runs]
        return [tensor for c in checkpoints for net in c.params.values() for tensor in net.values()]

    assert_close(trained(tmp_path / "stopped", 20), trained(tmp_path / "whole", None))


def test_as_many_members_fit_as_the_memory_says():
    run = Run.create("lps", TASK.name)
    few, many = members_that_fit(run, "cuda", device_share=0.1), members_that_fit(run, "cuda")
    assert few is not None and many is not None and 1 <= few < many
