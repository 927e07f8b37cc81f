"""Drive a simulated robot in real time with a policy server: the environment steps at its control rate, whether or not
the answers have come. With --rate 0 it waits for them, and the episodes are those of `lps evaluate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lps.commands.serve import add_token_argument, token_of
from lps.errors import UserError, at_least

if TYPE_CHECKING:
    import gymnasium
    import numpy as np

    from lps.policy.client import Client

HELP = "drive a simulated robot in real time with a policy server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="address of the server, such as ws://127.0.0.1:8000")
    add_token_argument(parser)
    parser.add_argument("--task", help="another task with the same observations and actions (default: the run's task)")
    parser.add_argument("--episodes", type=at_least(1, 1_000_000), default=10, help="number of episodes (default: 10)")
    parser.add_argument("--seed", type=at_least(0), help="evaluation seed (default: the seed of the run)")
    parser.add_argument(
        "--rate", type=at_least(0.0, 1e6), help="steps per second (default: the environment's; 0: no clock)"
    )
    parser.add_argument("--execute", type=at_least(1), help="actions of a chunk to execute (default: the policy's)")
    parser.add_argument(
        "--ahead",
        type=at_least(0),
        default=0,
        help="steps that a request is sent early, in the background (default: 0)",
    )
    parser.add_argument("--ensemble", type=at_least(0.0), help="average overlapping chunks with weights exp(-m i): m")
    faults = parser.add_argument_group("faults of the network, made by this command")
    faults.add_argument("--delay-ms", type=at_least(0.0, 1e6), default=0.0, help="delay of every answer (default: 0)")
    faults.add_argument("--jitter-ms", type=at_least(0.0, 1e6), default=0.0, help="largest further delay (default: 0)")
    faults.add_argument(
        "--drop", type=at_least(0.0, 1.0), default=0.0, help="share of requests that lose the connection (default: 0)"
    )


class Link:
    """The way to a server with faults, and with the noise of one episode of `lps.evaluation`.

    Args:
        client: the connection.
        noise: draws of the policy.
        delay: seconds that every answer waits.
        jitter: seconds; every answer waits for a uniform share of it in addition.
        drop: probability that a request meets a closed connection.
    """

    def __init__(
        self, client: Client, noise: np.random.Generator, delay: float = 0.0, jitter: float = 0.0, drop: float = 0.0
    ):
        import numpy as np

        self.client, self.noise = client, noise
        self.delay, self.jitter, self.drop = delay, jitter, drop
        self.metadata, self._faults = client.metadata, np.random.default_rng(0)

    def infer(self, observation: Mapping[str, Any], **request: Any) -> dict[str, Any]:
        import time

        import numpy as np

        if self._faults.random() < self.drop:
            self.client.close()
        if self.client.noise_dim:
            request["noise"] = self.noise.standard_normal(self.client.noise_dim, np.float32)
        answer = self.client.infer(observation, **request)
        time.sleep(self.delay + self.jitter * self._faults.random())
        return answer


def run(arguments: argparse.Namespace) -> int:
    from lps.commands.policies import ServedPolicy, task_of
    from lps.evaluation.rollout import environment_seed, noise_stream
    from lps.policy.client import ChunkBroker, Client
    from lps.tasks.suites import make_env

    with Client(arguments.url, token_of(arguments)) as client:
        policy = ServedPolicy(client)
        task = task_of(policy, arguments.task)
        seed = policy.run.seed if arguments.seed is None else arguments.seed
        env = make_env(task)
        rate = _rate(env, client.metadata) if arguments.rate is None else arguments.rate
        clock = f"{rate:g} Hz" if rate else "no clock"
        print(f"{task.name}, {clock}\nepisode  success  return   length  held", flush=True)
        won = 0
        for episode in range(arguments.episodes):
            noise = noise_stream(seed, policy.step, episode)
            delay, jitter = arguments.delay_ms / 1e3, arguments.jitter_ms / 1e3
            link = Link(client, noise, delay, jitter, arguments.drop)
            broker = ChunkBroker(link, arguments.execute, ensemble=arguments.ensemble, ahead=arguments.ahead)
            observation, _ = env.reset(seed=environment_seed(seed, policy.step, episode))
            try:
                success, total, length, held = drive(env, broker.act, observation, task.observation, rate)
            finally:
                broker.close()
            won += success
            print(f"{episode:7d}  {success!s:7s}  {total:7.1f}  {length:6d}  {held:4d}")
        env.close()
        print(f"success {won} of {arguments.episodes} episodes, {client.reconnects} reconnections")
    return 0


def drive(
    env: gymnasium.Env,
    act: Callable[[Mapping[str, np.ndarray]], np.ndarray | None],
    observation: Any,
    spaces: Mapping[str, Any],
    rate: float,
) -> tuple[bool, float, int, int]:
    """Run one episode that has been reset.  Return its success, return, length, and the number of steps in which the
    robot stood still: no action had come (`act` gave None), or `act` took longer than a step.

    rate: steps per second; 0: the environment waits for `act`.  An environment slower than that goes at its own pace.
    """
    import time

    import numpy as np

    from lps.spaces import as_observation

    low, high = np.asarray(env.action_space.low), np.asarray(env.action_space.high)  # type: ignore[attr-defined]
    still = np.clip(np.zeros_like(low), low, high)
    total, length, held, over = 0.0, 0, 0, False
    info: dict[str, Any] = {}
    while not over:
        started = time.perf_counter()
        action = act(as_observation(observation, spaces, "the observation"))
        missed = int((time.perf_counter() - started) * rate)
        steps = [still] * missed + [still if action is None else action]
        held += len(steps) - (action is not None)
        for step in steps:
            observation, reward, terminated, truncated, info = env.step(step)
            total, length, over = total + float(reward), length + 1, terminated or truncated
            if over:
                break
        if rate:
            time.sleep(max(0.0, started + len(steps) / rate - time.perf_counter()))
    return bool(info.get("success", False)), total, length, held


def _rate(env: gymnasium.Env, about: Mapping[str, Any]) -> float:
    """The control rate in Hz that the server or else the environment tells.  UserError if neither does."""
    core: Any = env.unwrapped
    if about.get("control_rate"):
        return float(about["control_rate"])
    if hasattr(core, "control_timestep"):  # OGBench's arms
        return 1 / float(core.control_timestep())
    if env.metadata.get("render_fps"):  # MuJoCo's environments in gymnasium: one picture per step
        return float(env.metadata["render_fps"])
    raise UserError("neither server nor environment tells the control rate. Give --rate in Hz")
