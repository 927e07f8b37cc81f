"""GELU in both of its forms, against float64 and automatic differentiation."""

import pytest
import torch
import torch.nn.functional as F

from lps import cpu as gelu


@pytest.fixture(params=["few", "many"])
def x(request, monkeypatch):
    x = torch.cat([torch.linspace(-12, 12, 9973), torch.tensor([0.0, -1e5, 1e5, -1e10, 1e10])])
    monkeypatch.setattr(gelu, "MANY", 0 if request.param == "many" else x.numel() + 1)
    return x


def exact(x):
    """Value and derivative, both float64."""
    x = x.double().requires_grad_()
    y = F.gelu(x, approximate="tanh")
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


def test_value_and_derivative(x):
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    value, derivative = exact(x)
    leaf = x.clone().requires_grad_()
    y = gelu.gelu(leaf)
    torch.testing.assert_close(y.detach().double(), value, rtol=1e-6, atol=2e-6)
    expected = g.double() * derivative
    torch.testing.assert_close(torch.autograd.grad(y, leaf, g)[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_nothing_is_changed_in_place(x):
    g, leaf = torch.ones_like(x), x.clone().requires_grad_()
    torch.autograd.grad(gelu.gelu(leaf), leaf, g)
    assert torch.equal(leaf.detach(), x) and bool((g == 1).all())


def test_a_nan_stays_one(x):
    x[7] = float("nan")
    y = gelu.gelu(x)
    assert bool(y[7].isnan()) and int(y.isnan().sum()) == 1


def test_a_decision_and_a_batch_take_different_forms():
    def form(x):
        return gelu.gelu(x.requires_grad_()).grad_fn.name()

    ours, torchs = "_BySigmoidBackward", "GeluBackward0"
    assert (form(torch.zeros(4, 512)), form(torch.zeros(256, 512))) == (torchs, ours)
    assert form(torch.zeros(256, 512, dtype=torch.bfloat16)) == form(torch.zeros(256, 512, device="meta")) == torchs
