import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from lps.files import FileError
from lps.runs.intent import Planned, planned, write_intent
from lps.runs.provenance import trained_by_other_commits, versions
from lps.runs.record import Episode, RunRecord, Status
from lps.runs.run import Run
from lps.runs.store import EPISODES, METRICS, SCHEMA, Store, StoreError


def episodes(n=3, success=True):
    return [Episode(i, env_seed=100 + i, success=success, return_=-1.5 * i, length=200) for i in range(n)]


def metrics(*rows):
    return [dict(zip(("step", "metric", "value"), row, strict=True)) for row in rows]


def document(run_id, status):
    return {"id": run_id, "status": status, "run": {"agent": "lps", "task": "reach", "seed": 1, "steps": 10}}


def files(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def test_an_evaluation_comes_back_as_it_was_written(store):
    store.write_episodes("a", 1000, episodes(3))
    store.write_episodes("b", 0, [e.row() for e in episodes(2, success=False)])
    table = store.read_episodes()
    assert table.schema == EPISODES
    assert table.column("run_id").to_pylist() == ["a"] * 3 + ["b"] * 2
    assert table.column("step").to_pylist() == [1000] * 3 + [0] * 2
    assert table.column("return").to_pylist() == [0.0, -1.5, -3.0, 0.0, -1.5]
    assert table.column("success").to_pylist() == [True] * 3 + [False] * 2
    assert store.episode_steps("a") == {1000} and store.episode_steps("nobody") == set()


def test_a_row_that_lacks_something_is_not_written(store):
    with pytest.raises(ValueError, match="success"):
        store.write_episodes("a", 1, [{"episode": 0, "env_seed": 1, "return": 0.0, "length": 3}])
    with pytest.raises(ValueError, match="value"):
        store.write_metrics("a", 1, [{"step": 1, "metric": "loss"}])
    assert store.read_episodes().num_rows == store.read_metrics().num_rows == 0


def test_writing_again_replaces(store):
    store.write_episodes("a", 5, episodes(3))
    store.write_episodes("a", 5, episodes(2))
    assert store.read_episodes().num_rows == 2


def test_an_empty_store_reads_as_empty_tables(store):
    assert store.read_episodes().schema == EPISODES and store.read_episodes().num_rows == 0
    assert store.read_metrics().schema == METRICS and store.runs() == []


def test_runs(store):
    assert store.read_run("a") is None and not store.finished("a")
    store.write_run(document("b", "running"))
    store.write_run(document("a", "done"))
    assert store.read_run("a") == {"schema": SCHEMA, **document("a", "done")}
    assert [doc["id"] for doc in store.runs()] == ["a", "b"]
    assert store.finished("a") and not store.finished("b")


def test_metrics_from_a_step_on_can_be_dropped(store):
    store.write_metrics("a", 0, metrics((0, "loss", 3.0), (10, "loss", 2.0)))
    store.write_metrics("a", 20, metrics((20, "loss", 1.0), (30, "loss", float("nan")), (30, "q", -1.0)))
    store.write_metrics("a", 40, metrics((40, "loss", 0.0)))
    store.write_metrics("b", 40, metrics((40, "loss", 9.0)))
    store.drop_metrics("a", 30)
    rows = store.read_metrics().to_pylist()
    assert [(r["run_id"], r["step"], r["value"]) for r in rows] == [
        ("a", 0, 3.0),
        ("a", 10, 2.0),
        ("a", 20, 1.0),
        ("b", 40, 9.0),
    ]
    store.write_bytes("metrics/a/000000005.parquet", b"damaged")
    store.drop_metrics("a", 15)
    assert store.read_metrics().column("step").to_pylist() == [0, 10, 40]
    assert store.exists("metrics/a/000000005.parquet")  # perhaps somebody can still save it
    store.drop_metrics("a", 0)
    assert store.read_metrics().column("run_id").to_pylist() == ["b"]


def test_bytes(store):
    assert not store.exists("checkpoints/a.pt")
    store.write_bytes("checkpoints/a.pt", b"123")
    assert store.exists("checkpoints/a.pt") and store.read_bytes("checkpoints/a.pt") == b"123"
    store.delete("checkpoints/a.pt")
    store.delete("checkpoints/a.pt")
    with pytest.raises(StoreError, match=r"checkpoints/a\.pt"):
        store.read_bytes("checkpoints/a.pt")


def test_damaged_files_are_named_and_passed_over(store, caplog):
    store.write_episodes("a", 1, episodes())
    store.write_episodes("a", 2, episodes())
    store.write_metrics("a", 3, metrics((3, "loss", 1.0)))
    store.write_run(document("a", "done"))
    store.write_bytes("episodes/a/000000002.parquet", store.read_bytes("episodes/a/000000002.parquet")[:-20])
    store.write_bytes("episodes/a/000000004.parquet", b"")
    store.write_bytes("episodes/a/000000005.parquet", store.read_bytes("metrics/a/000000003.parquet"))
    store.write_bytes("runs/b.json", b'{"id": ')
    store.write_bytes("runs/c.json", b'{"notes": "mine"}')
    assert set(store.read_episodes().column("step").to_pylist()) == {1}
    assert store.episode_steps("a") == {1}
    assert [doc["id"] for doc in store.runs()] == ["a"] and store.read_run("b") is None
    named = " ".join(store.problems)
    assert len(store.problems) == 5
    assert all(name in named for name in ("0002.parquet", "0004.parquet", "0005.parquet", "b.json", "c.json"))
    assert "000000002.parquet" in caplog.text


def test_what_cannot_be_read_now_is_not_taken_for_missing(store, monkeypatch):
    """Else a run would start anew because the network was away."""
    store.write_run(document("a", "done"))

    def away(rel):
        raise StoreError("the network is away")

    monkeypatch.setattr(store, "read_bytes", away)
    with pytest.raises(StoreError, match="away"):
        store.finished("a")
    assert store.runs() == [] and "a.json" in store.problems[0]


def test_part_files_are_not_results(store, tmp_path):
    store.write_episodes("a", 1, episodes())
    (tmp_path / "results/episodes/a/.000000002.parquet.1a2b.part").write_bytes(b"PAR1")
    assert store.read_episodes().num_rows == 3 and store.episode_steps("a") == {1} and store.problems == []


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_says_why_and_leaves_the_old_file(store, tmp_path, monkeypatch, broken):
    store.write_bytes("checkpoints/a.pt", b"old")
    before = files(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(StoreError, match=r"checkpoints/a\.pt: No space left on device"):
        store.write_bytes("checkpoints/a.pt", b"new")
    assert store.read_bytes("checkpoints/a.pt") == b"old" and files(tmp_path) == before


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(StoreError, match="not a results folder.*thesis.tex"):
        Store(tmp_path)
    assert files(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("content", ['{"schema": 999}', "{}", "", "[1]"])
def test_another_schema_is_refused(tmp_path, content):
    (tmp_path / "schema.json").write_text(content)
    with pytest.raises(StoreError, match=f"schema {SCHEMA}"):
        Store(tmp_path)
    assert (tmp_path / "schema.json").read_text() == content


def test_reading_creates_nothing(tmp_path):
    with pytest.raises(StoreError, match="no results in"):
        Store(tmp_path / "results", create=False)
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file/results"):
        Store(tmp_path / "file" / "results")


def test_no_write_permission(store, tmp_path, monkeypatch):
    store.write_episodes("a", 1, episodes())
    before = files(tmp_path)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    # chmod would not do: the administrator, who runs tests in containers, may write everywhere
    monkeypatch.setattr("lps.runs.store.write_durably", denied)
    for path in (tmp_path / "results", tmp_path / "new"):
        with pytest.raises(StoreError, match=f"cannot write results to {path}: Permission denied. Choose another"):
            Store(path)
    assert Store(tmp_path / "results", create=False).read_episodes().num_rows == 3
    assert files(tmp_path) == before


def test_a_store_can_be_sent_to_another_process(store):
    store.write_run(document("a", "done"))
    assert pickle.loads(pickle.dumps(store)).finished("a")


def test_an_address_that_no_filesystem_has():
    with pytest.raises(FileError, match="nowhere://results"):
        Store("nowhere://results")


def test_a_file_uri_is_a_local_folder(tmp_path):
    store = Store((tmp_path / "results").as_uri())
    assert store.local and store.path == str(tmp_path / "results")


def test_other_filesystems():
    """pyarrow's own in-memory filesystem stands for every one that is not local."""
    remote = Store("mock:///results")
    assert not remote.local
    remote.write_run(document("a", "done"))
    remote.write_episodes("a", 7, episodes())
    remote.write_metrics("a", 0, metrics((0, "loss", 1.0)))
    remote.write_bytes("episodes/a/000000008.parquet", b"PAR1")
    assert remote.finished("a") and remote.episode_steps("a") == {7} and remote.read_episodes().num_rows == 3
    assert len(remote.problems) == 1
    remote.drop_metrics("a", 0)
    assert remote.read_metrics().num_rows == 0


def test_versions_say_what_a_result_depends_on():
    found = versions()
    assert {"python", "torch", "numpy", "ogbench", "mujoco", "gymnasium", "ray", "git_commit", "lps"} <= set(found)
    assert json.loads(json.dumps(found)) == found


def test_reading_results_needs_no_torch():
    code = "import sys, lps.runs.store; print([m for m in ('torch', 'ray', 'pandas', 'gymnasium') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_runs_of_other_code_are_known_by_their_commits(monkeypatch):
    commits = {"same": "a" * 40, "other": "b" * 40, "changed": "a" * 40 + "+dirty", "nowhere": "unknown"}
    docs = [{"id": run, "versions": {"git_commit": commit}} for run, commit in commits.items()]
    monkeypatch.setattr("lps.runs.provenance.versions", lambda: {"git_commit": "a" * 40})
    assert trained_by_other_commits([*docs, {"id": "old"}]) == {"other": "b" * 7, "changed": "a" * 7 + "+dirty"}
    monkeypatch.setattr("lps.runs.provenance.versions", lambda: {"git_commit": "unknown"})
    assert trained_by_other_commits(docs) == {}


# --- the record of a run, and the intent of a sweep ---


def test_a_record_is_its_document_and_each_change_makes_a_new_one(store):
    run = Run.create("lps", "ring-bandit-v0")
    first = store.record(run, "test")
    assert (first.status, first.sweep, first.run) == (Status.QUEUED, "test", run.to_dict())
    failed = first.failed("diverged")
    assert (failed.status, failed.error, first.error) == (Status.FAILED, "diverged", None) and failed.updated
    store.write_run(failed)
    assert store.record(run) == failed and store.read_run(run.id)["status"] == "failed"
    assert failed.queued().error is None and failed.queued().started == first.started


def test_a_document_of_version_1_is_a_record():
    folder = Path(__file__).parents[1] / "docs" / "example" / "cube-single-30k"
    for stored in Store(folder, create=False).runs():
        record = RunRecord.from_document(stored)
        assert record.status == Status.DONE and record.run == stored["run"]
        assert stored.items() <= {"schema": SCHEMA, **record.to_document()}.items()


def test_the_intent_of_a_sweep_holds_roles_defaults_and_titles(store):
    settings = {"steps": 10, "eval_interval": 5, "defaults": {"lr": 1e-3, "critic_agg": "mean"}}
    task = "cube-double-play-singletask-task2-v0"
    matched = planned("qcfql:matched", task, 0, **settings)
    assert matched.run.hyperparameters["critic_agg"] == "min", "a variant comes before the defaults of a study"
    point = planned("qcfql", task, 0, {"axis": "lr", "value": 0.1}, {"lr": 0.1}, **settings)
    same = Planned(point.run, {"trial": 3})
    write_intent(store, "test", [matched, point, same])
    (intent,) = store.sweeps()
    assert intent["runs"][matched.run.id]["roles"] == [{"variant": "matched"}]
    assert intent["runs"][point.run.id]["roles"] == [{"axis": "lr", "value": 0.1}, {"trial": 3}]
    agent = intent["agents"]["qcfql"]
    usual = intent["usual"]["qcfql"]["cube-double"]
    assert (usual["lr"], usual["critic_agg"], usual["success_timing"]) == (1e-3, "mean", "post")
    assert agent["title"] == "QC-FQL" and agent["tuned"] == {"cube-double": {"horizon": 5, "alpha": 3.0}}
    assert agent["defaults"]["lr"] == 3e-4 and agent["variants"]["matched"] == {"critic_agg": "min"}
    told = intent["tasks"][task]
    assert (told["suite"], told["group"], told["title"]) == ("ogbench", "cube-double", "cube-double task 2")
    assert told["metric"] == "success" and told["dataset"] == "cube-double-play-v0"
    write_intent(store, "test", [matched])
    assert len(store.sweeps()) == 2, "two sweeps of one name stand side by side"
