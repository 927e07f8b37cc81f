"""The studies: what each of them runs. Tuning is in test_tuning.py."""

import importlib
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from small import small_hyperparameters

from analysis.plots.landscape import drawn_in_decades
from lps.agents import AGENTS
from lps.agents.config import member_scalars
from lps.agents.variants import PANELS, VARIANTS
from lps.errors import UserError
from lps.runs.checkpoint import Checkpoint, checkpoint_path
from lps.runs.record import Episode, RunRecord, Status
from lps.runs.run import Run
from lps.runs.scores import scores
from lps.runs.store import Store
from lps.tasks.ogbench_data import default_name
from lps.tasks.ring import RING
from lps.tasks.suites import get_task
from lps.training.flops import update_gflop
from lps.training.options import TrainOptions
from lps.training.packs import pack
from lps.training.trainer import train
from sweeps import STUDIES, ablations, compute, data_scaling, ogbench_all, ring, rivals, sensitivity, tuning
from sweeps.__main__ import main as sweeps
from sweeps.study import flops, halving, spaces
from sweeps.study.scope import PAPER_SCOPE, RING_SCOPE, STUDY_SCOPES

MODULES = {name: importlib.import_module(f"sweeps.{name}") for name in STUDIES}
SCOPED = {module: list(getattr(module, "PRESETS", STUDY_SCOPES)) for module in MODULES.values()}
for other in (compute, ring):  # these have no scope
    del SCOPED[other]
TINY = "--preset quick --steps 4 --eval-interval 2 --eval-episodes 2 --seeds 0 --set batch_size=8 base_hidden=8"


@pytest.mark.parametrize(("study", "preset"), [(study, name) for study, names in SCOPED.items() for name in names])
def test_every_preset_of_every_study_can_be_planned(
    study: ModuleType, preset: str, capsys: Any, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert study.main(["--preset", preset, "--dry-run", "--address", "local"]) == 0
    assert " runs in " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [], "a plan leaves nothing behind"


@pytest.mark.parametrize("study", [*SCOPED, ring])
def test_unknown_names_are_an_error_that_helps(study: ModuleType, capsys: Any) -> None:
    quick = [] if study in (ring, ogbench_all) else ["--preset", "quick"]
    assert study.main([*quick, "--agents", "lsp", "--dry-run", "--address", "local"]) == 2
    assert "'lsp'; did you mean 'lps'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("study", "arguments", "message"),
    [
        (ablations, "--panels bb", "unknown panel 'bb'; did you mean 'b'"),
        (sensitivity, "--parts alhpa", "unknown part 'alhpa'; did you mean 'alpha'"),
        (sensitivity, "--axes lrr", "unknown axis 'lrr'; did you mean 'lr'"),
        (sensitivity, "--points 0", "--points must be at least 1"),
        (sensitivity, "--set lr=1e-3", "--set lr conflicts with this study"),
        (ablations, "--panels b --set latent_dist=normal", "--set latent_dist conflicts with"),
        (ablations, "--panels b --agents dsrl", "no run matches"),
        (ablations, "--packs-at-once 0", "packs at once must be at least 1"),
        (ablations, f"--results {Path(__file__).parent}", "is not a results folder"),
        (tuning, "--trials 0 --at-once 0", "must be at least 1"),
        (tuning, "--asha 1", "--asha must be at least 2"),
        (tuning, "--asha --eval-interval 3000", "smaller --eval-interval"),
        (tuning, "--seeds 100", "--held-out has tuning seeds: 100"),
        (tuning, "--storage nothing://here", "cannot open the Optuna database nothing://here"),
        (tuning, "--set lr=1 tau=1 discount=1 flow_ratio=1", "hyperparameters of lps that could"),
        (data_scaling, "--sizes 0", "--sizes must be at least 1, and --noises from 0 to 1"),
        (data_scaling, "--groups ring", "unknown group 'ring'"),
        (data_scaling, "--noises 2", "--sizes must be at least 1, and --noises from 0 to 1"),
        (data_scaling, "--dataset cube-single-play-v0", "Use --sizes and --noises"),
    ],
)
def test_bad_input_is_a_sentence(
    study: ModuleType, arguments: str, message: str, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dry = [] if "--storage" in arguments or "could" in message else ["--dry-run"]
    assert study.main(["--preset", "quick", *arguments.split(), "--address", "local", *dry]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "nothing was made"


def test_every_study_is_listed_and_documented(capsys: Any) -> None:
    assert sweeps(["list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    docs = (Path(__file__).parents[1] / "docs" / "studies.md").read_text(encoding="utf-8")
    assert len(listed) == len(STUDIES) and all(f"python sweeps/{name}.py" in docs for name in STUDIES)
    assert all(hasattr(module, "main") for module in MODULES.values())


def test_what_is_said_twice_is_meant_once(capsys: Any) -> None:
    command = "--preset quick --agents lps lps --seeds 0 0 1 --dry-run --address local --results nowhere"
    assert ogbench_all.main(command.replace("quick", "demo").split()) == 0
    said = capsys.readouterr().out
    assert "2 runs in " in said and "nowhere does not exist yet: 2 runs to train" in said


def test_the_demo_trains_on_the_dataset_that_it_collects() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    (maze,) = re.findall(r"^MAZE := (\S+)$", makefile, re.MULTILINE)
    (episodes,) = re.findall(r"lps collect \$\(MAZE\) --episodes (\d+)", makefile)
    demo = ogbench_all.PRESETS["demo"]
    assert demo.dataset == default_name(maze, int(episodes))
    assert {get_task(task).dataset for task in demo.task_names()} == {f"{maze}-v0"}


def test_panels_are_of_known_variants_and_their_bars_are_different_runs() -> None:
    for name, panel in PANELS.items():
        for bar in panel.bars:
            agent, _, variant = bar.partition(":")
            assert agent in AGENTS and (not variant or variant in VARIANTS[agent])
        runs = ablations.build([name], RING_SCOPE)
        assert len(runs) == len(panel.bars) * len(RING_SCOPE.seeds), "no bar twice, none without runs"
    one = ablations.build(["d"], RING_SCOPE, ["fm_lps:one_step"])
    assert {planned.run.hyperparameters["flow_steps"] for planned in one} == {1}, (
        "the preset's shorter flow does not undo it"
    )


@pytest.mark.parametrize("agent", AGENTS)
def test_axes_and_ranges_are_the_agents_own_and_the_joint_design_is_one_program(agent: str) -> None:
    known = set(Run.create(agent, "ring-bandit-v0").hyperparameters)
    assert set(spaces.axes(agent)) <= known and set(spaces.ranges(agent)) <= known & set(
        member_scalars(AGENTS[agent.partition(":")[0]].Config)
    )
    points = sensitivity.joint(agent, 8)
    assert points == sensitivity.joint(agent, 9)[:8] and len({str(point) for point in points}) == 8
    for point in points:
        for name, value in point.items():
            assert spaces.SEARCHED[name].low <= value <= spaces.SEARCHED[name].high
    runs = sensitivity.build(["joint"], [agent], RING_SCOPE, None, 8)
    assert len(runs) == 9 * len(RING_SCOPE.seeds) and len(pack([planned.run for planned in runs])) == 1
    assert [planned.role for planned in runs][:: len(RING_SCOPE.seeds)] == [{}, *({"point": n} for n in range(8))]


@pytest.mark.parametrize("points", [12, 32])
@pytest.mark.parametrize("agent", AGENTS)
def test_a_design_is_drawn_on_the_scales_it_was_made_on(agent: str, points: int) -> None:
    design = sensitivity.joint(agent, points)
    for name, known in spaces.ranges(agent).items():
        assert drawn_in_decades(np.array([point[name] for point in design])) == known.log, name


def test_every_default_lies_on_its_axes() -> None:
    for agent in AGENTS:
        run = Run.create(agent, "cube-double-play-singletask-task2-v0")
        for name, values in spaces.axes(agent).items():
            assert run.hyperparameters[name] in values, f"{agent}'s {name}"


def test_the_score_is_the_mean_of_the_last_three_evaluations(tmp_path: Path) -> None:
    store, run = Store(tmp_path), Run.create("lps", "ring-bandit-v0", steps=50, eval_interval=10, eval_episodes=2)
    curve = {10: (1, 1), 20: (1, 1), 30: (0, 1), 40: (0, 0), 50: (1, 1)}
    for step, successes in curve.items():
        store.write_episodes(run.id, step, [Episode(i, 0, bool(s), 0.0, 1) for i, s in enumerate(successes)])
    assert scores(store, [run]) == {}, "not done"
    store.write_run(store.record(run).update(Status.DONE))
    assert scores(store, [run]) == {run.id: 0.5}
    store.delete(f"episodes/{run.id}/{40:09d}.parquet")
    assert scores(store, [run]) == {}, "an evaluation is missing"


def ring_run(steps: int, **changes: Any) -> Run:
    small = {"batch_size": 8, "base_hidden": [8], "critic_hidden": [8], "latent_actor_hidden": [8]}
    return Run.create("lps", "ring-bandit-v0", 3, steps=steps, eval_interval=2, eval_episodes=4, **(small | changes))


def test_rungs_are_where_runs_are_evaluated() -> None:
    assert halving.rungs(1_000_000, 100_000) == [100_000, 300_000]
    assert halving.rungs(3000, 750, 2) == [750, 1500]
    with pytest.raises(UserError, match="smaller --eval-interval"):
        halving.rungs(3000, 1500)


def test_a_run_that_goes_on_from_a_rung_is_the_run_itself(tmp_path: Path) -> None:
    """Over two rungs; interrupted in between, and asked for twice."""
    whole, rung, store = (Store(tmp_path / name) for name in ("whole", "rungs", "store"))
    first, second, run = ring_run(2), ring_run(4), ring_run(8)
    train([run], whole, TrainOptions(log_interval=2))
    train([first], rung, TrainOptions(log_interval=2))
    halving.continue_from_rung(second, 2, rung, rung)
    assert (rung.read_run(second.id) or {})["status"] == "queued" and rung.episode_steps(second.id) == {2}
    train([second], rung, TrainOptions(log_interval=2))
    store.write_episodes(run.id, 2, rung.read_episodes(second.id).slice(0, 1).to_pylist())  # a copy that was cut off
    halving.continue_from_rung(run, 4, rung, store)
    told: list[int] = []
    train([run], store, TrainOptions(log_interval=2), callback=lambda progress: told.append(progress.step))
    assert min(told) == 4, "it began where the shorter one ended"
    halving.continue_from_rung(run, 4, rung, store)  # what is done stays done
    assert store.finished(run.id) and store.read_episodes().equals(whole.read_episodes())
    assert store.read_metrics().equals(whole.read_metrics())
    ours, theirs = (Checkpoint.from_bytes(of.read_bytes(checkpoint_path(run)), "").params for of in (store, whole))
    assert all(torch.equal(ours[net][name], theirs[net][name]) for net in ours for name in ours[net])
    with pytest.raises(ValueError, match="no evaluation after 3 updates"):
        halving.continue_from_rung(run, 3, rung, store)


def test_datasets_are_collected_once_and_are_axes(tmp_path: Path) -> None:
    launched: list[Any] = []
    collected: list[tuple[str, int, float]] = []

    def collect(dataset: str, *, episodes: int, name: str, data_dir: Path, noise: float, workers: int) -> None:
        collected.append((name, episodes, noise))
        (data_dir / f"{name}.npz").touch()

    command = f"--preset quick --sizes 5 9 --noises 0.1 0.3 --data-dir {tmp_path} --results {tmp_path / 'results'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_scaling, "collect", collect)
        patch.setattr(data_scaling.cli, "launch_or_describe", lambda runs, *_: launched.append(runs) or 0)
        for _ in range(2):
            assert data_scaling.main(command.split()) == 0
        assert data_scaling.main(command.replace("5 9", "5").split()) == 0
    names = ["cube-single-play-5", "cube-single-play-9", "cube-single-play-9-noise0.3"]
    assert collected[:3] == [(names[0], 5, 0.1), (names[1], 9, 0.1), (names[2], 9, 0.3)]
    assert collected[3:] == [("cube-single-play-5-noise0.3", 5, 0.3)], "each once"
    assert list(dict.fromkeys(planned.run.dataset for planned in launched[0])) == names
    assert {planned.usual.dataset for planned in launched[0]} == {names[1]}, "the largest at the usual noise"
    roles = [planned.role for planned in launched[0]]
    values = {"episodes": [5, 9], "noise": [0.1, 0.3]}
    assert all({"axis": axis, "value": value} in roles for axis, of in values.items() for value in of)


@pytest.mark.slow
def test_compute_measures_every_agent_and_keeps_it(tmp_path: Path, capsys: Any) -> None:
    assert compute.main(["--preset", "quick", "--dry-run"]) == 0
    assert f"{len(AGENTS)} agents" in capsys.readouterr().out
    assert compute.main(["--agents", "lsp"]) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(compute.PRESETS, "quick", ("0.01", "4"))
        assert compute.main(["--preset", "quick", "--agents", "lps", "flow_bc", "--results", str(tmp_path)]) == 0
    (document,) = Store(tmp_path).studies()
    assert [row["agent"] for row in document["rows"]] == ["lps", "flow_bc"]
    assert all(row["update_ms"] > row["decision_ms"] > 0 for row in document["rows"])


def test_rivals_say_what_an_update_takes(capsys: Any) -> None:
    assert rivals.main("--preset small --dry-run --address local --agents lps best_of_n:of_4".split()) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["lps", "4.07", "40.7"] in rows and ["best_of_n:of_4", "19.90", "199.0"] in rows


def test_flops_of_the_runs_of_a_store_are_kept(tmp_path: Path) -> None:
    store, runs = Store(tmp_path), [Run.create(agent, RING.name, **small_hyperparameters(agent)) for agent in AGENTS]
    for run in runs:
        store.write_run(RunRecord.of(run))
    store.write_run({"id": "f" * 16, "run": {**runs[0].to_dict(), "agent": "not_here"}, "status": "done"})
    flops.keep(store)
    (document,) = store.studies()
    assert set(document["gflop"]) == {run.id for run in runs}
    cost = {run.agent: document["gflop"][run.id] for run in runs}
    assert 0 < cost["flow_bc"] < cost["lps"] < cost["best_of_n"]


def test_flops_of_an_update_are_those_that_torch_counts() -> None:
    """Behaviour cloning on the ring, counted by hand: B rows, one pass forward, and the gradients."""
    run = Run.create("flow_bc", RING.name, batch_size=10, base_hidden=[8])
    inputs = (1 + 2 + 1) * 8  # observation, action, time
    assert update_gflop(run) == pytest.approx(2 * 10 * (2 * inputs + 3 * 8 * 2) / 1e9), "no gradient of the inputs"


def test_scope_knows_its_tasks() -> None:
    with pytest.raises(UserError, match="ring.* has no task 2"):
        replace(RING_SCOPE, tasks=[2]).task_names()
    names = ["cube-double-play-singletask-task2-v0"]
    assert replace(PAPER_SCOPE, groups=["cube-double"], tasks=[2]).task_names() == names
    assert replace(PAPER_SCOPE, tasks=names).task_names() == names, "a task is found in its group"
    assert len(replace(PAPER_SCOPE, groups=["cube-double"], tasks=None).task_names()) == 5
    with pytest.raises(UserError, match="did you mean 'cube-double-play-singletask-task2-v0'"):
        replace(PAPER_SCOPE, groups=["cube-double"], tasks=["cube-double-play-task2-v0"]).task_names()
