"""The diffusion transformer of LPS's real robots (arXiv 2603.05296, release: MFDiT_REAL) as a base policy.

Tokens: the features of all images, the joined other arrays of the observation, and one token for each action of the
chunk.  Times enter through the modulation of every block (adaLN-zero, Peebles and Xie 2023, arXiv 2212.09748).

    c = sum_i dense(silu(dense([cos(u_i w), sin(u_i w)]))),   w_j = 10000^(-j / 128),   u = t, t - r
    block: y = x + g1 attention(rms(x) (1 + b1) + a1),  y = y + g2 mlp(rms(y) (1 + b2) + a2),  x <- x + 0.1 (y - x)
    rms(x) = x / sqrt(mean x^2 + 1e-6) sqrt(n) g over the last axis of n numbers

As in the release, a block counts a tenth, and rms brings sqrt(n) into the scale of its result.  A new network returns
0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lps.errors import UserError
from lps.members.streams import Stream
from lps.nets.encoder import ObservationEncoder
from lps.nets.layers import affine
from lps.nets.network import Observation, Params, Spec, jvp

FREQUENCIES = 128
"""Frequencies of the embedding of a time."""
MIX = 0.1
"""Weight of a block."""
MLP_RATIO = 4
"""Width of a block's perceptron, in widths of a token."""
POSITION_SD = 0.005
"""Standard deviation of the initial positions."""


class DiT:
    """Transformer over the tokens of an observation and of an action chunk.

    Args:
        spec: its first input is the chunk (horizon * act numbers), the others are times of one number each.  The
            output is a chunk too.  `spec.hidden` has no meaning here.
        token: numbers of a token.
        depth: blocks.
        heads: attention heads; they divide `token`.
    Raises:
        UserError: for a network without a chunk among its inputs, or with layer norm or an ensemble.
    """

    def __init__(self, spec: Spec, token: int, depth: int, heads: int):
        chunk, *times = spec.inputs or (0,)
        if chunk != spec.output or chunk % spec.horizon or set(times) != {1} or spec.layer_norm or spec.ensemble:
            raise UserError(
                "a transformer maps an action chunk and times to a chunk, so it serves as a base policy only. "
                "Set base_network to it, and leave network at mlp"
            )
        self.encoder = ObservationEncoder(spec.observation, spec.encoder, spec.encoder_width)
        self.width = self.encoder.width
        self.horizon, self.act, self.times = spec.horizon, chunk // spec.horizon, len(times)
        self.token, self.depth, self.heads = token, depth, heads
        images = sum(size for name, size in self.encoder.widths.items() if name in self.encoder.images)
        self.observed = {name: n for name, n in (("images", images), ("state", self.width - images)) if n}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter but the encoders', without the member axis."""
        w, head = self.token, self.token // self.heads
        dense = {f"embed_{name}": (size, w) for name, size in self.observed.items()} | {"embed_action": (self.act, w)}
        for i in range(self.times):
            dense |= {f"time_{i}_0": (2 * FREQUENCIES, w), f"time_{i}_1": (w, w)}
        scales: dict[str, int] = {}
        for i in range(self.depth):
            block = f"block_{i}"
            dense |= {f"{block}_condition": (w, 6 * w), f"{block}_qkv": (w, 3 * w), f"{block}_out": (w, w)}
            dense |= {f"{block}_mlp_0": (w, MLP_RATIO * w), f"{block}_mlp_1": (MLP_RATIO * w, w)}
            scales |= {f"{block}_attention_g": w, f"{block}_mlp_g": w, f"{block}_q_g": head, f"{block}_k_g": head}
        dense |= {"final_condition": (w, 2 * w), "final": (w, self.act)}
        shapes: dict[str, tuple[int, ...]] = {"position": (len(self.observed) + self.horizon, w)}
        for name, shape in dense.items():
            shapes |= {f"{name}_kernel": shape, f"{name}_bias": shape[1:]}
        return shapes | {name: (n,) for name, n in (scales | {"final_g": w}).items()}

    def init(self, stream: Stream) -> Params:
        """Fresh parameters (M, ...): kernels truncated normal with sd 0.1 / sqrt(inputs), conditions and the last layer
        0, scales 1, biases 0."""
        params = self.encoder.init(stream)
        for name, shape in self.shapes().items():
            zero = name.endswith("bias") or "condition" in name or name == "final_kernel"
            if name == "position":
                params[name] = stream.normal(*shape) * POSITION_SD
            elif name.endswith("_kernel") and not zero:
                params[name] = _truncated_normal(stream, *shape) * 0.1 / math.sqrt(shape[0])
            else:
                params[name] = torch.full((stream.members, *shape), 0.0 if zero else 1.0, device=stream.device)
        return params

    def encode(self, params: Params, observation: Observation) -> Tensor:
        """(M, B, width): the encoded images and the other arrays, in the order of the observation."""
        return self.encoder(params, observation)

    def __call__(self, params: Params, features: Tensor, *inputs: Tensor) -> Tensor:
        """A chunk (M, B, horizon * act) from features (M, B, *), a chunk and times (M, B, 1)."""
        chunk, *times = inputs
        dense = functools.partial(_dense, params)
        tokens = [dense(f"embed_{name}", part)[:, :, None] for name, part in self._parts(features).items()]
        actions = dense("embed_action", chunk.unflatten(-1, (self.horizon, self.act)))
        x = torch.cat((*tokens, actions), 2) + params["position"][:, None]
        embedded = [dense(f"time_{i}_1", F.silu(dense(f"time_{i}_0", _waves(t)))) for i, t in enumerate(times)]
        condition = F.silu(torch.stack(embedded).sum(0))
        for i in range(self.depth):
            x = x + MIX * (self._block(params, f"block_{i}", x, condition) - x)
        shift, scale = dense("final_condition", condition)[:, :, None].chunk(2, -1)
        x = _rms(x, params["final_g"]) * (1 + scale) + shift
        return dense("final", x[:, :, -self.horizon :]).flatten(2)

    def jvp(
        self, params: Params, features: Tensor, inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """See Network.jvp."""
        return jvp(self, params, features, inputs, tangents)

    def _parts(self, features: Tensor) -> dict[str, Tensor]:
        """The features of all images and those of the other arrays, (M, B, *) each."""
        parts: dict[str, list[Tensor]] = {name: [] for name in self.observed}
        arrays = features.split(list(self.encoder.widths.values()), -1)
        for name, array in zip(self.encoder.widths, arrays, strict=True):
            parts["images" if name in self.encoder.images else "state"].append(array)
        return {name: torch.cat(arrays, -1) for name, arrays in parts.items()}

    def _block(self, params: Params, block: str, x: Tensor, condition: Tensor) -> Tensor:
        """(M, B, L, width) from tokens of that shape and the condition (M, B, width)."""
        dense = functools.partial(_dense, params)
        modulation = dense(f"{block}_condition", condition)[:, :, None]
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation.chunk(6, -1)
        seen = _rms(x, params[f"{block}_attention_g"]) * (1 + scale_1) + shift_1
        y = x + gate_1 * self._attention(params, block, seen)
        seen = _rms(y, params[f"{block}_mlp_g"]) * (1 + scale_2) + shift_2
        # torch's own GELU: the faster form of lps.cpu has no forward derivative.
        hidden = F.gelu(dense(f"{block}_mlp_0", seen), approximate="tanh")
        return y + gate_2 * dense(f"{block}_mlp_1", hidden)

    def _attention(self, params: Params, block: str, x: Tensor) -> Tensor:
        """All tokens attend to all tokens; q and k are normalised in each head."""
        qkv = _dense(params, f"{block}_qkv", x).unflatten(-1, (3, self.heads, -1)).transpose(2, 4)
        q, k, v = qkv.unbind(3)  # (M, B, heads, L, n)
        q, k = _rms(q, params[f"{block}_q_g"]), _rms(k, params[f"{block}_k_g"])
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        return _dense(params, f"{block}_out", (weights @ v).transpose(2, 3).flatten(3))


def _dense(params: Params, name: str, x: Tensor) -> Tensor:
    """A layer on the last axis of x (M, ..., n)."""
    rows = affine(x.flatten(1, -2), params[f"{name}_kernel"], params[f"{name}_bias"][:, None])
    return rows.unflatten(1, x.shape[1:-1])


def _rms(x: Tensor, g: Tensor) -> Tensor:
    """x (M, ..., n) divided by its root mean square, times sqrt(n) g; g (M, n)."""
    size = x.shape[-1]
    g = g.view(-1, *[1] * (x.dim() - 2), size)
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * math.sqrt(size) * g


def _waves(t: Tensor) -> Tensor:
    """(M, B, 2 FREQUENCIES): cosines, then sines, of times (M, B, 1)."""
    steps = torch.arange(FREQUENCIES, device=t.device, dtype=torch.float32)
    angles = t * torch.exp(-math.log(10000.0) / FREQUENCIES * steps)
    return torch.cat((angles.cos(), angles.sin()), -1)


def _truncated_normal(stream: Stream, *shape: int) -> Tensor:
    """(M, *shape) draws of a normal distribution that is cut at two standard deviations, scaled to sd 1."""
    inside = math.erf(math.sqrt(2.0))
    cut_sd = 0.87962566103423978
    return torch.erfinv((stream.uniform(*shape) * 2.0 - 1.0) * inside) * (math.sqrt(2.0) / cut_sd)


def _of_size(token: int, depth: int, heads: int) -> Callable[[Spec], DiT]:
    return lambda spec: DiT(spec, token, depth, heads)


# The sizes of the release; millions of parameters without encoders, for a robot of 7 actions in chunks of 5.
nano = _of_size(192, 6, 3)  # 4.5
tiny = _of_size(384, 8, 6)  # 22
small = _of_size(384, 12, 6)  # 33
base = _of_size(768, 12, 12)  # 131
large = _of_size(1024, 24, 16)  # 459
xl = _of_size(1152, 28, 16)  # 677
