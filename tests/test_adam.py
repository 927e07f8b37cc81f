"""Adam over members: weight decay, the schedule of the step size, and clipping by member."""

import math

import pytest
import torch
from small import make_agent, member_params, run_updates

from lps.members.adam import CONSTANT, MemberAdam, Schedule, clipped


def steps(
    schedule: Schedule, rates: list[float], count: int = 6
) -> tuple[list[torch.Tensor], list[list[torch.Tensor]]]:
    """Parameters of two tensors after each step along fixed gradients, and these gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(len(rates), 3, 2), (len(rates), 4)]
    params = [torch.randn(shape, generator=generator) for shape in shapes]
    adam = MemberAdam(params, rates, schedule)
    grads = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(count)]
    seen = [torch.cat([p.flatten(1) for p in params], 1).clone()]
    for grad in grads:
        adam.step(grad)
        seen.append(torch.cat([p.flatten(1) for p in params], 1).clone())
    return seen, grads


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_each_member_is_adamw_of_torch(decay):
    rates = [1e-3, 1e-2, 1e-3]
    seen, grads = steps(Schedule(weight_decay=decay), rates)
    for member, rate in enumerate(rates):
        theirs = torch.nn.Parameter(seen[0][member].clone())
        optimizer = torch.optim.AdamW([theirs], lr=rate, weight_decay=decay)
        for step, grad in enumerate(grads, 1):
            theirs.grad = torch.cat([g[member].flatten() for g in grad])
            optimizer.step()
            torch.testing.assert_close(seen[step][member], theirs.detach(), atol=1e-6, rtol=1e-5)


def test_the_step_size_warms_up_and_falls_to_a_tenth_along_a_cosine():
    """The rule of the LPS release for its transformer (warm-up w = 0.01 N, cosine over N - 2w updates after it)."""
    lr, total = 3e-4, 1000
    warmup = total // 100
    adam = MemberAdam([torch.zeros(1, 1)], [lr], Schedule(warmup_steps=warmup, decay_steps=total - warmup))

    def released(n: int) -> float:
        if n < warmup:
            return lr * n / warmup
        progress = min(1.0, (n - warmup) / (total - 2 * warmup))
        return lr / 10 + (lr - lr / 10) * (1 + math.cos(math.pi * progress)) / 2

    for n in [0, 1, 9, 10, 11, 500, 989, 990, 991, 2000]:
        adam.resume(n)
        assert float(adam._rate(lr)) == pytest.approx(released(n), rel=1e-5), n


def test_a_constant_schedule_is_a_plain_number():
    adam = MemberAdam([torch.zeros(1, 1)], [3e-4], CONSTANT)
    assert isinstance(adam._rate(3e-4), float), "nothing is computed on the device for it"


def test_clipping_is_by_the_whole_gradient_of_each_member():
    grads = [torch.full((3, 2, 2), 1.0), torch.full((3, 5), 2.0)]
    grads[0][1] *= 0.01
    grads[1][1] *= 0.01
    norms = [math.sqrt(4 + 20), 0.01 * math.sqrt(24), math.sqrt(24)]
    found = clipped(grads, 1.0)
    for member, norm in enumerate(norms):
        for ours, grad in zip(found, grads, strict=True):
            torch.testing.assert_close(ours[member], grad[member] / max(norm, 1.0))


def test_a_member_packed_is_the_member_alone_with_all_of_it_on():
    own = {"weight_decay": 0.01, "warmup_steps": 3, "decay_steps": 20, "clip_norm": 0.5}
    packed, alone = make_agent("lps", [0, 1], [own] * 2), make_agent("lps", [1], [own])
    run_updates(packed, [0, 1], 1, 15)
    run_updates(alone, [1], 1, 15)
    ours, theirs = member_params(alone, 0), member_params(packed, 1)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-3)
