"""A suite of a foreign package in sweeps, in tuning's plan and in the report: its groups, titles and metric."""

import re
from pathlib import Path
from typing import Any

import pytest
from test_foreign import SHELF, SMALL, TABLE, house  # noqa: F401  a fixture of this module, too

from analysis.__main__ import main as analysis
from analysis.numbers import comparisons, summaries
from analysis.page import tables
from analysis.results.load import load
from analysis.results.study import NORMALISED, study
from lps.runs.intent import write_intent
from lps.runs.store import Store
from lps.training.options import TrainOptions
from lps.training.trainer import train
from sweeps import ogbench_all, tuning
from sweeps.__main__ import main as sweeps
from sweeps.study.scope import Scope

SET = [f"{name}={value[0] if isinstance(value, tuple) else value}" for name, value in SMALL.items()]
SUITE = ["--suite", "house.chores", "--seeds", "0", "1", "--steps", "6", "--eval-interval", "2", "--eval-episodes", "2"]


@pytest.fixture(scope="module")
def results(house: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    path = tmp_path_factory.mktemp("results")
    small = {name: list(value) if isinstance(value, tuple) else value for name, value in SMALL.items()}
    scope = Scope(["living room"], None, [0, 1], 6, 2, 2, settings=small, suite="house.chores")
    planned = [one for agent in ("lps", "meanflow_bc", "qcfql:sphere") for one in scope.runs(agent)]
    write_intent(Store(path), "chores", planned)
    train([one.run for one in planned], Store(path), TrainOptions(device="cpu"), sweep="chores")
    return path


def test_tasks_are_one_group_with_their_titles_and_normalised_returns(results: Path) -> None:
    here = study(load(str(results)))
    assert here.groups == ["living room"] and here.unit() == NORMALISED
    assert set(here.runs["short"]) == {"dust the shelf", "Wipe: Table (slow)"}
    assert [series.title for series in here.series.values()] == ["MeanFlow BC", "QC-FQL (sphere)", "LPS"]
    for run_id, run in here.runs.iterrows():
        episodes = Store(results).episodes(str(run_id))
        returns = [episode.return_ for step in (2, 4, 6) for episode in episodes[step]]
        assert run["score"] == pytest.approx((sum(returns) / len(returns) + 20) / 20)
    assert "optimality_gap" not in set(comparisons.aggregates(here)["statistic"])
    assert summaries.protocol_differences(here, "lps", "living room") == [
        f"{name} {value} (default: {usual})"
        for name, value, usual in (
            ("base_hidden", [16, 16], [512] * 4),
            ("batch_size", 16, 256),
            ("critic_hidden", [16], [256] * 4),
            ("encoder_width", 0.125, 1),
            ("latent_actor_hidden", [16], [256] * 2),
        )
    ]
    made = tables.all_tables(here)
    assert (
        made["success"].title == "Normalised return by group"
        and "Normalised return % [95% CI]" in made["success"].header
    )
    assert "no overlap" in " ".join(made["published"].notes)


def test_the_report_is_written(results: Path, tmp_path: Path) -> None:
    assert analysis(["report", str(results), "--out", str(tmp_path / "report.html")]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "living room" in text and "dust the shelf" in text and "Normalised return" in text
    assert analysis(["compare", str(results), "--out", str(tmp_path / "files")]) == 0


def test_status_names_tasks_by_their_titles(results: Path, capsys: Any) -> None:
    store = Store(results)
    document = next(doc for doc in store.runs() if doc["run"]["task"] == SHELF)
    store.write_run({**document, "status": "failed", "error": "the shelf fell"})
    try:
        assert sweeps(["status", str(results)]) == 0
        out = capsys.readouterr().out
        assert re.search(r"failed: \w+ dust the shelf seed \d .*the shelf fell", out) and "living room" in out
    finally:
        store.write_run(document)


def test_studies_can_be_planned_on_it(house: Path, capsys: Any, tmp_path: Path) -> None:  # noqa: F811
    plan = ["--dry-run", "--address", "local", "--results", str(tmp_path / "none")]
    assert ogbench_all.main([*SUITE, "--preset", "demo", "--agents", "lps", *plan]) == 0
    assert "4 runs in" in capsys.readouterr().out
    assert ogbench_all.main([*SUITE, "--tasks", "dust-the-shelf", "--agents", "lps", *plan]) == 0
    assert "2 runs in" in capsys.readouterr().out
    assert tuning.main([*SUITE, "--preset", "quick", "--agents", "lps", *plan]) == 0
    assert ogbench_all.main([*SUITE, "--tasks", "dust-the-self", "--agents", "lps", *plan]) == 2
    assert "did you mean 'dust-the-shelf'" in capsys.readouterr().err


@pytest.mark.slow
def test_it_is_trained_through_ray(house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    options = ["--agents", "lps", "--address", "local", "--results", "results", "--set", *SET]
    assert ogbench_all.main([*SUITE, "--preset", "demo", "--tasks", "1", "2", *options]) == 0
    documents = Store(tmp_path / "results").runs()
    assert {doc["run"]["task"] for doc in documents} == {SHELF, TABLE}
    assert {doc["status"] for doc in documents} == {"done"}
    assert analysis(["report", str(tmp_path / "results")]) == 0
