"""One sweep on a real Ray that has a hard time, and what it must leave behind: the rows of an undisturbed training.

Its worker is killed, then its driver; then the same command is run again, with a run beside it that cannot work and
without an MLflow that answers. Run as a script, this file is such a sweep in a process of its own, which can be killed:
python tests/test_sweeps.py RESULTS DATA_DIR.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray  # noqa: F401  psutil comes with it
from mlflow.tracking import MlflowClient
from small import small_hyperparameters

from lps.runs.checkpoint import Checkpoint
from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.runs.store import Store
from lps.training.options import TrainOptions
from lps.training.trainer import train
from sweeps.launcher.connection import ENVIRONMENT
from sweeps.launcher.launch import launch
from sweeps.launcher.plan import Plan
from sweeps.launcher.resources import Limits

import psutil  # isort: skip

pytestmark = pytest.mark.slow

TASK = "cube-single-play-singletask-task1-v0"
AGENT = "lps"
PROTOCOL: dict[str, Any] = {"steps": 800, "eval_interval": 400, "eval_episodes": 2}
LOG_INTERVAL = 20


def healthy_runs() -> list[Run]:
    return [Run.create(AGENT, TASK, seed, **PROTOCOL, **small_hyperparameters(AGENT)) for seed in (0, 1)]


def impossible_run() -> Run:
    """Its batch fits into no memory."""
    return Run.create("flow_bc", TASK, 0, **PROTOCOL, **{**small_hyperparameters("flow_bc"), "batch_size": 2**31 - 1})


def sweep(runs: list[Run], results: Path | str, data_dir: Path | str, limits: Limits | None = None) -> int:
    options = TrainOptions(data_dir=str(data_dir), checkpoint_seconds=0.2, log_interval=LOG_INTERVAL)
    return launch(
        list(map(Planned, runs)),
        Plan(str(results), "test", options),
        limits=limits,
        address="local",
    )


@dataclass
class Story:
    """What happened to the sweep."""

    results: Path
    killed_workers: int
    first_output: str
    """Printed until the driver was killed."""
    survivors: list[psutil.Process]
    """Processes that outlived the driver."""
    steps: dict[str, int]
    """Step of each run's checkpoint when the driver was killed."""
    code: int
    """Exit code of the same command, run again."""
    output: str


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, tiny_data_dir: Path) -> Iterator[Story]:
    folder, runs = tmp_path_factory.mktemp("sweep"), healthy_runs()
    results, output = folder / "results", folder / "output"

    def stamps() -> dict[str, int]:
        return {run.id: (results / f"runs/{run.id}.json").stat().st_mtime_ns for run in runs}

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        driver = start_driver(results, tiny_data_dir, output)
        try:
            wait_for(lambda: all((results / f"checkpoints/{run.id}.pt").exists() for run in runs), driver)
            killed = train_workers(driver)
            for worker in killed:
                worker.kill()
            before = stamps()
            wait_for(lambda: "restarted" in output.read_text() and stamps() != before, driver)
        finally:
            # All of them but Ray's two agents, which do nothing any more and take a minute to notice.
            family = [child for child in driver.children(recursive=True) if "Agent" not in title_of(child)]
            driver.kill()
            driver.wait()
        _, survivors = psutil.wait_procs(family, timeout=120)
        steps = {run.id: checkpoint_step(results, run) for run in runs}

        for name in (*ENVIRONMENT, "PYTHONBREAKPOINT"):  # as in a fresh process
            patch.delenv(name, raising=False)
        with (folder / "again").open("w") as file:
            patch.setattr(sys, "stdout", file)
            code = sweep([impossible_run(), *runs], results, tiny_data_dir)
    again = (folder / "again").read_text()
    yield Story(results, len(killed), output.read_text(), survivors, steps, code, again)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_data_dir: Path) -> Path:
    """The results of the same runs, trained in this process without Ray."""
    results = tmp_path_factory.mktemp("undisturbed") / "results"
    train(healthy_runs(), Store(results), TrainOptions("cpu", data_dir=str(tiny_data_dir), log_interval=LOG_INTERVAL))
    return results


def test_a_killed_worker_comes_back_and_a_killed_driver_takes_everything_with_it(story: Story) -> None:
    assert story.killed_workers > 0
    assert "restarted" in story.first_output
    assert story.survivors == []


def test_the_same_command_goes_on_from_the_checkpoints(story: Story) -> None:
    steps = [int(step) for step in re.findall(rf" {AGENT} .* seeds 0-1 .* step (\d+)/", story.output)]
    assert steps and min(steps) >= min(story.steps.values()) > 0


def test_every_run_is_done_once_with_the_rows_of_an_undisturbed_training(story: Story, undisturbed: Path) -> None:
    stores = Store(story.results, create=False), Store(undisturbed, create=False)
    for run in healthy_runs():
        doc = stores[0].read_run(run.id)
        assert doc and (doc["status"], doc["step"], doc["sweep"], doc["error"]) == (
            "done",
            PROTOCOL["steps"],
            "test",
            None,
        )
    episodes, expected = (sorted(store.read_episodes().to_pylist(), key=str) for store in stores)
    assert episodes == expected
    metrics, wanted = (
        {(row["run_id"], row["step"], row["metric"]): row["value"] for row in store.read_metrics().to_pylist()}
        for store in stores
    )
    assert metrics == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    assert stores[0].read_metrics().num_rows == len(metrics)
    assert stores[0].problems == []


def test_a_failing_run_stops_no_other_and_says_why(story: Story) -> None:
    doc = Store(story.results, create=False).read_run(impossible_run().id)
    assert doc and doc["status"] == "failed" and "flow_bc does not fit" in doc["error"]
    assert story.code == 1
    assert "2 of 3 runs are done" in story.output
    assert f"failed: flow_bc cube-single task 1 seed 0: {doc['error'].strip().splitlines()[-1]}" in story.output


def test_the_console_has_a_line_a_pack_now_and_then_and_nothing_of_ray(story: Story) -> None:
    said = story.first_output + story.output
    for noise in ("raylet", "WARN", "INFO", "(pid=", "Traceback", "Configuration"):
        assert noise not in said
    assert re.search(r"lps cube-single task 1 seeds 0-1 +done  step 800/800  score \d\.\d\d", story.output)


def test_finished_runs_are_skipped_and_mlflow_catches_up_and_nothing_is_logged_twice(
    story: Story, tiny_data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "MLflow is incomplete" in story.output
    results = story.results
    before = {path: path.stat().st_mtime_ns for path in files(results)}
    monkeypatch.setattr("sweeps.launcher.connection.connected", lambda *_: pytest.fail("Ray was started"))

    assert sweep(healthy_runs(), results, tiny_data_dir) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 runs are finished already" in printed
    assert f"mlflow ui --backend-store-uri sqlite:///{results}/mlflow.db" in printed
    assert "does not have everything" not in printed
    assert {path: path.stat().st_mtime_ns for path in files(results)} == before

    content = mlflow_content(results)
    assert sweep(healthy_runs(), results, tiny_data_dir) == 0
    assert mlflow_content(results) == content

    assert content.pop("parent") == ("test", "FAILED"), "sweeps of one name share it, also the one with the bad run"
    assert set(content) == {run.id for run in [impossible_run(), *healthy_runs()]}
    store = Store(results, create=False)
    metrics, episodes = store.read_metrics().to_pylist(), store.read_episodes().to_pylist()
    for run in healthy_runs():
        status, params, history, tags = content[run.id]
        assert status == "FINISHED"
        assert params["agent"] == run.agent and params["lr"] == str(run.hyperparameters["lr"])
        assert tags["version.torch"] and tags["mlflow.source.git.commit"]
        success = history.pop("eval/success")
        assert [step for step, _ in success] == run.eval_steps
        for step, value in success:
            ours = [row["success"] for row in episodes if (row["run_id"], row["step"]) == (run.id, step)]
            assert value == sum(ours) / len(ours)
        for name in set(history) - {"eval/return", "eval/length"}:
            ours = [(row["step"], row["value"]) for row in metrics if (row["run_id"], row["metric"]) == (run.id, name)]
            assert history[name] == ours


def mlflow_content(results: Path) -> dict[str, Any]:
    """What MLflow has: the parent's name, and of each child by run id its status, parameters and metric histories."""
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    [experiment] = client.search_experiments(filter_string="name = 'lps'")
    found = client.search_runs([experiment.experiment_id], max_results=50_000)
    [parent] = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(found) - 1 == len({run.data.tags["run_id"] for run in children})
    content: dict[str, Any] = {"parent": (parent.info.run_name, parent.info.status)}
    for run in children:
        history = {
            key: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }
        tags = {key: value for key, value in run.data.tags.items() if key.startswith(("version.", "mlflow.source"))}
        content[run.data.tags["run_id"]] = run.info.status, run.data.params, history, tags
    return content


def start_driver(results: Path, data_dir: Path, output: Path) -> psutil.Popen:
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, __file__, str(results), str(data_dir)]
    with output.open("w") as file:
        return psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": path})


def train_workers(driver: psutil.Process) -> list[psutil.Process]:
    found = [child for child in driver.children(recursive=True) if "RayTrainWorker" in title_of(child)]
    assert found
    return found


def title_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def files(results: Path) -> list[Path]:
    """All files but MLflow's and what Ray writes for itself."""
    own = ("mlflow", ".ray")
    found = [path for path in results.rglob("*") if path.is_file()]
    return [path for path in found if not any(word in str(path.relative_to(results)) for word in own)]


def checkpoint_step(results: Path, run: Run) -> int:
    path = results / f"checkpoints/{run.id}.pt"
    return Checkpoint.from_bytes(path.read_bytes(), str(path)).step


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition: Callable[[], bool], driver: psutil.Process, seconds: float = 600.0) -> None:
    """Waits until the condition holds, or the driver has ended of its own accord."""
    deadline = time.monotonic() + seconds
    while not condition() and alive(driver):
        assert time.monotonic() < deadline
        time.sleep(0.05)


if __name__ == "__main__":
    # As one pack: each more takes half a minute of two CPUs, nearly all of it Ray's.
    sys.exit(sweep(healthy_runs(), sys.argv[1], sys.argv[2], Limits(at_once=1)))
