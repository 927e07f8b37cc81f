"""Random numbers: addressed by (seed, purpose, step), and good enough to train on."""

import numpy as np
import torch
from scipy import stats

from lps.members.streams import Stream


def test_a_member_draws_the_same_numbers_in_any_company():
    alone = Stream(torch.tensor([7]), 42, "noise")
    packed = Stream(torch.tensor([3, 7, 9]), 42, "noise")
    for draw in (lambda s: s.normal(5, 3), lambda s: s.uniform(11), lambda s: s.integers(1000, 4)):
        assert torch.equal(draw(alone)[0], draw(packed)[1])


def test_every_part_of_the_address_matters():
    def draws(seed, step, purpose):
        return Stream(torch.tensor([seed]), step, purpose).bits(64)[0].tolist()

    addresses = [(s, t, p) for s in (0, 1, 2) for t in (0, 1, 1_000_000) for p in ("noise", "batch")]
    everything = [number for address in addresses for number in draws(*address)]
    assert len(set(everything)) == len(everything)


def test_successive_draws_of_one_stream_do_not_repeat():
    stream = Stream(torch.tensor([0]), 0, "noise")
    assert not set(stream.bits(100)[0].tolist()) & set(stream.bits(100)[0].tolist())


def test_the_distributions_are_what_they_are_called():
    # Fixed seeds: a p-value below 1e-3 would be a fault of the generator, not bad luck at every run.
    stream = Stream(torch.arange(4), 1, "test")
    assert stats.kstest(stream.uniform(50_000).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(stream.normal(50_001).flatten().numpy(), "norm").pvalue > 1e-3
    counts = np.bincount(stream.integers(10, 50_000).flatten().numpy(), minlength=10)
    assert len(counts) == 10 and stats.chisquare(counts).pvalue > 1e-3


def test_neighbouring_seeds_and_steps_are_uncorrelated():
    seeds = Stream(torch.arange(200), 5, "noise").normal(500).numpy()
    steps = np.stack([Stream(torch.tensor([5]), step, "noise").normal(500)[0].numpy() for step in range(200)])
    for table in (seeds, steps):
        off_diagonal = np.corrcoef(table)[~np.eye(200, dtype=bool)]
        assert np.abs(off_diagonal).max() < 6 / np.sqrt(500)
