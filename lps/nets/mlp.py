"""Multilayer perceptrons, M members (and K ensemble heads) at once.

Every parameter carries a leading member axis, so a pack of M runs is one batched matrix product per layer.  M = 1 is
the same code.  An ensemble of critics is one more leading axis.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lps.cpu import gelu
from lps.members.streams import Stream
from lps.nets.encoder import ObservationEncoder
from lps.nets.layers import affine, glorot, product
from lps.nets.network import Observation, Params, Spec

LAYER_NORM_EPS = 1e-6


class MLP:
    """GELU (tanh form) perceptron; layer norm, where asked for, comes after the activation, as in the LPS release.

    The object holds the sizes only; parameters are passed in, so that the same network can be applied with trained,
    frozen or target parameters.

    Args:
        sizes: input, hidden and output widths.
        layer_norm: normalise every hidden layer after its activation.
        ensemble: K networks side by side over the same input, or None for a single one.
        encoder: the part that sees the observation; its features come first in the input.  One for all K networks.
    """

    def __init__(
        self,
        *sizes: int,
        layer_norm: bool = False,
        ensemble: int | None = None,
        encoder: ObservationEncoder | None = None,
    ):
        self.sizes = sizes
        self.encoder = encoder or ObservationEncoder({})
        self.width = self.encoder.width
        self.layer_norm = layer_norm
        self.ensemble = ensemble

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter but the encoder's, without the member axis."""
        lead = () if self.ensemble is None else (self.ensemble,)
        shapes: dict[str, tuple[int, ...]] = {}
        for i, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            shapes[f"kernel_{i}"] = (*lead, fan_in, fan_out)
            shapes[f"bias_{i}"] = (*lead, fan_out)
            if self.layer_norm and i < len(self.sizes) - 2:
                shapes[f"scale_{i}"] = (*lead, fan_out)
                shapes[f"shift_{i}"] = (*lead, fan_out)
        return shapes

    def init(self, stream: Stream) -> Params:
        """Fresh parameters, each (M, ...): kernels variance_scaling(1, fan_avg, uniform), biases 0, scales 1."""
        params = self.encoder.init(stream)
        for name, shape in self.shapes().items():
            if name.startswith("kernel"):
                params[name] = glorot(stream, shape, *shape[-2:])
            else:
                value = 1.0 if name.startswith("scale") else 0.0
                params[name] = torch.full((stream.members, *shape), value, device=stream.device)
        return params

    def encode(self, params: Params, observation: Observation) -> Tensor:
        return self.encoder(params, observation)

    def __call__(self, params: Params, features: Tensor, *inputs: Tensor) -> Tensor:
        """(M, B, out), or (M, K, B, out) for an ensemble, from features and inputs (M, B, *) joined in this order."""
        x = torch.cat((features, *inputs), dim=-1)
        if self.ensemble is not None:
            x = x[:, None].expand(-1, self.ensemble, -1, -1)
        lead = x.shape[:-1]
        x = x.reshape(-1, *x.shape[-2:])
        last = len(self.sizes) - 2
        for i in range(last + 1):
            x = affine(x, self._matrix(params, i), self._row(params, f"bias_{i}"))
            if i < last:
                x = gelu(x)
                if self.layer_norm:
                    x = F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS)
                    x = torch.addcmul(self._row(params, f"shift_{i}"), x, self._row(params, f"scale_{i}"))
        return x.view(*lead, -1)

    def jvp(
        self, params: Params, features: Tensor, inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Output f (M, B, out) of all rows with its graph, and derivative df (M, b, out) of the last b rows without.

        The tangent rides along with the forward pass and is cut from the graph, so it costs one matrix product per
        layer and row; rows that need none pay nothing.  The inputs' tangents are (M, b, *), b <= B.
        """
        if self.layer_norm or self.ensemble is not None:
            raise ValueError("a directional derivative is written for plain networks: no layer norm, no ensemble")
        rows = slice(features.shape[1] - tangents[0].shape[1], None)
        x = torch.cat((features, *inputs), dim=-1)
        dx = torch.cat((torch.zeros_like(features[:, rows]), *tangents), dim=-1)
        last = len(self.sizes) - 2
        for i in range(last + 1):
            x = affine(x, self._matrix(params, i), self._row(params, f"bias_{i}"))
            with torch.no_grad():
                dx = product(dx, self._matrix(params, i)) if dx.is_cuda else torch.bmm(dx, self._matrix(params, i))
                if i < last:  # gelu'(x) dx is what the backward of gelu computes
                    dx = torch.ops.aten.gelu_backward(dx, x[:, rows], approximate="tanh")
            if i < last:
                x = gelu(x)
        return x, dx

    def _matrix(self, params: Params, i: int) -> Tensor:
        kernel = params[f"kernel_{i}"]
        return kernel.view(-1, *kernel.shape[-2:])

    def _row(self, params: Params, name: str) -> Tensor:
        vector = params[name]
        return vector.view(-1, 1, vector.shape[-1])


def mlp(spec: Spec) -> MLP:
    """Build the perceptron of a spec."""
    encoder = ObservationEncoder(spec.observation, spec.encoder, spec.encoder_width)
    sizes = encoder.width + sum(spec.inputs), *spec.hidden, spec.output
    return MLP(*sizes, layer_norm=spec.layer_norm, ensemble=spec.ensemble, encoder=encoder)
