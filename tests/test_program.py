"""The update as one program: compiled and plain agree."""

import functools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small import make_agent, member_params

from lps.agents import AGENTS
from lps.batches import Batches
from lps.data.dataset import Dataset
from lps.errors import UserError
from lps.program import Program
from lps.tasks import GROUPS

TASK = GROUPS["cube-single"][0]
SEEDS = [3, 1]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng, rows = np.random.default_rng(0), 60
    return Dataset(
        name="made",
        fingerprint="",
        observations=rng.standard_normal((rows, 7)).astype(np.float32),
        actions=rng.uniform(-1, 1, (rows, 3)).astype(np.float32),
        terminals=np.arange(rows) % 20 == 19,
        rewards=-rng.random((1, rows)).astype(np.float32),
        masks=(rng.random((1, rows)) > 0.1).astype(np.float32),
        tasks=(TASK,),
    )


def trained(agent: str, dataset: Dataset, compiled: bool) -> dict[str, torch.Tensor]:
    subject = make_agent(agent, SEEDS)
    batches = Batches(dataset, [TASK] * 2, [0.99] * 2, subject.config.horizon)
    program = Program(subject, batches, SEEDS, compiled)
    for step in range(1, 21):
        info = program.update(step)
    assert all(value.shape == (2,) for value in info.values())
    return {f"{i}/{name}": value for i in range(2) for name, value in member_params(subject, i).items()}


def assert_agree(agent: str, dataset: Dataset) -> None:
    plain, compiled = (trained(agent, dataset, compiled) for compiled in (False, True))
    for name, value in plain.items():
        assert torch.allclose(compiled[name], value, atol=2e-5, rtol=1e-3), name


@pytest.mark.parametrize("agent", AGENTS)
def test_the_traced_update_is_the_plain_one(agent, dataset, monkeypatch):
    """Traced and differentiated as for compiling, without the minutes that code generation takes."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    assert_agree(agent, dataset)


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")
def test_the_compiled_update_is_the_plain_one(dataset, tmp_path, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path(tmp_path) / "kernels"))
    assert_agree("flow_bc", dataset)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("agent", AGENTS)
def test_the_captured_update_is_the_plain_one(agent, dataset):
    results = []
    for compiled in (False, True):
        cls, config = AGENTS[agent], make_agent(agent, [0]).config
        subject = cls([config] * 2, SEEDS, 7, 3, "cuda")
        program = Program(subject, Batches(dataset, [TASK] * 2, [0.99] * 2, config.horizon, "cuda"), SEEDS, compiled)
        for step in range(1, 21):
            program.update(step)
        results.append([tensor.detach().cpu() for tensor in subject.trained_tensors()])
    for plain, captured in zip(*results, strict=True):
        torch.testing.assert_close(captured, plain, atol=2e-5, rtol=1e-3)


def test_compiling_without_a_compiler_says_what_to_do(dataset, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="C\\+\\+ compiler"):
        trained("flow_bc", dataset, compiled=True)
