"""What each method says of itself: where gradients go, what ablations change, and what alpha does not."""

import math
import statistics

import pytest
import torch
from small import IMAGES, OBSERVATION_DIM, make_agent, member_params, random_batch, run_updates, small_config

from lps.agents import AGENTS
from lps.agents.base import values
from lps.agents.flows import MEANFLOW_FORMS, flow_actions, meanflow_actions, meanflow_loss, meanflow_times
from lps.agents.latents import LATENTS, latent_noise, project_latent
from lps.agents.variants import VARIANTS
from lps.members.streams import Stream
from lps.nets.encoder import ObservationEncoder
from lps.nets.impala import Impala
from lps.nets.mlp import MLP
from lps.nets.network import Bound
from lps.runs.hyperparameters import make_config
from lps.spaces import Space

SEEDS = torch.tensor([0])

# network -> the losses that may train it; what is not named here no loss may reach.
REACHES = {
    "lps": {"critic": {"critic_loss"}, "base": {"base_loss"}, "latent_actor": {"latent_loss"}},
    "fm_lps": {"critic": {"critic_loss"}, "base": {"base_loss"}, "latent_actor": {"latent_loss"}},
    "dsrl": {  # the release does not detach the distillation's target
        "critic": {"critic_loss", "distill_loss"},
        "base": {"base_loss"},
        "noise_critic": {"distill_loss"},
        "latent_actor": {"latent_loss"},
    },
    "dsrl_sac": {
        "critic": {"critic_loss"},
        "base": {"base_loss"},
        "noise_critic": {"distill_loss"},
        "latent_actor": {"latent_loss"},
        "log_temperature": {"temperature_loss"},
    },
    "qcfql": {"critic": {"critic_loss"}, "base": {"base_loss"}, "actor": {"actor_loss"}},
    "qcmfql": {"critic": {"critic_loss"}, "base": {"base_loss"}, "actor": {"actor_loss"}},
    "best_of_n": {"critic": {"critic_loss"}, "base": {"base_loss"}},
    "meanflow_best_of_n": {"critic": {"critic_loss"}, "base": {"base_loss"}},
    "quantile_lps": {"critic": {"critic_loss"}, "base": {"base_loss"}, "latent_actor": {"latent_loss"}},
    "cfgrl": {"critic": {"critic_loss"}, "base": {"base_loss"}, "value": {"value_loss"}},
    "meanflow_bc": {"base": {"base_loss"}},
    "flow_bc": {"base": {"base_loss"}},
}
# With images, where another network takes the critic's features.
SHARED_ENCODER = {
    "dsrl_sac": {"critic": {"critic_loss", "distill_loss"}},
    "cfgrl": {"critic": {"critic_loss", "value_loss"}},
}


def reached(agent) -> dict[str, set[str]]:
    """network -> the losses with a gradient for it."""
    noise = agent.noise(Stream(SEEDS, 1, "noise"), agent.config.batch_size)
    losses, _ = agent.losses(random_batch(agent, SEEDS, 1), noise)
    found: dict[str, set[str]] = {net: set() for net in agent.nets}
    for name, loss in losses.items():
        for net, tensors in agent.params.items():
            trained = [tensor for tensor in tensors.values() if tensor.requires_grad]
            grads = torch.autograd.grad(loss.sum(), trained, retain_graph=True, allow_unused=True) if trained else []
            if any(grad is not None and bool(grad.any()) for grad in grads):
                found[net].add(name)
    return {net: names for net, names in found.items() if names}


@pytest.mark.parametrize("agent", AGENTS)
def test_gradients_reach_what_the_method_says_and_nothing_else(agent):
    assert reached(make_agent(agent, [0])) == REACHES[agent]


@pytest.mark.parametrize("agent", AGENTS)
def test_gradients_reach_the_encoders_of_the_same_networks(agent):
    assert reached(make_agent(agent, [0], observation=IMAGES)) == REACHES[agent] | SHARED_ENCODER.get(agent, {})


@pytest.mark.parametrize("agent", AGENTS)
def test_a_network_encodes_an_image_once_in_an_update_and_in_a_decision(agent, monkeypatch):
    subject, encoded, encode = make_agent(agent, [0], observation=IMAGES), [], Impala.__call__

    def counted(self, params, image):
        encoded.append((params["dense.kernel"].data_ptr(), image.data_ptr()))
        return encode(self, params, image)

    batch, stream = random_batch(subject, SEEDS, 1), Stream(SEEDS, 1, "noise")
    noise = subject.noise(stream, subject.config.batch_size)
    expected = subject.losses(batch, noise)
    monkeypatch.setattr(Impala, "__call__", counted)
    found = subject.objective(batch, noise)
    assert encoded and len(encoded) == len(set(encoded))
    for with_memory, without in zip(found, expected, strict=True):
        assert all(torch.equal(with_memory[name], without[name]) for name in without)
    grads = zip(subject.gradients(found[0]), subject.gradients(expected[0]), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6, rtol=1e-4) for a, b in grads)
    encoded.clear()
    subject.act(batch.observations, stream.normal(subject.config.batch_size, subject.noise_dim))
    assert encoded and len(encoded) == len(set(encoded))


def test_a_detached_distillation_leaves_the_action_critic_alone():
    assert reached(make_agent("dsrl", [0], [{"detach_distillation": True}]))["critic"] == {"critic_loss"}


@pytest.mark.parametrize(("agent", "variant"), [(a, v) for a in VARIANTS for v in VARIANTS[a]])
def test_every_variant_is_a_setting_of_its_agent_and_trains(agent, variant):
    settings = dict(VARIANTS[agent][variant])
    make_config(agent, settings)  # knows every name, and checks the words
    if "latent_actor_hidden" in settings:
        settings["latent_actor_hidden"] = (12,)
    before = make_agent(agent, [0], [settings])
    start = member_params(before, 0)
    info = run_updates(before, [0], 1, 3)
    assert all(bool(value.isfinite().all()) for value in info.values())
    assert all(not torch.equal(start[k], value) for k, value in member_params(before, 0).items())


def test_matched_methods_share_every_choice_that_is_not_the_method():
    choices = {"critic_agg": "min", "latent_actor_hidden": (256, 256), "detach_distillation": True}
    with_critic = {name for name, agent in AGENTS.items() if agent.targets}
    assert {name for name in VARIANTS if "matched" in VARIANTS[name]} == with_critic
    for name in with_critic:
        config = make_config(name, VARIANTS[name]["matched"])
        assert {k: getattr(config, k) for k in choices if hasattr(config, k)}.items() <= choices.items(), name
        reference = AGENTS["lps"].Config()
        for shared in ("lr", "batch_size", "tau", "discount", "num_critics", "base_hidden", "critic_hidden"):
            assert getattr(config, shared) == getattr(reference, shared), (name, shared)


@pytest.mark.parametrize("agent", ["lps", "fm_lps", "dsrl"])
def test_alpha_is_a_no_op_under_adam_where_no_other_loss_trains_the_latent_actor(agent):
    """alpha scales the whole gradient of the latent actor, and Adam divides by it again, up to its epsilon."""
    alphas, updates = [0.03, 1.0, 300.0], 50
    packed = make_agent(agent, [0, 0, 0], [{"alpha": alpha} for alpha in alphas])
    start = member_params(packed, 1)
    run_updates(packed, [0, 0, 0], 1, updates)
    ends = [member_params(packed, i) for i in range(3)]
    for name in start:
        if name.startswith("latent_actor"):
            moved = (ends[1][name] - start[name]).norm()
            for other in (0, 2):
                assert (ends[other][name] - ends[1][name]).norm() < 0.01 * moved, (name, alphas[other])


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("name", ["lps", "fm_lps", "dsrl"])
def test_agents_that_steer_log_the_size_of_their_latent(name, latent):
    agent = make_agent(name, [0, 1], [{"latent_dist": latent}] * 2)
    batch = random_batch(agent, torch.tensor([0, 1]), 1)
    noise = agent.noise(Stream(torch.tensor([0, 1]), 1, "noise"), agent.config.batch_size)
    _, info = agent.losses(batch, noise)
    with torch.no_grad():
        z = project_latent(agent.latent_actor(batch.observations), latent)
    expected = [float((z[member] ** 2).mean()) for member in range(2)]
    assert info["latent_size"].tolist() == pytest.approx(expected)
    assert latent != "sphere" or expected == pytest.approx([1, 1], abs=1e-3)
    assert not info["latent_size"].requires_grad


@pytest.mark.parametrize("agent", ["qcfql", "qcmfql"])
def test_alpha_matters_where_two_losses_pull_at_one_actor(agent):
    packed = make_agent(agent, [0, 0], [{"alpha": 0.03}, {"alpha": 300.0}])
    start = member_params(packed, 1)
    run_updates(packed, [0, 0], 1, 50)
    low, high = (member_params(packed, i) for i in range(2))
    apart = sum((low[k] - high[k]).norm() for k in low if k.startswith("actor"))
    moved = sum((low[k] - start[k]).norm() for k in low if k.startswith("actor"))
    assert apart > 0.2 * moved


def test_best_of_n_takes_the_sample_that_the_critics_like_best():
    agent = make_agent("best_of_n", [0, 1], [{"num_samples": 5}] * 2)
    stream = Stream(torch.tensor([0, 1]), 1, "noise")
    s, e = stream.normal(4, OBSERVATION_DIM), stream.normal(4, agent.noise_dim)
    chosen = agent.act({"state": s}, e)
    for member in range(2):
        for row in range(4):
            samples = []
            for n in range(5):
                one = e[:, row : row + 1, n * agent.chunk_dim : (n + 1) * agent.chunk_dim]
                observation = {"state": s[:, row : row + 1]}
                a = flow_actions(agent.base, observation, one, 10)
                q = values(agent.critic, observation, a).mean(1)
                samples.append((q[member, 0].item(), a[member, 0]))
            best = max(samples, key=lambda sample: sample[0])[1]
            torch.testing.assert_close(chosen[member, row], best, atol=1e-5, rtol=1e-4)


def test_one_step_best_of_n_takes_the_best_of_as_many_chunks_as_it_is_given_latents():
    agent = make_agent("meanflow_best_of_n", [0, 1], [{"num_samples": 3, "act_samples": 5}] * 2)
    stream = Stream(torch.tensor([0, 1]), 1, "noise")
    assert agent.noise_dim == 5 * agent.chunk_dim
    assert agent.noise(stream, 4)["next_e_normal"].shape == (2, 4, 3 * agent.chunk_dim)
    s, e = stream.normal(4, OBSERVATION_DIM), stream.normal(4, 5 * agent.chunk_dim)
    chosen = agent.act({"state": s}, e)
    for member in range(2):
        for row in range(4):
            samples = []
            for one in e[:, row : row + 1].split(agent.chunk_dim, -1):
                observation = {"state": s[:, row : row + 1]}
                a = meanflow_actions(agent.base, observation, latent_noise(one, "sphere"))
                samples.append((values(agent.critic, observation, a).mean(1)[member, 0].item(), a[member, 0]))
            best = max(samples, key=lambda sample: sample[0])[1]
            torch.testing.assert_close(chosen[member, row], best, atol=1e-5, rtol=1e-4)


def quantile_agent(settings: list[dict]):
    agent = make_agent("quantile_lps", [0] * len(settings), settings)
    stream = Stream(torch.zeros(len(settings), dtype=torch.int64), 1, "noise")
    return agent, {"state": stream.normal(4, OBSERVATION_DIM)}, stream


@pytest.mark.parametrize("count", [4, 8, 33])
def test_ranks_are_those_of_the_best_of_some_of_the_candidates(count):
    """Drawn: as the best of m = kappa / (1 - kappa) of N; fixed: between the two ranks nearest to kappa (N + 1)."""
    kappas = [0.5, 0.75, 0.8, 1.0]
    agent, _, _ = quantile_agent([{"quantile": kappa} for kappa in kappas])
    for w, m in zip(agent._ranks(agent.quantile, count), (1, 3, 4, count), strict=True):
        expected = [math.comb(n - 1, m - 1) / math.comb(count, m) for n in range(1, count + 1)]
        torch.testing.assert_close(w, torch.tensor(expected), atol=2e-5, rtol=1e-3)
    fixed, _, _ = quantile_agent([{"quantile": kappa, "quantile_law": "fixed"} for kappa in kappas])
    ranks = torch.arange(1.0, count + 1)
    for w, kappa in zip(fixed._ranks(fixed.quantile, count), kappas, strict=True):
        assert float(w.sum()) == pytest.approx(1) and int((w > 0).sum()) <= 2
        assert float(w @ ranks) == pytest.approx(min(kappa * (count + 1), count), abs=1e-4)


def test_of_more_candidates_the_quantile_takes_the_same_share_and_not_a_better_one():
    """Best-of-N climbs the critic with N; a quantile of 0.8 stays at the level of best-of-4."""
    agent, s, stream = quantile_agent([{"act_quantile": 0.8}, {"act_quantile": 1.0}])
    s = {"state": s["state"].repeat(1, 200, 1)}
    level = {}
    for count in (4, 16, 64):
        a = agent.act(s, stream.normal(800, count * agent.chunk_dim + 1))
        level[count] = values(agent.critic, s, a).mean((1, 2))
    spread = values(agent.critic, s, agent.act(s, stream.normal(800, agent.chunk_dim + 1))).std()
    assert (level[64] - level[4]).abs()[0] < 0.15 * spread
    assert (level[64] - level[4])[1] > 0.4 * spread


@pytest.mark.parametrize("law", ["drawn", "fixed"])
def test_quantile_lps_takes_target_and_action_by_ranks_of_its_candidates(law):
    """Against plain loops over candidates, on the averaged base policy."""
    settings = {
        "quantile": 0.75,
        "act_quantile": 0.67,
        "quantile_law": law,
        "steering": 0.4,
        "num_samples": 6,
        "base_tau": 0.3,
    }
    agent = make_agent("quantile_lps", [0], [settings])
    run_updates(agent, [0], 1, 3)
    batch, size, d = random_batch(agent, SEEDS, 9), agent.config.batch_size, agent.chunk_dim
    noise = agent.noise(Stream(SEEDS, 9, "noise"), size)
    s, eps = batch.next_observations, noise["next_e_normal"]
    draws = torch.linspace(-2, 2, size)[None, :, None]
    chosen = agent.act(s, torch.cat([eps, draws], -1))
    z, w = project_latent(agent.latent_actor(s), "sphere"), agent._ranks(agent.quantile, 6)[0]
    below = agent._ranks(agent.act_quantile, 6)[0].cumsum(-1)
    targets = []
    for row in range(size):
        one, chunks, found = {"state": s["state"][:, row : row + 1]}, [], {"critic": [], "target_critic": []}
        for n in range(6):
            e = latent_noise(eps[:, row : row + 1, n * d : (n + 1) * d], "sphere")
            e = project_latent(0.4 * z[:, row : row + 1] + (1 - 0.4**2) ** 0.5 * e, "sphere")
            chunks.append(meanflow_actions(agent.target_base, one, e))
            for net in found:
                found[net].append(values(getattr(agent, net), one, chunks[-1]).mean().item())
        targets.append(sum(weight * q for weight, q in zip(w.tolist(), sorted(found["target_critic"]), strict=True)))
        order, u = sorted(range(6), key=found["critic"].__getitem__), statistics.NormalDist().cdf(float(draws[0, row]))
        rank = sum(u > float(below[n]) for n in range(5))
        torch.testing.assert_close(chosen[0, row], chunks[order[rank]][0, 0], atol=1e-5, rtol=1e-4)
    expected, _ = agent.td_loss_towards(batch, torch.tensor(targets)[None, None])
    torch.testing.assert_close(agent.losses(batch, noise)[0]["critic_loss"], expected)


def test_a_target_network_may_have_a_rate_of_its_own():
    agent = make_agent("quantile_lps", [0, 0], [{"tau": 0.5, "base_tau": 0.25}, {"tau": 0.5, "base_tau": 1.0}])
    before = {net: agent.params[net]["kernel_0"].detach().clone() for net in agent.nets}
    for net in ("base", "critic"):
        before[net] += 1
        with torch.no_grad():
            agent.params[net]["kernel_0"] += 1
    run_updates(agent, [0, 0], 1, 1)
    for target, source, rates in (("target_base", "base", (0.25, 1.0)), ("target_critic", "critic", (0.5, 0.5))):
        for member, rate in enumerate(rates):
            expected = before[target][member].lerp(before[source][member], rate)
            torch.testing.assert_close(agent.params[target]["kernel_0"][member], expected)


def test_steering_pulls_the_candidates_from_the_base_policy_to_the_latent_actor():
    betas = [0.0, 0.5, 1.0]
    agent, s, stream = quantile_agent([{"steering": beta} for beta in betas])
    z = agent._latent(s)
    e = agent._candidates(z, stream.normal(4, 500 * agent.chunk_dim))
    cosine = (e * z[:, :, None]).mean((1, 2, 3))
    torch.testing.assert_close(e.square().mean(-1), torch.ones(3, 4, 500), atol=1e-3, rtol=0)
    torch.testing.assert_close(cosine, torch.tensor(betas), atol=0.06, rtol=0)
    assert (e[2] - z[2][:, None]).abs().max() < 1e-4, "beta = 1 is the latent actor alone"


@pytest.mark.parametrize("latent_loss", ["ranks", "gradient"])
def test_the_latent_actor_of_quantile_lps_learns_where_the_critic_is_high(latent_loss):
    """With critic and base fixed, steering makes the values of its candidates rise."""
    agent, _, _ = quantile_agent([{"latent_loss": latent_loss, "steering": 0.5, "lr": 3e-3}])
    seeds = torch.zeros(1, dtype=torch.int64)
    batch = random_batch(agent, seeds, 1)
    fixed = {net: {k: v.detach().clone() for k, v in agent.params[net].items()} for net in ("base", "critic")}
    agent.params["target_critic"] = fixed["critic"]
    agent._bind()
    where = batch.next_observations if latent_loss == "ranks" else batch.observations

    def value() -> float:
        normal = Stream(seeds, 0, "look").normal(agent.config.batch_size, 64 * agent.chunk_dim)
        with torch.no_grad():
            q = agent._valued(where, agent._candidates(agent._latent(where), normal), agent.critic)[1]
        return float(q.mean())

    before = value()
    for step in range(1, 101):
        agent.update(batch, agent.noise(Stream(seeds, step, "noise"), agent.config.batch_size))
        with torch.no_grad():
            for net in ("base", "critic"):
                for name, tensor in agent.params[net].items():
                    tensor.copy_(fixed[net][name])
    assert value() > before + 0.02


@pytest.mark.parametrize("form", MEANFLOW_FORMS)
def test_the_tangent_of_every_meanflow_form_against_autograd(form):
    """The target's derivative, taken by torch along (dz, dt, dr) as the form defines it."""
    stream = Stream(SEEDS, 1, "noise")
    mlp = MLP(3 + 2 + 2, 8, 2, encoder=ObservationEncoder({"state": Space((3,))}))
    net = Bound(mlp, mlp.init(stream))
    s, x, e = stream.normal(8, 3), stream.normal(8, 2), stream.normal(8, 2)
    t_normal, r_normal = stream.normal(8, 1), stream.normal(8, 1)
    times = {"t_normal": t_normal, "r_normal": r_normal}
    a, b = torch.sigmoid(t_normal - 0.4), torch.sigmoid(r_normal - 0.4)
    t, r = torch.maximum(a, b), torch.minimum(a, b)
    z, v, one, zero = (1 - t) * x + t * e, e - x, torch.ones_like(t), torch.zeros_like(t)
    dt, dr = (zero, one) if form == "original_released" else (one, zero)

    def u_of(z, t, r):
        f = net({"state": s}, z, t, t - r)
        return z - f if form == "noise_to_action" else f

    u, du = torch.autograd.functional.jvp(u_of, (z, t, r), (v, dt, dr))
    error = (u - (v - (t - r) * du)).square().mean(-1)
    expected = (error * (error + 1e-3).rsqrt()).mean(-1)
    ours = meanflow_loss(net, {"state": s}, x, e, times, torch.ones(1), 1.0, form)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    whole = u_of(e, one, zero)
    torch.testing.assert_close(meanflow_actions(net, {"state": s}, e, form), (e - whole).clamp(-1, 1))


@pytest.mark.parametrize("size", [10, 100, 250, 256])
def test_rows_are_counted_as_the_release_counts_them(size):
    ratios = [i / 100 for i in range(101)]
    noise = Stream(torch.zeros(len(ratios), dtype=torch.int64), 1, "noise")
    t, r = meanflow_times(noise.normal(size, 1), noise.normal(size, 1), torch.tensor(ratios, dtype=torch.float64))
    for member, ratio in zip((t == r).squeeze(-1), ratios, strict=True):
        count = int(size * (1 - ratio))
        assert member[:count].all() and not member[count:].any()


@pytest.mark.parametrize("latent", LATENTS)
def test_latents_and_projected_outputs_share_a_geometry(latent):
    n = Stream(SEEDS, 1, "noise").normal(4000, 6)
    e, z = latent_noise(n, latent), project_latent(3 * n, latent)
    if latent == "sphere":
        for points in (e, z):
            torch.testing.assert_close(points.norm(dim=-1), torch.full((1, 4000), 6**0.5), atol=1e-3, rtol=1e-3)
    if latent == "truncated_normal":
        assert e.abs().max() <= 2 and z.abs().max() <= 2
        assert float(e.std()) == pytest.approx(0.8796, abs=0.01), "of the normal distribution within +-2"
    assert abs(float(e.mean())) < 0.05


def test_the_three_ways_to_aggregate_critics_with_a_rho_of_each_member():
    agent = make_agent("lps", [0, 1], [{"rho": 0.0}, {"rho": 2.0}])
    q = torch.tensor([[[1.0], [2.0], [6.0]], [[1.0], [2.0], [6.0]]])
    assert agent.aggregate(q, "min").tolist() == [[1], [1]]
    assert agent.aggregate(q, "mean").tolist() == [[3], [3]]
    sd = (14 / 3) ** 0.5  # the deviations are -2, -1, 3
    torch.testing.assert_close(agent.aggregate(q, "pessimistic"), torch.tensor([[3.0], [3 - 2 * sd]]))


@pytest.mark.parametrize("agent", ["lps", "fm_lps", "qcfql", "qcmfql", "dsrl", "best_of_n"])
def test_a_single_pessimistic_critic_is_its_mean(agent):
    rules = {f: "pessimistic" for f in ("critic_agg", "actor_agg", "choice_agg") if hasattr(small_config(agent), f)}
    means = dict.fromkeys(rules, "mean")
    ends = []
    for settings in (rules, means):
        subject = make_agent(agent, [0], [{"num_critics": 1, **settings}])
        run_updates(subject, [0], 1, 3)
        ends.append(member_params(subject, 0))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name])
