"""Random numbers that depend on (run seed, step) and on nothing else.

A member of a pack must see the same batches and the same noise whether it trains alone, among others, after a crash
or on another device.  So there is no generator with a state: every number is a hash of its address
(seed, purpose, step, position), by the SplitMix64 mixer (Steele, Lea and Flood, OOPSLA 2014) in integer arithmetic,
which every device computes alike.  (seed, step) is the whole state; nothing about randomness is ever checkpointed.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor


def _signed(bits: int) -> int:
    """The 64-bit pattern as the signed integer that torch stores."""
    return bits - (1 << 64) if bits >= 1 << 63 else bits


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_1_BY_GOLDEN = _signed(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
_24_BITS = (1 << 24) - 1


def _shift_right(z: Tensor, n: int) -> Tensor:
    # torch shifts signed integers arithmetically; the mask makes it the logical shift of the published mixer.
    return (z >> n) & ((1 << (64 - n)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def _word(purpose: str) -> int:
    return zlib.crc32(purpose.encode())


# As torch.compiler.assume_constant_result does, whose import takes a second and sympy: a policy does without.
_word._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Stream:
    """The random numbers of one purpose at one step, for M members.

    Args:
        seeds: (M,) int64, one run seed per member; its device is the device of everything drawn.
        step: the update (or the query) the numbers belong to; a tensor () int64 on the device in a captured update.
        purpose: a word such as "batch" or "noise"; streams of different purposes are independent.
    """

    def __init__(self, seeds: Tensor, step: int | Tensor, purpose: str):
        self.members = seeds.shape[0]
        self.device = seeds.device
        # A plain number is wrapped to 64 bits here and stays one: a tensor would be a copy to the device every time.
        of_step = step * _GOLDEN if isinstance(step, Tensor) else _signed(step * _GOLDEN % (1 << 64))
        # Position p is mixed from key + p GOLDEN.  It is computed as (key / GOLDEN + p) GOLDEN, the same 64 bits:
        # torch's compiler takes multiples of an arange for an index, which overflows.
        self.key = _mix(_mix(seeds * _GOLDEN + _word(purpose)) + of_step) * _1_BY_GOLDEN
        self.position = 0

    def bits(self, count: int) -> Tensor:
        """(M, count) int64, uniform over all 64-bit patterns."""
        positions = torch.arange(self.position + 1, self.position + count + 1, device=self.device)
        self.position += count
        return _mix((self.key[:, None] + positions) * _GOLDEN)

    def uniform(self, *shape: int) -> Tensor:
        """(M, *shape) float32, uniform on [0, 1)."""
        bits = self.bits(math.prod(shape))
        return (_shift_right(bits, 40) * 2.0**-24).float().view(self.members, *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """(M, *shape) int64, uniform on 0 .. high - 1 (high < 2^31; the bias is below high / 2^32)."""
        bits = self.bits(math.prod(shape))
        return ((_shift_right(bits, 32) * high) >> 32).view(self.members, *shape)

    def normal(self, *shape: int) -> Tensor:
        """(M, *shape) float32, standard normal, by Box and Muller (1958): two from each 64-bit pattern."""
        count = math.prod(shape)
        bits = self.bits((count + 1) // 2)
        radius = ((_shift_right(bits, 40) + 1) * 2.0**-24).float().log_().mul_(-2.0).sqrt_()
        angle = ((bits & _24_BITS) * (2.0 * math.pi * 2.0**-24)).float()
        pair = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        return pair[:, :count].reshape(self.members, *shape)
