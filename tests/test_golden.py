"""Every agent against the authors' own numbers, through the command a person would use."""

import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
from check import AGENT_NAMES, RELATIVE, check  # noqa: E402

from lps.agents import AGENTS  # noqa: E402

FILES = {path.stem: path for path in sorted(GOLDEN.glob("*.npz"))}
VISUAL = {path.stem: path for path in sorted(GOLDEN.glob("visual/*.npz"))}
TRANSFORMER = {path.stem: path for path in sorted(GOLDEN.glob("dit/*.npz"))}
FURTHER = [*VISUAL.values(), *TRANSFORMER.values()]
# Not in LPS's release: tests/test_agents.py holds them to plain loops over parts that are held here.
WITHOUT = {"best_of_n", "dsrl_sac", "meanflow_best_of_n", "quantile_lps"}


@pytest.mark.parametrize("name", FILES)
def test_every_golden_file_is_met(name):
    errors = check(FILES[name])
    assert {"total loss", "sampled actions"} < set(errors)
    assert max(errors.values()) <= RELATIVE, errors


@pytest.mark.parametrize(
    "path", [*VISUAL.values(), *TRANSFORMER.values()], ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_golden_file_of_images_and_transformers_is_met(path):
    errors = check(path)
    assert max(errors.values()) <= RELATIVE, errors


@pytest.mark.parametrize("files", [FILES, VISUAL], ids=["states", "images"])
def test_every_agent_has_golden_vectors(files):
    agents = {AGENT_NAMES.get(name, name) for name in files if not name.startswith(("encoder", "augment"))}
    assert agents - {"lps_robot"} == set(AGENTS) - WITHOUT


def test_the_check_fails_on_other_numbers(tmp_path):
    import numpy as np

    with np.load(FILES["lps"]) as file:
        arrays = dict(file)
    key = "expected/grad/latent_actor/mlp/Dense_0/kernel"
    arrays[key] = arrays[key] * 1.001
    np.savez(tmp_path / "changed.npz", **arrays)
    np.savez(tmp_path / "nan.npz", **{**arrays, key: arrays[key] * np.nan})
    for files in (["changed.npz"], ["nan.npz"], ["changed.npz", "nan.npz"]):
        command = [sys.executable, str(GOLDEN / "check.py"), *(str(tmp_path / file) for file in files)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 1 and result.stdout.count("TOO LARGE") == len(files)
    command = [sys.executable, str(GOLDEN / "check.py"), str(FILES["lps"]), str(tmp_path / "nan.npz")]
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_the_check_names_a_file_it_cannot_read(tmp_path):
    (tmp_path / "half.npz").write_bytes(FILES["lps"].read_bytes()[:1000])
    command = [sys.executable, str(GOLDEN / "check.py"), str(tmp_path / "half.npz")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr
