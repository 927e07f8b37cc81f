"""From a result store to a report: what counts, what is shown, what is said about the rest."""

import hashlib
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from analysis import compare
from analysis.numbers import published as reference
from analysis.numbers import summaries
from analysis.page import html as page
from analysis.page import tables
from analysis.page.table import Table, save
from analysis.plots import PLOTS, style
from analysis.results import version1
from analysis.results.agents import SPARE_COLOURS, SPARE_MARKERS, agents_of
from analysis.results.load import load
from analysis.results.study import Study, planned_steps, spans, study
from lps.agents import AGENTS as REGISTERED
from lps.agents.variants import VARIANTS
from lps.runs.intent import _about_agent
from lps.runs.record import Episode
from lps.runs.run import Run
from lps.runs.store import Store

ROOT = Path(__file__).resolve().parents[1]
EPISODES = 10
ABOUT = {**{name: _about_agent(name, ()) for name in REGISTERED}, **version1.agents()}
AGENTS = agents_of(ABOUT, ABOUT)


def put(
    path: Path,
    agent: str,
    group: str = "cube-single",
    task: int = 1,
    seed: int = 0,
    curve: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4),
    status: str = "done",
    error: str | None = None,
    commit: str = "",
    fingerprint: str = "",
    **changes: object,
) -> str:
    """Writes a run with evaluations every 1000 of 4000 updates, their success rates as in `curve`; its id."""
    hyperparameters = changes.pop("hyperparameters", {"lr": 3e-4})
    run = {
        "agent": agent,
        "task": "ring-bandit-v0" if group == "ring" else f"{group}-play-singletask-task{task}-v0",
        "seed": seed,
        "steps": 4000,
        "hyperparameters": hyperparameters,
        "dataset": f"{group}-play-v0",
        "eval_interval": 1000,
        "eval_episodes": EPISODES,
        "success_timing": "post",
        **changes,
    }
    run_id = hashlib.sha256(repr(run).encode()).hexdigest()[:16]
    store = Store(path)
    document = {"id": run_id, "run": run, "status": status, "step": 1000 * len(curve), "error": error}
    versions = {"python": "3.12.3", "torch": "2.13.0"} | ({"git_commit": commit} if commit else {})
    store.write_run({**document, "versions": versions, "updated": "2026-01-02", "dataset_fingerprint": fingerprint})
    for i, success in enumerate(curve):
        wins = round(success * EPISODES)
        store.write_episodes(run_id, 1000 * (i + 1), [Episode(k, k, k < wins, -1.0, 20) for k in range(EPISODES)])
    return run_id


def fill(path: Path, agents: tuple[str, ...] = ("lps", "flow_bc"), groups=("cube-single",), tasks=(1, 2), seeds=3):
    """Finished runs of every agent with scores that differ by agent, task and seed."""
    for (i, agent), group, task, seed in itertools.product(enumerate(agents), groups, tasks, range(seeds)):
        success = 0.8 - 0.3 * (i % 3) - 0.1 * (task % 2) + 0.1 * (seed % 2)
        put(path, agent, group, task, seed, (0.1, success, success, success))
    return path


def studied(path: Path, include_unfinished: bool = False) -> Study:
    return study(load(str(path)), include_unfinished)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("finished"), ("lps", "dsrl", "flow_bc", "meanflow_bc"))


# -- scores and what counts


@pytest.mark.parametrize(
    "curve, steps, score", [((1.0, 0.2, 0.3, 0.4), 4000, 0.3), ((0.9, 0.5), 2000, 0.7), ((0.6,), 500, 0.6)]
)
def test_score_is_the_mean_of_the_last_three_evaluations(tmp_path, curve, steps, score):
    put(tmp_path, "lps", curve=curve, steps=steps, eval_interval=min(steps, 1000))
    if steps == 500:  # the only evaluation is the one at the end
        folder = next((tmp_path / "episodes").iterdir())
        shutil.rmtree(folder)
        rows = [Episode(k, k, k < 6, 0.0, 1) for k in range(EPISODES)]
        Store(tmp_path).write_episodes(folder.name, 500, rows)
    here = studied(tmp_path)
    assert here.runs["score"].item() == pytest.approx(score)
    assert here.runs["scored"].item()


@pytest.mark.parametrize("steps, interval", [(1_000_000, 100_000), (30_000, 7_000), (500, 1_000), (1000, 1000)])
def test_planned_evaluations_are_those_of_the_run(steps, interval):
    run = Run.create("lps", "cube-single-play-singletask-task1-v0", steps=steps, eval_interval=interval)
    assert planned_steps(steps, interval) == run.eval_steps


def test_unfinished_runs_are_listed_and_do_not_count(tmp_path):
    traceback = "Traceback (most recent call last):\n  ...\nRuntimeError: the loss is NaN\n"
    put(tmp_path, "lps", seed=0)
    put(tmp_path, "lps", seed=1, status="failed", error=traceback, curve=(0.9, 0.9))
    put(tmp_path, "lps", seed=2, status="running", curve=(0.9,))
    put(tmp_path, "lps", seed=3, curve=(0.9, 0.9, 0.9))
    put(tmp_path, "flow_bc", seed=4)
    here = studied(tmp_path)
    row = summaries.by_group(here).set_index("series").loc["lps"]
    assert row["mean"] == pytest.approx(0.3)
    assert (row["runs_scored"], row["runs_planned"]) == (1, 5)
    gaps = here.gaps.set_index(["series", "seeds"])
    assert gaps.loc[("lps", "1"), ["state", "reason"]].tolist() == ["failed", "RuntimeError: the loss is NaN"]
    assert gaps.loc[("lps", "2"), "state"] == "running"
    assert gaps.loc[("lps", "3"), "reason"] == "1 of 4 evaluations missing or short (at 4,000)"
    assert gaps.loc[("lps", "4"), "state"] == "absent"
    assert gaps.loc[("flow_bc", "0-3"), "runs"] == 4
    assert "LPS†" in tables.success(here).text()
    assert "LPS on cube-single: 1 of 5 runs" in summaries.shortfall(here)

    everything = summaries.by_group(studied(tmp_path, include_unfinished=True)).set_index("series").loc["lps"]
    assert everything["runs_scored"] == 4
    assert everything["mean"] == pytest.approx(np.mean([0.3, 0.9, 0.9, 0.9]))


@pytest.mark.parametrize("step, counts", [(1000, True), (2000, False), (4000, False)])
def test_only_a_hole_among_the_last_evaluations_spoils_a_score(tmp_path, step, counts):
    run_id = put(tmp_path, "lps")
    (tmp_path / "episodes" / run_id / f"{step:09d}.parquet").unlink()
    here = studied(tmp_path)
    assert bool(here.runs["scored"].item()) is counts
    assert here.gaps["state"].tolist() == ["incomplete"]


def test_a_short_evaluation_is_not_complete(tmp_path):
    run_id = put(tmp_path, "lps")
    Store(tmp_path).write_episodes(run_id, 4000, [Episode(0, 0, True, 0.0, 1)])
    assert not studied(tmp_path).runs["scored"].item()


def test_settings_are_never_averaged(tmp_path):
    put(tmp_path, "lps", seed=0, hyperparameters={"lr": 1e-3})
    put(tmp_path, "lps", seed=0, hyperparameters={"lr": 3e-4})
    put(tmp_path, "flow_bc", seed=0)
    here = studied(tmp_path)
    assert list(here.series) == ["flow_bc", "lps", "lps (lr=0.001)"]
    assert len({style.colour(here, series) for series in here.series.values()}) == 3


def test_a_setting_per_group_is_one_series(tmp_path):
    put(tmp_path, "qcfql", "cube-single", hyperparameters={"alpha": 30.0})
    put(tmp_path, "qcfql", "cube-double", hyperparameters={"alpha": 3.0})
    assert list(studied(tmp_path).series) == ["qcfql"]


def test_groups_weigh_the_same_in_the_average(tmp_path):
    for task in range(1, 6):
        put(tmp_path, "lps", "cube-single", task, curve=(1.0,) * 4)
    put(tmp_path, "lps", "scene", curve=(0.0,) * 4)
    put(tmp_path, "dsrl", "scene")
    data = summaries.by_group(studied(tmp_path))
    average = data[data["group"] == "average"]
    assert average["series"].tolist() == ["lps"], "an agent that lacks a group has no average"
    assert average["mean"].item() == pytest.approx(0.5)
    expected = np.mean([reference.published(AGENTS["lps"], group).mean for group in ("cube-single", "scene")])
    assert average["published_mean"].item() == pytest.approx(expected)


def test_curves_and_differences_match_the_scores(finished):
    here = studied(finished)
    data = summaries.by_group(here).set_index("series")
    last = summaries.curves(here).groupby("series").last()
    gaps = summaries.differences(here).set_index(["series", "versus"])
    for key in here.series:
        assert last.loc[key, "mean"] == pytest.approx(data.loc[key, "mean"])
    for (key, versus), row in gaps.iterrows():
        assert row["difference"] == pytest.approx(data.loc[key, "mean"] - data.loc[versus, "mean"])
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["paired"] == pytest.approx(row["difference"])
    assert set(gaps.index) == set(itertools.product(("lps", "dsrl"), ("flow_bc", "meanflow_bc")))


def test_small_helpers():
    assert spans([0, 1, 2, 5]) == "0-2, 5"


# -- published numbers and looks


def test_published_numbers():
    assert reference.published(AGENTS["lps"], "cube-single").mean == 0.9503
    assert reference.published(AGENTS["lps"], "scene").mean == 0.7905, "our scene tasks are the sparse ones"
    assert reference.published(AGENTS["best_of_n"], "cube-double").mean == pytest.approx(0.664)
    assert reference.published(AGENTS["flow_bc"], "cube-single") is None
    by_qam = {
        group: reference.published(AGENTS["dsrl_sac"], group) for group in ("cube-double", "scene", "cube-single")
    }
    assert [value and value.mean for value in by_qam.values()] == [0.74, pytest.approx(0.994), None]
    assert reference.published(AGENTS["dsrl"], "cube-double").mean == 0.0585, "LPS's figure"


def test_the_best_published_number_is_of_the_same_problem():
    """The same tasks, reward and size of dataset, at the end of training; whoever is higher at second hand is named."""
    (single,) = reference.records("cube-single")
    assert (single.what, single.by, single.mean) == ("record", "DSRL", 0.9931)
    (double,) = reference.records("cube-double")
    assert (double.what, double.by, double.mean) == ("record", "DSRL (QAM)", 0.74)
    assert (double.low, double.high) == (0.72, 0.76)
    assert "exp_data" in double.protocol and "one evaluation at the end" in double.protocol
    (scene,) = reference.records("scene")
    assert (scene.by, scene.mean) == ("DSRL (QAM)", pytest.approx(0.994))
    (task,) = reference.records("scene", "task1")
    assert "sparse" not in task.protocol and "FQL" not in task.protocol, "FQL's scene has another reward"
    higher, first = reference.records("puzzle-4x4")
    assert [(one.what, one.by, one.mean) for one in (higher, first)] == [
        ("second-hand", "MAC", 0.78),
        ("record", "PCBF", 0.3),
    ]
    assert "reproduces only 53" in first.protocol and first.low == pytest.approx(0.26)
    idql = next(
        r for r in reference._rows("other_papers.csv") if (r["method"], r["env_group"]) == ("IDQL", "puzzle-4x4")
    )
    assert "3M updates instead of 1M" in reference._record(idql).protocol
    assert reference.records("cube-quadruple") == [], "known on 100M transitions only"
    assert " more" in reference.records("puzzle-3x3", "task1")[-1].by, "not the only one at 100 %"
    for group, task in (("cube-double", "task2"), ("cube-triple", "task2"), ("scene", "task5")):
        assert all("online" not in one.protocol for one in reference.records(group, task)), "MVP and QC are higher"
    assert reference.records("ring") == reference.records("puzzle-4x5", "task1") == []


def test_ours_stand_beside_the_best_published_number(tmp_path):
    fill(tmp_path, ("lps", "dsrl", "flow_bc"), ("cube-single", "puzzle-4x5"))
    here = studied(tmp_path)
    table = tables.published(here)
    rows = {(row[0], row[1]): row for row in table.rows}
    assert list(rows) == [(g, t) for g in ("cube-single", "puzzle-4x5") for t in ("all", "task1", "task2")]
    ours = summaries.by_group(here).set_index(["series", "group"]).loc[("lps", "cube-single"), "mean"]
    group, task = rows["cube-single", "all"], rows["cube-single", "task1"]
    assert group[2].startswith(f"{100 * ours:.1f} [") and group[3].startswith(f"LPS {100 * ours:.1f} [")
    assert group[4].startswith("95.0 [92.8, 97.0]") and group[5].startswith("DSRL 99.3 [98.3, 99.8]")
    assert task[4] == "" and task[5].startswith("FQL 97.0 [95.0, 99.0]"), "LPS's figure has no tasks"
    assert rows["puzzle-4x5", "all"][4:] == ["", "none known"]
    marks = {note.split(")")[0][1:]: note for note in table.notes if re.match(r"\([a-z]\)", note)}
    own = [marks[letter] for letter in re.search(r"\(([a-z,]+)\)", group[2])[1].split(",")]
    assert any("4,000 updates" in note for note in own) and any("2 of 5 tasks of cube-single" in note for note in own)
    assert not any("of 5 tasks" in marks[letter] for letter in re.search(r"\(([a-z,]+)\)", task[2])[1].split(","))
    assert "Table 3" in marks[task[5][-2]] and "number of seeds" in marks[group[5][-2]]
    assert list(table.data.columns) == summaries.BESIDE and table.data["mean"].between(0, 1).all()


def test_where_nothing_is_published_the_table_says_so(tmp_path):
    fill(tmp_path, ("dsrl", "flow_bc"), ("ring",))
    table = tables.published(studied(tmp_path))
    assert {tuple(row[4:]) for row in table.rows} == {("", "none known")}
    assert {row[2] for row in table.rows} == {""}, "no LPS here"
    assert any("no overlap" in note for note in table.notes)


@pytest.mark.parametrize("agent", [agent for agent in AGENTS.values() if agent.published], ids=lambda agent: agent.name)
def test_every_published_name_is_in_the_reference(agent):
    value = reference.published(agent, "cube-double")
    assert value is not None and 0 <= value.low <= value.mean <= value.high <= 1


def test_every_registered_agent_has_a_place():
    """With a marker of its own; the agents of version 1 still have their titles and colours."""
    assert not {agent.marker for agent in AGENTS.values()} & set(SPARE_MARKERS)
    assert len({agent.marker for agent in AGENTS.values()}) == len(AGENTS)
    for name, agent in REGISTERED.items():
        assert (AGENTS[name].title, AGENTS[name].colour) == (agent.title, agent.colour)


# Linear RGB as people with no, red-blind and green-blind vision see it (Machado et al. 2009).
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


@pytest.mark.parametrize("vision", VISION)
def test_colours_can_be_told_apart(vision):
    """By a distance of 12 in CIELAB; about 2 is just noticeable side by side."""
    colours = [agent.colour for agent in AGENTS.values()] + SPARE_COLOURS
    rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz_of_rgb = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.clip(linear @ np.array(VISION[vision]).T, 0, 1) @ xyz_of_rgb.T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)]
    assert min(distances) > 12


def test_unknown_agents_get_the_next_colours():
    agents = agents_of(["lps", "zeta", "my_bc"], {"zeta": {"title": "Zeta", "imitation": False}})
    assert list(agents) == ["lps", "my_bc", "zeta"]
    assert [agents[name].colour for name in ("my_bc", "zeta")] == SPARE_COLOURS[:2]
    assert agents["my_bc"].imitation and not agents["zeta"].imitation
    assert (agents["zeta"].title, agents["my_bc"].title) == ("Zeta", "my_bc")
    assert agents_of(["zeta"], {"zeta": {"colour": "#123456"}})["zeta"].colour == "#123456"


# -- figures and tables, whatever there is to show

CASES = {
    "usual": {},
    "one seed": {"seeds": 1},
    "one task, two seeds": {"tasks": (1,), "seeds": 2},
    "no spread": {"tasks": (1,), "seeds": 1, "extra": [("lps", 2, 0.7)]},
    "one agent": {"agents": ("lps",)},
    "many variants": {"agents": (), "variants": True},
    "not everyone everywhere": {"groups": ("cube-single", "scene"), "missing": ("flow_bc", "scene")},
    "unknown agents and groups": {"agents": ("mine", "other_bc"), "groups": ("kitchen-mixed", "cube-double")},
}


PAIRS = {"differences", "improvement"}  # figures that need two agents
EMPTY = {
    "ablations",
    "sensitivity",
    "landscape",
    "latents",
    "budget",
    "importances",
    "data_scaling",
    "compute",
    "flops",
    "ring",
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> Study:
    options = dict(CASES[request.param])
    extra, variants, missing = (options.pop(name, ()) for name in ("extra", "variants", "missing"))
    path = fill(tmp_path_factory.mktemp("case"), **options)
    if variants:
        for agent, seed in itertools.product(sorted(VARIANTS), range(2)):
            own = {**ABOUT[agent]["defaults"], "meanflow_form": "noise_to_action"}
            for settings in ({}, *VARIANTS[agent].values()):
                put(path, agent, seed=seed, hyperparameters={**own, **settings})
    for document in list((path / "runs").iterdir()) if missing else []:
        if all(name in document.read_text() for name in missing):
            document.unlink()
    for agent, seed, success in extra:
        put(path, agent, seed=seed, curve=(success,) * 4)
    return studied(path)


@pytest.mark.filterwarnings("error")  # matplotlib's way to say that something has no room
@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_can_be_drawn(case, name, tmp_path):
    with style.styled():
        plot = PLOTS[name](case)
        if plot is None:
            assert name in EMPTY | {"tasks"} | (PAIRS if len(case.series) == 1 else set())
            return
        paths = style.save(plot, tmp_path, name)
    assert [path.suffix for path in paths] == [".png", ".pdf", ".csv", ".txt"]
    assert all(path.stat().st_size > 500 or path.suffix in (".csv", ".txt") for path in paths)
    assert len(pd.read_csv(paths[2])) == len(plot.data) > 0
    assert plot.title and plot.caption


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_table_can_be_written(case, name, tmp_path):
    table = tables.TABLES[name](case)
    paths = save(table, tmp_path, name)
    assert [path.suffix for path in paths] == [".md", ".tex", ".csv"]
    assert all(len(row) == len(table.header) for row in table.rows)
    body = [line for line in table.markdown().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in body} == {len(table.header) + 1}
    latex = paths[1].read_text(encoding="utf-8")
    assert latex.count("{") == latex.count("}") and r"\toprule" in latex
    assert "_" not in latex.replace(r"\_", "").replace(f"tab:{name}", "")
    assert "nan" not in table.text()


def test_a_single_seed_is_said_and_gets_no_interval(tmp_path):
    table = tables.success(studied(fill(tmp_path, seeds=1)))
    assert table.data["low"].isna().all() and table.data["high"].isna().all()
    assert all(row[2].endswith("(n=1)") for row in table.rows)


def test_latex_escapes():
    table = Table("100 % of a_b", ["x"], [["-1 & #"], ["3-5"], ["a^b†"]], pd.DataFrame(), text_columns=1)
    latex = table.latex("t")
    for expected in (r"100 \% of a\_b", r"$-$1 \& \#", "3--5", r"a\textasciicircum{}b\textdagger{}"):
        assert expected in latex


# -- the command


def test_command_writes_everything_and_says_where(finished, tmp_path, capsys):
    assert compare.main([str(finished), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "LPS" in out and "cube-single" in out and "success.md" in out
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert files == {
        *(f"figures/{name}.{suffix}" for name in PLOTS.keys() - EMPTY for suffix in style.SUFFIXES),
        *(f"tables/{name}.{suffix}" for name in tables.TABLES for suffix in ("md", "tex", "csv")),
    }
    success = (tmp_path / "out" / "tables" / "success.md").read_text(encoding="utf-8")
    assert "4,000 updates (published: 1,000,000)" in success


def test_a_value_beside_a_published_one_says_which_hyperparameters_are_its_own(tmp_path):
    for agent, own in {
        "lps": {"base_hidden": [64, 64]},
        "best_of_n": {"num_samples": 4},
        "qcfql": {"alpha": 30.0},
    }.items():
        put(tmp_path, agent, hyperparameters={"lr": 3e-4, **own})
    put(tmp_path, "dsrl", hyperparameters={"lr": 1e-3})
    put(tmp_path, "dsrl", hyperparameters={"lr": 3e-4})
    here = studied(tmp_path)
    marks = {
        key: [text for text in summaries.protocol_differences(here, key, "cube-single") if "default" in text]
        for key in here.series
    }
    assert marks.pop("lps") == ["base_hidden [64, 64] (default: [512, 512, 512, 512])"]
    assert marks.pop("best_of_n") == ["num_samples 4 (default: 32)"]
    assert marks.keys() == {"qcfql", "dsrl", "dsrl (lr=0.001)"}
    assert not any(marks.values()), "tuned for the group in the paper; the default; told by its title"


def test_every_figure_of_rivals_says_which_hyperparameters_are_not_the_defaults(tmp_path):
    for seed in range(2):
        put(tmp_path, "flow_bc", seed=seed, hyperparameters={})
        put(tmp_path, "lps", seed=seed, hyperparameters={"lr": 3e-4})
        put(tmp_path, "best_of_n", seed=seed, hyperparameters={"lr": 3e-4, "num_samples": 4})
    here = studied(tmp_path)
    assert summaries.small_print(here) == ["QC best-of-4: num_samples 4 (default: 32)."]
    found = set()
    with style.styled():
        for name, draw in PLOTS.items():
            plot = draw(here)
            texts = {text.get_text() for text in plot.figure.findobj(Text)} if plot else set()
            if "QC best-of-4" in texts:
                found.add(name)
                assert "QC best-of-4: num_samples 4 (default: 32)." in plot.notes, name
                assert not any("num_samples" in text for text in texts), "notes belong to the caption"
    assert {"success", "curves", "profiles", "aggregates", "improvement", "differences"} <= found


def test_half_written_files_are_named_and_left_out(tmp_path, capsys):
    fill(tmp_path, tasks=(1,))
    run_id = put(tmp_path, "lps", seed=9)
    episodes = tmp_path / "episodes" / run_id / "000004000.parquet"
    episodes.write_bytes(episodes.read_bytes()[:100])
    (tmp_path / "runs" / "ffff.json").write_text('{"id": "ffff", "ru')
    assert compare.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{run_id}/000004000.parquet" in out and "ffff.json" in out and "incomplete" in out
    assert "3 of 4" in out and f"{run_id}/000004000.parquet" in page.render(studied(tmp_path))


def broken(path: Path, how: str) -> list[str]:
    """Makes results that cannot be shown; the arguments to show them."""
    if how == "nothing there":
        return [str(path / "nowhere")]
    if how == "no schema":
        (path / "notes.txt").write_text("x")
    elif how == "other schema":
        (path / "schema.json").write_text('{"schema": 99}')
    elif how == "several stores":
        fill(path / "a", seeds=1)
        fill(path / "b", seeds=1)
    elif how == "no runs":
        Store(path)
    elif how == "no episodes":
        put(path, "lps", curve=(), status="running")
    elif how == "nothing finished":
        put(path, "lps", curve=(0.5,), status="running")
    elif how == "foreign documents":
        Store(path).write_run({"id": "aa", "run": {"agent": "lps"}, "status": "done"})
    elif how == "no place to write":
        fill(path, seeds=1)
        (path / "file").write_text("")
        return [str(path), "--out", str(path / "file")]
    return [str(path)]


@pytest.mark.parametrize(
    "how, message",
    {
        "nothing there": "there are no results",
        "no schema": "has no schema.json",
        "other schema": "schema 99",
        "several stores": "name one of them",
        "no runs": "no runs in",
        "no episodes": "no finished run",
        "nothing finished": "--include-unfinished",
        "foreign documents": "does not say run.task, run.seed, run.steps",
        "no place to write": "choose another --out",
    }.items(),
)
def test_what_cannot_be_shown_is_a_message_and_code_2(tmp_path, capsys, how, message):
    assert compare.main(broken(tmp_path, how)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err


def test_unfinished_runs_can_be_shown_on_request(tmp_path, capsys):
    put(tmp_path, "lps", curve=(0.5,), status="running")
    assert compare.main([str(tmp_path), "--include-unfinished"]) == 0
    assert "50.0" in capsys.readouterr().out
    assert "Unfinished runs are included" in page.render(studied(tmp_path, include_unfinished=True))


def test_it_starts_as_a_file_from_anywhere(tmp_path):
    command = [sys.executable, str(ROOT / "analysis" / "compare.py"), "nowhere"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr
