"""A member's result does not depend on its company, for every agent of the registry."""

import pickle

import numpy as np
import pytest
import torch
from small import (
    ACTION_DIM,
    OBSERVATION_DIM,
    SEEN,
    made_up_data,
    make_agent,
    member_params,
    random_batch,
    run_updates,
    small_config,
    small_hyperparameters,
)

from lps.agents import AGENTS
from lps.agents.config import member_scalars
from lps.errors import UserError
from lps.members.streams import Stream
from lps.policy.policy import Policy
from lps.runs.checkpoint import Checkpoint
from lps.runs.run import Run

TASK = "cube-single-play-singletask-task1-v0"


def own_scalars(agent: str) -> list[dict[str, float]]:
    """Three members that differ in every scalar that may differ."""
    factors = (1.0, 0.5, 0.25)
    names = member_scalars(AGENTS[agent].Config)
    return [{name: getattr(AGENTS[agent].Config(), name) * factor for name in names} for factor in factors]


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(("scalars", "seen"), [("shared", "state"), ("own", "state"), ("shared", "images")])
def test_a_member_alone_is_the_member_packed_with_others(agent, scalars, seen):
    seeds, updates, member = [3, 1, 4], 30 if seen == "state" else 5, 2
    overrides = own_scalars(agent) if scalars == "own" else [{}] * 3
    packed = make_agent(agent, seeds, overrides, SEEN[seen])
    run_updates(packed, seeds, 1, updates)
    alone = make_agent(agent, [seeds[member]], [overrides[member]], SEEN[seen])
    start = member_params(alone, 0)
    run_updates(alone, [seeds[member]], 1, updates)
    ours, theirs = member_params(alone, 0), member_params(packed, member)
    moved = torch.cat([(ours[k] - start[k]).flatten() for k in ours]).norm()
    apart = torch.cat([(ours[k] - theirs[k]).flatten() for k in ours]).norm()
    assert moved > 0.01
    assert apart < 1e-4 * moved


@pytest.mark.parametrize("agent", AGENTS)
def test_different_seeds_differ(agent):
    packed = make_agent(agent, [0, 1])
    first, second = member_params(packed, 0), member_params(packed, 1)
    assert any(not torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_resumed_pack_is_bitwise_the_uninterrupted_one(agent):
    seeds = [5, 6]
    runs = [Run.create(agent, TASK, seed, **small_hyperparameters(agent)) for seed in seeds]
    whole = make_agent(agent, seeds)
    run_updates(whole, seeds, 1, 20)
    half = make_agent(agent, seeds)
    run_updates(half, seeds, 1, 10)
    stored = [Checkpoint.of(half, i, runs[i], 10, "x").to_bytes() for i in range(2)]
    resumed = make_agent(agent, [0, 0])  # other initial parameters: all must come from the checkpoint
    for member, data in enumerate(stored):
        Checkpoint.from_bytes(data, "memory").restore(resumed, member)
    run_updates(resumed, seeds, 11, 20)
    for member in range(2):
        ours, theirs = member_params(resumed, member), member_params(whole, member)
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(("seen", "updates"), [("state", 20), ("images", 3)])
def test_a_member_that_is_not_finite_leaves_the_others_untouched(agent, seen, updates):
    seeds = [0, 1, 2]
    healthy, sick = (make_agent(agent, seeds, observation=SEEN[seen]) for _ in range(2))
    with torch.no_grad():
        for tensor in sick.trained_tensors():
            tensor[1] = float("nan")
    run_updates(healthy, seeds, 1, updates)
    info = run_updates(sick, seeds, 1, updates)
    assert all(bool(torch.isnan(value[1])) for name, value in info.items() if name.endswith("loss"))
    for member in (0, 2):
        ours, theirs = member_params(sick, member), member_params(healthy, member)
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("seen", SEEN)
def test_one_update_changes_every_trained_tensor_and_targets_follow(agent, seen):
    subject = make_agent(agent, [0], observation=SEEN[seen])
    before = member_params(subject, 0)
    run_updates(subject, [0], 1, 3)  # three: a layer whose successor starts at zero moves one step later
    after = member_params(subject, 0)
    assert all(not torch.equal(before[k], after[k]) for k in before), [k for k in before if before[k].equal(after[k])]


@pytest.mark.parametrize("agent", AGENTS)
def test_metrics_come_per_member_and_do_not_hold_the_graph(agent):
    info = run_updates(make_agent(agent, [0, 1]), [0, 1], 1, 1)
    assert any(name.endswith("loss") for name in info)
    assert all(value.shape == (2,) and not value.requires_grad for value in info.values())


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_fits_its_data_better_with_training(agent):
    """On one fixed batch the cloning loss falls, so acting improves for a reason."""
    subject, seeds = make_agent(agent, [0], [{"lr": 3e-3}]), torch.tensor([0])
    batch = random_batch(subject, seeds, 0)
    losses = []
    for step in range(200):
        noise = subject.noise(Stream(seeds, step, "noise"), subject.config.batch_size)
        losses.append(float(subject.update(batch, noise)["base_loss"]))
    assert np.mean(losses[-30:]) < 0.9 * np.mean(losses[:30])


@pytest.mark.parametrize("agent", AGENTS)
def test_a_policy_acts_alone_and_survives_pickling(agent):
    packed = make_agent(agent, [0, 1])
    run = Run.create(agent, TASK, 1, **{k: v for k, v in vars(small_config(agent)).items()})
    policy = Policy.of_member(packed, 1, run, 7)
    observation = np.linspace(-1, 1, OBSERVATION_DIM, dtype=np.float32)
    noise = np.linspace(-2, 2, policy.noise_dim, dtype=np.float32) if policy.noise_dim else None
    chunk = policy.act(observation, noise)
    assert chunk.shape == (2, ACTION_DIM) and np.abs(chunk).max() <= 1.0
    e = None if noise is None else torch.from_numpy(noise).expand(2, 1, -1)
    expected = packed.act({"state": torch.from_numpy(observation).expand(2, 1, -1)}, e)[1, 0].detach().numpy()
    np.testing.assert_allclose(chunk.ravel(), expected, atol=1e-6)
    copy = pickle.loads(pickle.dumps(policy))
    np.testing.assert_array_equal(copy.act(observation, noise), chunk)
    np.testing.assert_array_equal(copy.act(observation).shape, chunk.shape)


@pytest.mark.parametrize(("size", "seen"), [("small", "state"), ("paper", "state"), ("small", "images")])
@pytest.mark.parametrize("agent", AGENTS)
def test_an_answer_depends_on_its_own_row_alone(agent, size, seen):
    """To the last bit, so that an episode does not depend on those that run beside it."""
    run = Run.create(agent, TASK, 1, **(vars(small_config(agent)) if size == "small" else {}))
    policy = Policy.of_member(AGENTS[agent]([run.config], [1], SEEN[seen], ACTION_DIM), 0, run, 7)
    rng = np.random.default_rng(0)
    observations = made_up_data(TASK, SEEN[seen], 7).observations
    noise = rng.standard_normal((7, policy.noise_dim)).astype(np.float32) if policy.noise_dim else None
    chunks = policy.act_batch(observations, noise)
    for rows in ([0], [6, 2], [5, 4, 3, 2, 1, 0], [3, 3, 1, 6]):
        some = {name: array[rows] for name, array in observations.items()}
        np.testing.assert_array_equal(policy.act_batch(some, None if noise is None else noise[rows]), chunks[rows])
    each = [{name: array[i] for name, array in observations.items()} for i in range(7)]
    alone = [policy.act(o, None if noise is None else noise[i]) for i, o in enumerate(each)]
    np.testing.assert_allclose(chunks, alone, atol=1e-5)
    with pytest.raises(UserError, match="needs"):
        policy.act_batch({name: array[:, 1:] for name, array in observations.items()}, noise)
