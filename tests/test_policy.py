"""Policies outside of the laboratory: one file, light imports, checked observations, actions in the robot's units."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import ACTION_DIM, OBSERVATION, OBSERVATION_DIM, small_config, small_hyperparameters

from lps.__main__ import main
from lps.agents import AGENTS
from lps.data.scale import ActionScale
from lps.errors import UserError
from lps.policy.file import load_policy, policy_of, save_policy
from lps.policy.policy import Policy
from lps.runs.checkpoint import Checkpoint
from lps.runs.run import Run
from lps.spaces import Space

TASK = "cube-single-play-singletask-task1-v0"
VERSION1 = Path(__file__).parent / "version1"
SEEN = np.linspace(-1, 1, OBSERVATION_DIM, dtype=np.float32)
SCALE = ActionScale.of_bounds(np.array([-2, 0, 5], np.float32), np.array([2, 1, 6], np.float32))


def checkpoint_of(agent: str, **overrides) -> Checkpoint:
    run = Run.create(agent, TASK, 3, **(small_hyperparameters(agent) | overrides))
    packed = AGENTS[agent]([small_config(agent, **overrides)] * 2, [0, 3], OBSERVATION, ACTION_DIM)
    return Checkpoint.of(packed, 1, run, 7, "f" * 64, SCALE)


@pytest.mark.parametrize("agent", AGENTS)
def test_an_exported_policy_acts_as_its_checkpoint(agent, tmp_path):
    stored = tmp_path / "run.pt"
    stored.write_bytes(checkpoint_of(agent).to_bytes())
    assert main(["export", str(stored), str(tmp_path / "policy.safetensors")]) == 0
    policy, whole = load_policy(tmp_path / "policy.safetensors"), load_policy(stored)
    first, second = policy.infer({"state": SEEN})["actions"], policy.infer({"state": SEEN})["actions"]
    assert first.shape == (2, ACTION_DIM)
    np.testing.assert_array_equal(first, whole.act(SEEN))
    assert (first == second).all() == (policy.noise_dim == 0), "a sampling policy draws anew"
    policy.reset()
    np.testing.assert_array_equal(policy.infer({"state": SEEN})["actions"], first)
    low, high = SCALE.offset - SCALE.scale, SCALE.offset + SCALE.scale
    assert ((first >= low - 1e-6) & (first <= high + 1e-6)).all(), "actions are in the environment's units"
    about = policy.metadata
    assert (about["agent"], about["task"], about["step"], about["horizon"]) == (agent, TASK, 7, 2)
    assert about["observation"] == {"state": [[OBSERVATION_DIM], "float32"]} and len(about["checkpoint_sha256"]) == 64
    assert (tmp_path / "policy.safetensors").stat().st_size < stored.stat().st_size / 2


def test_a_policy_may_execute_a_part_of_its_chunk():
    whole, part = (policy_of(checkpoint_of("lps", execute=k)) for k in (0, 1))
    assert whole.act(SEEN).shape == (2, ACTION_DIM) and part.act(SEEN).shape == (1, ACTION_DIM)
    np.testing.assert_array_equal(whole.act(SEEN)[:1], part.act(SEEN))
    assert part.act_batch(np.stack([SEEN] * 3), None).shape == (3, 1, ACTION_DIM)
    with pytest.raises(UserError, match="execute cannot be 6"):
        Run.create("lps", TASK, execute=6)


def test_actions_are_clipped_where_they_get_their_units():
    policy = policy_of(checkpoint_of("qcfql"))
    with torch.no_grad():
        for tensor in policy.params["actor"].values():
            tensor.mul_(1e3)
    actions = policy.sample(SEEN, 50)
    assert actions.min() == pytest.approx(-2) and actions.max() == pytest.approx(6)
    np.testing.assert_allclose(SCALE.to_env(np.array([-9.0, 0.0, 9.0])), [-2, 0.5, 6])
    np.testing.assert_allclose(SCALE.normalise(SCALE.to_env(np.array([-0.5, 0.0, 0.5]))), [-0.5, 0, 0.5], atol=1e-6)


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        ({"state": SEEN[1:]}, f"needs float32 ({OBSERVATION_DIM},)"),
        ({"pixels": SEEN}, "no 'state'"),
        ({"state": np.array(["x"] * OBSERVATION_DIM)}, "needs float32"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(observation, said):
    with pytest.raises(UserError) as refused:
        policy_of(checkpoint_of("lps")).infer(observation)
    assert said in str(refused.value)


def test_frames_are_never_taken_for_numbers():
    spaces = {"pixels": Space((4, 4, 3), "uint8"), "state": Space((2,))}
    agent = AGENTS["lps"]([small_config("lps")], [0], spaces, ACTION_DIM)
    policy = Policy.of_member(agent, 0, Run.create("lps", TASK, **small_hyperparameters("lps")), 0)
    seen = {"pixels": np.zeros((4, 4, 3), np.uint8), "state": np.zeros(2)}
    assert policy.infer(seen)["actions"].shape == (2, ACTION_DIM)
    with pytest.raises(UserError, match="float64"):
        policy.infer(seen | {"pixels": seen["pixels"] / 255})
    with pytest.raises(UserError, match="mapping"):
        policy.act(np.zeros(2))


def test_files_that_are_no_policy_are_one_sentence(tmp_path, capsys):
    path = tmp_path / "policy.safetensors"
    save_policy(policy_of(checkpoint_of("lps")), path)
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])

    def with_about(**changes):
        about = json.loads(header["__metadata__"]["policy"]) | changes
        text = json.dumps(header | {"__metadata__": {"policy": json.dumps(about)}}).encode()
        return struct.pack("<Q", len(text)) + text + whole[8 + length :]

    cases = {
        "Export the policy again": [b"", b"not a policy", whole[:50], whole[: length // 2], whole[:-100]],
        "Install the lps that wrote it": [with_about(version=2)],
        "Install its package": [with_about(run=json.loads(header["__metadata__"]["policy"])["run"] | {"agent": "new"})],
        "damaged": [with_about(scale=[[0.0]]), with_about(observation={"state": [[3], "float32"]}) + b"x"],
    }
    for said, files in cases.items():
        for data in files:
            path.write_bytes(data)
            with pytest.raises(UserError, match=said):
                load_policy(path)
    path.write_bytes(b"PK damaged")
    assert main(["export", str(path), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "out").exists()


def test_a_policy_needs_torch_numpy_and_safetensors_alone(tmp_path):
    path = tmp_path / "policy.safetensors"
    save_policy(policy_of(checkpoint_of("lps")), path)
    script = f"""
import sys
import numpy, torch, safetensors.torch
known = {{name.partition(".")[0] for name in sys.modules}}
from lps.policy.file import load_policy
actions = load_policy({str(path)!r}).infer({{"state": numpy.zeros({OBSERVATION_DIM})}})["actions"]
assert actions.shape == (2, {ACTION_DIM})
print(*({{name.partition(".")[0] for name in sys.modules}} - known - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["lps"]), done.stderr


@pytest.mark.parametrize("name", ["checkpoint.pt", "policy.safetensors"])
def test_files_of_version_1_open_in_every_later_version(name):
    expected = json.loads((VERSION1 / "actions.json").read_text())
    policy = load_policy(VERSION1 / name)
    assert policy.run.id == expected["run"]
    actions = policy.act(np.linspace(-1, 1, 28, dtype=np.float32))
    np.testing.assert_allclose(actions, expected["actions"], atol=1e-6)


def test_a_checkpoint_of_version_1_resumes():
    checkpoint = Checkpoint.from_bytes((VERSION1 / "checkpoint.pt").read_bytes(), "version 1")
    run = checkpoint.run
    agent = AGENTS["lps"]([run.config], [run.seed], checkpoint.observation, len(checkpoint.scale.scale))
    checkpoint.restore(agent, 0)
    kernel = agent.params["base"]["kernel_0"][0]
    assert torch.equal(kernel, checkpoint.params["base"]["kernel_0"]) and checkpoint.step == 50
    assert Checkpoint.of(agent, 0, run, 50, "").to_bytes()
