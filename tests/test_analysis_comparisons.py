"""Who is compared with whom, over which tasks, and what a hyperparameter does."""

import numpy as np
import pytest
from test_analysis import AGENTS, put, studied

from analysis.numbers import comparisons, stats
from analysis.plots import PLOTS, style
from analysis.results import settings


def one_at_a_time(path, agents=("lps", "dsrl", "qcfql"), values=(1e-4, 3e-4, 1e-3), alphas=(1.0, 30.0)):
    """lr and alpha varied around lr=3e-4, alpha=1: success falls by 0.2 with the largest lr."""
    for agent in agents:
        for lr in values:
            for seed in range(2):
                success = 0.6 - 0.2 * (lr > 5e-4) + 0.1 * seed
                put(path, agent, seed=seed, curve=(success,) * 4, hyperparameters={"lr": lr, "alpha": 1.0})
        for alpha in alphas[1:]:
            for seed in range(2):
                put(path, agent, seed=seed, curve=(0.6 + 0.1 * seed,) * 4, hyperparameters={"lr": 3e-4, "alpha": alpha})
    return studied(path)


def test_the_common_setting_is_that_of_most(tmp_path):
    here = one_at_a_time(tmp_path, agents=("lps",))
    usual = here.runs["usual"].iloc[0]
    assert (usual["lr"], usual["alpha"], usual["steps"]) == (3e-4, 1.0, 4000)
    assert sorted(map(len, here.runs["departs"])) == [0, 0, 1, 1, 1, 1, 1, 1]
    assert settings.compared_series(here) == ["lps"]
    assert {series.title for series in here.series.values()} == {
        "LPS",
        "LPS (lr=0.0001)",
        "LPS (lr=0.001)",
        "LPS (alpha=30)",
    }


def test_among_equals_the_declared_default_is_the_common_one(tmp_path):
    put(tmp_path, "lps", hyperparameters={"lr": 1e-3})
    put(tmp_path, "lps", hyperparameters={"lr": 3e-4})
    assert studied(tmp_path).runs["usual"].iloc[0]["lr"] == 3e-4


def test_of_the_series_of_an_agent_the_default_is_first_and_has_its_colour(tmp_path):
    for lr in (1e-5, 3e-4, 1e-3):
        put(tmp_path, "lps", hyperparameters={"lr": lr})
    here = studied(tmp_path)
    series = list(here.series.values())
    assert [(one.variant, style.colour(here, one) == AGENTS["lps"].colour.lower()) for one in series] == [
        ("", True),
        ("lr=1e-05", False),
        ("lr=0.001", False),
    ]


def test_variants_in_words_are_rivals_and_numbers_are_not(tmp_path):
    put(tmp_path, "lps", hyperparameters={"latent_dist": "sphere", "lr": 3e-4})
    put(tmp_path, "lps", hyperparameters={"latent_dist": "normal", "lr": 3e-4})
    put(tmp_path, "lps", hyperparameters={"latent_dist": "sphere", "lr": 1e-3})
    put(tmp_path, "lps", hyperparameters={"latent_dist": "sphere", "lr": 3e-4}, dataset="cube-single-play-100")
    assert settings.compared_series(studied(tmp_path)) == ["lps", "lps (normal)"]


def test_sensitivity_follows_one_hyperparameter(tmp_path):
    data = settings.sensitivity(one_at_a_time(tmp_path))
    line = data[(data["agent"] == "lps") & (data["hyperparameter"] == "lr")]
    assert line["value"].tolist() == [1e-4, 3e-4, 1e-3]
    assert line["mean"].tolist() == pytest.approx([0.65, 0.65, 0.45])
    assert line["common"].tolist() == [False, True, False]
    assert set(data["hyperparameter"]) == {"lr", "alpha"} and set(data["n_seeds_min"]) == {2}


def test_sensitivity_figure_marks_the_default_and_says_what_alpha_is(tmp_path):
    with style.styled():
        plot = PLOTS["sensitivity"](one_at_a_time(tmp_path))
        assert plot is not None
        panels = {axes.get_xlabel(): axes for axes in plot.figure.axes}
        assert set(panels) == {"lr", "alpha"}
        assert {axes.get_xscale() for axes in panels.values()} == {"log"}
        rings = [line for line in panels["lr"].lines if line.get_markerfacecolor() == "none"]
        assert [ring.get_xdata().tolist() for ring in rings] == [[3e-4]] * 3
        note = " ".join(plot.notes)
        assert "alpha of DSRL, LPS:" in note and "QC-FQL" not in note and "no evidence" in note
        style.save(plot, tmp_path / "out", "sensitivity")


def test_other_figures_show_the_common_setting_alone(tmp_path):
    here = one_at_a_time(tmp_path, agents=("lps", "flow_bc"))
    with style.styled():
        for name in ("success", "curves", "differences"):
            plot = PLOTS[name](here)
            assert plot is not None and len(set(plot.data["series"])) == 2 - (name == "differences")
            assert name == "differences" or "6 other settings are in the tables" in " ".join(plot.notes)


def test_alpha_is_not_explained_where_it_works(tmp_path):
    with style.styled():
        plot = PLOTS["sensitivity"](one_at_a_time(tmp_path, agents=("qcfql",), values=(3e-4, 1e-4)))
        assert plot is not None and "alpha of" not in " ".join(plot.notes)


def test_all_are_compared_on_the_tasks_that_all_have(tmp_path):
    for task in (1, 2, 3, 4):
        put(tmp_path, "lps", task=task, curve=(0.2 * task,) * 4)
        if task != 2:
            put(tmp_path, "dsrl", task=task, curve=(0.1,) * 4)
    put(tmp_path, "cfgrl", task=1)
    here = studied(tmp_path)
    field = comparisons.shared_tasks(here)
    assert field.tasks == [("cube-single", "task1"), ("cube-single", "task3"), ("cube-single", "task4")]
    assert field.left_out == ["cfgrl"]
    assert field.note(here) == "On the 3 tasks that all of them have, of 4. Not shown, for too few tasks: CFGRL."
    values = comparisons.aggregates(here).set_index(["series", "statistic"])["value"]
    assert values["lps", "mean"] == pytest.approx(0.2 * 8 / 3, abs=0.001)
    assert values["lps", "median"] == pytest.approx(0.6)
    assert values["lps", "optimality_gap"] == pytest.approx(1 - 0.2 * 8 / 3, abs=0.001)


def test_improvements_mirror_each_other(tmp_path):
    for seed in range(3):
        put(tmp_path, "lps", seed=seed, curve=(0.5 + 0.1 * seed,) * 4)
        put(tmp_path, "dsrl", seed=seed, curve=(0.4 + 0.1 * seed,) * 4)
    data = comparisons.improvements(studied(tmp_path)).set_index(["series", "versus"])
    ours, theirs = data.loc[("lps", "dsrl")], data.loc[("dsrl", "lps")]
    assert ours["probability"] == pytest.approx((6 + 0.5 * 2) / 9) == 1 - theirs["probability"]
    assert (ours["low"], ours["high"]) == pytest.approx((1 - theirs["high"], 1 - theirs["low"]))


def test_profiles_are_those_of_the_scores(tmp_path):
    for seed, success in enumerate((0.2, 0.4, 0.9)):
        put(tmp_path, "lps", seed=seed, curve=(success,) * 4)
    data = comparisons.profiles(studied(tmp_path))
    assert len(data) == len(comparisons.THRESHOLDS)
    share = np.interp([0.1, 0.3, 0.5, 0.95], data["threshold"], data["share"])
    assert share == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert set(comparisons.STATISTICS) <= set(dir(stats))


def test_the_alpha_figure_of_the_paper_stands_beside_ours_on_its_groups(tmp_path):
    for group, lines in {"cube-double": 1, "cube-single": 0}.items():
        for alpha in (0.1, 1.0, 10.0):
            put(tmp_path / group, "lps", group=group, hyperparameters={"alpha": alpha})
        with style.styled():
            plot = PLOTS["sensitivity"](studied(tmp_path / group))
        dashed = [line for line in plot.figure.get_axes()[0].get_lines() if line.is_dashed()]
        assert len(dashed) == lines and ("Dashed" in plot.caption) == bool(lines)
