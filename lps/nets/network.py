"""The protocol of a network: parameters with a leading member axis, and four functions of them.

M members, B rows, and every observation array (M, B, *shape).  The object itself holds sizes only: parameters are
passed in, so that the same network is applied with trained, frozen or target parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lps.members.streams import Stream
from lps.spaces import Space

Params = dict[str, Tensor]
Observation = Mapping[str, Tensor]


class Spec(NamedTuple):
    """The arguments that a network is built from."""

    observation: Mapping[str, Space]
    """Empty where the features of another network are the first of the inputs."""
    inputs: tuple[int, ...]
    """Widths of the inputs beside the observation: an action chunk, times."""
    output: int
    hidden: tuple[int, ...]
    """Widths of the hidden layers."""
    horizon: int
    """Actions in a chunk."""
    layer_norm: bool = False
    ensemble: int | None = None
    """K networks over the same input, or None for a single one."""
    encoder: str = "impala_small"
    """Kind of the encoder of images, and a factor on its widths."""
    encoder_width: float = 1.0


class Network(Protocol):
    """A kind of network.  `NETWORKS[kind](spec)` builds one."""

    width: int
    """Features of an observation."""

    def init(self, stream: Stream) -> Params:
        """Fresh parameters, each (M, ...)."""
        ...

    def encode(self, params: Params, observation: Observation) -> Tensor:
        """Return the features (M, B, *) of an observation, computed once for all applications of the rest."""
        ...

    def __call__(self, params: Params, features: Tensor, *inputs: Tensor) -> Tensor:
        """(M, B, out), or (M, K, B, out) for an ensemble, from features and inputs (M, B, *)."""
        ...

    def jvp(
        self, params: Params, features: Tensor, inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Output f (M, B, out) of all rows, and its directional derivative df (M, b, out) for the LAST b rows.

        tangents: (M, b, *) each, the direction of the inputs' last b rows; the features stay.  df has no graph,
        because MeanFlow's target is a constant.
        """
        ...


def jvp(
    net: Network, params: Params, features: Tensor, inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """`Network.jvp` by torch.func.jvp, for any network."""
    rows = slice(inputs[0].shape[1] - tangents[0].shape[1], None)
    constants = {name: value.detach() for name, value in params.items()}
    seen = features[:, rows].detach()
    moved = tuple(x[:, rows].detach() for x in inputs)
    df: Tensor = torch.func.jvp(lambda *x: net(constants, seen, *x), moved, tangents)[1]
    return net(params, features, *inputs), df.detach()


class Remembering(dict[str, Tensor]):
    """An observation that keeps its features by network: each network encodes it once in an update, which matters for
    images.  For as long as no parameter changes."""

    def __init__(self, observation: Observation):
        super().__init__(observation)
        self.features: dict[Any, Tensor] = {}


class Bound:
    """A network together with its parameters.

    Args:
        encoder: another bound network, if the features are those of that network.
        constant: whether the parameters get no gradient.
    """

    def __init__(self, net: Network, params: Params, encoder: Bound | None = None, constant: bool = False):
        self.net, self.params, self.encoder, self.constant = net, params, encoder, constant

    def encode(self, observation: Observation, rows: int | None = None) -> Tensor:
        """Features (M, B, *); with `rows` (M, rows, *), each of the B observations rows / B times in a row."""
        features = (self.encoder or self)._features(observation)
        if rows is None or rows == features.shape[1]:
            return features
        return features.repeat_interleave(rows // features.shape[1], dim=1)

    def _features(self, observation: Observation) -> Tensor:
        if not isinstance(observation, Remembering):
            return self.net.encode(self.params, observation)
        known = observation.features
        trains = torch.is_grad_enabled() and not self.constant
        if self.net not in known or (trains and not known[self.net].requires_grad):
            known[self.net] = self.net.encode(self.params, observation)
        return known[self.net] if trains else known[self.net].detach()

    def apply(self, features: Tensor, *inputs: Tensor) -> Tensor:
        """The output for encoded observations."""
        return self.net(self.params, features, *inputs)

    def __call__(self, s: Observation, *inputs: Tensor) -> Tensor:
        """The output for observations, (M, rows, out), or (M, K, rows, out) for an ensemble.

        With N times as many rows of inputs, N in a row belong to one observation."""
        return self.apply(self.encode(s, inputs[0].shape[1] if inputs else None), *inputs)

    def jvp(self, features: Tensor, inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return self.net.jvp(self.params, features, inputs, tangents)

    @property
    def frozen(self) -> Bound:
        """The same network with constant parameters: gradients pass through it and do not reach it."""
        params = {name: value.detach() for name, value in self.params.items()}
        return Bound(self.net, params, self.encoder and self.encoder.frozen, constant=True)
