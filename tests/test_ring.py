"""The ring bandit: its reward, its data, training on it, and its picture."""

import math
from dataclasses import replace

import numpy as np
import pytest
from small import small_hyperparameters

from analysis.compare import write
from analysis.results.load import load
from analysis.results.study import study
from lps.agents import AGENTS
from lps.data.batches import Batches
from lps.errors import UserError
from lps.policy.file import load_policy
from lps.policy.policy import Policy
from lps.runs.checkpoint import checkpoint_path
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks import ring
from lps.tasks.ring import RING
from lps.tasks.suites import load_dataset, make_env
from lps.training.options import TrainOptions
from lps.training.program import Program
from lps.training.trainer import train
from sweeps import ring as sweep
from sweeps.study.scope import RING_SCOPE


def test_an_action_is_worth_one_on_the_arc_and_nothing_elsewhere():
    middle, half = ring.ARC

    def at(radius, angle):
        return [radius * math.cos(angle), radius * math.sin(angle)]

    inside = [at(ring.RADIUS, middle), at(ring.RADIUS + 0.14, middle), at(ring.RADIUS, middle + 0.9 * half)]
    outside = [at(ring.RADIUS + 0.16, middle), at(0.2, middle), at(ring.RADIUS, middle + 1.1 * half), at(0.7, math.pi)]
    np.testing.assert_array_equal(ring.reward(np.array(inside + outside)), [1] * 3 + [0] * 4)
    env = make_env(RING)
    for actions, success in ((inside, True), (outside, False)):
        for action in actions:
            env.reset(seed=0)
            _, value, terminated, _, info = env.step(np.array(action))
            assert (value, terminated, info["success"]) == (float(success), True, success)


def test_all_data_are_on_the_ring_and_always_the_same():
    dataset = load_dataset([RING])
    starts = dataset.starts(RING.horizon)
    actions = dataset.actions[starts]
    assert len(starts) == ring.NUM_ACTIONS and ring.on_ring(actions).all() and np.abs(actions).max() < 1
    np.testing.assert_array_equal(dataset.rewards[0, starts], ring.reward(actions))
    assert not dataset.masks[0, starts].any(), "there is nothing after the step"
    share = dataset.rewards[0, starts].mean()
    assert share == pytest.approx(2 * ring.ARC[1] / (2 * math.pi), abs=0.01)
    assert load_dataset([RING]).fingerprint == dataset.fingerprint
    with pytest.raises(UserError, match="Remove --dataset"):
        load_dataset([RING], dataset="cube-single-play-v0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Every agent, a few updates, its actions sampled."""
    store = Store(tmp_path_factory.mktemp("ring"))
    runs = []
    for agent in AGENTS:
        settings = {**small_hyperparameters(agent), "horizon": 1}
        runs.append(Run.create(agent, RING.name, steps=20, eval_interval=10, eval_episodes=5, **settings))
    assert set(train(runs, store, TrainOptions("cpu")).values()) == {"done"}
    sweep.sample(store, runs)
    return store, runs


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_trains_is_evaluated_and_sampled(agent, trained):
    store, runs = trained
    run = next(run for run in runs if run.agent == agent)
    assert store.episode_steps(run.id) == {10, 20}
    policy = load_policy(f"{store.path}/{checkpoint_path(run)}")
    actions = policy.sample(np.ones(1), 50)
    assert actions.shape == (50, 1, 2) and np.abs(actions).max() <= 1
    assert (np.ptp(actions, axis=0).max() > 1e-4) == bool(policy.noise_dim), "a latent actor takes one action only"


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_that_sees_rewards_ends_on_the_arc_far_more_often_than_the_data(agent):
    """A sixth of the data is on the arc. Two seeds, looked at three times each: a deterministic policy is on the arc or
    it is not."""
    samples = agent in ("meanflow_best_of_n", "quantile_lps")  # of one pass, which must be on the ring before
    steps = 1600 if samples else 800
    settings = {"lr": 1e-3 if samples else 3e-3, "tau": 0.02, "batch_size": 128, "num_samples": 8}
    known = {name: value for name, value in settings.items() if name in AGENTS[agent].Config.__dataclass_fields__}
    runs = [planned.run for planned in replace(RING_SCOPE, steps=steps).runs(agent, **known)]
    dataset, configs, seeds = load_dataset([RING]), [run.config for run in runs], [run.seed for run in runs]
    members = AGENTS[agent](configs, seeds, RING.observation, 2)
    program = Program(members, Batches(dataset, [RING.name] * len(runs), [0.99] * len(runs), RING.horizon), seeds)
    found = []
    for step in range(1, steps + 1):
        program.update(step)
        if step in (steps // 2, 3 * steps // 4, steps):
            policies = [Policy.of_member(members, i, run, step) for i, run in enumerate(runs)]
            found += [ring.reward(policy.sample(np.ones(1), 500, seed=0)[:, 0]).mean() for policy in policies]
    share = dataset.rewards[0, dataset.starts(RING.horizon)].mean()
    assert (np.mean(found) > 2 * share) is np.bool_(not AGENTS[agent].reward_free), found


def test_the_picture_has_a_row_for_every_agent_and_its_numbers_beside_it(trained, tmp_path):
    store, _ = trained
    write(study(load(store.path)), tmp_path)
    assert (tmp_path / "figures" / "ring.png").stat().st_size > 10_000
    text = (tmp_path / "figures" / "ring.csv").read_text()
    assert all(f",{agent}," in text for agent in AGENTS)


def test_a_dry_run_says_what_would_run(capsys):
    assert sweep.main(["--dry-run", "--address", "local"]) == 0
    assert "8 runs in 2 packs" in capsys.readouterr().out


def test_defaults_of_the_task_make_a_run_of_one_step():
    assert Run.create("lps", RING.name).config.horizon == 1
