"""The robot's side: light imports, lost connections, chunks, and simulated robots that act through a server."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from serving import Process, served
from small import small_hyperparameters
from test_policy import SEEN, checkpoint_of

from lps.__main__ import main
from lps.agents import AGENTS
from lps.commands.drive import Link, drive
from lps.commands.policies import ServedPolicy
from lps.data.scale import ActionScale
from lps.errors import UserError
from lps.evaluation.rollout import environment_seed, evaluate, noise_stream
from lps.policy.client import ChunkBroker, Client
from lps.policy.file import policy_of, save_policy
from lps.runs.checkpoint import Checkpoint
from lps.runs.run import Run
from lps.tasks.suites import get_task, make_env

CUBE = "cube-single-play-singletask-task1-v0"
VERSION1 = Path(__file__).parent / "version1" / "policy.safetensors"


def policy_for(agent: str, task: str, **settings):
    """An untrained policy of a task."""
    found = get_task(task)
    settings = small_hyperparameters(agent) | {"horizon": found.horizon} | settings
    run = Run.create(agent, task, 3, **settings)
    packed = AGENTS[agent]([run.config], [3], found.observation, found.action.shape[0])
    return policy_of(Checkpoint.of(packed, 0, run, 7, "f" * 64, ActionScale.identity(found.action.shape[0])))


def test_the_client_needs_numpy_msgpack_and_websockets_alone():
    script = """
import sys
import numpy, msgpack, websockets.sync.client
known = {name.partition(".")[0] for name in sys.modules}
import lps.policy.client
print(*({name.partition(".")[0] for name in sys.modules} - known - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["lps"]), done.stderr


# --- connections ---


def test_a_client_finds_a_restarted_server_again():
    policy, done = policy_of(checkpoint_of("lps")), threading.Event()
    with served(policy) as url, Client(url) as client:
        first = client.infer({"state": SEEN})["actions"]

    def restart():
        with served(policy, int(url.rpartition(":")[2])):
            done.wait(60)

    late = threading.Timer(0.3, restart)
    late.start()
    np.testing.assert_array_equal(client.infer({"state": SEEN})["actions"], first)
    assert client.reconnects == 1
    client.close()
    done.set()
    late.join()


def test_a_lost_connection_is_made_again():
    with served(policy_of(checkpoint_of("lps"))) as url, Client(url) as client:
        first = client.infer({"state": SEEN})["actions"]
        for lose in (client.close, lambda: client._connection.socket.close()):
            lose()
            np.testing.assert_array_equal(client.infer({"state": SEEN})["actions"], first)
    assert client.reconnects == 2


def test_no_server_is_one_sentence():
    for url, said in {
        "ws://127.0.0.1:9": "Start the server with lps serve",
        "http://127.0.0.1:9": "Use ws://HOST:PORT",
        "nonsense": "Use ws://HOST:PORT",
    }.items():
        with pytest.raises(UserError, match=said):
            Client(url, patience=0.1)


def test_a_server_that_never_answers_is_one_sentence():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(UserError, match="no answer"):
            Client(f"ws://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1, patience=0.3)


def test_a_server_with_another_policy_is_refused():
    small, large = policy_of(checkpoint_of("lps")), policy_for("lps", CUBE)
    with served(small) as url:
        client = Client(url)
        client.close()
    with served(large, int(url.rpartition(":")[2])), pytest.raises(UserError, match="other observations or actions"):
        client.infer({"state": SEEN})


# --- chunks ---


class Clock:
    """A policy whose action at step t of a chunk that was asked for at step s is [s, t]; perhaps slow."""

    metadata = {"execute": 4}

    def __init__(self, horizon=4):
        self.horizon, self.asked, self.resets = horizon, [], []
        self.go = threading.Semaphore(1000)

    def infer(self, observation, timestep, reset=False):
        self.go.acquire()
        self.asked.append(timestep)
        self.resets.append(reset)
        steps = timestep + np.arange(self.horizon)
        return {"timestep": timestep, "actions": np.stack([np.full(self.horizon, timestep), steps], 1).astype(float)}


def test_a_broker_executes_k_of_h_actions():
    whole, part = Clock(), Clock()
    brokers = ChunkBroker(whole), ChunkBroker(part, execute=3)
    actions = [[broker.act({}).tolist() for _ in range(7)] for broker in brokers]
    assert actions[0] == [[0, 0], [0, 1], [0, 2], [0, 3], [4, 4], [4, 5], [4, 6]]
    assert actions[1] == [[0, 0], [0, 1], [0, 2], [3, 3], [3, 4], [3, 5], [6, 6]]
    brokers[0].reset()
    assert brokers[0].act({}).tolist() == [7, 7], "an episode begins with a request"
    assert whole.resets == [True, False, True]


def test_ensembling_averages_what_was_said_for_a_step():
    broker = ChunkBroker(Clock(), execute=1, ensemble=0.5)
    actions = [broker.act({}) for _ in range(6)]
    weights = np.exp(-0.5 * np.arange(4))
    assert actions[5][1] == pytest.approx(5)
    assert actions[5][0] == pytest.approx(weights @ [2, 3, 4, 5] / weights.sum())
    assert actions[1][0] == pytest.approx(np.exp(-0.5) / (1 + np.exp(-0.5)))


def wait_for(broker):
    broker._asked.exception(timeout=60)


def test_late_actions_are_dropped_by_their_timestep():
    clock = Clock()
    clock.go = threading.Semaphore(0)
    broker = ChunkBroker(clock, execute=4, ahead=1)
    assert [broker.act({}) for _ in range(3)] == [None] * 3 and broker.late == 3
    clock.go.release()
    wait_for(broker)
    assert broker.act({}).tolist() == [0, 3], "the actions of steps 0 to 2 are past"
    clock.go.release()
    wait_for(broker)
    assert broker.act({}).tolist() == [3, 4]
    broker.act({}), broker.act({})
    assert broker._asked is not None, "the next request is out"
    broker.reset()
    clock.go.release()
    wait_for(broker)
    assert broker.act({}) is None, "an answer to the last episode is no action of this one"
    clock.go.release()
    wait_for(broker)
    assert broker.act({})[0] >= 7
    clock.go.release(100)
    broker.close()


def test_the_last_frames_of_an_image_are_stacked():
    seen = []

    class Looking(Clock):
        metadata = {"execute": 1, "frame_stack": 3, "observation": {"pixels": [[2, 2, 9], "uint8"]}}

        def infer(self, observation, **request):
            seen.append(observation)
            return super().infer(observation, **request)

    broker = ChunkBroker(Looking())
    for value in (1, 2, 3, 4):
        if value == 4:
            broker.reset()
        broker.act({"pixels": np.full((2, 2, 3), value, np.uint8), "state": np.ones(2)})
    values = [s["pixels"][0, 0, ::3].tolist() for s in seen]
    assert values == [[1, 1, 1], [1, 1, 2], [1, 2, 3], [4, 4, 4]] and seen[0]["state"].shape == (2,)
    assert seen[0]["pixels"].shape == (2, 2, 9)


# --- a robot without a robot ---


@pytest.mark.parametrize("agent", ["lps", "flow_bc", "best_of_n"])
def test_an_evaluation_through_a_server_is_bitwise_that_of_the_policy(agent, tmp_path, capsys):
    policy = policy_for(agent, "ring-bandit-v0")
    save_policy(policy, path := tmp_path / "policy.safetensors")
    with served(policy) as url:
        assert main(["evaluate", url, "--episodes", "9", "--out", str(tmp_path / "served.csv")]) == 0
        with Client(url) as client:
            episodes = evaluate(ServedPolicy(client), policy.run.resolved_task, seed=3, step=7, episodes=5)
        assert main(["evaluate", url, "--workers", "2"]) == 2
    assert main(["evaluate", str(path), "--episodes", "9", "--out", str(tmp_path / "file.csv")]) == 0
    assert (tmp_path / "served.csv").read_bytes() == (tmp_path / "file.csv").read_bytes()
    assert episodes == evaluate(policy, policy.run.resolved_task, seed=3, step=7, episodes=5)
    assert "Remove them" in capsys.readouterr().err


def driven(url, policy, task, *, rate=0.0, episodes=2, patience=60.0, step=None, ahead=0, **faults):
    """Actions, and (success, return, length, held), of some episodes that a simulated robot drives."""
    env, found = make_env(task), []
    with Client(url, timeout=5, patience=patience) as client:
        for episode in range(episodes):
            link = Link(client, noise_stream(policy.run.seed, policy.step, episode), **faults)
            broker = ChunkBroker(link, ahead=ahead)
            observation, _ = env.reset(seed=environment_seed(policy.run.seed, policy.step, episode))
            taken = []

            def act(observation, broker=broker, taken=taken):
                if step:
                    step(broker.timestep)
                taken.append(broker.act(observation))
                return taken[-1]

            result = drive(env, act, observation, task.observation, rate)
            broker.close()
            found.append((taken, result))
        reconnects = client.reconnects
    env.close()
    return found, reconnects


def driven_through_a_restart(server, path, timestep, policy, task):
    """`driven`, while the server is killed at a timestep and another one starts on its port."""
    restarted = []

    def kill(now):
        if now == timestep and not restarted:
            server.kill()
            restart = threading.Thread(target=lambda: restarted.append(Process(path, port=server.port)))
            restarted.append(restart)
            restart.start()

    found = driven(server.url, policy, task, step=kill)
    thread, again = restarted
    thread.join()
    again.kill()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["lps", "flow_bc"])
def test_a_simulated_robot_acts_bitwise_as_in_evaluation(agent, tmp_path):
    """A server in another process, an OGBench environment in this one: alone, with delays and lost connections, and
    with a server that is killed and restarted in the middle of an episode."""
    task = replace(get_task(CUBE), max_episode_steps=30)
    policy = policy_for(agent, CUBE)
    save_policy(policy, path := tmp_path / "policy.safetensors")
    expected = evaluate(policy, task, seed=3, step=7, episodes=2)
    with Process(path) as server:
        plain, reconnects = driven(server.url, policy, task)
        assert [(row.success, row.return_, row.length, 0) for row in expected] == [result for _, result in plain]
        assert reconnects == 0
        faulty, reconnects = driven(server.url, policy, task, delay=0.001, jitter=0.01, drop=0.5)
        assert reconnects > 0
        for (actions, result), (others, other) in zip(plain, faulty, strict=True):
            np.testing.assert_array_equal(actions, others)
            assert result == other
        killed, reconnects = driven_through_a_restart(server, path, 13, policy, task)
        assert reconnects == 1
        for (actions, result), (others, other) in zip(plain, killed, strict=True):
            np.testing.assert_array_equal(actions, others)
            assert result == other


@pytest.mark.slow
def test_a_robot_in_real_time_holds_where_answers_are_late(tmp_path):
    task = replace(get_task(CUBE), max_episode_steps=30)
    policy = policy_for("lps", CUBE)
    save_policy(policy, path := tmp_path / "policy.safetensors")
    with Process(path) as server:
        (((actions, (_, _, length, held)),), _) = driven(server.url, policy, task, rate=20, episodes=1, delay=0.4)
        assert length == 30 and held > 0 and all(action is not None for action in actions)
        (((actions, (_, _, length, held)),), _) = driven(
            server.url, policy, task, rate=20, episodes=1, delay=0.06, jitter=0.06, drop=0.2, ahead=3
        )
        assert length == 30 and held >= sum(action is None for action in actions) > 0


# --- commands ---


def test_ping_and_drive_print_what_they_find(capsys):
    policy = policy_for("flow_bc", "ring-bandit-v0")
    with served(policy, about={"control_rate": 1000.0}) as url:
        assert main(["ping", url, "--count", "3"]) == 0
        said = capsys.readouterr().out
        assert "agent: flow_bc" in said and "3 answers of actions (1, 2)" in said
        assert main(["drive", url, "--episodes", "4"]) == 0
        assert main(["evaluate", url, "--episodes", "4"]) == 0
        said = capsys.readouterr().out
        assert "ring-bandit-v0, 1000 Hz" in said and "of 4 episodes, 0 reconnections" in said
    assert main(["ping", "ws://127.0.0.1:9"]) == 2


def test_replay_compares_with_the_dataset(capsys, tiny_data_dir, monkeypatch):
    policy = policy_for("lps", CUBE)
    with served(policy) as url:
        assert main(["replay", url, "--data-dir", str(tiny_data_dir), "--count", "7"]) == 0
        table = capsys.readouterr().out.splitlines()
        assert len(table) == 1 + 5 + 1 and table[-1].startswith("7 observations of cube-single-play-v0")
        recorded = np.load(tiny_data_dir / "cube-single-play-v0.npz")["actions"]

        def perfect(self, observations, noise):
            return np.zeros((len(observations["state"]), 5, 5), np.float32) + 0.25

        monkeypatch.setattr(type(policy), "act_batch", perfect)
        assert main(["replay", url, "--data-dir", str(tiny_data_dir), "--count", "100000"]) == 0
    errors = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[1:6]]
    np.testing.assert_allclose(errors, np.abs(recorded - 0.25).mean(0), atol=0.05)


def test_a_token_file_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("LPS_TOKEN", raising=False)
    (tmp_path / "token").write_text("secret-1\n")
    (tmp_path / "empty").write_text("\n")
    with served(policy_of(checkpoint_of("lps")), token="secret-1") as url:
        assert main(["ping", url, "--count", "1", "--token-file", str(tmp_path / "token")]) == 0
        assert main(["ping", url, "--count", "1"]) == 2
        assert main(["ping", url, "--count", "1", "--token-file", str(tmp_path / "empty")]) == 2
        assert main(["ping", url, "--count", "1", "--token-file", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("error: ") == 3
