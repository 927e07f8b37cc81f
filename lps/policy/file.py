"""One policy as one file: safetensors with JSON metadata, without optimizer and without networks that acting does not
need.  Reading it needs torch, numpy and safetensors alone.

Tensors are named "network/parameter", without member axis.  The metadata has one key, "policy", with a JSON object:
format, version, run, step, observation, scale and provenance.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from lps.agents import AGENTS
from lps.agents.base import acting_networks
from lps.data.scale import ActionScale
from lps.errors import UserError
from lps.files import local_path, read_file, replacing
from lps.policy.policy import Policy
from lps.runs.checkpoint import Checkpoint, check_tensors, checked_scale, checked_spaces
from lps.runs.run import Run

FORMAT, VERSION = "lps policy", 1


def policy_of(checkpoint: Checkpoint, **provenance: Any) -> Policy:
    """Return the policy of a stored run.  provenance: further facts for its metadata."""
    sources = acting_networks(AGENTS[checkpoint.run.agent], checkpoint.run.config)
    params = {
        net: {name: value[None] for name, value in checkpoint.params[source].items()} for net, source in sources.items()
    }
    facts = {"dataset_fingerprint": checkpoint.fingerprint, **provenance}
    return Policy(checkpoint.run, checkpoint.step, checkpoint.observation, checkpoint.scale, params, facts)


def save_policy(policy: Policy, path: str | os.PathLike[str]) -> None:
    """Write a policy file atomically.  UserError if it cannot be written."""
    about = {
        "format": FORMAT,
        "version": VERSION,
        "run": policy.run.to_dict(),
        "step": policy.step,
        "observation": {name: [list(space.shape), space.dtype] for name, space in policy.observation.items()},
        "scale": [part.tolist() for part in policy.scale],
        "provenance": policy.provenance,
    }
    tensors = {
        f"{net}/{name}": value[0].detach().cpu().contiguous()
        for net, params in policy.params.items()
        for name, value in params.items()
    }
    file = local_path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as part:
            part.write_bytes(save_tensors(tensors, {"policy": json.dumps(about)}))
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}. Choose another file") from error


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Load a policy, ready to act on the CPU; `load_policy(path).to("cuda")` acts on a GPU.

    path: of a policy file or a checkpoint, local or a URI such as s3://bucket/results/checkpoints/RUN.pt.  UserError if
    the file is missing, damaged, of another program, or of a newer version.
    """
    data, shown = read_file(path), str(path)
    if data[:2] == b"PK":  # torch's archives are zip files
        return policy_of(Checkpoint.from_bytes(data, shown))
    about = _about(data, shown)
    try:
        run = Run.from_dict(about["run"])
        observation = checked_spaces(about["observation"])
        scale = checked_scale(ActionScale(*(np.array(part, np.float32) for part in about["scale"])))
        params: dict[str, Any] = {}
        for key, value in load_tensors(data).items():
            net, _, name = key.partition("/")
            params.setdefault(net, {})[name] = value
        step, provenance, known = int(about["step"]), dict(about["provenance"]), run.agent in AGENTS
        if known:
            check_tensors(run, observation, len(scale.scale), params, room=len(data) // 4)
    except (UserError, KeyError, TypeError, ValueError, AttributeError, OverflowError, SafetensorError) as error:
        raise UserError(f"{shown} is damaged: {error}. Export the policy again or copy the file again") from error
    if not known:
        raise UserError(
            f"{shown} is a policy of the agent {run.agent!r:.50}, which is not installed. Install its package"
        )
    ready = {net: {name: value[None] for name, value in tensors.items()} for net, tensors in params.items()}
    return Policy(run, step, observation, scale, ready, provenance)


def _about(data: bytes, shown: str) -> dict[str, Any]:
    """The metadata of a policy file.  UserError if it has none, or is of a newer version."""
    try:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length]) if 0 < length <= len(data) - 8 else {}
        about = json.loads(header["__metadata__"]["policy"])
        if not isinstance(about, dict) or about["format"] != FORMAT:
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise UserError(
            f"{shown} is neither a policy file nor a checkpoint, or it is damaged. Export the policy again with "
            "lps export CHECKPOINT FILE.safetensors, or copy the file again"
        ) from None
    if about.get("version") != VERSION:
        raise UserError(
            f"{shown} is a policy file of version {about.get('version')!r:.50}, and this lps reads version {VERSION}. "
            "Install the lps that wrote it"
        )
    return about
