"""Tuning: no place waits for a slow pack, nothing is lost by kills and lost databases, and nothing trains twice.

Packs train in this process, or at once: then a run's score is a function of its hyperparameters. tests/long/tuning.py
does the same with Ray.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from lps.runs.record import Episode, Status
from lps.runs.run import Run
from lps.runs.store import Store
from lps.training.trainer import train
from sweeps import tuning
from sweeps.launcher.feed import Pack
from sweeps.launcher.resources import Limits
from sweeps.study import spaces, tpe
from sweeps.study.halving import continue_from_rungs
from sweeps.study.search import COMPLETE, FAIL, PRUNED, RUNNING, Search, Trial

TINY = "--preset quick --steps 4 --eval-interval 2 --eval-episodes 2 --seeds 0 --set batch_size=8 base_hidden=8"
INSTANT = "--preset quick --steps 900 --eval-interval 100 --eval-episodes 20 --seeds 0 1 --no-mlflow"
Work = Callable[[Pack], None]


def train_here(pack: Pack) -> None:
    store = Store(pack.plan.results)
    if pack.plan.rung:
        continue_from_rungs(pack.runs, pack.plan.rung, store)
    train(pack.runs, store, pack.plan.options, sweep=pack.plan.sweep)


def at_once(pack: Pack) -> None:
    """Write the results of a pack without training it."""
    store = Store(pack.plan.results)
    for run in pack.runs:
        assert not store.finished(run.id), "no run is trained twice"
        for step in run.eval_steps:
            good = round(run.eval_episodes * quality(run))
            rows = [Episode(i, 0, i < good, 0.0, 1) for i in range(run.eval_episodes)]
            store.write_episodes(run.id, step, rows)
        store.write_run(store.record(run, "tuning").update(Status.DONE, step=run.steps))


def quality(run: Run) -> float:
    return min(1.0, 0.2 + run.hyperparameters.get("flow_ratio", 0.0) / 3 + 100 * run.hyperparameters["lr"])


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Pack]]:
    """Tuning trains in this process, one pack at a time. Gives the packs."""
    with drives(monkeypatch, train_here) as done:
        yield done


class drives:
    """Tuning works off its packs by `work`, on `places` at the same time: as if each pack took `seconds`."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        work: Work = at_once,
        places: int = 1,
        seconds: Callable[[Pack], float] = lambda pack: 1.0,
    ):
        self.work, self.places, self.seconds, self.patch = work, places, seconds, monkeypatch
        self.packs: list[Pack] = []
        self.busy: list[tuple[float, float, Pack]] = []
        """(start, end, pack)."""

    def __enter__(self) -> list[Pack]:
        self.patch.setattr(tuning, "drive", self.drive)
        self.patch.setattr(tpe, "importances", lambda *_: {})  # they take seconds
        return self.packs

    def __exit__(self, *_: object) -> None:
        pass

    def drive(self, feed: tuning.TuningFeed, plan: Any, **_: Any) -> int:
        feed.begin([{"CPU": float(self.places)}], Limits(), feed.claims(()))
        now, training = 0.0, list[tuple[float, int, Pack]]()
        while True:
            while len(training) < self.places and (pack := feed.next()):
                self.packs.append(pack)
                assert len(self.packs) == 1 or feed.titles[pack.number]
                self.work(pack)
                end = now + self.seconds(pack)
                heapq.heappush(training, (end, pack.number, pack))
                self.busy.append((now, end, pack))
            if not training:
                assert feed.over
                return 0
            now, _, pack = heapq.heappop(training)
            feed.end(pack)


def studies(results: Path) -> dict[str, dict[str, Any]]:
    return {doc["agent"]: doc for doc in Store(results, create=False).studies()}


def stored(results: Path, agent: str = "lps") -> list[optuna.trial.FrozenTrial]:
    """The copy of an agent's trials in Optuna's database."""
    name = f"{agent}-{studies(results)[agent]['of']}"
    return optuna.load_study(study_name=name, storage=f"sqlite:///{results}/tuning.db").trials


# --- the command ---


def test_tuning_fills_places_and_compares_on_held_out_seeds(packs: list[Pack], tmp_path: Path, capsys: Any) -> None:
    command = f"{TINY} --agents lps flow_bc --trials 5 --at-once 3 --held-out 7 8 --results {tmp_path}".split()
    assert tuning.main(command) == 0
    assert Counter(len(pack.runs) for pack in packs) == {3: 2, 2: 6}, "3 + 2 trials, best and default on two seeds"
    first = studies(tmp_path)
    assert set(first) == {"lps", "flow_bc"}
    for agent, doc in first.items():
        assert doc["study"] == f"tuning-{agent}" and [trial["state"] for trial in doc["trials"]] == [COMPLETE] * 5
        assert set(doc["trials"][0]["params"]) == set(spaces.ranges(agent))
        assert [len(ids) for ids in doc["held_out"].values()] == [2, 2]
        assert [(t.value, t.params) for t in stored(tmp_path, agent)] == [
            (t["value"], t["params"]) for t in doc["trials"]
        ]
    assert "on held-out seeds" in capsys.readouterr().out
    planned = [run for sweep in Store(tmp_path).sweeps() for run in sweep["runs"]]
    assert sorted(planned) == sorted(doc["id"] for doc in Store(tmp_path).runs()), "each run is in one intent"
    assert tuning.main(command) == 0
    assert len(packs) == 8 and studies(tmp_path) == first, "nothing is left to do"
    assert tuning.main([*command, "--trials", "6"]) == 0
    assert [len(doc["trials"]) for doc in studies(tmp_path).values()] == [6, 6], "a study may be continued"


def test_what_is_set_by_hand_is_not_tuned(packs: list[Pack], tmp_path: Path) -> None:
    command = f"{TINY} lr=0.002 --agents lps --trials 2 --at-once 2 --held-out 7 --results {tmp_path}".split()
    assert tuning.main(command) == 0
    assert all("lr" not in trial["params"] and trial["params"] for trial in studies(tmp_path)["lps"]["trials"])
    assert {doc["run"]["hyperparameters"]["lr"] for doc in Store(tmp_path, create=False).runs()} == {0.002}


def test_trials_on_other_tasks_or_seeds_are_another_study(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    shared = f"--agents lps --trials 2 --held-out 7 --storage sqlite:///{tmp_path}/shared.db --results"
    first, other = f"{INSTANT} {shared} {tmp_path}/a", f"{INSTANT} --seeds 1 {shared} {tmp_path}/b"
    with drives(monkeypatch) as packs:
        assert tuning.main(first.split()) == 0 and tuning.main(other.split()) == 0
        assert [len(pack.runs) for pack in packs] == [4, 1, 1, 2, 1, 1], "the second has trials of its own"
        assert tuning.main(f"{other} --results {tmp_path}/a".split()) == 2, "a report shows one tuning of an agent"
        assert "Choose another --results" in capsys.readouterr().err
        assert tuning.main(f"{first} --results {tmp_path}/c".split()) == 2
        assert "has other trials in the study lps-" in capsys.readouterr().err


def test_a_document_that_is_damaged_ends_no_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    command = f"{INSTANT} --agents lps --trials 2 --held-out 7 --results {tmp_path}".split()
    with drives(monkeypatch) as packs:
        assert tuning.main(command) == 0
        document = tmp_path / "studies/tuning-lps.json"
        whole = document.read_text()
        for text in (whole[:-9], whole.replace('"tau"', '"tua"'), whole.replace('"number"', '"no"')):
            document.write_text(text)
            assert tuning.main(command) == 2
            assert "hoose another --results" in capsys.readouterr().err
        assert len(packs) == 3


# --- kills ---

CUT = f"{INSTANT} --agents lps flow_bc --trials 7 --at-once 3 --held-out 7"


@pytest.mark.parametrize("asha", ["", "--asha"])
def test_a_driver_killed_at_any_pack_loses_nothing(asha: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before a pack trains, and after it has trained and nobody was told. In between the database is removed."""
    command = f"{CUT} {asha} --results".split()
    with drives(monkeypatch) as packs:
        assert tuning.main([*command, str(tmp_path / "whole")]) == 0
    total = len(packs)
    cut = tmp_path / "cut"
    trained = 0

    def killed(pack: Pack) -> None:
        nonlocal trained
        if next(turns) == 0:
            raise KeyboardInterrupt
        trained += 1
        at_once(pack)
        if next(turns) == 0:
            (cut / "tuning.db").unlink()
            raise KeyboardInterrupt

    codes = [130]
    while codes[-1] == 130:
        turns = itertools.cycle([1, 1, 1, 1, 0] if len(codes) % 2 else [1, 1, 1, 0])
        with drives(monkeypatch, killed):
            codes.append(tuning.main([*command, str(cut)]))
    assert codes[-1] == 0 and len(codes) > total / 4 and trained == total
    assert studies(cut) == studies(tmp_path / "whole"), "the same trials, pruned at the same rungs, the same end"
    for agent, doc in studies(cut).items():
        assert [trial.state.name for trial in stored(cut, agent)] == [trial["state"] for trial in doc["trials"]]


def test_a_database_that_is_removed_or_away_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    command = f"{INSTANT} --agents lps --trials 9 --at-once 1 --held-out 7 --results {tmp_path}".split()
    database, tells = tmp_path / "tuning.db", Counter[int]()
    tell = optuna.Study.tell

    def told(study: optuna.Study, number: Any, *values: Any, **state: Any) -> Any:
        tells[number] += 1
        return tell(study, number, *values, **state)

    def disturbed(pack: Pack) -> None:
        at_once(pack)
        if pack.number == 2:
            database.unlink()
        if pack.number == 4:
            monkeypatch.setattr(tpe.Storage, "_write", away)
        if pack.number == 6:
            monkeypatch.undo()

    def away(*_: Any) -> None:
        raise OSError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", told)
        with drives(patch, disturbed):
            assert tuning.main(command) == 0
    trials = studies(tmp_path)["lps"]["trials"]
    assert [(t.state.name, t.value) for t in stored(tmp_path)] == [(t["state"], t["value"]) for t in trials]
    assert len(trials) == 9 and max(tells.values()) == 1
    assert "incomplete" not in capsys.readouterr().out


def test_a_study_of_version_1_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its trials have no rungs in their document. One waits on a rung and one is in training."""
    command = f"{INSTANT} --agents lps --trials 8 --at-once 3 --asha --held-out 7 --results {tmp_path}".split()

    def killed(pack: Pack) -> None:
        at_once(pack)
        if pack.number == 2:
            raise KeyboardInterrupt

    with drives(monkeypatch, killed):
        assert tuning.main(command) == 130
    store = Store(tmp_path)
    (doc,) = store.studies()
    for trial in doc["trials"]:
        del trial["rungs"], trial["due"]
    store.write_study("tuning-lps", {key: doc[key] for key in ("agent", "of", "trials", "importances", "held_out")})
    with drives(monkeypatch):
        assert tuning.main(command) == 0
    states = Counter(trial["state"] for trial in studies(tmp_path)["lps"]["trials"])
    assert set(states) == {COMPLETE, PRUNED} and states.total() == 8


def test_runs_that_fail_or_have_no_number_fail_their_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    command = f"{INSTANT} --agents lps --trials 4 --at-once 1 --asha --held-out 7 --results {tmp_path}".split()

    def failing(pack: Pack) -> None:
        if pack.number == 1:
            for run in pack.runs:
                store = Store(pack.plan.results)
                store.write_run(store.record(run).failed("RuntimeError: diverged"))
        else:
            at_once(pack)

    with drives(monkeypatch, failing):
        assert tuning.main(command) == 1
    trials = studies(tmp_path)["lps"]["trials"]
    assert Counter(trial["state"] for trial in trials)[FAIL] == 1 and all(trial["due"] is None for trial in trials)
    assert {trial.state.name for trial in stored(tmp_path)} <= {COMPLETE, PRUNED, FAIL}, "Optuna has no zombies"
    assert "failed: lps trial 1: RuntimeError: diverged" in capsys.readouterr().out
    with drives(monkeypatch, failing) as packs:
        assert tuning.main(command) == 0 and not packs, "it counts as tried"


# --- no barriers ---


SLOW = 8.0
"""Seconds of the slow pack, several times those of the others."""


def idle_share(busy: list[tuple[float, float, Pack]], places: int) -> float:
    """The idle share of all places but the slow pack's, while the slow pack trains. It is the first."""
    end = busy[0][1]
    work = sum(min(stop, end) - start for start, stop, _ in busy[1:] if start < end)
    return 1 - work / ((places - 1) * end)


@pytest.mark.parametrize("asha", ["", "--asha"])
def test_a_slow_pack_holds_no_other_place_back(asha: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = f"{INSTANT} --agents lps qcfql --trials 20 --at-once 6 {asha} --results {tmp_path}".split()
    drive = drives(monkeypatch, places=4, seconds=lambda pack: 1.0 + pack.number % 3 if pack.number else SLOW)
    with drive:
        assert tuning.main(command) == 0
    assert idle_share(drive.busy, 4) < 0.05


def test_a_place_that_would_be_idle_trains_the_default_with_held_out_seeds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drive = drives(monkeypatch, places=2)
    with drive as packs:
        assert tuning.main(f"{INSTANT} --agents lps --trials 1 --results {tmp_path}".split()) == 0
    assert [len(pack.runs) for pack in packs] == [2, 2, 2] and [start for start, *_ in drive.busy] == [0, 0, 1]
    assert {run.seed for run in packs[1].runs} == set(tuning.HELD_OUT["quick"])


# --- the search ---


def counting(trials: Any) -> dict[str, Any]:
    return {"lr": len(trials)}


def test_left_trials_come_before_new_ones() -> None:
    left = [Trial(0, {}, COMPLETE, 0.5), Trial(1, {}, due=9), Trial(2, {}, due=9)]
    search = Search(counting, 5, [9], 3, 2, left)
    assert [trial.number for trial in search.next(1)] == [1]
    assert [trial.number for trial in search.next(5)] == [2]
    assert search.next(5) == [], "two train at the same time"
    search.tell(left[1], 1.0)
    assert [trial.number for trial in search.next(5)] == [3] and search.trials[3].params == {"lr": 3}
    with pytest.raises(AssertionError):
        search.tell(left[1], 0.0)


def test_trials_are_promoted_as_rungs_fill_and_pruned_when_nothing_can_change() -> None:
    search = Search(counting, 7, [1, 3, 9], 3, 3)
    first = search.next(3)
    assert [trial.due for trial in first] == [1, 1, 1]
    search.tell(first[0], 0.1)
    search.tell(first[1], 0.9)
    (new,) = search.next(1)
    assert new.number == 3, "the best third of two is none"
    search.tell(first[2], 0.3)
    assert search.next(3) == [first[1]] and first[1].due == 3, "the best of three, while one is training"
    rest = [search.next(1)[0] for _ in range(1)]
    search.tell(new, 0.8)
    search.tell(rest[0], float("nan"))
    assert rest[0].state == FAIL
    search.tell(first[1], 0.9)
    last = search.next(3)
    assert [trial.number for trial in last] == [5, 6], "four on the rung: one is promoted, the others may be"
    assert {trial.state for trial in first} == {RUNNING}
    search.tell(last[0], 0.7)
    assert search.next(3) == []
    search.tell(last[1], 0.2)
    assert search.next(3) == [new], "the second of six; the rung is complete, so all others are pruned"
    assert [trial.state for trial in (first[0], first[2], *last)] == [PRUNED] * 4 and last[0].value == 0.7
    search.tell(new, 0.95)
    assert search.next(3) == [new] and new.due == 9, "the best of two on a complete rung"
    assert first[1].state == PRUNED and not search.over
    search.tell(new, 0.6)
    assert search.over and search.best is new and new.value == 0.6


def test_suggestions_depend_on_the_trials_alone_and_spread_while_others_train() -> None:
    space = spaces.ranges("lps")
    trials: list[Trial] = []
    for number in range(14):
        params = tpe.suggest(space, trials)
        assert params == tpe.suggest(space, trials)
        state = COMPLETE if number < 10 else RUNNING
        trials.append(Trial(number, params, state, params["flow_ratio"] if state == COMPLETE else None, due=9))
    assert len({trial.params["lr"] for trial in trials}) == 14


def test_importances_find_what_matters() -> None:
    space = spaces.ranges("lps")
    assert tpe.importances(space, []) == {}
    trials: list[Trial] = []
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(30):
        params = study.ask(dict(space)).params
        trials.append(Trial(number, params, COMPLETE, float(params["tau"] > 0.01)))
    found = tpe.importances(space, trials)
    assert set(found) == set(space) and sum(found.values()) == pytest.approx(1)
    assert max(found, key=lambda name: found[name]) == "tau"


@pytest.mark.slow
def test_of_the_trials_on_a_rung_the_best_go_on(packs: list[Pack], tmp_path: Path) -> None:
    """With real training: what is promoted continues from its rung."""
    more = "--agents lps flow_bc --trials 5 --at-once 3 --held-out 7 --steps 8 --eval-interval 2 --asha 2 --results"
    assert tuning.main([*TINY.split(), *more.split(), str(tmp_path)]) == 0
    assert all(len({run.steps for run in pack.runs}) == 1 for pack in packs)
    assert {pack.runs[0].steps for pack in packs} == {2, 4, 8} and len(packs[0].runs) == 3
    store = Store(tmp_path, create=False)
    assert {document["run"]["steps"] for document in store.runs()} == {8}, "the rungs are kept apart"
    for agent, document in studies(tmp_path).items():
        states = [trial["state"] for trial in document["trials"]]
        assert len(states) == 5 and set(states) == {COMPLETE, PRUNED}
        trained = [doc for doc in store.runs() if doc["run"]["agent"] == agent and doc["run"]["seed"] == 0]
        assert len(trained) == states.count(COMPLETE), "only these trained to the end"
        seen = [set(trial.intermediate_values) for trial in stored(tmp_path, agent)]
        assert {2, 4} in seen and all(2 in rungs for rungs in seen)
        assert all(state == PRUNED or rungs == {2, 4} for state, rungs in zip(states, seen, strict=True))
