"""Runs as values: what they refuse, what their id depends on, and how they are packed."""

import dataclasses
import json
import math

import pytest

from lps.agents import AGENTS
from lps.agents.config import Range, field_types, marks, member_scalars
from lps.errors import UserError
from lps.runs.hyperparameters import explain, parse_settings
from lps.runs.run import Run
from lps.tasks.suites import groups
from lps.training.packs import pack

GROUPS = groups("ogbench")


TASK = "cube-single-play-singletask-task1-v0"


@pytest.mark.parametrize("agent", AGENTS)
def test_a_run_survives_its_plain_form(agent):
    run = Run.create(agent, TASK, 3, steps=10, lr=1e-3)
    copy = Run.from_dict(json.loads(json.dumps(run.to_dict())))
    assert copy == run and copy.id == run.id
    assert copy.config == run.config


@pytest.mark.parametrize("agent", AGENTS)
def test_a_default_said_aloud_is_the_same_run_and_anything_else_is_not(agent):
    default = Run.create(agent, TASK)
    assert Run.create(agent, TASK, lr=3e-4).id == default.id
    others = [
        Run.create(agent, TASK, seed=1),
        Run.create(agent, TASK, steps=5),
        Run.create(agent, TASK, lr=1e-4),
        Run.create(agent, TASK, eval_episodes=5),
        Run.create(agent, TASK, eval_interval=5),
        Run.create(agent, TASK, dataset="other"),
        Run.create(agent, TASK, options={"success_timing": "pre"}),
        Run.create(agent, TASK, options={"reward_timing": "post"}),
        Run.create(agent, TASK.replace("task1", "task2")),
    ]
    assert len({run.id for run in others} | {default.id}) == len(others) + 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"agent": "lsp"}, "lps"),
        ({"task": "cube-singel-play-singletask-task1-v0"}, TASK),
        ({"learning_rate": 1.0}, "hyperparameter"),
        ({"lr": "fast"}, "lr"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"base_hidden": [64, -1]}, "base_hidden cannot be"),
        ({"base_hidden": []}, "base_hidden cannot be"),
        ({"lr": 10**400}, "lr cannot be"),
        ({"discount": 5}, "lps's discount cannot be 5; allowed: 0 < discount <= 1"),
        ({"lr": -1}, "allowed: lr > 0"),
        ({"alpha": float("inf")}, "allowed: a finite alpha >= 0"),
        ({"num_critics": 0}, "allowed: num_critics >= 1"),
        ({"agent": "cfgrl", "expectile": 7}, "allowed: 0 < expectile < 1"),
        ({"dataset": "data/mine.npz"}, "--data-dir data --dataset mine"),
        ({"critic_agg": "max"}, "critic_agg"),
        ({"latent_dist": "spheer"}, "sphere"),
        ({"options": {"success_timing": "now"}}, "post"),
        ({"options": {"reward_timing": "past"}}, "post"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_a_run_refuses_it_names(settings, said):
    values = {"agent": "lps", "task": TASK, "seed": 0} | settings
    with pytest.raises(UserError, match=said):
        Run.create(**values)


@pytest.mark.parametrize("agent", AGENTS)
def test_no_agent_takes_a_number_that_makes_no_sense(agent):
    defaults = dataclasses.asdict(AGENTS[agent].Config())
    hints = field_types(AGENTS[agent].Config)
    numbers = {name: allowed for name, hint in hints.items() for allowed in marks(hint, Range)}
    assert {name for name, default in defaults.items() if type(default) in (int, float)} == set(numbers)
    assert {"lr", "batch_size", "horizon", "discount"} <= set(numbers)
    for name, allowed in numbers.items():
        assert defaults[name] in allowed and allowed.low >= 0, f"{name} has no range"
        senseless = [allowed.low - 1, allowed.high + 1, math.nan, math.inf, -math.inf]
        senseless += [allowed.low] * allowed.open_low + [allowed.high] * allowed.open_high
        for value in senseless:
            with pytest.raises(UserError, match=f"{agent}'s {name} "):
                Run.create(agent, TASK, **{name: value})


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("name, value", [("discount", 1), ("tau", 1), ("flow_ratio", 0), ("alpha", 0), ("horizon", 1)])
def test_the_bound_of_a_range_may_belong_to_it(agent, name, value):
    if hasattr(AGENTS[agent].Config(), name):
        assert getattr(Run.create(agent, TASK, **{name: value}).config, name) == value


def test_a_dataset_may_be_named_with_its_ending():
    assert Run.create("lps", TASK, dataset="mine.npz") == Run.create("lps", TASK, dataset="mine")


def test_unknown_fields_of_a_stored_run_are_named():
    values = Run.create("lps", TASK).to_dict()
    del values["steps"]
    with pytest.raises(UserError, match="steps"):
        Run.from_dict(values)


def test_settings_of_a_command_line():
    assert parse_settings(["lr=3e-4", "base_hidden=(64, 64)", "critic_agg=mean"]) == {
        "lr": 3e-4,
        "base_hidden": (64, 64),
        "critic_agg": "mean",
    }
    with pytest.raises(UserError, match="name=value"):
        parse_settings(["lr"])


def test_the_last_update_is_always_evaluated_once():
    assert Run.create("lps", TASK, steps=10, eval_interval=4).eval_steps == [4, 8, 10]
    assert Run.create("lps", TASK, steps=8, eval_interval=4).eval_steps == [4, 8]
    assert Run.create("lps", TASK, steps=3, eval_interval=4).eval_steps == [3]


@pytest.mark.parametrize("agent", AGENTS)
def test_a_pack_holds_what_can_train_together(agent):
    tasks = [task.name for task in GROUPS["cube-single"]]
    own = member_scalars(AGENTS[agent].Config)
    together = [Run.create(agent, task, seed) for task in tasks for seed in range(8)]
    together += [Run.create(agent, tasks[0], 0, **{name: 0.5}) for name in own]
    apart = [
        Run.create(agent, tasks[0], batch_size=8),
        Run.create(agent, tasks[0], steps=9),
        Run.create(agent, GROUPS["cube-double"][0].name),
    ]
    packs = pack(together + apart)
    assert packs[0] == together
    assert packs[1:] == [[run] for run in apart]


def test_packs_split_evenly_and_lose_nothing():
    runs = [Run.create("lps", TASK, seed) for seed in range(10)]
    packs = pack(runs, max_members=4)
    assert [len(members) for members in packs] == [4, 4, 2]
    assert [run for members in packs for run in members] == runs


@pytest.mark.parametrize("agent", AGENTS)
def test_every_hyperparameter_is_explained(agent):
    """With its meaning, and with the values that it takes."""
    for row in explain(agent):
        assert row.meaning and row.allowed, f"{agent}: {row.name}"


def test_a_run_keeps_its_id_from_version_to_version():
    """Else a sweep that was finished would start again after an upgrade."""
    run = Run.create("lps", TASK, 0, steps=30000, eval_interval=5000, dataset="cube-single-play-250")
    assert run.id == "d450a7f783c1d132"
    assert Run.create("lps", TASK, meanflow_form="original").id != Run.create("lps", TASK).id


def test_what_is_tuned_for_a_group_yields_to_a_variant_and_both_to_what_is_asked_for():
    def alpha(agent, group, **settings):
        return Run.create(agent, f"{group}-play-singletask-task1-v0", **settings).config.alpha

    assert (alpha("qcfql", "cube-double"), alpha("qcfql", "puzzle-4x4"), alpha("qcfql", "cube-triple")) == (3, 10, 1)
    assert alpha("qcfql", "cube-double", alpha=7) == 7
    matched = Run.create("qcfql:matched", "cube-double-play-singletask-task1-v0")
    assert (matched.agent, matched.config.critic_agg, matched.config.alpha) == ("qcfql", "min", 3)
    assert Run.create("qcfql:matched", TASK, critic_agg="mean").config.critic_agg == "mean"
    for wrong, nearest in (("qcfql:mached", "matched"), ("flow_bc:matched", "no variants"), ("qcfq:x", "qcfql")):
        with pytest.raises(UserError, match=nearest):
            Run.create(wrong, TASK)
