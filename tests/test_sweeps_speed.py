"""Options of a sweep that say how fast and how exactly it computes reach the training; no Ray."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small import small_hyperparameters
from test_train import FakeEvaluator

from lps.errors import UserError
from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.runs.store import Store
from sweeps.launcher import cli, launch, pack
from sweeps.launcher.resources import PackResources

TASK = "cube-single-play-singletask-task1-v0"
SETTINGS: dict[str, Any] = {"steps": 2, "eval_interval": 2, "eval_episodes": 1}


def runs() -> list[Run]:
    return [Run.create("flow_bc", TASK, seed, **SETTINGS, **small_hyperparameters("flow_bc")) for seed in (0, 1)]


def planned() -> list[Planned]:
    return list(map(Planned, runs()))


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args(["--sweep", "test", "--address", "local", *words])


def plan_of(*words: str, results: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> launch.Plan:
    """The plan that a command line makes."""
    plans: list[launch.Plan] = []
    monkeypatch.setattr(launch, "_train", lambda store, todo, plan, *_: plans.append(plan))
    where = ["--results", str(results), "--data-dir", str(data_dir), "--no-mlflow"]
    cli.launch_or_describe(planned(), arguments(*where, *words), "test")
    return plans[0]


class SilentNotice:
    def __call__(self) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.fixture
def worker(tmp_path: Path, tiny_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Does a pack's work in this process, as the given words of the command line ask; what Program was told."""
    from lps.training import trainer as train

    told: dict[str, Any] = {}

    def program(agent: Any, batches: Any, seeds: list[int], compiled: bool, precision: str) -> Any:
        told.update(compiled=compiled, precision=precision)
        return real(
            agent, batches, seeds, precision=precision
        )  # compiling takes minutes and is tested in test_program.py

    real = train.Program
    monkeypatch.setattr(train, "Program", program)
    monkeypatch.setattr("sweeps.launcher.evaluator.RayEvaluator", lambda *_: FakeEvaluator())
    monkeypatch.setattr("sweeps.launcher.notice.Notice", SilentNotice)
    call = SimpleNamespace(remote=lambda *_, **__: None)
    board = SimpleNamespace(update=call, start=call)

    def work(*words: str) -> tuple[Store, dict[str, Any]]:
        plan = plan_of(*words, results=tmp_path / "r", data_dir=tiny_data_dir, monkeypatch=monkeypatch)
        share = PackResources(at_once=1, cpus=1.0, gpus=0.0, eval_cpus=1.0, eval_tasks=1)
        config = {"runs": runs(), "plan": plan, "share": share, "number": 0, "board": board}
        assert pack.train_on_worker(config) == pack.Outcome()
        return Store(plan.results), told

    yield work


def test_compiling_is_off_unless_asked_for(worker):
    store, told = worker()
    assert told["compiled"] is False
    assert [doc["status"] for doc in store.runs()] == ["done"] * 2


def test_compiling_reaches_the_training_and_changes_no_run(worker):
    store, told = worker("--compile")
    assert told["compiled"] is True
    assert [doc["id"] for doc in store.runs()] == sorted(run.id for run in runs())


def test_float32_is_the_default(worker):
    store, told = worker()
    assert told["precision"] == "float32"
    assert {doc["precision"] for doc in store.runs()} == {"float32"}


def test_a_precision_reaches_the_training_and_its_documents_and_changes_no_run(worker):
    store, told = worker("--precision", "bf16")
    assert told["precision"] == "bf16"
    assert {doc["precision"] for doc in store.runs()} == {"bf16"}
    assert [doc["id"] for doc in store.runs()] == sorted(run.id for run in runs())


@pytest.mark.parametrize(
    ("words", "says"), [(["--precision", "bf61"], "did you mean"), (["--precision", "tf32", "--device", "cpu"], "GPU")]
)
def test_a_precision_that_is_not_there_is_refused_at_once(words, says):
    with pytest.raises(UserError, match=says):
        cli.launch_or_describe(planned(), arguments(*words), "test")


# --- money ---


@pytest.mark.parametrize("cpus", ["1", "2"])
def test_a_price_makes_money_of_device_hours(cpus, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.estimate, "hours", lambda *_: 1.5)
        cli.launch_or_describe(
            planned(), arguments("--dry-run", "--price", "2.5", "--cpus-per-pack", cpus, "--packs-at-once", "1"), "test"
        )
    used = 1.5 * int(cpus)
    assert f"Cost at 2.5 per CPU core-hour: about {used * 2.5:.2f} for {used:g}" in capsys.readouterr().out


def test_a_price_of_unknown_hours_is_unknown(capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.estimate, "hours", lambda *_: None)
        cli.launch_or_describe(planned(), arguments("--dry-run", "--price", "2.5"), "test")
    assert "No cost estimate" in capsys.readouterr().out


def test_a_price_without_a_dry_run_is_refused():
    with pytest.raises(UserError, match="--price requires --dry-run"):
        cli.launch_or_describe(planned(), arguments("--price", "1"), "test")


@pytest.mark.parametrize("price", ["-1", "nan"])
def test_a_price_that_is_no_price_is_refused(price, capsys):
    with pytest.raises(SystemExit, match="2"):
        arguments("--dry-run", "--price", price)
    assert "--price" in capsys.readouterr().err
