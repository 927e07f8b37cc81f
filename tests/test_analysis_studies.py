"""Ablations, budgets of tuning, and what the sweeps wrote down: figures and tables of the studies."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from test_analysis import put, studied

from analysis.__main__ import main
from analysis.numbers import ablations, budgets, summaries
from analysis.page import provenance, tables
from analysis.plots import PLOTS, style
from analysis.plots.landscape import strongest
from analysis.results import settings, version1
from lps.agents.variants import PANELS, VARIANTS
from lps.runs.intent import write_intent
from lps.runs.record import Episode, Status
from lps.runs.store import Store

BASE = {"lr": 3e-4, "critic_agg": "min", "latent_dist": "sphere", "meanflow_form": "noise_to_action"}


def put_bar(path, bar, success, **changes):
    agent, _, variant = bar.partition(":")
    base = version1.agents()[agent]["defaults"]
    hyperparameters = {**base, **(VARIANTS[agent][variant] if variant else {})}
    for seed in range(2):
        put(path, agent, seed=seed, curve=(success,) * 4, hyperparameters=hyperparameters, **changes)


def test_every_panel_is_drawn_from_its_variants(tmp_path):
    bars = dict.fromkeys(bar for panel in PANELS.values() for bar in panel.bars)
    for i, bar in enumerate(bars):
        put_bar(tmp_path, bar, 0.1 * (i % 10))
    here = studied(tmp_path)
    data = ablations.panels(here)
    assert {name: list(rows["bar"]) for name, rows in data.groupby("panel", sort=False)} == {
        name: list(panel.bars) for name, panel in PANELS.items()
    }
    for row in data.to_dict("records"):
        assert row["mean"] == pytest.approx(0.1 * (list(bars).index(row["bar"]) % 10))
    known = data.dropna(subset="published_mean").set_index(["panel", "bar"])["published_mean"]
    assert known["b", "lps:normal"] == 0.039 and known["d", "fm_lps"] == 0.539 and ("matched", "dsrl") not in known
    assert set(settings.compared_series(here)) == set(here.series), "variants are rivals, in numbers too"
    titles = {here.series[key].title for key in settings.plotted_series(here)}
    assert titles == {"QC-FQL", "QC-MFQL", "QC best-of-32", "DSRL", "FM-LPS", "LPS"}, "too many for a figure"
    assert {"LPS (truncated normal)", "FM-LPS (one step)", "DSRL (matched)"} < {
        series.title for series in here.series.values()
    }
    with style.styled():
        plot = PLOTS["ablations"](here)
    titles = [axes.get_title(loc="left") for axes in plot.figure.get_axes() if axes.get_visible()]
    assert [title.removeprefix(f"({name}) ") for title, name in zip(titles, PANELS, strict=True)] == [
        panel.title for panel in PANELS.values()
    ]


def test_the_size_of_the_latent_is_drawn_along_training(tmp_path):
    """Two tasks of lps and lps:normal, one of lps:truncated_normal, which logged nothing on the other."""
    sizes = {"lps": 1.0, "lps:normal": 100.0, "lps:truncated_normal": 3.0}
    for bar in sizes:
        for task in (1, 2):
            put_bar(tmp_path, bar, 0.5, task=task)
    here = studied(tmp_path)
    assert PLOTS["latents"](here) is None, "nothing was logged"
    for run_id, run in here.runs.iterrows():
        bar = f"lps:{run['variant']}" if run["variant"] else "lps"
        if (bar, run["short"]) != ("lps:truncated_normal", "task2"):
            value = sizes[bar] * 4 ** run["seed"]  # the geometric mean of two seeds is the double
            rows = [{"step": step, "metric": "latent_size", "value": value} for step in (1000, 2000)]
            late = [{"step": 3000, "metric": "latent_size", "value": value}] if run["seed"] else []
            noise = [{"step": 1000, "metric": "critic_loss", "value": float("nan")}]
            Store(tmp_path).write_metrics(run_id, 1, rows + late + noise)
    data = ablations.latent_sizes(here)
    assert list(dict.fromkeys(data["bar"])) == list(PANELS["b"].bars)
    assert set(data["step"]) == {1000, 2000}, "a step that only some runs have logged is left out"
    assert (data["n_tasks"] == 1).all() and (data["n_seeds_min"] == 2).all()
    for row in data.to_dict("records"):
        assert row["mean"] == pytest.approx(2 * sizes[row["bar"]])
        assert sizes[row["bar"]] <= row["low"] < row["mean"] < row["high"] <= 4 * sizes[row["bar"]]
    with style.styled():
        plot = PLOTS["latents"](here)
    assert plot.figure.get_axes()[0].get_yscale() == "log"
    assert "3.4-3.5 throughout" in plot.caption and "look swapped" in plot.caption


def test_nothing_published_stands_beside_the_ring_bandit(tmp_path):
    for bar in ("lps", "lps:normal"):
        put_bar(tmp_path, bar, 0.5, group="ring")
    data = ablations.panels(studied(tmp_path))
    assert len(data) == 2 and data["published_mean"].isna().all()


def test_bars_are_compared_on_the_tasks_that_all_of_them_have(tmp_path):
    put_bar(tmp_path, "lps", 0.8, task=1)
    put_bar(tmp_path, "lps", 0.2, task=2)
    put_bar(tmp_path, "lps:normal", 0.5, task=1)
    data = ablations.panels(studied(tmp_path)).set_index("bar")
    assert data.loc["lps", "mean"] == pytest.approx(0.8) and data.loc["lps", "n_tasks"] == 1


def test_what_departs_in_anything_else_is_no_variant(tmp_path):
    for seed in range(2):
        put(tmp_path, "lps", seed=seed, hyperparameters=BASE)
        put(tmp_path, "lps", seed=seed, hyperparameters=BASE | {"latent_dist": "normal", "lr": 1e-3})
    here = studied(tmp_path)
    assert set(here.runs["variant"]) == {"", None}
    assert ablations.panels(here).empty and "ablations" not in drawn(here)


def drawn(study):
    with style.styled():
        return {name for name, draw in PLOTS.items() if draw(study) is not None}


def joint(path, agents=("lps", "dsrl"), points=6, seeds=4, tasks=(1,)):
    """A default and a joint design over lr and tau in which success follows lr, and falls with odd seeds."""
    rng = np.random.default_rng(0)
    for agent, seed, task in itertools.product(agents, range(seeds), tasks):
        put(path, agent, seed=seed, task=task, curve=(0.5,) * 4, hyperparameters={"lr": 3e-4, "tau": 0.005})
    for i, tau in enumerate(10 ** rng.uniform(-3, -1, points)):
        for agent, seed, task in itertools.product(agents, range(seeds), tasks):
            own = {"lr": 1e-4 * (i + 5), "tau": float(tau)}
            put(path, agent, seed=seed, task=task, curve=(0.1 * i + 0.1 * (seed % 2),) * 4, hyperparameters=own)
    return studied(path)


def test_a_configuration_is_chosen_by_one_half_of_the_seeds_and_judged_by_the_other(tmp_path):
    here = joint(tmp_path)
    points = budgets.configurations(here)
    assert len(points) == 12 and set(points["choosing_seeds"]) == set(points["judging_seeds"]) == {2}
    lps = points[points["agent"] == "lps"].sort_values("score")
    np.testing.assert_allclose(lps["score"], 0.1 * np.arange(6) + 0.05)
    curve = budgets.budget(here)
    lps = curve[curve["agent"] == "lps"]
    assert list(lps["k"]) == list(range(1, 7))
    assert lps["mean"].iloc[0] == pytest.approx(0.3) and lps["mean"].iloc[-1] == pytest.approx(0.55)
    assert (lps["low"] <= lps["mean"] + 1e-9).all() and (lps["mean"] <= lps["high"] + 1e-9).all()
    row = budgets.robustness(here).set_index("agent").loc["lps"]
    assert (row["default"], row["random"], row["best"]) == pytest.approx((0.5, 0.3, 0.55))
    assert row["area"] == pytest.approx(lps["mean"].mean()) and row["near_best"] == pytest.approx(1 / 6)
    assert {"budget", "landscape"} <= drawn(here)
    assert "LPS" in tables.robustness(here).markdown()


def test_best_of_k_is_the_mean_over_all_ways_to_draw_k():
    rng = np.random.default_rng(1)
    chosen, judged = rng.permutation(6) / 6, rng.random(6)
    for k, value in enumerate(budgets.best_of(chosen, judged), start=1):
        draws = [max(draw, key=lambda i: chosen[i]) for draw in itertools.combinations(range(6), k)]
        assert value == pytest.approx(np.mean(judged[draws]))
    assert budgets.best_of(np.array([1.0, 1.0]), np.array([0.0, 1.0])) == pytest.approx([0.5, 0.5]), "a tie is a coin"


def test_luck_in_choosing_is_not_counted(tmp_path):
    """Pure noise: whoever reported the score that chose would see it grow with the budget."""
    rng = np.random.default_rng(2)
    chosen, judged = rng.random((2, 400, 20))
    naive = np.mean([budgets.best_of(row, row) for row in chosen], axis=0)
    honest = np.mean([budgets.best_of(*rows) for rows in zip(chosen, judged, strict=True)], axis=0)
    assert naive[-1] > 0.9 and abs(honest - 0.5).max() < 0.06


def test_a_single_seed_has_no_judge_and_few_points_no_curve(tmp_path):
    assert budgets.budget(joint(tmp_path / "one", seeds=1)).empty
    few = joint(tmp_path / "few", points=3)
    assert budgets.configurations(few).empty and not {"budget", "landscape"} & drawn(few)


def test_the_landscape_is_over_what_matters():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.random((30, 4)), columns=["alpha", "discount", "lr", "tau"])
    assert strongest(table, table["lr"].to_numpy())[0] == "lr"
    assert strongest(table, np.zeros(30)) == ("alpha", "discount")


def test_importances_are_those_that_the_tuning_study_wrote(tmp_path):
    put(tmp_path, "lps")
    put(tmp_path, "qcfql")
    assert "importances" not in drawn(studied(tmp_path))
    store = Store(tmp_path)
    trials = [{"state": "COMPLETE", "params": {}, "value": 0.5}] * 9 + [{"state": "PRUNED"}] * 3
    for agent, shares in {"lps": {"lr": 0.9, "tau": 0.1}, "qcfql": {"alpha": 0.7, "lr": 0.3}}.items():
        found = {"agent": agent, "importances": shares, "trials": trials, "held_out": {}}
        store.write_study(f"tuning-{agent}", found)
    with style.styled():
        plot = PLOTS["importances"](studied(tmp_path))
    assert dict(zip(plot.data["hyperparameter"] + plot.data["agent"], plot.data["importance"], strict=True)) == {
        **{"lrlps": 0.9, "taulps": 0.1},
        **{"alphaqcfql": 0.7, "lrqcfql": 0.3},
    }
    colours = {to_rgb(patch.get_facecolor()) for patch in plot.figure.get_axes()[0].patches}
    assert len(colours) == 2
    assert set(plot.data["trials"]) == {9}, "what was pruned has no part in it"


def test_a_tuning_study_is_its_held_out_comparison_and_no_crowd_of_rivals(tmp_path):
    """Five trials of two agents on two seeds; on two others the best, and a default that is not the declared one."""
    store = Store(tmp_path)
    for agent, gain in (("lps", 0.2), ("dsrl", -0.1)):
        trials = [{"lr": 1e-4 * (i + 1), "tau": 0.01 + 0.001 * i} for i in range(5)]
        for i, params in enumerate(trials):
            for seed in range(2):
                put(tmp_path, agent, seed=seed, curve=(0.1 * i,) * 4, hyperparameters={**params, "batch_size": 64})
        ids = {
            name: [
                put(tmp_path, agent, seed=100 + k, curve=(score + 0.1 * k,) * 4, hyperparameters=own) for k in range(2)
            ]
            for name, score, own in (
                ("default", 0.5, {"lr": 1e-3, "tau": 0.005, "batch_size": 64}),
                ("best", 0.5 + gain, {**trials[4], "batch_size": 64}),
            )
        }
        told = [{"number": i, "params": p, "value": 0.1 * i, "state": "COMPLETE"} for i, p in enumerate(trials)]
        told.append({"number": 5, "params": {"lr": 0.1, "tau": 0.1}, "value": 0.9, "state": "PRUNED"})
        store.write_study(f"tuning-{agent}", {"agent": agent, "importances": {}, "trials": told, "held_out": ids})
    here = studied(tmp_path)
    assert set(settings.compared_series(here)) == {"lps", "dsrl"}
    assert here.gaps.empty, "no trial lacks the held-out seeds"
    assert budgets.configurations(here).empty
    assert not {"budget", "landscape"} & drawn(here), "where a tuner looked is no draw at random"
    table = tables.tuned(here)
    rows = {row["agent"]: row for row in table.data.to_dict("records")}
    assert rows["lps"]["difference"] == pytest.approx(0.2) and rows["dsrl"]["difference"] == pytest.approx(-0.1)
    assert rows["lps"]["default_mean"] == pytest.approx(0.55) and rows["lps"]["best_mean"] == pytest.approx(0.75)
    assert table.rows[0][1] == "lr 0.0005, tau 0.014" and table.rows[0][5] == "6 (1 pruned)"
    assert "flatter" in table.notes[0]
    assert tables.tuned(studied_without(tmp_path / "none")).notes == ["Nothing was tuned: this needs a tuning study."]


def test_a_tuning_study_in_its_midst_has_nothing_to_compare(tmp_path):
    trials = [{"lr": 1e-4 * (i + 1), "tau": 0.01 + 0.001 * i} for i in range(5)]
    for i, seed in itertools.product(range(4), range(2)):
        put(tmp_path, "lps", seed=seed, curve=(0.1 * i,) * 4, hyperparameters=trials[i])
    told = [{"number": i, "params": p, "value": None, "state": "RUNNING"} for i, p in enumerate(trials)]
    Store(tmp_path).write_study("tuning-lps", {"agent": "lps", "importances": {}, "trials": told, "held_out": {}})
    here = studied(tmp_path)
    assert settings.compared_series(here) == [] and tables.tuned(here).data.empty and budgets.configurations(here).empty
    assert not {"success", "curves", "budget", "landscape"} & drawn(here)
    assert "LPS: under way, 0 of the 5 trials so far" in tables.tuned(here).notes[0]
    assert main(["report", str(tmp_path)]) == 0 and main(["compare", str(tmp_path)]) == 0
    put(tmp_path, "lps", curve=(0.5,) * 4, hyperparameters={"lr": 3e-4, "tau": 0.005})
    here = studied(tmp_path)
    assert settings.compared_series(here) == ["lps"], "an ordinary run among them is what it is"
    series = here.series["lps"]
    assert style.colour(here, series) == series.agent.colour.lower()


def studied_without(path):
    put(path, "lps")
    return studied(path)


def test_the_dataset_is_an_axis_of_its_own(tmp_path):
    plays = {}
    for episodes, noise in ((10, 0.1), (100, 0.1), (100, 0.3)):
        name = f"cube-single-play-{episodes}-{noise}"
        plays[name] = {"group": "cube-single", "episodes": episodes, "noise": noise}
        for agent, seed in itertools.product(("lps", "flow_bc"), range(2)):
            put(tmp_path, agent, seed=seed, dataset=name, curve=(episodes / 200 + noise,) * 4)
    assert "data_scaling" not in drawn(studied(tmp_path))
    Store(tmp_path).write_study("data-scaling", {"datasets": plays})
    with style.styled():
        plot = PLOTS["data_scaling"](studied(tmp_path))
    lps = plot.data[plot.data["agent"] == "lps"].set_index(["axis", "value"])["mean"]
    assert dict(lps) == pytest.approx(
        {("episodes", 10): 0.2, ("episodes", 100): 0.6, ("noise", 0.1): 0.6, ("noise", 0.3): 0.8}
    )
    assert [axes.get_xlabel() for axes in plot.figure.get_axes()] == ["episodes of play", "noise of play"]
    here = studied(tmp_path)
    assert settings.compared_series(here) == ["flow_bc", "lps"], (
        "elsewhere the largest at the usual noise stands for all"
    )
    assert {run["dataset"] for run in here.runs[~here.runs["departs"].astype(bool)].to_dict("records")} == {
        "cube-single-play-100-0.1"
    }
    put(tmp_path, "lps", dataset="cube-single-play-v0")
    here = studied(tmp_path)
    assert set(here.runs.loc[here.runs["series"] == "lps", "dataset"]) == {"cube-single-play-v0"}, "OGBench's own"


def test_compute_is_shown_where_it_was_measured(tmp_path):
    put(tmp_path, "lps")
    rows = [{"agent": name, "update_ms": 70.0, "memory_mib": None, "decision_ms": 0.3} for name in ("lps", "mine")]
    Store(tmp_path).write_study("compute", {"rows": rows, "device": "a machine", "torch": "2", "threads": 1})
    with style.styled():
        plot = PLOTS["compute"](studied(tmp_path))
    labels = [axes.get_xlabel() for axes in plot.figure.get_axes()]
    assert labels == ["one update (ms)", "one decision (ms)"] and "a machine" in plot.caption


def test_success_against_flops_is_the_learning_curve_on_another_axis(tmp_path):
    known = [put(tmp_path, agent, seed=seed) for agent in ("lps", "best_of_n") for seed in range(2)]
    put(tmp_path, "dsrl")
    assert PLOTS["flops"](studied(tmp_path)) is None
    store = Store(tmp_path)
    store.write_study("flops", {"gflop": dict(zip(known, [4.0, 4.0, 20.0, 20.0], strict=True))})
    here = studied(tmp_path)
    with style.styled():
        plot = PLOTS["flops"](here)
    data = plot.data.set_index(["series", "step"])
    assert set(plot.data["series"]) == {"lps", "best_of_n"}, "the cost of the other is not known"
    assert data.loc[("lps", 2000), "tflop"] == 8 and data.loc[("best_of_n", 2000), "tflop"] == 40
    curve = summaries.curves(here).set_index(["series", "step"])
    assert (data["mean"] == curve.loc[data.index, "mean"]).all()
    assert plot.figure.get_axes()[0].get_xscale() == "log"


def test_roles_of_a_sweep_say_what_its_runs_are_for(tmp_path):
    """A sensitivity study on the ring, whose usual setting is far from the agents' defaults."""
    from sweeps import sensitivity
    from sweeps.study.scope import RING_SCOPE

    scope = replace(RING_SCOPE, eval_episodes=2)
    runs = sensitivity.build(["alpha", "axes", "joint"], ["lps", "qcfql:matched", "qcfql"], scope, ["lr"], 4)
    store = Store(tmp_path)
    write_intent(store, "test", runs)
    for number, planned in enumerate({one.run.id: one for one in runs}.values()):
        store.write_run(store.record(planned.run).update(Status.DONE))
        for step in planned.run.eval_steps:
            episodes = [Episode(k, k, number % 2 == k, 0.0, 1) for k in range(2)]
            store.write_episodes(planned.run.id, step, episodes)
    here = studied(tmp_path)
    assert here.fact("ring", "bandit") and here.groups == ["ring"]
    assert settings.compared_series(here) == ["qcfql", "qcfql (matched)", "lps"]
    axes = settings.sensitivity(here)
    assert set(axes["hyperparameter"]) == {"alpha", "lr"} and set(axes["agent"]) == {"lps", "qcfql"}
    assert axes.loc[axes["common"], "value"].tolist() == [1.0, 1.0, 1e-3, 1e-3], "the usual lr is the scope's"
    points = budgets.configurations(here)
    assert points["agent"].value_counts().to_dict() == {"lps": 4, "qcfql": 4}, "without those of the variant"
    assert summaries.small_print(here) == [], "the ring's networks are small on purpose"
    assert provenance.commands(here)


def tell(path, **groups):
    """Says in the results which metric the tasks of these groups have."""
    tasks = {
        run["task"]: {**version1.task(run["task"]), "suite": "mine", "metric": groups[run["group"]], "dataset": ""}
        for run in studied(path).runs.to_dict("records")
        if run["group"] in groups
    }
    Store(path).write_sweep("mine", {"command": "", "runs": {}, "usual": {}, "agents": {}, "tasks": tasks})


def test_figures_and_tables_follow_the_metric_of_the_tasks(tmp_path):
    for i, (group, agent, seed) in enumerate(
        itertools.product(("cube-single", "hills", "rooms"), ("lps", "flow_bc"), range(3))
    ):
        run_id = put(tmp_path, agent, group, seed=seed)
        for step in (1000, 2000, 3000, 4000):
            success = None if group == "hills" else True
            rows = [Episode(k, k, success, 10.0 * i + k, 20) for k in range(10)]
            Store(tmp_path).write_episodes(run_id, step, rows)
    tell(tmp_path, hills="return", rooms="both")
    here = studied(tmp_path)
    assert [here.unit(group).label for group in ("cube-single", "hills", "rooms")] == [
        *("success rate (%)", "return", "success rate (%)")
    ]
    assert here.comparable == ["cube-single", "rooms"] and here.runs["mean_return"].notna().all()
    success = tables.success(here)
    cells = {(row[0], row[1]): row[2] for row in success.rows}
    assert cells["hills", "LPS"] == "74.5 [64.5, 84.5]" and cells["rooms", "LPS"].startswith("100.0")
    assert ("average", "LPS") in cells and "Success" not in success.title
    assert tables.tasks(here).header[-1] == "Return"
    claims = tables.claims(here).text()
    assert "over all 2 groups" in claims and "on hills" in claims
    with style.styled():
        labels = [axes.get_ylabel() for axes in PLOTS["success"](here).figure.axes]
        assert labels == ["success rate (%)", "return"]
        assert [axes.get_ylabel() for axes in PLOTS["curves"](here).figure.axes if axes.get_visible()] == [
            *("success rate (%)", "return", "success rate (%)")
        ]
    assert main(["report", str(tmp_path)]) == 0 and main(["compare", str(tmp_path)]) == 0


def test_returns_alone_have_no_optimality_gap_and_no_percent(tmp_path):
    for agent, seed in itertools.product(("lps", "dsrl", "flow_bc"), range(2)):
        put(tmp_path, agent, "hills", seed=seed)
    tell(tmp_path, hills="return")
    here = studied(tmp_path)
    assert here.unit().label == "return"
    with style.styled():
        plots = {name: plot for name, draw in PLOTS.items() if (plot := draw(here))}
    assert set(plots["aggregates"].data["statistic"]) == {"iqm", "median", "mean"}
    assert plots["profiles"].data["threshold"].tolist()[0] == plots["profiles"].data["threshold"].tolist()[-1] == -1.0
    assert not any("%" in axes.get_xlabel() + axes.get_ylabel() for axes in plots["differences"].figure.axes)
    assert all("success" not in plot.caption.lower() for name, plot in plots.items() if name != "profiles")
