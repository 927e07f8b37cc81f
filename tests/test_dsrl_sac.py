"""DSRL (SAC): its densities, its losses as written in the release, and what steers its temperature."""

import pytest
import torch
from small import OBSERVATION_DIM, make_agent, member_params, random_batch, run_updates
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from lps.agents.base import values
from lps.agents.flows import flow_actions
from lps.members.streams import Stream
from lps.runs.run import Run

SEEDS = torch.tensor([0, 1])


def drawn(agent, batch=16):
    """Observations (2, batch, *) and standard normal draws (2, batch, d)."""
    stream = Stream(SEEDS, 1, "test")
    return {"state": stream.normal(batch, OBSERVATION_DIM)}, stream.normal(batch, agent.chunk_dim)


def squashed(agent, s) -> TransformedDistribution:
    """The distribution of tanh u by torch's own classes."""
    mean, log_sd = agent.latent_actor(s).chunk(2, -1)
    normal = Independent(Normal(mean, log_sd.clamp(-20, 2).exp()), 1)
    return TransformedDistribution(normal, [TanhTransform(cache_size=1)])


def set_log_sd(agent, value: float) -> None:
    """Gives the latent actor the same sd everywhere."""
    last = len(agent.config.latent_actor_hidden)
    with torch.no_grad():
        agent.params["latent_actor"][f"kernel_{last}"][..., agent.chunk_dim :] = 0.0
        agent.params["latent_actor"][f"bias_{last}"][..., agent.chunk_dim :] = value


def test_the_density_and_its_gradient_are_those_of_a_squashed_normal():
    agent = make_agent("dsrl_sac", [0, 1], [{"noise_scale": 0.4}, {"noise_scale": 1.4}])
    s, e = drawn(agent)
    z, log_pi = agent._latent(s, e)
    reference = squashed(agent, s)
    u = torch.atanh((z / agent.noise_scale[:, None, None]).double()).float()
    mean, log_sd = agent.latent_actor(s).chunk(2, -1)
    torch.testing.assert_close(u, mean + log_sd.exp() * e, atol=1e-4, rtol=1e-4)
    sample = torch.tanh(mean + log_sd.exp() * e)
    torch.testing.assert_close(log_pi, reference.log_prob(sample), atol=1e-3, rtol=1e-4)
    weights = agent.params["latent_actor"]["kernel_0"]
    ours, theirs = (torch.autograd.grad(x.sum(), weights)[0] for x in (log_pi, reference.log_prob(sample)))
    torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=1e-3)


def test_latents_stay_within_the_noise_scale_and_their_density_finite():
    agent = make_agent("dsrl_sac", [0, 1], [{"noise_scale": 0.4}, {"noise_scale": 1.4}])
    set_log_sd(agent, 5.0)  # is clipped to 2
    s, e = drawn(agent)
    z, log_pi = agent._latent(s, 30 * e)
    for member, scale in enumerate((0.4, 1.4)):
        assert z[member].abs().max().item() == pytest.approx(scale), "the bound is reached and not passed"
    assert bool(log_pi.isfinite().all())
    mean, _ = agent.latent_actor(s).chunk(2, -1)
    one, _ = agent._latent(s, 0.01 * e)
    u = mean + torch.e**2 * 0.01 * e
    torch.testing.assert_close(one, agent.noise_scale[:, None, None] * u.tanh())


def test_the_losses_are_those_of_the_release():
    """In a plain form: member by member, critic by critic."""
    scalars = [{"noise_scale": 0.4, "rho": 0.0}, {"noise_scale": 1.4, "rho": 1.0}]
    agent = make_agent("dsrl_sac", [0, 1], scalars)
    run_updates(agent, [0, 1], 1, 20)  # targets and temperature have moved
    batch = random_batch(agent, SEEDS, 21)
    noise = agent.noise(Stream(SEEDS, 21, "noise"), agent.config.batch_size)
    losses, info = agent.losses(batch, noise)
    s, s_next = batch.observations, batch.next_observations
    pi, pi_next = squashed(agent, s), squashed(agent, s_next)
    b, d, discount = agent.log_temperature(s).exp(), agent.chunk_dim, 0.99**agent.config.horizon

    def sample(distribution, e):
        mean, log_sd = distribution.base_dist.base_dist.loc, distribution.base_dist.base_dist.scale.log()
        return torch.tanh(mean + log_sd.exp() * e)

    for m, scale in enumerate((0.4, 1.4)):
        a_next = flow_actions(agent.target_base, s_next, scale * sample(pi_next, noise["next_e_normal"]), 10)
        q_next = values(agent.target_critic, s_next, a_next)[m]  # (K, B)
        y = batch.rewards[m] + discount * batch.masks[m] * (q_next.mean(0) - (0, 1)[m] * q_next.std(0, correction=0))
        q = values(agent.critic, s, batch.actions)[m]
        assert losses["critic_loss"][m].item() == pytest.approx(((q - y) ** 2).mean().item(), rel=1e-4)

        e = noise["distill_e_normal"]
        of_action = values(agent.critic, s, flow_actions(agent.target_base, s, e, 10))[m]
        of_latent = values(agent.noise_critic, s, e)[m]
        each = torch.stack([((of_latent[k] - of_action[k]) ** 2).mean() for k in range(10)])
        assert losses["distill_loss"][m].item() == pytest.approx(each.mean().item(), rel=1e-4)

        u = sample(pi, noise["actor_e_normal"])
        log_pi = pi.log_prob(u)[m]
        q_z = values(agent.noise_critic, s, scale * u)[m].mean(0)
        expected = (b[m] * log_pi - q_z).mean().item()
        assert losses["latent_loss"][m].item() == pytest.approx(expected, rel=1e-3, abs=1e-3)
        expected = b[m].item() * (-log_pi.mean().item() + 0.5 * d)
        assert losses["temperature_loss"][m].item() == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert info["entropy"][m].item() == pytest.approx(-log_pi.mean().item(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(("log_sd", "rises"), [(-5.0, True), (0.0, False)])
def test_the_temperature_rises_where_the_entropy_is_below_its_target_and_falls_above(log_sd, rises):
    agent = make_agent("dsrl_sac", [0, 1])
    set_log_sd(agent, log_sd)
    info = run_updates(agent, [0, 1], 1, 1)
    target = -0.5 * agent.chunk_dim
    assert all((entropy < target) is rises for entropy in info["entropy"].tolist())
    assert info["temperature"].tolist() == [1.0, 1.0], "it begins at 1"
    temperature = agent.log_temperature({}).exp()
    assert all((value > 1) is rises for value in temperature.tolist())


def test_a_member_has_its_own_target_entropy():
    agent = make_agent("dsrl_sac", [0, 0], [{"entropy_multiplier": 0.0}, {"entropy_multiplier": 3.0}])
    set_log_sd(agent, -2.0)  # an entropy of about -0.6 d
    run_updates(agent, [0, 0], 1, 1)
    low, high = agent.log_temperature({}).exp().tolist()
    assert low > 1 > high


def test_the_cloned_flow_does_not_know_the_critics():
    """Members with other critics, other actors and another reach of latents have the same base policy."""
    scalars = [{"rho": 0.0, "noise_scale": 0.2}, {"rho": 2.0, "noise_scale": 2.0, "entropy_multiplier": 2.0}]
    agent = make_agent("dsrl_sac", [0, 0], scalars)
    run_updates(agent, [0, 0], 1, 20)
    first, second = member_params(agent, 0), member_params(agent, 1)
    for name, value in first.items():
        if name.split("/")[0] in ("base", "target_base"):
            torch.testing.assert_close(value, second[name], atol=1e-5, rtol=1e-4)
    assert not torch.equal(first["critic/kernel_0"], second["critic/kernel_0"])
    assert not torch.equal(first["latent_actor/kernel_0"], second["latent_actor/kernel_0"])


def test_it_acts_through_the_slow_copy_of_the_flow():
    agent = make_agent("dsrl_sac", [0, 1])
    s, e = drawn(agent)
    before = agent.act(s, e)
    with torch.no_grad():
        agent.params["base"]["bias_0"] += 1.0
    assert torch.equal(agent.act(s, e), before)
    with torch.no_grad():
        agent.params["target_base"]["bias_0"] += 1.0
    assert not torch.equal(agent.act(s, e), before)


@pytest.mark.parametrize(
    ("group", "scale"),
    [("cube-single", 1.0), ("cube-double", 1.0), ("cube-triple", 1.4), ("cube-quadruple", 1.4), ("scene", 0.4)],
)
def test_the_noise_scale_is_that_of_the_group(group, scale):
    task = f"{group}-play-singletask-task1-v0"
    assert Run.create("dsrl_sac", task).config.noise_scale == scale
    assert Run.create("dsrl_sac", task, noise_scale=0.7).config.noise_scale == 0.7
