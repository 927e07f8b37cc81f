import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from lps.errors import UserError
from lps.evaluation import rollout as evaluation
from lps.evaluation.evaluators import InlineEvaluator, PoolEvaluator
from lps.evaluation.rollout import environment_seed, evaluate, noise_stream
from lps.tasks.ogbench import make_env, set_task
from lps.tasks.suites import get_task, groups

GROUPS = groups("ogbench")


TASK = replace(get_task("cube-single-play-singletask-task1-v0"), max_episode_steps=12)


class Linear:
    """A random linear policy with noise, that counts how often it is asked."""

    def __init__(self, seed=0, horizon=5, noise_dim=25, observation_dim=28):
        self.weights = np.random.default_rng(seed).normal(0, 0.1, (horizon * 5, observation_dim)).astype(np.float32)
        self.horizon, self.noise_dim = horizon, noise_dim
        self.asked = []

    def act_batch(self, observations, noise):
        observations = observations["state"]
        assert observations.shape[1:] == self.weights.shape[1:] and observations.dtype == np.float32
        self.asked.append((observations, noise))
        actions = np.stack([self.weights @ observation for observation in observations])
        return (actions if noise is None else actions + noise).reshape(-1, self.horizon, 5)


class Script:
    """An environment that succeeds at a given step ("seed": at one that its seed decides) and objects to being stepped
    after its end."""

    def __init__(self, success_at=None, limit=12):
        self.success_at, self.limit = success_at, limit
        self.over, self.seeds, self.actions = True, [], []
        self.unwrapped = self

    def reset(self, seed):
        self.over = False
        self.seeds.append(seed)
        self.actions.append([])
        return np.zeros(28), {}

    def step(self, action):
        assert not self.over, "stepped after its end"
        self.actions[-1].append(action)
        count = len(self.actions[-1])
        success = count == (self.seeds[-1] % 15 if self.success_at == "seed" else self.success_at)
        self.over = success or count == self.limit
        return np.zeros(28), -1.0 + success, success, count == self.limit, {"success": success}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)

    def close(self):
        pass


@dataclass(frozen=True)
class FakeRun:
    task: str = "cube-single-play-singletask-task1-v0"
    seed: int = 3
    eval_episodes: int = 2

    @property
    def resolved_task(self):
        return get_task(self.task)


@pytest.fixture(scope="module")
def pool():
    evaluator = PoolEvaluator(2)
    yield evaluator
    evaluator.close()


@pytest.fixture
def scripted(monkeypatch):
    """Evaluation in scripted environments; those that it made are returned."""

    def use(**settings):
        made = []
        monkeypatch.setattr(evaluation, "_env_cache", [])
        monkeypatch.setattr(evaluation, "make_env", lambda *_, **__: made.append(Script(**settings)) or made[-1])
        return made

    return use


@pytest.mark.parametrize("group", ["cube-single", "scene"])
def test_the_result_does_not_depend_on_the_split(group, monkeypatch):
    task = replace(GROUPS[group][1], max_episode_steps=12)
    policy = Linear(observation_dim=task.observation["state"].shape[0])

    def seen(episodes, together=1):
        """The rows, and all observations that led to them."""
        monkeypatch.setattr(evaluation, "EPISODES_PER_QUERY", together)
        policy.asked.clear()
        rows = {e.episode: e for e in evaluate(policy, task, seed=1, step=10, episodes=episodes)}
        queries = np.stack([observations for observations, _ in policy.asked])  # three for each batch of episodes
        batches = queries.reshape(-1, 3, together, task.observation["state"].shape[0]).swapaxes(1, 2)
        return rows, dict(zip(rows, batches.reshape(len(rows), 3, -1), strict=True))

    whole, observed = seen(4, together=2)
    assert list(whole) == [0, 1, 2, 3] and len({e.env_seed for e in whole.values()}) == 4
    for part in ([3, 1], [2], [0]):
        rows, observations = seen(part, together=len(part))
        assert rows == {i: whole[i] for i in part}
        assert all(np.array_equal(observations[i], observed[i]) for i in part)
        if part == [2]:
            evaluation._env_cache.clear()  # go on in a new environment, as another process would


def test_an_episode_runs_to_the_step_limit_and_counts_its_steps():
    (episode,) = evaluate(Linear(), TASK, seed=1, step=10, episodes=1)
    assert episode.length == 12 and episode.return_ == -12.0 and not episode.success


@pytest.mark.parametrize("horizon, asked", [(1, 12), (5, 3), (20, 1)])
def test_the_policy_is_asked_once_per_chunk(horizon, asked):
    policy = Linear(horizon=horizon, noise_dim=0)
    evaluate(policy, TASK, seed=1, step=10, episodes=2)
    assert [len(observations) for observations, _ in policy.asked] == [2] * asked, "for both episodes at once"
    assert all(noise is None for _, noise in policy.asked)


def test_episodes_of_any_length_share_the_queries(scripted):
    """Whoever ends makes room for the next; each is what it is alone."""
    made = scripted(success_at="seed")
    policy = Linear(horizon=2, noise_dim=10)
    episodes = evaluate(policy, TASK, seed=1, step=10, episodes=11)
    assert [e.episode for e in episodes] == list(range(11)) and len({e.length for e in episodes}) > 3
    assert sum(e.success for e in episodes) not in (0, 11)
    assert len(made) == evaluation.EPISODES_PER_QUERY
    decisions = sum(-(-e.length // 2) for e in episodes)
    rows = [len(observations) for observations, _ in policy.asked]
    assert sum(rows) == decisions and len(rows) < 0.5 * decisions
    for episode in episodes:
        assert evaluate(policy, TASK, seed=1, step=10, episodes=[episode.episode]) == [episode]
    assert len(made) == evaluation.EPISODES_PER_QUERY, "they are kept"


@pytest.mark.parametrize("group", ["cube-double", "scene", "puzzle-3x3"])
def test_an_environment_goes_from_task_to_task_of_its_group(group):
    """As if it had been made for it."""
    turned, rng = make_env(GROUPS[group][1]), np.random.default_rng(0)
    turned.reset(seed=3)
    for _ in range(5):
        turned.step(rng.uniform(-1, 1, 5))
    if group != "cube-double":  # as after a button was pressed, which in scene locks or frees the drawer
        turned.unwrapped._cur_button_states = 1 - turned.unwrapped._cur_button_states
        turned.unwrapped._apply_button_states()
    set_task(turned, GROUPS[group][3])
    seen = []
    for env in (turned, make_env(GROUPS[group][3])):
        rng = np.random.default_rng(1)
        seen.append([env.reset(seed=7)[0], *(env.step(rng.uniform(-1, 1, 5)) for _ in range(20))])
        seen[-1] = [seen[-1][0], *(row for step in seen[-1][1:] for row in (step[0], step[1:4], step[4]["success"]))]
        env.close()
    for ours, fresh in zip(*seen, strict=True):
        np.testing.assert_array_equal(ours, fresh)


@pytest.mark.parametrize("success_at, length, success", [(7, 7, True), (12, 12, True), (None, 12, False)])
def test_an_episode_ends_with_its_success_inside_a_chunk(scripted, success_at, length, success):
    made = scripted(success_at=success_at)
    episodes = evaluate(Linear(), TASK, seed=1, step=10, episodes=3)
    assert [(e.length, e.success, e.return_) for e in episodes] == [(length, success, -length + success)] * 3
    assert sorted(seed for env in made for seed in env.seeds) == sorted(e.env_seed for e in episodes)


@pytest.mark.parametrize("actions", [np.zeros(5), np.zeros((0, 5)), np.zeros((5, 4)), np.full((5, 5), np.nan)])
def test_a_policy_that_returns_no_actions_is_an_error(scripted, actions):
    scripted()
    policy = Linear()
    policy.act_batch = lambda observations, noise: actions[None]
    with pytest.raises(ValueError, match="the policy returned"):
        evaluate(policy, TASK, seed=1, step=10, episodes=1)


def test_progress_and_frames(scripted):
    scripted()
    seen, frames = [], []
    episodes = evaluate(Linear(), TASK, seed=1, step=1, episodes=2, progress=seen.append, frames=frames.append)
    assert seen == episodes and len(frames) == 2 * (12 + 1)


def test_a_policy_runs_on_one_thread(scripted):
    import torch  # not for the whole module, which the workers of the pools import

    scripted()
    seen = []
    policy = Linear()
    policy.act_batch = lambda observations, noise: seen.append(torch.get_num_threads()) or np.zeros((1, 5, 5))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        evaluate(policy, TASK, seed=1, step=1, episodes=1)
        assert set(seen) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_evaluation_and_the_global_generators_leave_each_other_alone():
    import torch

    torch.manual_seed(0)
    np.random.seed(0)
    first = evaluate(Linear(), TASK, seed=1, step=10, episodes=2)
    drawn = torch.rand(3), np.random.rand(3)
    torch.manual_seed(0)
    np.random.seed(0)
    assert torch.equal(torch.rand(3), drawn[0]) and np.array_equal(np.random.rand(3), drawn[1])
    assert evaluate(Linear(), TASK, seed=1, step=10, episodes=2) == first


def test_every_number_in_the_key_matters():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (2**31, 10**9, 10**6)]
    assert len({environment_seed(*key) for key in keys}) == len(keys)
    assert len({float(noise_stream(*key).standard_normal()) for key in keys}) == len(keys)
    assert all(0 <= environment_seed(0, step, 0) < 2**31 for step in range(1000))


def test_seeds_stay_what_they_are():
    """Results of years ago must be found again: this is part of the schema."""
    assert environment_seed(0, 0, 0) == 917752063
    assert environment_seed(7, 100_000, 49) == 1893258091


def test_inline(scripted):
    scripted()
    evaluator = InlineEvaluator()
    evaluator.submit(Linear(), FakeRun(), 10)
    ((run, step, episodes),) = evaluator.poll()
    assert (run, step, len(episodes)) == (FakeRun(), 10, 2)
    assert evaluator.poll(wait=True) == []


@pytest.mark.slow
def test_a_pool_gives_what_inline_gives(pool):
    inline = InlineEvaluator()
    policy = Linear()
    for run, step in [(FakeRun(), 10), (FakeRun(seed=4, eval_episodes=1), 20)]:
        inline.submit(policy, run, step)
        pool.submit(policy, run, step)
    policy.weights[:] = 0  # training goes on
    assert pool.poll(wait=True) == inline.poll()
    assert pool.poll() == []


class Raises(Linear):
    def act_batch(self, observations, noise):
        raise ZeroDivisionError("in the policy")


@pytest.mark.slow
def test_an_error_of_a_policy_comes_out_of_the_pool_and_leaves_the_others(pool):
    pool.submit(Linear(), FakeRun(eval_episodes=1), 10)
    pool.submit(Raises(), FakeRun(eval_episodes=1), 20)
    with pytest.raises(ZeroDivisionError, match="in the policy"):
        pool.poll(wait=True)
    assert [step for _, step, _ in pool.poll()] == [10]


class Sleeps(Linear):
    """Says which process it was sent to, and keeps it for ten minutes."""

    def __setstate__(self, state):
        print(os.getpid(), flush=True)
        time.sleep(600)


class Kills(Linear):
    """Kills the process that it is sent to."""

    def __setstate__(self, state):
        os.kill(os.getpid(), signal.SIGKILL)


def test_closing_a_pool_does_not_wait_for_what_runs(capfd):
    evaluator = PoolEvaluator(1)
    evaluator.submit(Sleeps(), FakeRun(eval_episodes=1), 10)
    while not capfd.readouterr().out:
        time.sleep(0.05)
    evaluator.close()


def test_a_dead_worker_is_told():
    evaluator = PoolEvaluator(1)
    try:
        for _ in range(2):
            with pytest.raises(UserError, match="worker.* died"):
                evaluator.submit(Kills(), FakeRun(), 10)
                evaluator.poll(wait=True)
        assert evaluator.poll(wait=True) == []
    finally:
        evaluator.close()


def sleeping_pool():
    evaluator = PoolEvaluator(1)
    evaluator.submit(Sleeps(), FakeRun(), 10)
    evaluator.poll(wait=True)


def test_workers_do_not_outlive_a_killed_parent():
    code = "import test_evaluate; test_evaluate.sleeping_pool()"
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(300):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if open(f"/proc/{worker}/stat").read().rsplit(")")[1].split()[0] == "Z":
            return  # dead, and only waits for somebody to count it
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker lives on")


def test_importing_evaluation_needs_no_torch():
    code = "import sys, lps.evaluation.rollout; print([m for m in ('torch', 'ray', 'ogbench') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
