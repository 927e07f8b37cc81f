"""The parts of a sweep that need no Ray: command lines, packs and shares, the console."""

import io
import itertools
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small import small_hyperparameters

from lps.agents import AGENTS
from lps.errors import UserError
from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.suites import get_task, groups
from sweeps import ogbench_all
from sweeps.launcher import connection as cluster
from sweeps.launcher.cli import _planned_nodes
from sweeps.launcher.launch import launch
from sweeps.launcher.plan import Plan
from sweeps.launcher.resources import Limits, divide_cluster, plan_packs
from sweeps.watch import estimate
from sweeps.watch.console import Console, title, titles

GROUPS = groups("ogbench")


TASK = "cube-single-play-singletask-task1-v0"


def a_run(agent: str = "lps", seed: int = 0, task: str = TASK, **settings: Any) -> Run:
    return Run.create(agent, task, seed, **{"steps": 100, "eval_episodes": 2, **settings})


# --- sweeps as values ---


@pytest.mark.parametrize("name", ogbench_all.PRESETS)
def test_presets_are_runs_of_every_combination(name: str) -> None:
    where, agents = ogbench_all.PRESETS[name], ogbench_all.AGENTS_OF[name]
    runs = [planned.run for planned in ogbench_all.build(agents, where)]
    found = [(run.agent, run.task, run.seed) for run in runs]
    tasks = [
        task.name
        for group in where.groups
        for number, task in enumerate(GROUPS[group], 1)
        if {number, task.name} & set(where.tasks)
    ]
    assert set(found) == set(itertools.product(agents, tasks, where.seeds))
    assert len({run.id for run in runs}) == len(runs)


def test_paper_is_the_papers_protocol() -> None:
    runs = [planned.run for planned in ogbench_all.build(ogbench_all.EVERYONE, ogbench_all.PRESETS["paper"])]
    agents = {run.agent for run in runs}
    others = {"fm_lps", "dsrl_sac", "meanflow_best_of_n", "quantile_lps"}
    assert agents == set(AGENTS) - others, "LPS's figure and QC's best-of-N"
    assert len(runs) == len(agents) * 5 * 5 * 8
    for run in runs:
        assert (run.steps, run.eval_interval, run.eval_episodes) == (10**6, 10**5, 50)
        assert run.options["success_timing"] == "post"
        assert run.dataset == get_task(run.task).dataset
        assert run == Run.create(run.agent, run.task, run.seed), "the agents' own settings, tuned ones included"


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("name", ogbench_all.PRESETS)
def test_every_preset_can_be_run_with_one_agent_alone(name: str, agent: str) -> None:
    assert ogbench_all.main(["--preset", name, "--agents", agent, "--dry-run", "--address", "local"]) == 0


@pytest.mark.parametrize("name", ogbench_all.PRESETS)
def test_dry_run_says_what_would_run(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ogbench_all.main(["--preset", name, "--dry-run", "--address", "local"]) == 0
    printed = capsys.readouterr().out
    runs = [planned.run for planned in ogbench_all.build(ogbench_all.AGENTS_OF[name], ogbench_all.PRESETS[name])]
    assert f"{len(runs)} runs in " in printed and "stimate" in printed
    visual = "visual" in name
    assert ("Frames: " in printed) == ("Memory of a member, at least: lps " in printed) == visual
    assert all(f"{run.agent} " in printed and f" {get_task(run.task).group} " in printed for run in runs)
    assert list(tmp_path.iterdir()) == []


def test_filters_and_settings() -> None:
    arguments = "--preset paper --agents dsrl flow_bc --groups scene --tasks 2 --seeds 7 --steps 5 --set lr=1e-3"
    where = replace(ogbench_all.PRESETS["paper"], groups=["scene"], tasks=[2], seeds=[7], steps=5)
    where = replace(where, settings={"lr": 1e-3, "critic_hidden": [8]})
    seen: list[Planned] = []

    def record(runs: list[Planned], *_: Any, **__: Any) -> int:
        seen.extend(runs)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.launcher.cli.launch", record)
        assert ogbench_all.main([*arguments.split(), "--set", "critic_hidden=[8]"]) == 0
    assert seen == ogbench_all.build(["dsrl", "flow_bc"], where)
    assert [planned.run.agent for planned in seen] == ["dsrl", "flow_bc"]
    assert seen[0].run.hyperparameters["critic_hidden"] == [8] and "critic_hidden" not in seen[1].run.hyperparameters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--preset dem", "unknown preset 'dem'; did you mean 'demo'"),
        ("--agents lsp", "unknown agent 'lsp'; did you mean 'lps'"),
        ("--groups cube-singel", "unknown group 'cube-singel'; did you mean 'cube-single'"),
        ("--tasks 6", "cube-single has no task 6"),
        ("--set lrr=1", "unknown hyperparameter 'lrr'; did you mean 'lr'"),
        ("--set lr", "--set takes name=value"),
        ("--set lr=fast", "lps's lr cannot be 'fast'"),
        ("--steps 0", "steps must be a whole number of at least 1"),
        ("--gpus-per-pack 1.5", "a fraction of one or a whole number"),
        ("--device gpu", "unknown device 'gpu'"),
        ("--packs-at-once 0", "packs at once must be at least 1"),
        ("--sweep ../home", "Use letters, digits"),
        ("--dataset nowhere --seeds 0", "nowhere"),
        ("--results {foreign}", "is not a results folder"),
        ("--results {newer}", "schema 99"),
    ],
)
def test_bad_input_is_one_clear_line_before_anything_starts(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "schema.json").write_text('{"schema": 99}')
    filled = arguments.format(foreign=tmp_path / "foreign", newer=tmp_path / "newer")
    monkeypatch.setattr("sweeps.launcher.connection.connected", lambda *_: pytest.fail("Ray was started"))
    assert ogbench_all.main([*filled.split(), "--address", "local"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.startswith("error: ") and printed.err.count("\n") == 1


def test_no_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run matches"):
        launch([], Plan(str(tmp_path), "empty"))


@pytest.mark.parametrize("results", ["here", "./here/", "file://{folder}/here", "~/here"])
def test_a_plan_names_its_results_as_the_store_does(results: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The driver and its workers tell by this name whether they train for the same folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    plan = Plan(results.format(folder=tmp_path), "sweep")
    assert plan.results == replace(plan, driver="1").results == Store(plan.results).path == str(tmp_path / "here")


# --- the cluster divided ---

NODES = st.lists(
    st.fixed_dictionaries({"CPU": st.integers(0, 96).map(float), "GPU": st.integers(0, 8).map(float)}),
    min_size=1,
    max_size=6,
)


@given(NODES, st.sampled_from([0.5, 1.0, 2.0, 4.0]), st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_shares_fit_and_leave_room_for_evaluation(nodes: list[dict[str, float]], cpus: float, gpus: float) -> None:
    """No deadlock: when all learners have their share, at least one evaluation task of each fits beside them."""
    try:
        share = divide_cluster(nodes, Limits(cpus=cpus, gpus=gpus))
    except UserError:
        wanted = gpus if any(node["GPU"] for node in nodes) else 0
        assert not any(node["CPU"] >= cpus and node["GPU"] >= wanted for node in nodes)
        return
    total = {name: sum(node[name] for node in nodes) for name in ("CPU", "GPU")}
    assert share.at_once >= 1
    assert share.at_once * (share.cpus + share.eval_cpus * share.eval_tasks) <= total["CPU"] + 1e-9
    assert share.at_once * share.gpus <= total["GPU"]
    assert bool(share.gpus) == bool(total["GPU"]) == (share.device == "cuda")


def test_two_cores_train_two_packs_at_a_time() -> None:
    share = divide_cluster([{"CPU": 2.0}], Limits())
    assert (share.at_once, share.device) == (2, "cpu")


def test_fractions_of_a_gpu_are_per_machine() -> None:
    nodes = [{"CPU": 16.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 4.0}, {"CPU": 64.0}]
    assert divide_cluster(nodes, Limits(gpus=0.25)).at_once == 4 + 2
    assert divide_cluster(nodes, Limits(gpus=2)).at_once == 2
    assert divide_cluster([{"CPU": 16.0, "GPU": 2.0}], Limits(gpus=0.4)).at_once == 2 * 2  # a pack's 0.4 is of one GPU
    assert divide_cluster(nodes, Limits(device="cpu")).at_once == 16 + 2 + 64


@given(st.integers(1, 40), st.integers(1, 16), st.one_of(st.none(), st.integers(1, 10)))
def test_packs_hold_every_run_once_and_give_all_cpus_work(count: int, cpus: int, most: int | None) -> None:
    runs = [a_run("lps" if seed % 2 else "flow_bc", seed) for seed in range(count)]
    packs, share = plan_packs(runs, [{"CPU": float(cpus)}], Limits(max_members=most))
    assert sorted(run.id for pack in packs for run in pack) == sorted(run.id for run in runs)
    assert all(len(pack) <= (most or math.inf) and len({run.agent for run in pack}) == 1 for pack in packs)
    assert share.at_once == min(cpus, len(packs)) == min(cpus, count)
    assert [estimate.cost(pack) for pack in packs] == sorted(map(estimate.cost, packs), reverse=True)


def test_an_unknown_rate_is_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, rates in (("cpu", estimate.CPU_SECONDS), ("cuda", estimate.GPU_SECONDS)):
        assert estimate.hours([a_run()], device)
        monkeypatch.delitem(rates, "lps")
        assert estimate.hours([a_run()], device) is None


def test_updates_from_images_are_estimated_by_their_operations_on_a_cpu_only() -> None:
    task = "visual-pointmaze-medium-navigate-singletask-task1-v0"
    usual, twice = (
        estimate.hours([a_run(task=task, steps=10_000, batch_size=batch)], "cpu", 1000) for batch in (128, 256)
    )
    assert usual and twice and 1.5 * usual < twice < 2.5 * usual
    assert estimate.hours([a_run(task=task)], "cuda") is None


def test_a_gpu_trains_a_pack_in_less_than_its_members_alone() -> None:
    pack = [a_run(seed=seed, steps=1_000_000, eval_interval=1_000_000) for seed in range(40)]
    alone, packed = (estimate.hours(runs, "cuda", 15) for runs in (pack[:1], pack))
    assert alone and packed and alone < packed < 10 * alone
    slowed = estimate.hours([a_run(seed=seed, steps=1_000_000, eval_interval=1_000) for seed in range(40)], "cuda", 1)
    assert slowed and slowed > packed  # its evaluators do not keep up


def test_a_plan_for_gpus_needs_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert _planned_nodes(None, "cuda")[0]["GPU"]
    if not torch.cuda.is_available():
        assert "no GPU here" in capsys.readouterr().out


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_has_a_cost(agent: str) -> None:
    assert estimate.cost([a_run(agent)]) > estimate.cost([a_run(agent, **small_hyperparameters(agent))]) > 0


# --- which cluster ---


def _distrust(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that another user may have recorded is not believed."""
    record.chmod(0o666)
    assert cluster.find() == "local"
    record.chmod(0o644)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12345)
        if record.stat().st_uid:  # root's records are believed by everybody
            assert cluster.find() == "local"
    moved = record.rename(record.with_name("elsewhere"))
    record.symlink_to(moved)
    assert cluster.find() == "local"


def test_the_folder_of_ray_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folder = cluster.private_folder()
    folder.chmod(0o777)
    assert cluster.private_folder() == folder and folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(UserError, match="RAY_TMPDIR"):
        cluster.private_folder()


def test_address_asked_for_then_environment_then_what_ray_start_left_then_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert cluster.find() == "local"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    assert cluster.find() == "10.0.0.1:6379"
    _distrust(tmp_path / "ray" / "ray_current_cluster", monkeypatch)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert cluster.find() == "10.0.0.2:6379"
    assert cluster.find("local") == "local"


def test_machines_that_the_autoscaler_may_add_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load((Path(__file__).parent.parent / "cluster.yaml").read_text())
    for name, node_type in config["available_node_types"].items():
        if name != config["head_node_type"]:
            node_type["resources"] = {"CPU": 8, "GPU": 1}  # which `ray up` learns from the cloud
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(config))
    alive = [{"CPU": 0.0, "node:__internal_head__": 1.0}, {"CPU": 8.0, "GPU": 1.0}]
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": node} for node in alive])
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    assert divide_cluster(cluster.nodes(), Limits()).at_once == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    share = divide_cluster(cluster.nodes(), Limits())
    assert (share.device, share.at_once) == ("cuda", config["max_workers"])


# --- the console ---


def test_titles_say_what_is_in_a_pack() -> None:
    tasks = [task.name for task in GROUPS["scene"]]
    runs = [Run.create("dsrl", task, seed) for task in tasks for seed in (0, 1, 2)]
    assert title(runs) == "dsrl scene tasks 1-5 seeds 0-2"
    assert title([runs[0]]) == "dsrl scene task 1 seed 0"
    assert title([runs[0], runs[2]]) == "dsrl scene task 1 seeds 0,2"
    task = "scene-play-singletask-task1-v0"
    packs = [[Run.create("dsrl", task, seed, lr=lr) for seed in (0, 1)] for lr in (0.1, 0.2)]
    assert titles([*packs, [runs[0]]]) == [
        *("dsrl scene task 1 seeds 0-1 lr=0.1", "dsrl scene task 1 seeds 0-1 lr=0.2", "dsrl scene task 1 seed 0")
    ]


def test_console_without_a_terminal_is_lines_about_what_is_new() -> None:
    out = io.StringIO()
    news = {0: {"state": "training", "step": 10, "steps": 40, "rate": 2.0, "eta": 15.0, "success": None, "starts": 1}}
    with Console(["lps a", "dsrl b"], out) as console:
        console.follow(lambda: news)
        console._look()
        console._look()
        news[0] |= {"step": 20, "success": 0.25}
        console._look()
        news[0] |= {"step": 40, "state": "done"}
        news[1] = {"state": "starting", "starts": 3}
        console._look()
        console.follow(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        console._look()
    lines = [line[9:].split("  ") for line in out.getvalue().splitlines()]
    assert [[word.strip() for word in line if word.strip()] for line in lines] == [
        ["lps a", "training", "step 10/40", "2.0 steps/s", "ETA 0:00:15"],
        ["lps a", "training", "step 20/40", "2.0 steps/s", "score 0.25", "ETA 0:00:15"],
        ["lps a", "done", "step 40/40", "score 0.25"],
        ["dsrl b", "starting (restarted 2 times)"],
    ]


def test_console_on_a_terminal_is_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out = Screen()
    with Console(["lps a", "dsrl b"], out) as console:
        console.follow(lambda: {0: {"state": "training", "step": 10, "steps": 40, "rate": 0.0, "eta": math.inf}})
    last = out.getvalue().rpartition("steps/s")[2]
    assert "lps a" in last and "10/40" in last and "dsrl b" in last and "waiting" in last and "1 training" in last
