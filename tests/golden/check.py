"""Hold our agents to the numbers of the authors' JAX release: `python tests/golden/check.py FILE.npz ...`.

A golden file holds the parameters, batch and noise of one update on a tiny problem and what the release computed from
them.  Here the same goes through our agent's own update; the largest relative error of the losses, the gradients, the
parameters after the step and the sampled actions is printed, and the exit status is 0 only if all are within 1e-4
relative, or 1e-5 absolute.  A file may also hold an image encoder alone or crops of images (visual/), or a transformer
alone, several updates or a schedule of step sizes (dit/).

The release keeps the cameras of an image along its channels.  Here each is an array of its own, "view_0", "view_1".
"""

from __future__ import annotations

import json
import re
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
from lps.members.adam import MemberAdam, Schedule
from lps.nets import NETWORKS
from lps.nets.dit import DiT
from lps.nets.encoder import ObservationEncoder
from lps.nets.impala import Impala
from lps.nets.network import Spec
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
# The release's layers of a transformer, and ours; the names of its embeddings depend on the observation.
LAYERS = {
    r"FinalLayer_0/Dense_0": "final_condition",
    r"FinalLayer_0/(Dense_1|RMSNorm_0)": "final",
    r"blocks_(\d+)/Attention_0/Dense_0": r"block_\1_out",
    r"blocks_(\d+)/Attention_0/RMSNorm_0": r"block_\1_q",
    r"blocks_(\d+)/Attention_0/RMSNorm_1": r"block_\1_k",
    r"blocks_(\d+)/Attention_0/qkv": r"block_\1_qkv",
    r"blocks_(\d+)/Dense_0": r"block_\1_condition",
    r"blocks_(\d+)/MlpBlock_0/Dense_(\d)": r"block_\1_mlp_\2",
    r"blocks_(\d+)/RMSNorm_0": r"block_\1_attention",
    r"blocks_(\d+)/RMSNorm_1": r"block_\1_mlp",
    r"t_embedder/Dense_(\d)": r"time_0_\1",
    r"r_embedder/Dense_(\d)": r"time_1_\1",
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
                net, name = self.our_name(key[len(prefix) + 1 :])
                value = self.tensor(key)
                if ".conv_" in name and name.endswith("kernel"):
                    value = value.permute(0, 4, 3, 1, 2)
                if name == "position" or name.endswith("_g"):  # the release has axes of length 1 in front
                    value = value.view(1, *[n for n in value.shape if n > 1])
                nets.setdefault(net, {})[name] = value
        return nets

    def our_name(self, path: str) -> tuple[str, str]:
        """Our network and our parameter of one of the release's."""
        *layers, kind = path.split("/")
        net = NET_NAMES.get(path.split("/")[0], path.split("/")[0])
        if views := re.search(r"view_\d", path):
            stack = re.search(r"stack_blocks_(\d)/Conv_(\d)", path)
            part = f"conv_{stack[1]}_{stack[2]}" if stack else "dense"
            return net, f"encoder.{views[0]}.{part}.{kind}"
        if path.endswith("pos_embed"):
            return "base", "position"
        embeds = ["images", "state", "action"] if self.has_state else ["images", "action"]
        for theirs, ours in LAYERS.items():
            if found := re.search(rf"(^|/){theirs}/{kind}$", path):
                return "base", f"{re.sub(theirs, ours, found[0].strip('/').removesuffix(f'/{kind}'))}_{kind}"
        if embed := re.search(r"FeatureEmbed_(\d)", path):
            return "base", f"embed_{embeds[int(embed[1])]}_{kind}"
        layer, number = layers[-1].split("_")
        if layer == "LayerNorm":
            kind = {"scale": "scale", "bias": "shift"}[kind]
        return net, f"{kind}_{number}"

    @property
    def has_state(self) -> bool:
        """Whether the observation has a state beside its images."""
        return any(key.endswith("observations/state") for key in self.arrays)

    def transformer(self, spec: Spec) -> DiT:
        """A transformer of the file's sizes."""
        sizes = self.config["dit_sizes"]
        return DiT(spec, sizes["hidden_dim"], sizes["depth"], sizes["num_heads"])

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
                given |= {field: tuple(widths[:-1])} if widths else {}
        first = "" if "batch/actions" in self.arrays else "step_0/"
        action_dim = self.arrays[f"{first}batch/actions"].shape[-1]
        given.pop("encoder", None)
        if self.config.get("use_DiT"):
            given |= {"base_network": "transformer", **schedule(self.config["training_steps"])._asdict()}
        networks = {"mlp": NETWORKS["mlp"], "transformer": self.transformer}
        with (
            patch("lps.nets.encoder.ENCODERS", {"impala_small": self.encoder}),
            patch("lps.agents.base.NETWORKS", networks),
        ):
            agent = cls([cls.Config(**given)], [0], spaces(self.observation(f"{first}batch/observations")), action_dim)
        if set(agent.params) != set(params):
            raise KeyError(f"networks differ: ours {sorted(agent.params)}, the file's {sorted(params)}")
        with torch.no_grad():
            for net, tensors in agent.params.items():
                assert set(tensors) == set(params[net]), net
                for name, tensor in tensors.items():
                    tensor.copy_(params[net][name])
        return agent

    def batch(self, prefix: str = "") -> Batch:
        return Batch(
            observations=self.observation(f"{prefix}batch/observations"),
            actions=self.tensor(f"{prefix}batch/actions").flatten(2),
            next_observations=self.observation(f"{prefix}batch/next_observations"),
            rewards=self.tensor(f"{prefix}batch/rewards"),
            masks=self.tensor(f"{prefix}batch/masks"),
        )


def schedule(steps: int) -> Schedule:
    """The release's optimiser with a transformer, for this number of updates."""
    warmup = int(0.01 * steps)
    return Schedule(warmup_steps=warmup, decay_steps=steps - warmup, clip_norm=1.0)


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
    if "expected/tangent" in golden.arrays:
        return check_transformer(golden)
    if any(key.startswith("counts/") for key in golden.arrays):
        return check_schedule(golden)
    if "steps" in golden.config:
        return check_steps(golden)
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


def check_transformer(golden: Golden) -> dict[str, float]:
    """Output and derivative of a transformer, and the gradients of the output weighted by `inputs/cotangent`."""
    observation, horizon = golden.observation("inputs/observations"), golden.config["horizon_length"]
    x, t, v = (golden.tensor(f"inputs/{name}") for name in ("x", "t", "v"))
    times = (t, t - golden.tensor("inputs/r")) if golden.config["use_r"] else (t,)
    spec = Spec(spaces(observation), (x.shape[-1], *[1] * len(times)), x.shape[-1], (), horizon)
    with patch("lps.nets.encoder.ENCODERS", {"impala_small": golden.encoder}):
        net = golden.transformer(spec)
    params = {
        name: value.requires_grad_() for part in golden.parameters("params").values() for name, value in part.items()
    }
    x.requires_grad_()
    features = net.encode(params, observation)
    output, tangent = net.jvp(params, features, (x, *times), (v, *(torch.ones_like(t) for _ in times)))
    errors = {
        "output": relative_error(output, golden.tensor("expected/output")),
        "tangent": relative_error(tangent, golden.tensor("expected/tangent")),
    }
    if "inputs/cotangent" in golden.arrays:
        total = (golden.tensor("inputs/cotangent") * output).sum()
        grad_x, *grads = torch.autograd.grad(total, [x, *params.values()])
        errors["gradient x"] = relative_error(grad_x, golden.tensor("expected/grad_x"))
        ours = dict(zip(params, grads, strict=True))
        for expected in golden.parameters("expected/grad").values():
            errors |= {f"gradient {name}": relative_error(ours[name], value) for name, value in expected.items()}
    return errors


def check_steps(golden: Golden) -> dict[str, float]:
    """Several updates in a row: losses, step sizes and gradient norms of each, and the parameters after all."""
    agent, errors = golden.agent(), {}
    for step in range(golden.config["steps"]):
        prefix, (rate,) = f"step_{step}/", agent.adam.groups
        batch, noise = golden.batch(prefix), golden.named(f"{prefix}noise/")
        norm = torch.stack([grad.norm() for grad in agent.gradients(agent.objective(batch, noise)[0])]).norm()
        ours = {"lr": torch.as_tensor(agent.adam._rate(rate)), "grad_norm": norm}
        info = agent.update(batch, noise)
        ours["total_loss"] = torch.stack([value for name, value in info.items() if name.endswith("_loss")]).sum()
        for name, value in ours.items():
            errors[f"{name} {step}"] = relative_error(value, torch.tensor(golden.arrays[f"{prefix}expected/{name}"]))
    after = golden.parameters("expected/params_after")
    for net, tensors in agent.params.items():
        errors[f"after all {net}"] = max(relative_error(value, after[net][name]) for name, value in tensors.items())
    return errors


def check_schedule(golden: Golden) -> dict[str, float]:
    """The step size after each number of updates, relative to the largest."""
    peak, errors = golden.config["lr"], {}
    for key in golden.arrays:
        if key.startswith("counts/"):
            steps = int(key.removeprefix("counts/"))
            adam = MemberAdam([torch.zeros(1, 1)], [peak], schedule(steps))
            ours = []
            for count in golden.arrays[key].tolist():
                adam.resume(count)
                ours.append(torch.as_tensor(adam._rate(peak)))
            theirs = torch.from_numpy(golden.arrays[f"lr/{steps}"])
            errors[f"{steps} updates"] = relative_error(torch.stack(ours) / peak, theirs / peak)
    return errors


def main() -> int:
    if len(sys.argv) < 2:
        print("usage: python tests/golden/check.py FILE.npz ...", file=sys.stderr)
        return 2
    good, width = True, 28 if len(sys.argv) == 2 else 60
    for path in sys.argv[1:]:
        try:
            errors = check(path)
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as problem:
            print(f"error: {path} cannot be checked: {problem}", file=sys.stderr)
            return 2
        if len(sys.argv) > 2:  # one line for each file, by its largest error
            name = max(errors, key=lambda name: (not errors[name] <= RELATIVE, errors[name]))  # also one that is NaN
            errors = {f"{Path(path).parent.name}/{Path(path).stem}: {name}": errors[name]}
        for name, error in errors.items():
            print(f"{name:{width}s} {error:9.2e}  {'ok' if error <= RELATIVE else 'TOO LARGE'}")
            good = good and error <= RELATIVE  # false for NaN
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
