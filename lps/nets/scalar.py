"""One trained number, such as the logarithm of a temperature."""

from __future__ import annotations

import torch
from torch import Tensor

from lps.members.streams import Stream
from lps.nets.network import Observation, Params, jvp


class Scalar:
    """A network without inputs: a number per member (M,), 0 before training."""

    width = 0

    def init(self, stream: Stream) -> Params:
        return {"value": torch.zeros(stream.members, 1, device=stream.device)}

    def encode(self, params: Params, observation: Observation) -> Tensor:
        return params["value"][:, 0]

    def __call__(self, params: Params, features: Tensor, *inputs: Tensor) -> Tensor:
        """The number of each member (M,), whatever the inputs."""
        return features

    def jvp(
        self, params: Params, features: Tensor, inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        return jvp(self, params, features, inputs, tangents)
