"""Which runs are shown, of which folders, and about whom claims are: what was chosen by hand is never silent."""

import re
import shutil
from argparse import ArgumentParser
from pathlib import Path

import pytest
from test_analysis import fill, put, studied

from analysis import compare
from analysis.__main__ import main
from analysis.numbers.claims import claims
from analysis.page import html as page
from analysis.page import tables
from analysis.page.figures import all_plots
from analysis.page.table import GAP, LETTERS, WHOLE
from analysis.plots import PLOTS, style
from analysis.results.load import metric
from analysis.results.study import LEFT_OUT, Study
from lps.runs.record import Episode
from lps.runs.store import Store

COMMIT, OTHER = "a" * 40, "b" * 40 + "+dirty"


def shown(*words: object) -> Study:
    """The study that these words of the command line ask for."""
    parser = ArgumentParser()
    compare.add_choice(parser)
    return compare.read(parser.parse_args(list(map(str, words))))


def error(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command line says, with exit code 2, to these words."""
    assert main(["report", *map(str, words)]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and "Traceback" not in text
    return text


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results")
    return fill(path, ("lps", "dsrl", "flow_bc"), groups=("cube-single", "scene"), tasks=(1, 2))


def run_ids(study: Study, **values: object) -> list[str]:
    runs = study.runs
    for name, value in values.items():
        runs = runs[runs[name] == value]
    return list(runs.index)


# -- leaving out


@pytest.mark.slow
def test_runs_that_are_left_out_are_named_at_every_figure_and_table(results):
    everything = studied(results)
    (run_id, *_), others = run_ids(everything, agent="lps", group="cube-single", seed=2), len(everything.runs)
    here = shown(results, "--exclude", run_id[:10])
    assert len(here.runs) == others - 1 and run_id not in set(here.results.evaluations["run_id"])
    name = f"run {run_id} (LPS, cube-single task"
    with style.styled():
        plots = all_plots(here)
    assert plots and all(name in " ".join(plot.notes) for plot in plots.values())
    made = tables.all_tables(here)
    assert made.keys() == tables.TABLES.keys() and all(name in " ".join(table.notes) for table in made.values())
    assert name in page.render(here)
    (gap,) = here.gaps.to_dict("records")
    assert (gap["series"], gap["reason"], gap["runs"]) == ("lps", LEFT_OUT, 1)
    assert "5 of 6" in made["success"].text()
    assert not everything.results.notes and "Left out" not in page.render(everything)


def test_only_what_was_never_there_is_said_to_be_missing(tmp_path):
    fill(tmp_path, ("lps", "flow_bc"), tasks=(1,), seeds=3)
    put(tmp_path, "lps", seed=7)
    left_out = run_ids(studied(tmp_path), agent="flow_bc", seed=1)
    here = shown(tmp_path, "--exclude", *left_out)
    gaps = here.gaps.set_index("seeds")["reason"].to_dict()
    assert gaps == {"1": LEFT_OUT, "7": "no such run here, while another agent has it"}


@pytest.mark.parametrize("option, key", {"--agents": "agent", "--groups": "group"}.items())
def test_agents_and_groups_can_be_chosen(results, option, key):
    chosen = {"agent": ("lps", "flow_bc"), "group": ("scene",)}[key]
    here = shown(results, option, *chosen)
    assert set(here.runs[key]) == set(chosen)
    note = {"agent": "only the agents Flow BC, LPS, not DSRL.", "group": "only the group scene, not cube-single."}[key]
    assert note in page.render(here) and all(
        note in " ".join(table.notes) for table in tables.all_tables(here).values()
    )


def test_an_agent_brings_its_variants_and_its_studies(tmp_path):
    put(tmp_path, "lps")
    put(tmp_path, "lps", hyperparameters={"lr": 1e-3})
    put(tmp_path, "dsrl")
    for agent in ("lps", "dsrl:matched"):
        trials = [{"state": "COMPLETE", "params": {}, "value": 0.5}]
        Store(tmp_path).write_study(f"tuning-{agent}", {"agent": agent, "trials": trials, "held_out": {}})
    rows = [{"agent": "dsrl", "update_ms": 1.0, "memory_mib": None, "decision_ms": 1.0}]
    Store(tmp_path).write_study("compute", {"rows": rows, "device": "a machine", "torch": "2", "threads": 1})
    here = shown(tmp_path, "--agents", "lps")
    assert len(here.series) == 2 and [document["study"] for document in here.results.studies] == ["tuning-lps"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--agents", "lsp"], "did you mean 'lps'? Known: flow_bc, dsrl, lps"),
        (["--groups", "cube"], "did you mean 'cube-single'"),
        (["--subject", "qcfql"], "known: dsrl, flow_bc, lps"),
        (["--subject", "dsrl", "--agents", "lps"], "unknown agent 'dsrl'"),
        (["--exclude", ""], "matches 36 runs"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(results, capsys, words, message):
    assert message in error(capsys, results, *words)


def test_an_unknown_run_is_named_with_the_nearest(results, capsys):
    run_id = studied(results).runs.index[0]
    wrong = run_id[:7] + "x"
    assert f"no run '{wrong}'. Nearest ids: {run_id}," in error(capsys, results, "--exclude", wrong)


def test_nothing_left_is_an_error(tmp_path, capsys):
    run_id = put(tmp_path, "lps")
    assert "no run matches --exclude" in error(capsys, tmp_path, "--exclude", run_id)


# -- whom claims are about


def test_claims_are_about_whom_one_likes(tmp_path):
    fill(tmp_path, ("lps", "dsrl", "mine"), tasks=(1,), seeds=6)
    here = shown(tmp_path, "--subject", "mine")
    assert {(claim.ours, claim.theirs) for claim in claims(here)} == {("mine", "lps"), ("mine", "dsrl")}
    table = tables.all_tables(here)["published"]
    assert table.header[2] == "mine %" and table.rows[0][2]
    assert {claim.ours for claim in claims(shown(tmp_path))} == {"lps"}


def test_a_subject_without_a_common_setting_is_compared_in_all_of_them(tmp_path):
    for seed in range(2):
        put(tmp_path, "dsrl", seed=seed)
        put(tmp_path, "lps", seed=seed)
        for rate in (1e-3, 3e-4):
            put(tmp_path, "mine", seed=seed, hyperparameters={"lr": rate})
    usual = {"mine": {"cube-single": {**studied(tmp_path).runs["setting"].iloc[0], "lr": 1e-4}}}
    Store(tmp_path).write_sweep("none", {"runs": {}, "agents": {}, "tasks": {}, "usual": usual, "command": ""})
    pairs = {(claim.ours, claim.theirs) for claim in claims(shown(tmp_path, "--subject", "mine"))}
    own = {"mine (lr=0.001)", "mine (lr=0.0003)"}
    assert pairs == {(key, other) for key in own for other in ("dsrl", "lps")}


# -- several folders


@pytest.mark.slow
def test_folders_are_shown_as_one(tmp_path, monkeypatch):
    a, b = fill(tmp_path / "baselines", ("dsrl", "flow_bc")), fill(tmp_path / "ours", ("lps",))
    shutil.copytree(a, tmp_path / "copy")
    assert main(["compare", str(a), str(b), str(tmp_path / "copy"), "--out", str(tmp_path / "out")]) == 0
    whole = fill(tmp_path / "whole", ("dsrl", "flow_bc"))
    fill(whole, ("lps",))
    here, expected = shown(a, b, tmp_path / "copy"), studied(whole)
    assert tables.all_tables(here)["success"].rows == tables.all_tables(expected)["success"].rows
    assert here.results.name == "baselines + ours + copy" and str(b) in page.render(here)
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(a), str(b)]) == 0
    assert (tmp_path / "report" / "report.html").is_file() and not (a / "report").exists()


def test_metrics_are_read_where_the_run_lies(tmp_path):
    ids = [put(tmp_path / name, agent) for name, agent in (("a", "lps"), ("b", "dsrl"))]
    for name, run_id, value in zip("ab", ids, (1.0, 2.0), strict=True):
        rows = [{"step": 1000, "metric": "loss", "value": value}]
        Store(tmp_path / name).write_metrics(run_id, 1000, rows)
    found = metric(shown(tmp_path / "a", tmp_path / "b").results, "loss", ids)
    assert found.set_index("run_id")["value"].to_dict() == dict(zip(ids, (1.0, 2.0), strict=True))


def test_numbers_that_are_stored_twice_count_once(tmp_path):
    run_id = put(tmp_path / "a", "lps")
    for first, value in ((1000, 1.0), (900, 2.0)):
        rows = [{"step": 1000, "metric": "loss", "value": value}]
        Store(tmp_path / "a").write_metrics(run_id, first, rows)
    results = shown(tmp_path / "a").results
    for _ in range(2):
        assert metric(results, "loss", [run_id])["value"].tolist() == [1.0]
    assert [problem for problem in results.problems if "stored twice" in problem] == results.problems != []
    assert len(results.problems) == 1


@pytest.mark.parametrize("how", ["commit", "numbers", "status"])
def test_folders_that_disagree_about_a_run_are_an_error(tmp_path, capsys, how):
    a, b = tmp_path / "a", tmp_path / "b"
    put(a, "dsrl")
    put(b, "flow_bc")
    run_id = put(a, "lps", commit=COMMIT)
    put(b, "lps", commit=OTHER if how == "commit" else COMMIT, status="failed" if how == "status" else "done")
    if how == "numbers":
        Store(b).write_episodes(run_id, 4000, [Episode(k, k, True, -1.0, 20) for k in range(10)])
    text = error(capsys, a, b)
    what = {"commit": "git commit aaaaaaa and bbbbbbb+dirty", "numbers": "other numbers", "status": "done and failed"}
    assert run_id in text and f"in {a} and in {b}" in text and what[how] in text
    assert len(shown(a, b, "--exclude", run_id).runs) == 2, "what they disagree about may be left out"


def test_studies_of_several_folders_are_united(tmp_path):
    for name, episodes in (("a", 10), ("b", 20)):
        put(tmp_path / name, "lps", seed=episodes)
        store = Store(tmp_path / name)
        play = {"group": "cube-single", "episodes": episodes, "noise": 0.1}
        store.write_study("data-scaling", {"datasets": {f"play-{episodes}": play}})
        store.write_study("same", {"rows": []})
        store.write_study("compute", {"rows": [], "device": name, "torch": "2", "threads": 1})
    results = shown(tmp_path / "a", tmp_path / "b").results
    assert [document["study"] for document in results.studies].count("same") == 1
    assert len(results.studies) == 5
    assert [note for note in results.notes if "compute" in note] == list(results.notes), "only they contradict"


# -- code, names, files


def test_a_series_of_different_code_is_told_at_its_table(tmp_path):
    for seed, commit in enumerate((COMMIT, COMMIT, OTHER)):
        put(tmp_path, "lps", seed=seed, commit=commit)
        put(tmp_path, "flow_bc", seed=seed, commit=COMMIT)
    here = shown(tmp_path)
    assert set(here.series) == {"lps", "flow_bc"}
    (note,) = [note for note in tables.all_tables(here)["success"].notes if "different code" in note]
    assert "LPS (aaaaaaa: 2 runs, bbbbbbb+dirty: 1 run)" in note and "Flow BC" not in note


def test_a_dataset_of_two_contents_is_told_at_the_table(tmp_path):
    for i, agent in enumerate(("lps", "flow_bc")):
        put(tmp_path / agent, agent, fingerprint=f"{i}" * 64)
    notes = tables.all_tables(shown(tmp_path / "lps", tmp_path / "flow_bc"))["success"].notes
    (note,) = [note for note in notes if "under one name" in note]
    assert all(text in note for text in ("cube-single-play-v0", "0" * 12, "1" * 12))
    assert "under one name" not in tables.all_tables(shown(tmp_path / "lps"))["success"].text()


def test_a_series_has_one_name_everywhere(tmp_path):
    for changes in ({}, {"steps": 2000, "eval_interval": 500}, {"eval_interval": 500}, {"reward_timing": "post"}):
        for seed in range(2):
            put(tmp_path, "lps", seed=seed, **changes)
    put(tmp_path, "flow_bc")
    here = shown(tmp_path, "--include-unfinished")
    names = [series.title for series in here.series.values()]
    assert len(set(names)) == len(names) == 5
    text = page.render(here)
    assert all(name in text for name in names)


@pytest.mark.slow
def test_a_second_call_leaves_nothing_of_the_first(tmp_path):
    fill(tmp_path / "a", ("lps", "flow_bc"))
    fill(tmp_path / "b", ("lps",))
    out = tmp_path / "out"
    assert main(["compare", str(tmp_path / "a"), "--out", str(out)]) == 0
    assert (out / "figures" / "differences.pdf").is_file()
    mine = [out / "mine.pdf", out / "figures" / "mine.pdf", out / "figures" / "differences.svg"]
    for path in mine:
        path.write_text("not the analysis's")
    assert main(["compare", str(tmp_path / "b"), "--out", str(out)]) == 0
    expected = all_plots(studied(tmp_path / "b"))
    for name in PLOTS:
        for suffix in style.SUFFIXES:
            assert (out / "figures" / f"{name}.{suffix}").is_file() is (name in expected)
    assert all(path.is_file() for path in mine) and not (out / "figures" / "differences.pdf").exists()


@pytest.mark.parametrize("name", tables.TABLES)
def test_long_cells_of_latex_tables_are_broken_to_fit_the_line(results, name):
    table = tables.all_tables(studied(results))[name]
    (align,) = re.findall(r"begin{tabular}{(.*)}\n", table.latex(name))
    columns = [float(width or 0) for width in re.findall(r"[lr]|p{([\d.]+)\\linewidth}", align)]
    longest = [max(map(len, column)) for column in zip(*[table.header, *table.rows], strict=True)]
    narrow = [length for length, width in zip(longest, columns, strict=True) if not width]
    line = sum(columns) + (sum(narrow) + GAP * len(longest)) / LETTERS
    assert line < 1.02 or max(narrow) <= WHOLE
    assert name != "claims" or len(narrow) == 1
