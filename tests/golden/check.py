"""Hold one of our agents to the numbers of the authors' JAX release: `python tests/golden/check.py FILE.npz`.

A golden file holds the parameters, batch and noise of one update on a tiny problem and what the release computed from
them.  Here the same goes through our agent's own update; the largest relative error of the losses, the gradients, the
parameters after the step and the sampled actions is printed, and the exit status is 0 only if all are within 1e-4
relative, or 1e-5 absolute.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from lps import cpu as gelu
from lps.agents import AGENTS
from lps.agents.base import Agent
from lps.data.batch import Batch
from lps.nets.mlp import MLP
from lps.spaces import Space

RELATIVE, ABSOLUTE = 1e-4, 1e-5

# The release's names for methods, networks, losses and hyperparameters, where ours differ.
AGENT_NAMES = {"flow": "flow_bc", "meanflow": "meanflow_bc", "fmlps": "fm_lps", "fmonesteplps": "fm_lps"}
NET_NAMES = {"actor_bc_flow": "base", "actor_onestep_flow": "actor", "onestep_actor": "actor"}
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
    """One golden file: the agent it describes, with its parameters, batch and noise, for a single member."""

    def __init__(self, path: str | Path):
        with np.load(path) as file:
            self.arrays = {key: file[key] for key in file.files}
        self.config = json.loads(bytes(self.arrays["config_json"]).decode())
        released = self.config["agent_name"]
        self.name = AGENT_NAMES.get(released, released)
        if self.name not in AGENTS:
            raise KeyError(f"{path} is of agent {released!r}, which is not built yet; there are: {', '.join(AGENTS)}")

    def tensor(self, key: str) -> torch.Tensor:
        """The array with a member axis in front."""
        return torch.from_numpy(self.arrays[key])[None]

    def named(self, prefix: str) -> dict[str, torch.Tensor]:
        return {key.split("/")[-1]: self.tensor(key) for key in self.arrays if key.startswith(prefix)}

    def parameters(self, prefix: str) -> dict[str, dict[str, torch.Tensor]]:
        """params[net][our parameter name] from keys like params/critic/value_net/LayerNorm_0/scale."""
        nets: dict[str, dict[str, torch.Tensor]] = {}
        for key in self.arrays:
            if key.startswith(prefix + "/"):
                net, *_, layer, kind = key[len(prefix) + 1 :].split("/")
                kind = {"LayerNorm": {"scale": "scale", "bias": "shift"}}.get(layer.split("_")[0], {}).get(kind, kind)
                nets.setdefault(NET_NAMES.get(net, net), {})[f"{kind}_{layer.split('_')[1]}"] = self.tensor(key)
        return nets

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
        observation_dim = self.arrays["batch/observations"].shape[-1]
        agent = cls([cls.Config(**given)], [0], {"state": Space((observation_dim,))}, batch.shape[-1])
        if set(agent.params) != set(params):
            raise KeyError(f"networks differ: ours {sorted(agent.params)}, the file's {sorted(params)}")
        with torch.no_grad():
            for net, tensors in agent.params.items():
                assert isinstance(agent.nets[net], MLP) and set(tensors) == set(params[net]), net
                for name, tensor in tensors.items():
                    tensor.copy_(params[net][name])
        return agent

    def batch(self) -> Batch:
        arrays: dict[str, Any] = self.named("batch/")
        arrays["actions"] = arrays["actions"].flatten(2)
        for name in ("observations", "next_observations"):
            arrays[name] = {"state": arrays[name]}
        return Batch(**arrays)


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
    agent, batch, noise = golden.agent(), golden.batch(), golden.named("noise/")
    errors: dict[str, float] = {}

    if agent.acts_with_noise:
        e = golden.tensor("sample_noise/e")
    else:
        e = None
    actions = agent.act(batch.observations, e)
    errors["sampled actions"] = relative_error(actions, golden.tensor("expected/sample_actions").flatten(2))

    losses, info = agent.losses(batch, noise)
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

    agent.update(batch, noise)
    after = golden.parameters("expected/params_after")
    for net, tensors in agent.params.items():
        errors[f"after step {net}"] = max(relative_error(value, after[net][name]) for name, value in tensors.items())
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
