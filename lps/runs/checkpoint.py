"""One run's state on disk: everything that training needs to go on exactly, and that a policy needs to act.

One file per run, not per pack, so that a run can go on in other company.  Randomness has no state
(lps.members.streams): the step is all there is to save.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lps.agents import AGENTS
from lps.agents.base import Agent
from lps.data.scale import ActionScale
from lps.errors import UserError
from lps.members.streams import Stream
from lps.nets.network import Params
from lps.runs.run import Run
from lps.spaces import Space

FORMAT = "lps checkpoint"
VERSION = 2
"""Version 1 had vectors of numbers and actions in [-1, 1] only; it is still read."""


class DamagedCheckpoint(UserError):
    """Bytes that are no whole checkpoint."""


@dataclass
class Checkpoint:
    """The state of one run after `step` updates.

    observation: spaces of an observation.  scale: units of actions.  params: {network: {name: tensor}} without member
    axis.  moments: Adam's two moments in the order of the agent's
    trained tensors.  fingerprint: sha256 of the dataset it was trained on.
    """

    run: Run
    step: int
    observation: Mapping[str, Space]
    scale: ActionScale
    params: Mapping[str, Mapping[str, torch.Tensor]]
    moments: tuple[list[torch.Tensor], list[torch.Tensor]]
    fingerprint: str

    @staticmethod
    def of(
        agent: Agent, member: int, run: Run, step: int, fingerprint: str, scale: ActionScale | None = None
    ) -> Checkpoint:
        """A copy, on the CPU, of one member's state."""

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[member].detach().to("cpu", copy=True)

        return Checkpoint(
            run=run,
            step=step,
            observation=agent.observation,
            scale=scale or ActionScale.identity(agent.action_dim),
            params={net: {k: copy(v) for k, v in tensors.items()} for net, tensors in agent.params.items()},
            moments=([copy(m) for m in agent.adam.first], [copy(v) for v in agent.adam.second]),
            fingerprint=fingerprint,
        )

    @torch.no_grad()
    def restore(self, agent: Agent, member: int) -> None:
        """Put the state into one member of an agent built from the same run."""
        for net, tensors in agent.params.items():
            for name, tensor in tensors.items():
                tensor[member] = self.params[net][name].to(tensor.device)
        for ours, stored in zip((agent.adam.first, agent.adam.second), self.moments, strict=True):
            for tensor, value in zip(ours, stored, strict=True):
                tensor[member] = value.to(tensor.device)
        agent.adam.resume(self.step)

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        content = {
            "format": FORMAT,
            "version": VERSION,
            "run": self.run.to_dict(),
            "step": self.step,
            "observation": {name: [list(space.shape), space.dtype] for name, space in self.observation.items()},
            "scale": [torch.from_numpy(part) for part in self.scale],
            "params": {net: dict(tensors) for net, tensors in self.params.items()},
            "moments": [list(part) for part in self.moments],
            "fingerprint": self.fingerprint,
        }
        torch.save(content, buffer)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes, where: str) -> Checkpoint:
        """The checkpoint stored in `data`, checked: its run, its step, and name and shape of every tensor.  UserError
        for other content, such as that of another program or version; DamagedCheckpoint for unreadable bytes.

        where: the name of the file, for the message.
        """
        try:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as problem:  # a damaged archive fails in many ways, all of which mean the same
            # Its message is not shown: torch advises people to load what may run any code.
            raise DamagedCheckpoint(
                f"{where} is not a whole checkpoint: it is damaged or of another program"
            ) from problem
        if not isinstance(content, dict) or content.get("format") is None or str(content["format"]) != FORMAT:
            raise UserError(f"{where} was not written by lps: it is no checkpoint of ours")
        if str(version := content.get("version")) not in ("1", str(VERSION)):
            raise UserError(
                f"{where} is a checkpoint of version {str(version)[:20]!r}, and this lps reads versions 1 to "
                f"{VERSION}. Install the version that wrote it"
            )
        try:
            checkpoint = _parsed(content, room=len(data) // 4)
            installed = checkpoint.run.agent in AGENTS
            if installed:
                checkpoint.check(room=len(data) // 4)
        except (UserError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as problem:
            what = f"it has no {problem}" if isinstance(problem, KeyError) else str(problem).partition("\n")[0]
            raise UserError(
                f"{where} does not fit its run: {what[:300]}. Copy the file again, use the version that wrote it, or "
                "delete it to train from the start"
            ) from problem
        if not installed:
            raise UserError(
                f"{where} is of the agent {checkpoint.run.agent!r:.50}, which is not installed. Install its package"
            )
        return checkpoint

    def check(self, room: int) -> None:
        """UserError or ValueError unless the step and every tensor are those of the run.  room: see check_tensors."""
        from lps.runs.hyperparameters import make_config

        if not 0 <= self.step <= self.run.steps:
            raise ValueError(f"its step is {self.step}, and the run has {self.run.steps}")
        make_config(self.run.agent, self.run.hyperparameters)
        check_tensors(self.run, self.observation, len(self.scale.scale), self.params, room, self.moments)


def _parsed(content: Mapping[str, Any], room: int) -> Checkpoint:
    """The values of a checkpoint; its parameters and moments are not checked here.  Errors of any kind for other
    content.  room: see check_tensors."""
    json.dumps({name: value for name, value in content.items() if name not in ("params", "moments", "scale")})
    sizes = {"observation_dim": int, "action_dim": int}
    kinds = {"run": dict, "step": int, "params": dict, "moments": list, "fingerprint": str}
    for name, kind in {**kinds, **(sizes if content["version"] == 1 else {"observation": dict, "scale": list})}.items():
        if type(content[name]) is not kind:
            raise ValueError(f"its {name} is not of type {kind.__name__}")
    if content["version"] == 1:
        spaces = {"state": ([content["observation_dim"]], "float32")}
        scale = ActionScale.identity(min(content["action_dim"], room))
    else:
        spaces = content["observation"]
        offset, factor = content["scale"]
        if not offset.is_contiguous() or not factor.is_contiguous():
            raise ValueError("the scale of its actions is not dense")
        scale = ActionScale(offset.numpy(), factor.numpy())
    first, second = content["moments"]
    if not isinstance(first, list) or not isinstance(second, list):
        raise ValueError("its moments are not lists")
    return Checkpoint(
        run=Run.from_dict(content["run"]),
        step=content["step"],
        observation=checked_spaces(spaces),
        scale=checked_scale(scale),
        params=content["params"],
        moments=(first, second),
        fingerprint=content["fingerprint"],
    )


def checked_spaces(stored: Mapping[str, Any]) -> dict[str, Space]:
    """Spaces of an observation from plain values {name: [shape, dtype]}.  ValueError or TypeError for others."""
    spaces = {str(name): Space(tuple(shape), dtype) for name, (shape, dtype) in stored.items()}
    for name, (shape, dtype) in spaces.items():
        sizes = all(type(size) is int and size > 0 for size in shape)
        if not sizes or math.prod(shape) >= 2**31 or np.dtype(dtype).kind not in "fiub":
            raise ValueError(f"its observation {name} has the space {dtype!r:.50} {shape!r:.50}")
    if not spaces:
        raise ValueError("its observation has no arrays")
    return spaces


def checked_scale(scale: ActionScale) -> ActionScale:
    """The same units of actions.  ValueError unless both parts are finite (act,) float32."""
    for part in scale:
        if part.dtype != np.float32 or part.shape != (len(scale.offset),) or not np.isfinite(part).all():
            raise ValueError("the scale of its actions is not two rows of finite numbers")
    return scale


class _Blank(Stream):
    """A stream that draws nothing: for the shapes of parameters, in at most `room` numbers of memory."""

    def __init__(self, room: int):
        self.members, self.device, self.room = 1, torch.device("cpu"), room

    def uniform(self, *shape: int) -> torch.Tensor:
        self.room -= math.prod(shape)
        if self.room < 0:
            raise ValueError("too large")
        return torch.empty(1, *shape)

    normal = uniform


def blank_networks(
    run: Run, observation: Mapping[str, Space], action_dim: int, room: int, acting: bool = False
) -> tuple[Agent, dict[str, Params]]:
    """An agent that can do nothing, and parameters (1, *shape) without values of all its networks by name, or of those
    that acting needs.  ValueError if they have more than `room` numbers or cannot be made from the hyperparameters."""
    kind = AGENTS[run.agent]
    try:
        agent = kind.for_acting(run.config, observation, action_dim, {kind.acting[0]: {"": torch.empty(1)}})
        names = kind.acting if acting else tuple(agent.nets)
        blank = _Blank(room)
        return agent, {name: agent.nets[agent.following.get(name, name)].init(blank) for name in names}
    except Exception as problem:  # hyperparameters of another agent fail in many ways
        raise ValueError(f"its networks cannot be made ({problem})") from problem


def check_tensors(
    run: Run,
    observation: Mapping[str, Space],
    action_dim: int,
    params: Mapping[str, Mapping[str, torch.Tensor]],
    room: int,
    moments: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None,
) -> None:
    """ValueError unless the parameters, without member axis, are those of the run's networks: all of them where there
    are Adam's moments, else those that acting needs.  room: the most numbers that the file can hold."""
    agent, shapes = blank_networks(run, observation, action_dim, room, acting=moments is None)
    expected = {f"{net}/{name}": value for net in shapes for name, value in shapes[net].items()}
    _check({f"{net}/{name}": value for net in params for name, value in params[net].items()}, expected, finite=True)
    if moments is not None:
        trained = [value for net in shapes if net not in agent.following for value in shapes[net].values()]
        for moment in moments:
            _check(_numbered(moment), _numbered(trained), finite=False)


def _numbered(tensors: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"moment {number}": tensor for number, tensor in enumerate(tensors)}


def _check(given: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], finite: bool) -> None:
    """ValueError unless the given tensors are dense float32 tensors of the expected names and shapes (1, *shape)."""
    if different := sorted(given.keys() ^ expected.keys()):
        raise ValueError(f"{different[0]!r:.80} is {'missing' if different[0] in expected else 'not in its networks'}")
    for name, value in given.items():
        shape = expected[name].shape[1:]
        dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.is_contiguous()
        if not dense or value.dtype != torch.float32 or value.shape != shape:
            raise ValueError(f"{name} is not a float32 tensor of shape {tuple(shape)}")
        if not (value.isfinite() if finite else ~value.isnan()).all():
            raise ValueError(f"{name} has NaN{' or infinity' if finite else ''}")


def checkpoint_path(run: Run) -> str:
    """Return the path of a run's checkpoint inside the results."""
    return f"checkpoints/{run.id}.pt"
