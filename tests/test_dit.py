"""The transformer as base policy, and averaged policies.  The authors' numbers are in test_golden.py."""

import dataclasses

import pytest
import torch
from small import ACTION_DIM, OBSERVATION, make_agent, member_params, run_updates, small_hyperparameters

from lps.agents import AGENTS
from lps.errors import UserError
from lps.members.streams import Stream
from lps.nets import NETWORKS
from lps.nets.network import Spec
from lps.policy.file import policy_of
from lps.policy.policy import Policy
from lps.runs.checkpoint import Checkpoint
from lps.runs.run import Run

WITH_BASE = [name for name in AGENTS if "base_hidden" in {f.name for f in dataclasses.fields(AGENTS[name].Config)}]
TRANSFORMER = {"base_network": "small.small_dit"}


@pytest.mark.parametrize("agent", WITH_BASE)
def test_a_member_learns_alone_as_in_a_pack(agent):
    packed, alone = make_agent(agent, [3, 5], [TRANSFORMER] * 2), make_agent(agent, [5], [TRANSFORMER])
    assert any("qkv" in name for name in packed.params["base"])
    run_updates(packed, [3, 5], 1, 3)
    run_updates(alone, [5], 1, 3)
    theirs = member_params(alone, 0)
    for name, value in member_params(packed, 1).items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5)


def test_a_new_transformer_returns_zero():
    net = NETWORKS["dit_nano"](Spec(OBSERVATION, (2 * ACTION_DIM, 1, 1), 2 * ACTION_DIM, (), 2))
    params = net.init(Stream(torch.tensor([0]), 0, "init"))
    observation, chunk, t = {"state": torch.randn(1, 4, 7)}, torch.randn(1, 4, 6), torch.rand(1, 4, 1)
    assert not net(params, net.encode(params, observation), chunk, t, t).any()


@pytest.mark.parametrize(
    ("size", "parameters"),
    {"dit_nano": 4_451_335, "dit_tiny": 22_481_159, "dit_small": 33_124_615, "dit_base": 131_128_327}.items(),
)
def test_sizes_are_those_of_the_release(size, parameters):
    # A robot of the release: 1024 features of images, which stand here for a flat array, 7 numbers, 5 actions of 7.
    from lps.spaces import Space

    observation = {"image": Space((1, 1, 1024), "uint8"), "state": Space((7,))}
    net = NETWORKS[size](Spec(observation, (35, 1, 1), 35, (), 5, encoder="flat"))
    assert sum(torch.Size(shape).numel() for shape in net.shapes().values()) == parameters


def test_a_transformer_serves_as_base_policy_only():
    with pytest.raises(UserError, match="Set base_network"):
        make_agent("lps", [0], [{"network": "dit_nano"}])


@pytest.mark.parametrize("agent", ["lps", "meanflow_bc", "quantile_lps"])
def test_policies_take_the_averages_of_parameters(agent):
    trained = make_agent(agent, [4], [{"policy_tau": 0.25}])
    expected = {name: {k: v.clone() for k, v in trained.params[name].items()} for name in trained.acting}
    for step in range(1, 4):
        for tensors, now in ((expected[name], trained.params[name]) for name in trained.acting):
            for key, value in tensors.items():
                value.lerp_(now[key].detach(), 0.25)  # the target moves towards the parameters before the step
        run_updates(trained, [4], step, step)
    run = Run.create(agent, "ring-bandit-v0", seed=4, steps=3, **small_hyperparameters(agent, policy_tau=0.25))
    policy = Policy.of_member(trained, 0, run, 3)
    stored = policy_of(Checkpoint.of(trained, 0, run, 3, "0" * 64))
    for name, tensors in expected.items():
        for key, value in tensors.items():
            torch.testing.assert_close(policy.params[name][key], value)
            assert torch.equal(stored.params[name][key], policy.params[name][key])


def test_averages_change_no_training():
    plain, averaged = make_agent("lps", [1]), make_agent("lps", [1], [{"policy_tau": 0.1}])
    run_updates(plain, [1], 1, 2)
    run_updates(averaged, [1], 1, 2)
    for net, tensors in plain.params.items():
        for name, value in tensors.items():
            assert torch.equal(value, averaged.params[net][name])
