"""Settings of an agent with a name: what the authors tuned per group of tasks, and the variants of each method.

A name "agent:variant", such as "dsrl:matched", may stand wherever an agent is asked for. Settings given by hand come
before the variant's, and the variant's before the group's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lps.errors import UserError, suggest

Settings = Mapping[str, Any]

# QC-FQL's alphas are those of LPS's release (arXiv 2603.05296). Its alphas for QC-MFQL are not published: QC-FQL's
# stand in. Groups outside the paper keep the agent's default.
_ALPHA = {"cube-single": 30.0, "cube-double": 3.0, "scene": 1.0, "puzzle-3x3": 3.0, "puzzle-4x4": 10.0}

# Those of QAM's release (arXiv 2601.14234), tuned per group: on 100M transitions for cube-quadruple and
# puzzle-4x4, there with the sparse reward. Other groups keep the agent's default.
_NOISE_SCALE = {
    "cube-double": 1.0,
    "cube-triple": 1.4,
    "cube-quadruple": 1.4,
    "scene": 0.4,
    "puzzle-3x3": 1.0,
    "puzzle-4x4": 1.0,
}

GROUP_SETTINGS: Mapping[str, Mapping[str, Settings]] = {
    "qcfql": {group: {"alpha": alpha} for group, alpha in _ALPHA.items()},
    "qcmfql": {group: {"alpha": alpha} for group, alpha in _ALPHA.items()},
    "dsrl_sac": {group: {"noise_scale": scale} for group, scale in _NOISE_SCALE.items()},
    "best_of_n": {"puzzle-3x3": {"num_samples": 64}},  # arXiv 2507.07969
}
"""agent -> group -> what is tuned for it."""

_LATENTS: Mapping[str, Settings] = {
    "sphere": {"latent_dist": "sphere"},
    "normal": {"latent_dist": "normal"},
    "truncated_normal": {"latent_dist": "truncated_normal"},
}
_FORMS: Mapping[str, Settings] = {
    "original_meanflow": {"meanflow_form": "original"},
    "original_meanflow_released": {"meanflow_form": "original_released"},
}
# The published comparison differs in more than the method: in the aggregation of the target critics, in the width of
# the latent actor, and in who trains the action critic. "matched" gives every method LPS's choice of each.
_MATCHED_ACTOR = {"critic_agg": "min", "latent_actor_hidden": [256, 256]}

# "pessimistic" is the rule of QAM's release (arXiv 2601.14234): ten critics, and mean - 0.5 sd in the target. Here the
# actor's objective and the choice among samples follow the same rule. "qam_critics" has its widths, too.
_TARGET = {"num_critics": 10, "critic_agg": "pessimistic"}
_ACTOR, _CHOICE = {**_TARGET, "actor_agg": "pessimistic"}, {**_TARGET, "choice_agg": "pessimistic"}
_WIDE = {"critic_hidden": [512, 512, 512, 512]}

VARIANTS: Mapping[str, Mapping[str, Settings]] = {
    "lps": {"matched": {}, "pessimistic": _ACTOR, "qam_critics": {**_ACTOR, **_WIDE}, **_LATENTS, **_FORMS},
    "fm_lps": {
        "pessimistic": _ACTOR,
        "one_step": {"flow_steps": 1},
        "matched": _MATCHED_ACTOR,
        "one_step_matched": {"flow_steps": 1, **_MATCHED_ACTOR},
    },
    "dsrl": {
        "detached": {"detach_distillation": True},
        "matched": {"detach_distillation": True, **_MATCHED_ACTOR},
        "pessimistic": {"detach_distillation": True, **_TARGET},
    },
    "dsrl_sac": {"matched": {**_MATCHED_ACTOR, "num_critics": 2, "critic_hidden": [256, 256, 256, 256]}},
    "qcfql": {
        "matched": {"critic_agg": "min"},
        "pessimistic": _ACTOR,
        "qam_critics": {**_ACTOR, **_WIDE},
        **_LATENTS,
    },
    "qcmfql": {"matched": {}, "pessimistic": _ACTOR, **_LATENTS, **_FORMS},
    "best_of_n": {
        "matched": {"critic_agg": "min"},
        "pessimistic": _CHOICE,
        "qam_critics": {**_CHOICE, **_WIDE},
        "of_4": {"num_samples": 4},
    },
    "meanflow_best_of_n": {"matched": {"critic_agg": "min"}, "pessimistic": _CHOICE, **_LATENTS, **_FORMS},
    "quantile_lps": {"matched": {"critic_agg": "min", "tau": 0.005}, "pessimistic": _TARGET, **_FORMS},
    "cfgrl": {"matched": {}},
    "meanflow_bc": dict(_FORMS),
}
"""agent -> variant -> what sets it apart from the agent's defaults."""

ALPHA_WITHOUT_EFFECT = ("lps", "fm_lps", "dsrl")
"""Agents whose alpha scales the loss of the latent actor and nothing else: a step of Adam does not know the scale."""


@dataclass(frozen=True)
class Panel:
    """One panel of LPS's ablation figure: what is compared with what."""

    title: str
    bars: tuple[str, ...]
    """Agents and variants."""


# Panel (c) of the paper is the size of the latent along training, of the runs of (b): their metric latent_size.
PANELS: Mapping[str, Panel] = {
    "a": Panel("latents of one-step actors", ("qcfql", "qcfql:sphere", "qcmfql", "qcmfql:sphere")),
    "b": Panel("latents of LPS", ("lps:normal", "lps:truncated_normal", "lps")),
    "d": Panel("base policy", ("fm_lps", "fm_lps:one_step", "lps")),
    "e": Panel("MeanFlow parametrisation", ("lps:original_meanflow_released", "lps:original_meanflow", "lps")),
    "matched": Panel(
        "methods as published and matched",
        (
            *("dsrl", "dsrl:detached", "dsrl:matched", "qcfql", "qcfql:matched", "qcmfql"),
            *("best_of_n", "best_of_n:matched", "fm_lps", "fm_lps:matched", "lps"),
        ),
    ),
}
"""The ablations, by the letter of their panel in the paper; "matched" is ours."""

OLD_VALUES: Settings = {
    "meanflow_form": "noise_to_action",
    "execute": 0,
    "network": "mlp",
    "policy_tau": 0.0,
    "weight_decay": 0.0,
    "warmup_steps": 0,
    "decay_steps": 0,
    "clip_norm": 0.0,
    "actor_agg": "mean",
    "choice_agg": "mean",
    "rho": 0.5,
    "base_network": "same",
    "encoder": "impala_small",
    "encoder_width": 1.0,
    "p_aug": 0.5,
    "frame_stack": 1,
    "act_quantile": 0.8,
}
"""Hyperparameters that came after the first results, with the value that all runs had before: with it, a run is what it
was, and keeps its id."""


def resolve(name: str, agents: Mapping[str, Any]) -> tuple[str, Settings]:
    """Agent and settings of a name "agent" or "agent:variant". UserError that names the nearest known one."""
    agent, colon, variant = name.partition(":")
    if agent not in agents:
        raise UserError(suggest(agent, agents, "agent"))
    if not colon:
        return agent, {}
    variants = VARIANTS.get(agent, {})
    if variant not in variants:
        raise UserError(suggest(variant, variants, f"variant of {agent}") if variants else f"{agent} has no variants")
    return agent, variants[variant]


def group_settings(agent: str, group: str) -> Settings:
    """Return the settings that are tuned for the agent on this group; empty if there are none."""
    return GROUP_SETTINGS.get(agent, {}).get(group, {})
