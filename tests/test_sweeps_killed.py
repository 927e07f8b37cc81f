"""Parts of a sweep on this machine's Ray are killed, and its sockets and files are closed to others.

Run as a script, this file is the sweep: python tests/test_sweeps_killed.py RESULTS STEPS.
"""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
import ray  # noqa: F401  psutil comes with it
from small import small_hyperparameters

from lps.runs.checkpoint import checkpoint_path
from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.ring import RING
from lps.training.options import TrainOptions
from lps.training.trainer import train
from sweeps.launcher import connection
from sweeps.launcher.launch import launch
from sweeps.launcher.plan import Plan
from sweeps.launcher.resources import Limits

import psutil  # isort: skip

pytestmark = pytest.mark.slow

STEPS, ENDLESS = 8000, 10**7
PATIENCE = 300.0


def runs(steps: int) -> list[Run]:
    settings = {**small_hyperparameters("flow_bc"), "horizon": RING.horizon}
    return [
        Run.create("flow_bc", RING.name, seed, steps=steps, eval_interval=steps // 2, eval_episodes=2, **settings)
        for seed in (0, 1)
    ]


def sweep(results: str, steps: int) -> int:
    plan = Plan(results, "killed", TrainOptions(checkpoint_seconds=0.3, log_interval=100))
    return launch(list(map(Planned, runs(steps))), plan, limits=Limits(at_once=1), address="local", mlflow=False)


@contextmanager
def started(results: Path, steps: int) -> Iterator[psutil.Popen]:
    """The sweep as a process, from its first checkpoint on; its output is in `output` beside the results. Ray has its
    token, in a home directory beside the results."""
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (results.parent / "output").open("w") as file:
        driver = psutil.Popen(
            [sys.executable, __file__, str(results), str(steps)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, "HOME": str(results.parent), "RAY_AUTH_MODE": "token"},
        )
    family = []
    try:
        wait_for(lambda: all((results / checkpoint_path(run)).exists() for run in runs(steps)), driver)
        family = driver.children(recursive=True)
        yield driver
    finally:
        for process in [driver, *family]:
            if process.is_running():
                process.kill()
        driver.wait()


def wait_for(condition: Callable[[], object], driver: psutil.Popen) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


def named(driver: psutil.Process, name: str) -> psutil.Process:
    [found] = [child for child in driver.children(recursive=True) if name in " ".join(child.cmdline()[:1])]
    return found


def test_a_killed_trial_resumes_in_the_same_sweep_and_nothing_listens_to_other_machines(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with started(results, STEPS) as driver:
        family = [driver, *driver.children(recursive=True)]
        listening = [socket for process in family for socket in process.net_connections() if socket.status == "LISTEN"]
        addresses = {ip_address(socket.laddr.ip.removeprefix("::ffff:")) for socket in listening}
        assert len(listening) > 5 and all(address.is_loopback for address in addresses), addresses
        folder = connection.private_folder()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [child for child in family if f"{folder}/ray/session" in " ".join(child.cmdline())]
        assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600

        named(driver, "ImplicitFunc").kill()
        assert driver.wait(PATIENCE) == 0
    output = (tmp_path / "output").read_text()
    assert "restarted" in output and "2 of 2 runs are done" in output
    assert "Traceback" not in output and "Error" not in output

    alone = Store(tmp_path / "alone")
    train(runs(STEPS), alone, TrainOptions("cpu", log_interval=100))
    ours = Store(results, create=False)
    episodes, expected = (sorted(store.read_episodes().to_pylist(), key=str) for store in (ours, alone))
    assert episodes == expected
    rows = [(row["run_id"], row["step"], row["metric"]) for row in ours.read_metrics().to_pylist()]
    assert len(rows) == len(set(rows)) and ours.problems == []


def test_sigterm_ends_the_driver_with_a_sentence(tmp_path: Path) -> None:
    with started(tmp_path / "results", ENDLESS) as driver:
        driver.terminate()
        assert driver.wait(PATIENCE) == 128 + signal.SIGTERM
    output = (tmp_path / "output").read_text()
    assert output.endswith("Stopped by SIGTERM. The same command resumes.\n")
    assert "Traceback" not in output and "SIGABRT" not in output and "***" not in output


def test_a_lost_head_service_ends_the_driver_with_a_sentence(tmp_path: Path) -> None:
    with started(tmp_path / "results", ENDLESS) as driver:
        named(driver, "gcs_server").kill()
        assert driver.wait(PATIENCE) == 1
    output = (tmp_path / "output").read_text()
    assert "head service" in output and output.endswith("The same command resumes the sweep\n")
    assert "Traceback" not in output


if __name__ == "__main__":
    sys.exit(sweep(sys.argv[1], int(sys.argv[2])))
