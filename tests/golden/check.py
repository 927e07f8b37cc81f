"""Hold one of our agents to the numbers of the authors' JAX release: `python tests/golden/check.py FILE.npz`.

A golden file holds the parameters, batch and noise of one update on a tiny problem and what the release computed from
them.  Here the same goes through our agent's own update; the largest relative error of the losses, the gradients, the
parameters after the step and the sampled actions is printed, and the exit status is 0 only if all are within 1e-4
relative, or 1e-5 absolute.  A file may also hold an image encoder alone, or crops of images (visual/).

The release keeps the cameras of an image along its channels.  Here each is an array of its own, "view_0", "view_1".
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from lps import cpu as gelu
from lps.agents import AGENTS
from lps.agents.base import Agent
from lps.data.augment import random_crop
from lps.data.batch import Batch
from lps.nets.encoder import ObservationEncoder
from lps.nets.impala import Impala
from lps.spaces import Space

RELATIVE, ABSOLUTE = 1e-4, 1e-5

# The release's names for methods, networks, losses and hyperparameters, where ours differ.
AGENT_NAMES = {"flow": "flow_bc", "meanflow": "meanflow_bc", "fmlps": "fm_lps", "fmonesteplps": "fm_lps"}
NET_NAMES = {
    "actor_bc_flow": "base",
    "actor_bc_flow_encoder": "base",
    "actor_onestep_flow": "actor",
    "onestep_actor": "actor",
}
LOSS_NAMES = {
    "actor/actor_loss": "base_loss",
    "actor/bc_flow_loss": "base_loss",
    "actor/distill_loss": "distill_mse",
    "critic/critic_loss": "critic_loss",
    "critic/q_mean": "q_mean",
    "critic/q_min": "q_min",
    "critic/q_max": "q_max",
    "latent/latent_loss": "latent_loss",
    "latent/alias_loss": "distill_loss",
    "latent/z_norm": "latent_size",
    "onestep/onestep_loss": "actor_loss",
    "onestep/mse_loss": "distill_mse",
    "value/value_loss": "value_loss",
    "value/v": "v_mean",
    "value/v_min": "v_min",
    "value/v_max": "v_max",
}
# Diagnostics that the release of one method defines otherwise: over the ensemble as well as the batch.
OTHER_MEANING = {"qcfql": ("q_min", "q_max")}
CONFIG_NAMES = {"horizon_length": "horizon", "num_critic": "num_critics", "cfg": "guidance"}
HIDDEN_NAMES = {net: f"{net}_hidden" for net in ("base", "critic", "actor", "latent_actor")}


class Golden:
    """One golden file, for a single member: parameters, and perhaps the agent, batch and noise of an update."""

    def __init__(self, path: str | Path):
        with np.load(path) as file:
            self.arrays = {key: file[key] for key in file.files}
        self.config = json.loads(bytes(self.arrays["config_json"]).decode())
        released = self.config.get("agent_name")
        self.name = AGENT_NAMES.get(released, released)
        if released and self.name not in AGENTS:
            raise KeyError(f"{path} is of agent {released!r}, which is not built yet; there are: {', '.join(AGENTS)}")

    def tensor(self, key: str) -> torch.Tensor:
        """The array with a member axis in front."""
        return torch.from_numpy(self.arrays[key])[None]

    def named(self, prefix: str) -> dict[str, torch.Tensor]:
        return {key.split("/")[-1]: self.tensor(key) for key in self.arrays if key.startswith(prefix)}

    def observation(self, key: str) -> dict[str, torch.Tensor]:
        """The arrays of an observation: each camera of an image, then the state."""
        names = [name for name in (key, f"{key}/image", f"{key}/state") if name in self.arrays]
        found: dict[str, torch.Tensor] = {}
        for array in map(self.tensor, names):
            if array.dtype == torch.uint8:
                found |= {f"view_{k}": view for k, view in enumerate(array.split(3, -1))}
            else:
                found["state"] = array
        return found

    def parameters(self, prefix: str) -> dict[str, dict[str, torch.Tensor]]:
        """params[net][our parameter name] from keys like params/critic/value_net/LayerNorm_0/scale, and from those of
        an encoder, like params/critic/encoder/view_0/stack_blocks_1/Conv_0/kernel."""
        nets: dict[str, dict[str, torch.Tensor]] = {}
        for key in self.arrays:
            if key.startswith(prefix + "/"):
                net, *rest = key[len(prefix) + 1 :].split("/")
                value, (*_, layer, kind) = self.tensor(key), (net, *rest)
                views = [part for part in (net, *rest) if part.startswith("view_")]
                if views and layer.startswith("Conv"):
                    stack = key.split("stack_blocks_")[1].split("/")[0]
                    name = f"encoder.{views[0]}.conv_{stack}_{layer.split('_')[1]}.{kind}"
                    value = value.permute(0, 4, 3, 1, 2) if kind == "kernel" else value
                elif views:
                    name = f"encoder.{views[0]}.dense.{kind}"
                else:
                    kind = {"LayerNorm": {"scale": "scale", "bias": "shift"}}.get(layer.split("_")[0], {}).get(
                        kind, kind
                    )
                    name = f"{kind}_{layer.split('_')[1]}"
                nets.setdefault(NET_NAMES.get(net, net), {})[name] = value
        return nets

    def encoder(self, space: Space, factor: float = 1.0) -> Impala:
        """An encoder of the file's sizes."""
        sizes = self.config["encoder_sizes"]
        (width,) = sizes["mlp_hidden_dims"]
        return Impala(space, sizes["num_blocks"], tuple(sizes["stack_sizes"]), width)

    def agent(self) -> Agent:
        """Our agent of that name, with the file's sizes, hyperparameters and parameters."""
        cls = AGENTS[self.name]
        params = self.parameters("params")
        known = cls.Config.__dataclass_fields__
        given: dict[str, Any] = {CONFIG_NAMES.get(key, key): value for key, value in self.config.items()}
        given = {key: value for key, value in given.items() if key in known and value != "unused"}
        if self.config["agent_name"] == "fmonesteplps":
            given["flow_steps"] = 1  # its config carries FM-LPS's 10, which the release does not read there
        for net, field in HIDDEN_NAMES.items():
            if field in known:  # the sizes are those of the arrays
                widths = [value.shape[-1] for key, value in sorted(params[net].items()) if key.startswith("kernel")]
                given[field] = tuple(widths[:-1])
        batch = self.arrays["batch/actions"]
        given.pop("encoder", None)
        with patch("lps.nets.encoder.ENCODERS", {"impala_small": self.encoder}):
            agent = cls([cls.Config(**given)], [0], spaces(self.observation("batch/observations")), batch.shape[-1])
        if set(agent.params) != set(params):
            raise KeyError(f"networks differ: ours {sorted(agent.params)}, the file's {sorted(params)}")
        with torch.no_grad():
            for net, tensors in agent.params.items():
                assert set(tensors) == set(params[net]), net
                for name, tensor in tensors.items():
                    tensor.copy_(params[net][name])
        return agent

    def batch(self) -> Batch:
        return Batch(
            observations=self.observation("batch/observations"),
            actions=self.tensor("batch/actions").flatten(2),
            next_observations=self.observation("batch/next_observations"),
            rewards=self.tensor("batch/rewards"),
            masks=self.tensor("batch/masks"),
        )


def spaces(observation: Mapping[str, torch.Tensor]) -> dict[str, Space]:
    return {name: Space(tuple(a.shape[2:]), str(a.dtype).removeprefix("torch.")) for name, a in observation.items()}


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest |difference| in units of the tolerance's scale: relative to the value, or to ABSOLUTE / RELATIVE."""
    floor = torch.tensor(ABSOLUTE / RELATIVE)
    error = (ours.detach() - theirs).abs() / torch.maximum(theirs.abs(), floor)
    return float(error.max()) if bool(torch.isfinite(error).all()) else float("inf")


def check(path: str | Path) -> dict[str, float]:
    """Largest relative error of each kind of quantity, by name.

    GELU has a form for few elements and one for many: a golden file has few, a batch has many, and both are held.
    """
    errors: dict[str, float] = {}
    for many in (gelu.MANY, 0):
        with patch.object(gelu, "MANY", many):
            errors |= {name: max(error, errors.get(name, 0.0)) for name, error in check_once(path).items()}
    return errors


def check_once(path: str | Path) -> dict[str, float]:
    """The same in one of these forms."""
    golden = Golden(path)
    if "inputs/offsets" in golden.arrays:
        return check_crop(golden)
    if "expected/features" in golden.arrays:
        return check_encoder(golden)
    agent, batch, noise = golden.agent(), golden.batch(), golden.named("noise/")
    errors: dict[str, float] = {}

    if agent.acts_with_noise:
        e = golden.tensor("sample_noise/e")
    else:
        e = None
    actions = agent.act(batch.observations, e)
    errors["sampled actions"] = relative_error(actions, golden.tensor("expected/sample_actions").flatten(2))

    losses, info = agent.objective(batch, noise)
    total = torch.stack(list(losses.values())).sum(0)
    errors["total loss"] = relative_error(total, golden.tensor("expected/total_loss"))
    for theirs, ours in LOSS_NAMES.items():
        if f"expected/info/{theirs}" in golden.arrays and ours not in OTHER_MEANING.get(golden.name, ()):
            errors[ours] = relative_error((losses | info)[ours], golden.tensor(f"expected/info/{theirs}"))

    grads = iter(agent.gradients(losses))
    expected = golden.parameters("expected/grad")
    trained = {net: {name: next(grads) for name in agent.params[net]} for net in agent._trained}
    for net in agent.params:
        ours_ = trained.get(net) or {name: torch.zeros_like(value) for name, value in agent.params[net].items()}
        errors[f"gradient {net}"] = max(relative_error(ours_[name], expected[net][name]) for name in ours_)
    if "expected/grad_norm" in golden.arrays:
        norm = torch.stack([grad.norm() for net in trained.values() for grad in net.values()]).norm()
        errors["gradient norm"] = relative_error(norm, torch.tensor(golden.arrays["expected/grad_norm"]))

    agent.update(batch, noise)
    after = golden.parameters("expected/params_after")
    for net, tensors in agent.params.items():
        errors[f"after step {net}"] = max(relative_error(value, after[net][name]) for name, value in tensors.items())
    return errors


def check_crop(golden: Golden) -> dict[str, float]:
    """The observations before and after a crop."""
    errors = {}
    for key in ("observations", "next_observations"):
        ours, theirs = golden.observation(f"inputs/{key}"), golden.observation(f"expected/{key}")
        for name, array in ours.items():
            if array.dtype == torch.uint8:
                array = random_crop(array, golden.tensor("inputs/offsets"))
            errors[f"{key} {name}"] = relative_error(array.float(), theirs[name].float())
    return errors


def check_encoder(golden: Golden) -> dict[str, float]:
    """Features of images, and the gradients of their sum weighted by `inputs/cotangent`."""
    observation = golden.observation("inputs/image")
    with patch("lps.nets.encoder.ENCODERS", {"impala_small": golden.encoder}):
        encoder = ObservationEncoder(spaces(observation), "impala_small")
    params = {k: v.requires_grad_() for net in golden.parameters("params").values() for k, v in net.items()}
    features = encoder(params, observation)
    errors = {"features": relative_error(features, golden.tensor("expected/features"))}
    if "inputs/cotangent" in golden.arrays:
        total = (golden.tensor("inputs/cotangent") * features).sum()
        grads = dict(zip(params, torch.autograd.grad(total, list(params.values())), strict=True))
        for expected in golden.parameters("expected/grad").values():
            errors |= {f"gradient {name}": relative_error(grads[name], value) for name, value in expected.items()}
    return errors


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python tests/golden/check.py FILE.npz", file=sys.stderr)
        return 2
    try:
        errors = check(sys.argv[1])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as problem:
        print(f"error: {sys.argv[1]} cannot be checked: {problem}", file=sys.stderr)
        return 2
    for name, error in errors.items():
        print(f"{name:28s} {error:9.2e}  {'ok' if error <= RELATIVE else 'TOO LARGE'}")
    return 0 if max(errors.values()) <= RELATIVE else 1


if __name__ == "__main__":
    sys.exit(main())
