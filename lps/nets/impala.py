"""IMPALA's residual encoder of images (Espeholt et al. 2018, arXiv 1802.01561), as the LPS release has it.

    x <- x / 255
    each stack:  x <- max-pool(conv(x)), stride 2;  each block:  x <- x + conv(relu(conv(relu(x))))
    features = gelu(dense(relu(x)))

All convolutions are 3x3 with zero padding 1.  The max-pool is 3x3 with stride 2, and pads as JAX does ("SAME"): with
minus infinity, an odd side by 1 at both ends, an even side by 1 at its end only.  GELU is in its tanh form.

Members are a loop around each convolution.  It was faster than one grouped convolution (on a CPU with 4 members: up to
2 times), and a member's numbers do not depend on the other members.  A batch of frames fills a GPU without grouping.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lps.cpu import gelu
from lps.members.streams import Stream
from lps.nets.layers import affine, glorot
from lps.nets.network import Params
from lps.spaces import Space


class Impala:
    """The encoder of images of one space.

    Args:
        space: uint8 (H, W, C).
        blocks: residual blocks in each stack.
        stacks: channels of each stack.
        width: features.
    """

    def __init__(self, space: Space, blocks: int, stacks: tuple[int, ...], width: int):
        height, wide, channels = space.shape
        self.convolutions: dict[str, tuple[int, int]] = {}  # channels (in, out), in order
        for i, out in enumerate(stacks):
            for j in range(1 + 2 * blocks):
                self.convolutions[f"{i}_{j}"] = channels, out
                channels = out
            height, wide = -(-height // 2), -(-wide // 2)
        self.blocks, self.stacks, self.width = blocks, len(stacks), width
        self.flat = height * wide * channels

    def init(self, stream: Stream) -> Params:
        """Kernels Glorot-uniform, (M, out, in, 3, 3) and (M, in, out); biases 0."""
        params: Params = {}
        for name, (fan_in, fan_out) in self.convolutions.items():
            params[f"conv_{name}.kernel"] = glorot(stream, (fan_out, fan_in, 3, 3), 9 * fan_in, 9 * fan_out)
            params[f"conv_{name}.bias"] = torch.zeros(stream.members, fan_out, device=stream.device)
        params["dense.kernel"] = glorot(stream, (self.flat, self.width), self.flat, self.width)
        params["dense.bias"] = torch.zeros(stream.members, self.width, device=stream.device)
        return params

    def __call__(self, params: Params, image: Tensor) -> Tensor:
        # The view (B, C, H, W) keeps the channels last in memory, which the convolutions of CPU and GPU prefer.
        maps = [frames.permute(0, 3, 1, 2).float() / 255.0 for frames in image.unbind()]
        flat = torch.stack([self._maps(params, m, x) for m, x in enumerate(maps)])
        return gelu(affine(flat, params["dense.kernel"], params["dense.bias"][:, None]))

    def _maps(self, params: Params, member: int, x: Tensor) -> Tensor:
        """(B, flat): the last feature map of one member, in the order height, width, channel."""

        def conv(name: str, x: Tensor) -> Tensor:
            return F.conv2d(x, params[f"conv_{name}.kernel"][member], params[f"conv_{name}.bias"][member], padding=1)

        for i in range(self.stacks):
            x = conv(f"{i}_0", x)
            # With ceil_mode the windows reach beyond the end, which is padding by minus infinity there.
            x = F.max_pool2d(x, 3, 2, padding=(x.shape[2] % 2, x.shape[3] % 2), ceil_mode=True)
            for j in range(self.blocks):
                x = x + conv(f"{i}_{2 * j + 2}", F.relu(conv(f"{i}_{2 * j + 1}", F.relu(x))))
        return F.relu(x).permute(0, 2, 3, 1).flatten(1)


def _sized(space: Space, factor: float, blocks: int, stacks: tuple[int, ...], width: int) -> Impala:
    return Impala(space, blocks, tuple(max(1, round(factor * n)) for n in stacks), max(1, round(factor * width)))


def small(space: Space, factor: float = 1.0) -> Impala:
    """One block a stack: the encoder of OGBench's visual tasks.  1.1 million parameters for images of 64x64."""
    return _sized(space, factor, 1, (16, 32, 32), 512)


def impala(space: Space, factor: float = 1.0) -> Impala:
    """Two blocks a stack: the encoder of the release's robot.  12.9 million parameters for images of 224x224."""
    return _sized(space, factor, 2, (16, 32, 32), 512)


def large(space: Space, factor: float = 1.0) -> Impala:
    """Two blocks a stack, wide.  9.9 million parameters for images of 64x64."""
    return _sized(space, factor, 2, (64, 128, 128), 1024)
