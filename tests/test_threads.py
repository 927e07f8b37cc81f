"""Threads of a learner sleep while they wait for each other; benchmarks/threads.py measures why."""

import os
import subprocess
import sys

import pytest

from lps.workers import spin_briefly


def test_threads_sleep_unless_the_user_chose_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    spin_briefly()
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    spin_briefly()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.delenv("GOMP_SPINCOUNT")


@pytest.mark.slow
@pytest.mark.parametrize(
    "learner",
    [
        "from lps.__main__ import main; main(['agents']); import torch",
        # A worker of Ray Train fails here, because there is no Ray, but after it has imported torch.
        "from sweeps.launcher.pack import train_on_worker; train_on_worker({'runs': [], 'plan': 0, 'share': 0})",
    ],
)
def test_openmp_reads_it(learner: str) -> None:
    """torch is not imported before a learner has chosen."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"
    done = subprocess.run([sys.executable, "-c", learner], env=environment, capture_output=True, text=True)
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr
