"""One run's state on disk: everything that training needs to go on exactly, and that a policy needs to act.

One file per run, not per pack, so that a run can go on in other company.  Randomness has no state
(lps.members.streams): the step is all there is to save.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lps.agents.base import Agent
from lps.data.scale import ActionScale
from lps.errors import UserError
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
        """The checkpoint stored in `data`; what is truncated, foreign or of another version is a UserError.

        where: the name of the file, for the message.
        """
        try:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as problem:  # a damaged archive fails in many ways, all of which mean the same
            # Its message is not shown: torch advises people to load what may run any code.
            raise DamagedCheckpoint(
                f"{where} is not a whole checkpoint: it is damaged or of another program"
            ) from problem
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(f"{where} was not written by lps: it is no checkpoint of ours")
        if content["version"] not in (1, VERSION):
            raise UserError(
                f"{where} is a checkpoint of version {content['version']}, and this lps reads versions 1 to {VERSION}. "
                "Install the version that wrote it"
            )
        if content["version"] == 1:
            observation = {"state": Space((content["observation_dim"],))}
            scale = ActionScale.identity(content["action_dim"])
        else:
            observation = {name: Space(tuple(shape), dtype) for name, (shape, dtype) in content["observation"].items()}
            scale = ActionScale(*(part.numpy() for part in content["scale"]))
        first, second = content["moments"]
        return Checkpoint(
            run=Run.from_dict(content["run"]),
            step=content["step"],
            observation=observation,
            scale=scale,
            params=content["params"],
            moments=(first, second),
            fingerprint=content["fingerprint"],
        )


def checkpoint_path(run: Run) -> str:
    """Where a run's checkpoint lies inside the results."""
    return f"checkpoints/{run.id}.pt"
