"""openpi's own client drives our server: `openpi-client` from the package index, in an environment of its own, for it
needs numpy < 2."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from serving import Process
from test_serve_client import CUBE, policy_for

from lps.evaluation.rollout import environment_seed, evaluate
from lps.policy.file import save_policy
from lps.tasks.suites import get_task, make_env

pytestmark = pytest.mark.slow

ROBOT = """
import json, sys
import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

policy = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]), api_key=sys.argv[2])
about = policy.get_server_metadata()
robot = ActionChunkBroker(policy, about["execute"])
robot.reset()
for line in sys.stdin:
    state = json.loads(line)
    try:
        answer = robot.infer({"state": np.array(state, np.float32), "prompt": "lift the cube"})
        assert set(answer) == {"actions", "server_timing"} and answer["actions"].shape == (about["action_dim"],)
        print(json.dumps(answer["actions"].tolist()), flush=True)
    except RuntimeError as error:
        print(json.dumps(str(error)), flush=True)
"""
"""The robot's process: a state per line of its input, an action or an error per line of its output."""


@pytest.fixture(scope="module")
def openpi(tmp_path_factory):
    """The Python of an environment with openpi-client."""
    folder = tmp_path_factory.mktemp("openpi")
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "openpi-client==0.1.2", "typing_extensions"]
    for command in ([sys.executable, "-m", "venv", folder], install):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no environment with openpi-client: {done.stderr.strip()[-300:]}")
    return python


def test_the_client_of_openpi_drives_an_episode(openpi, tmp_path):
    task = replace(get_task(CUBE), max_episode_steps=33)
    policy = policy_for("lps", CUBE)
    save_policy(policy, path := tmp_path / "policy.safetensors")
    (tmp_path / "token").write_text("a-secret")
    (expected,) = evaluate(policy, task, seed=3, step=7, episodes=1)
    with Process(path, "--token-file", str(tmp_path / "token")) as server:
        command = [openpi, "-c", ROBOT, str(server.port), "a-secret"]
        robot = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def act(state):
            robot.stdin.write(json.dumps(np.asarray(state).tolist()) + "\n")
            robot.stdin.flush()
            return json.loads(robot.stdout.readline())

        assert "'state' of float32 (3,). It needs float32 (28,)" in act([0.0] * 3)
        env = make_env(task)
        state, _ = env.reset(seed=environment_seed(3, 7, 0))
        total, length, over = 0.0, 0, False
        while not over:
            state, reward, terminated, truncated, info = env.step(np.array(act(state), np.float32))
            total, length, over = total + float(reward), length + 1, terminated or truncated
        env.close()
        robot.communicate(timeout=60)
    assert (bool(info["success"]), total, length) == (expected.success, expected.return_, expected.length)
    assert robot.returncode == 0
