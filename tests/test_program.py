"""The update as one program: compiled and plain agree, and precisions do as far as they promise."""

import functools
import gc
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from functorch.compile import make_boxed_func
from small import (
    ACTION_DIM,
    OBSERVATION,
    SEEN,
    made_up_data,
    make_agent,
    member_params,
    small_config,
    small_hyperparameters,
)
from test_train import FakeEvaluator
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lps import cpu as gelu
from lps.agents import AGENTS
from lps.agents.base import Agent
from lps.data.batches import Batches
from lps.data.episodes import Dataset
from lps.errors import UserError
from lps.members.streams import Stream
from lps.nets.layers import product
from lps.runs.checkpoint import Checkpoint
from lps.runs.run import Run
from lps.runs.store import Store
from lps.spaces import Space
from lps.tasks.suites import groups
from lps.training.options import TrainOptions, check_precision
from lps.training.program import Program, _draw, _tf32
from lps.training.trainer import train

GROUPS = groups("ogbench")


TASK = GROUPS["cube-single"][0]
SEEDS = [3, 1]


DATA = {name: made_up_data(TASK.name, observation) for name, observation in SEEN.items()}


@pytest.fixture(scope="module", params=SEEN)
def seen(request) -> Dataset:
    """Data of vectors and of images, in turn."""
    return DATA[request.param]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return DATA["state"]


def spaces(dataset: Dataset) -> dict[str, Space]:
    return {name: Space(array.shape[1:], str(array.dtype)) for name, array in dataset.observations.items()}


def trained(agent: str, dataset: Dataset, compiled: bool) -> dict[str, torch.Tensor]:
    subject = make_agent(agent, SEEDS, observation=spaces(dataset))
    batches = Batches(dataset, [TASK.name] * 2, [0.99] * 2, subject.config.horizon)
    program = Program(subject, batches, SEEDS, compiled)
    for step in range(1, 21 if not dataset.images else 4):
        info = program.update(step)
    assert all(value.shape == (2,) for value in info.values())
    return {f"{i}/{name}": value for i in range(2) for name, value in member_params(subject, i).items()}


@pytest.fixture
def as_in_batches(monkeypatch):
    """GELU in its form for many elements, which the small batches here are not."""
    monkeypatch.setattr(gelu, "MANY", 0)


def assert_agree(agent: str, dataset: Dataset) -> None:
    plain, compiled = (trained(agent, dataset, compiled) for compiled in (False, True))
    for name, value in plain.items():
        assert torch.allclose(compiled[name], value, atol=2e-5, rtol=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "seen"), [*((a, "state") for a in AGENTS), ("lps", "images"), ("dsrl", "images")])
def test_the_traced_update_is_the_plain_one(agent, seen, as_in_batches, monkeypatch):
    """Traced and differentiated as for compiling, without the minutes that code generation takes."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    assert_agree(agent, DATA[seen])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")
def test_the_compiled_update_is_the_plain_one(seen, as_in_batches, tmp_path, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path(tmp_path) / "kernels"))
    assert_agree("flow_bc", seen)


@pytest.mark.parametrize(("agent", "seen"), [*((agent, "state") for agent in AGENTS), ("lps", "images")])
def test_batch_and_noise_are_one_graph_of_the_same_numbers(agent, seen):
    """As they are compiled on a GPU: without a break, and with the step on the device."""
    torch._dynamo.reset()
    subject, seeds = make_agent(agent, SEEDS, observation=SEEN[seen]), torch.tensor(SEEDS)
    step = torch.tensor(7)
    batches = Batches(DATA[seen], [TASK.name] * 2, [0.99] * 2, subject.config.horizon)
    plain = _draw(subject, batches, seeds, step)
    traced = torch.compile(_draw, dynamic=False, fullgraph=True, backend="aot_eager")(subject, batches, seeds, step)
    assert all(map(torch.equal, tree_leaves((vars(plain[0]), plain[1])), tree_leaves((vars(traced[0]), traced[1]))))


@pytest.mark.parametrize(("fan_in", "fan_out"), [(55, 512), (512, 25), (256, 1), (64, 64)])
def test_the_product_of_a_gpu_is_the_product(fan_in, fan_out):
    torch.manual_seed(0)
    shapes = (2, 8, fan_in), (2, fan_in, fan_out)
    x, matrix = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    results = product(x, matrix), torch.bmm(x, matrix)
    weights = torch.randn_like(results[1])
    for ours, theirs in zip(
        *((result, *torch.autograd.grad(result, (x, matrix), weights)) for result in results), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


class Crossings(TorchDispatchMode):
    """Notes every operation whose tensors, taken and given, are on more than one device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)}
        if len(devices) > 1:
            self.found.append(str(func))
        return out


@pytest.mark.parametrize("agent", AGENTS)
def test_neither_an_update_nor_a_decision_leaves_its_device(agent, seen):
    """On torch's device without data, where whatever asks for a value raises: what would wait for a GPU or copy to one,
    and could not be captured, shows without a GPU."""
    config = small_config(agent)
    subject = AGENTS[agent]([config] * 2, SEEDS, spaces(seen), ACTION_DIM, "meta")
    batches = Batches(seen, [TASK.name] * 2, [0.99] * 2, config.horizon, "meta", seeds=SEEDS)
    program, step = Program(subject, batches, SEEDS), torch.tensor(1, device="meta")
    program._update(step)  # constants are made once
    copies = pytest.fail  # of what the host has, which this device would take without a word
    with Crossings() as crossings, patch.multiple(torch, tensor=copies, as_tensor=copies, from_numpy=copies):
        info = program._update(step)
        noise = torch.randn(2, 5, subject.noise_dim, device="meta") if subject.noise_dim else None
        chunks = subject.act(
            {
                name: torch.empty(2, 5, *space.shape, dtype=getattr(torch, space.dtype), device="meta")
                for name, space in subject.observation.items()
            },
            noise,
        )
    assert chunks.shape == (2, 5, subject.chunk_dim)
    assert {value.device.type for value in (chunks, *info.values(), *subject.trained_tensors())} == {"meta"}
    assert not crossings.found


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_what_is_compiled_holds_nothing_of_the_host(agent, dataset, monkeypatch):
    """Tracing looks through caches: a tensor that one keeps would be made of the host's numbers inside of the graph."""
    config, traced = small_config(agent), []

    def keep(graph: torch.fx.GraphModule, _) -> Callable:
        traced.append(graph)
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=aot_autograd(fw_compiler=keep)))
    subject = AGENTS[agent]([config] * 2, SEEDS, OBSERVATION, ACTION_DIM, "meta")
    batches = Batches(dataset, [TASK.name] * 2, [0.99] * 2, config.horizon, "meta")
    Program(subject, batches, SEEDS, compiled=True)._update(torch.tensor(1, device="meta"))
    values = [node.meta.get("val") for graph in traced for node in graph.graph.nodes]
    assert {value.device.type for value in values if isinstance(value, torch.Tensor)} == {"meta"}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_program_leaves_no_cycle_that_keeps_its_pack(precision, dataset):
    gc.collect()
    gc.disable()
    try:
        subject = make_agent("lps", SEEDS)
        batches = Batches(dataset, [TASK.name] * 2, [0.99] * 2, subject.config.horizon)
        program = Program(subject, batches, SEEDS, precision=precision)
        program.update(1)
        kept = weakref.ref(subject)
        del subject, program
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("agent", AGENTS)
def test_a_resumed_training_on_images_is_bitwise_the_uninterrupted_one(agent):
    """With crops, and with images from host memory after the interruption."""
    run = Run.create(agent, TASK.name, **small_hyperparameters(agent))

    def updated(subject: Agent, steps: range, room: float | None) -> Agent:
        batches = Batches(DATA["images"], [TASK.name] * 2, [0.99] * 2, subject.config.horizon, seeds=SEEDS, room=room)
        program = Program(subject, batches, SEEDS)
        for step in steps:
            program.update(step)
        return subject

    def fresh(seeds: list[int]) -> Agent:
        return make_agent(agent, seeds, [{"p_aug": 0.5}] * 2, SEEN["images"])

    whole, half, resumed = (
        updated(fresh(SEEDS), range(1, 7), None),
        updated(fresh(SEEDS), range(1, 4), None),
        fresh([0, 0]),
    )
    for member in range(2):
        stored = Checkpoint.of(half, member, run, 3, "x").to_bytes()
        Checkpoint.from_bytes(stored, "memory").restore(resumed, member)
    updated(resumed, range(4, 7), 0.0)
    assert all(map(torch.equal, resumed.trained_tensors(), whole.trained_tensors()))


def test_compiling_without_a_compiler_says_what_to_do(dataset, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="C\\+\\+ compiler"):
        trained("flow_bc", dataset, compiled=True)


# --- precision ---


def updated(agent: str, dataset: Dataset, precision: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """One update: the gradient of each network as one vector, and the metrics."""
    subject = make_agent(agent, SEEDS)
    batches = Batches(dataset, [TASK.name] * 2, [0.99] * 2, subject.config.horizon)
    info = Program(subject, batches, SEEDS, precision=precision).update(1)
    # Adam's first moment is a tenth of it; the parameters tell less, for they move by lr in its sign.
    moments = dict(zip(map(id, subject.trained_tensors()), subject.adam.first, strict=True))
    trained = {net: [moments[id(p)] for p in subject.params[net].values() if id(p) in moments] for net in subject.nets}
    return {net: torch.cat([m.flatten() * 10 for m in of_net]) for net, of_net in trained.items() if of_net}, info


@pytest.mark.parametrize("agent", AGENTS)
def test_float32_is_the_update_written_out(agent, dataset):
    """To the last bit: batch, noise and `Agent.update`, with nothing around them."""
    program, by_hand = (make_agent(agent, SEEDS) for _ in range(2))
    batches, seeds = Batches(dataset, [TASK.name] * 2, [0.99] * 2, by_hand.config.horizon), torch.tensor(SEEDS)
    size = by_hand.config.batch_size
    updates = Program(program, batches, SEEDS, precision="float32")
    for step in (1, 2, 3):
        info = updates.update(step)
        noise = by_hand.noise(Stream(seeds, step, "noise"), size)
        expected = by_hand.update(batches.sample(Stream(seeds, step, "batch"), size), noise)
        assert all(torch.equal(info[name], expected[name]) for name in expected)
    assert all(map(torch.equal, program.trained_tensors(), by_hand.trained_tensors()))


@pytest.mark.parametrize("agent", AGENTS)
def test_bf16_is_float32_up_to_its_eight_bits(agent, dataset):
    """For one update: the gradient of each network within 10 % in length, that of all within 2 %; LPS's losses within
    2 %. Metrics come in float32."""
    (exact, info), (rounded, rounded_info) = (updated(agent, dataset, precision) for precision in ("float32", "bf16"))
    for net in exact:
        assert 0 < (rounded[net] - exact[net]).norm() < 0.1 * exact[net].norm(), net
    whole, difference = (torch.cat(list(d.values())) for d in (exact, {n: rounded[n] - exact[n] for n in exact}))
    assert difference.norm() < 0.02 * whole.norm()
    assert all(value.dtype == torch.float32 for value in rounded_info.values())
    if agent == "lps":
        for name in ("critic_loss", "base_loss", "latent_loss"):
            torch.testing.assert_close(rounded_info[name], info[name], rtol=0.02, atol=0)


def test_tf32_is_switched_on_for_the_update_only():
    before = torch.get_float32_matmul_precision()
    with _tf32():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("precision", "says"), [("tf32", "NVIDIA"), ("bf61", "did you mean 'bf16'")])
def test_a_precision_that_is_not_there_is_refused(precision, says):
    with pytest.raises(UserError, match=says):
        check_precision(precision, "cpu")


def test_a_run_says_what_it_was_trained_in(tmp_path, tiny_data_dir):
    settings = {"steps": 20, "eval_interval": 20, "eval_episodes": 1, **small_hyperparameters("flow_bc")}
    run, store = Run.create("flow_bc", TASK.name, **settings), Store(tmp_path / "r")

    def go(precision, callback=None):
        train(
            [run], store,
            TrainOptions("cpu", precision=precision, data_dir=str(tiny_data_dir), checkpoint_seconds=0.0),
            evaluator=FakeEvaluator(), callback=callback,
        )  # fmt: skip

    def stop(progress):
        if progress.event == "checkpoint" and progress.step >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go("float32", stop)
    assert store.read_run(run.id)["precision"] == "float32"
    go("bf16")
    assert store.read_run(run.id)["precision"] == "float32, bf16"
    assert store.read_run(run.id)["status"] == "done"
