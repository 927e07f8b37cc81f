"""A machine that is about to be taken away: the notice, and the checkpoint that it leads to."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from metadata import Metadata, served
from small import small_hyperparameters

from lps.runs.checkpoint import Checkpoint, checkpoint_path
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.ring import RING
from lps.training import trainer
from lps.training.options import TrainOptions
from sweeps.launcher import notice, pack

STEPS, AT = 40, 17


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Metadata]]:
    with served("127.0.0.1") as url:
        monkeypatch.setenv(notice.URL, url)
        yield Metadata


def test_the_notice_of_aws_is_read_with_a_token_that_is_renewed(metadata: type[Metadata]) -> None:
    service = notice._Metadata()
    assert service.reclaimed_at() is None and len(metadata.tokens) == 1
    metadata.tokens.clear()  # too old
    assert service.reclaimed_at() is None
    metadata.notices["127.0.0.1"] = '{"action": "terminate", "time": "2026-01-01T00:02:00Z"}'
    assert service.reclaimed_at() == 1767225720.0 and len(metadata.tokens) == 1


@pytest.mark.parametrize("action", ["{}", "[]", "soon", '{"time": 3}'])
def test_a_notice_without_a_time_gives_two_minutes(action: str, metadata: type[Metadata]) -> None:
    metadata.notices["127.0.0.1"] = action
    when = notice._Metadata().reclaimed_at()
    assert when and abs(when - time.time() - notice.DEADLINE) < 60


@pytest.fixture
def drains(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """The drains that Ray was asked for; the machine of this process is "here"."""
    asked: list[tuple[str, float]] = []

    class Context:
        def get_node_id(self) -> str:
            return "here"

    class State:
        def get_draining_nodes(self) -> dict[str, int]:
            return {node: int(when * 1000) for node, when in asked}

    monkeypatch.setattr("ray.get_runtime_context", Context)
    monkeypatch.setattr("ray._private.state.state", State())
    monkeypatch.setattr(notice, "_drain", lambda node, when: asked.append((node, when)))
    monkeypatch.setattr(notice, "EVERY", 0.01)
    return asked


def given(one: notice.Notice, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not one() and time.monotonic() < deadline:
        time.sleep(0.01)
    one.close()
    return one()


def test_the_notice_of_aws_is_passed_on_to_ray(metadata: type[Metadata], drains: list) -> None:
    one = notice.Notice()
    assert not one()
    metadata.notices["127.0.0.1"] = '{"action": "terminate", "time": "2026-01-01T00:02:00Z"}'
    assert given(one) and drains == [("here", 1767225720.0)]


def test_a_drain_of_ray_is_a_notice_where_no_metadata_service_is(drains: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(notice.URL, "http://127.0.0.1:9")
    drains.append(("elsewhere", 0.0))
    assert not given(notice.Notice(), 0.2)
    one = notice.Notice()
    drains.append(("here", 0.0))
    assert given(one)


def run() -> Run:
    settings: dict[str, Any] = {**small_hyperparameters("lps"), "horizon": RING.horizon}
    return Run.create("lps", RING.name, 0, steps=STEPS, eval_interval=10, eval_episodes=2, **settings)


def test_a_training_that_must_stop_stores_a_checkpoint_at_once_and_resumes_from_it(tmp_path: Path) -> None:
    stores = Store(tmp_path / "stopped"), Store(tmp_path / "alone")
    calls = iter(range(1, STEPS))
    options = TrainOptions("cpu", log_interval=5, checkpoint_seconds=1e9)
    with pytest.raises(trainer.Stopped):
        trainer.train([run()], stores[0], options, stop=lambda: next(calls) == AT)
    path = checkpoint_path(run())
    assert Checkpoint.from_bytes(stores[0].read_bytes(path), path).step == AT
    assert stores[0].record(run()).status == "running"
    for store in stores:
        assert trainer.train([run()], store, options) == {run().id: "done"}
    for read in (Store.read_episodes, Store.read_metrics):
        ours, alone = (sorted(read(store).to_pylist(), key=str) for store in stores)
        assert ours == alone


def test_a_pack_whose_machine_is_reclaimed_is_handed_back_to_tune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reclaimed(*_: Any) -> None:
        raise pack.Reclaimed

    forgotten: list[int] = []
    monkeypatch.setattr(pack, "_run_worker", reclaimed)
    monkeypatch.setattr(pack, "record_start", lambda *_: 0)
    monkeypatch.setattr(pack, "forget_starts", lambda _, number: forgotten.append(number))
    store = Store(tmp_path / "results")
    plan = type("Plan", (), {"results": store.path, "sweep": "test", "max_failures": 2})()
    with pytest.raises(pack.Reclaimed):
        pack.run_pack(3, [run()], plan, None, None, str(tmp_path))  # type: ignore[arg-type]
    assert forgotten == [3] and not store.runs()


def test_a_trial_that_is_killed_on_living_machines_is_given_up_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "record_start", lambda *_: 3)
    plan = type("Plan", (), {"results": str(tmp_path), "sweep": "test", "max_failures": 2})()
    answer = pack.run_pack(3, [run()], plan, None, None, str(tmp_path))  # type: ignore[arg-type]
    assert answer["failed"] and "was killed 3 times" in answer["error"]
