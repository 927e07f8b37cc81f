"""A hostile results folder: no command reads, writes or deletes outside of it, and nothing that it says is obeyed."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.__main__ import main as analysis
from lps.__main__ import main as lps
from lps.runs.record import Episode
from lps.runs.store import Store, StoreError
from sweeps.__main__ import main as sweeps

TASK = "cube-single-play-singletask-task1-v0"


def put(store: Store, run_id: str, status: str = "done", file: str | None = None, **run: Any) -> None:
    """Writes a run's document and two evaluations, without any check."""
    about = {"agent": "lps", "task": TASK, "seed": 0, "steps": 20, "eval_interval": 10, "eval_episodes": 1, **run}
    error = "Traceback\nRuntimeError: \x1b]0;owned\x07\x1b[2J=1+1" if status == "failed" else None
    document = {"id": run_id, "run": about, "status": status, "step": 20, "error": error}
    path = Path(store.path) / "runs" / (file or f"{run_id}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    if file is None:
        for step in (10, 20):
            store.write_episodes(run_id, step, [Episode(0, 0, True, 0.0, 1)])


@pytest.fixture
def canaries(tmp_path: Path) -> dict[Path, bytes]:
    """Files beside the results that no command may touch: under the names that hostile ids lead to."""
    found = {}
    for name in (
        "model.pt",
        "victim.pt",
        "victim.parquet",
        "victim/model.pt",
        "victim/000000010.parquet",
        "victim.json",
    ):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(f"canary {name}".encode())
        found[file] = file.read_bytes()
    return found


IDS = ["../../victim", "../../victim/model", "../victim", "..", ".", "a/../../../victim", "/etc/passwd", "", "a\x00b"]


def test_no_command_leaves_a_hostile_results_folder(tmp_path: Path, canaries: dict[Path, bytes], capsys: Any) -> None:
    store = Store(tmp_path / "results")
    put(store, "good")
    put(store, "bad", "failed", seed=1)
    for number, run_id in enumerate(IDS):
        put(store, run_id, "failed", f"hostile{number}.json")
        put(store, run_id, "failed", f"absolute{number}.json", dataset=str(tmp_path / "victim"), agent="../victim")
    put(store, "..", "failed", "...json")
    root = Path(store.path)
    (root / "metrics").mkdir()
    (root / "metrics" / "bad").symlink_to(tmp_path / "victim", target_is_directory=True)
    (root / "episodes" / "bad" / "000000030.parquet").symlink_to(tmp_path / "victim" / "000000010.parquet")
    (root / "runs" / "link.json").symlink_to(tmp_path / "victim.json")
    (root / "studies").symlink_to(tmp_path / "victim", target_is_directory=True)
    before = {file: file.stat().st_mtime_ns for file in canaries}
    for arguments in (["status"], ["retry", "--from-start"], ["retry"], ["status"]):
        assert sweeps([*arguments, store.path]) in (0, 2)
    said = capsys.readouterr()
    assert "cannot be read: " in said.out and "task1-v0 seed 1 (run bad" in said.out
    assert analysis(["report", store.path, "--out", str(tmp_path / "out.html")]) == 0
    for file, content in canaries.items():
        assert file.read_bytes() == content and file.stat().st_mtime_ns == before[file]
    known = {"results", "out.html", "victim", *(file.name for file in canaries)}
    assert {file.name for file in tmp_path.iterdir()} <= known
    assert sorted(file.name for file in (tmp_path / "victim").iterdir()) == ["000000010.parquet", "model.pt"]


@pytest.mark.parametrize(
    "rel", ["../victim.pt", "checkpoints/../../victim.pt", "/etc/hostname", "link/model.pt", "file"]
)
def test_a_store_has_no_file_outside_of_its_folder(rel: str, tmp_path: Path, canaries: dict[Path, bytes]) -> None:
    store = Store(tmp_path / "results")
    (Path(store.path) / "link").symlink_to(tmp_path / "victim", target_is_directory=True)
    (Path(store.path) / "file").symlink_to(tmp_path / "victim.pt")
    for act in (store.read_bytes, store.delete, store.exists, lambda rel: store.write_bytes(rel, b"x")):
        with pytest.raises(StoreError, match="outside of the results folder"):
            act(rel)
    assert all(file.read_bytes() == content for file, content in canaries.items())


def test_a_results_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    put(store, "good")
    (tmp_path / "link").symlink_to(tmp_path / "results", target_is_directory=True)
    assert [doc["id"] for doc in Store(tmp_path / "link", create=False).runs()] == ["good"]


def test_one_bad_document_hides_no_other(tmp_path: Path, capsys: Any) -> None:
    store = Store(tmp_path / "results")
    put(store, "good")
    for name, text in {
        "text": "[]",
        "deep": "[" * 100_000,
        "seed": '{"id": "seed", "status": "done", "run": {"agent": "lps", "task": "t", "seed": "x", "steps": 1}}',
        "huge": '{"id": "huge", "status": "done", "run": {"agent": "lps", "task": "t", "seed": 1, "steps": 1e400}}',
        "state": '{"id": "state", "status": "gone", "run": {"agent": "lps", "task": "t", "seed": 1, "steps": 1}}',
        "other": '{"id": "good", "status": "done", "run": {"agent": "lps", "task": "t", "seed": 1, "steps": 1}}',
        "lone": '{"id": "lone", "status": "done", "run": {"agent": "\\ud800", "task": "t", "seed": 1, "steps": 1}}',
    }.items():
        (Path(store.path) / "runs" / f"{name}.json").write_text(text)
    (Path(store.path) / "sweeps").mkdir()
    (Path(store.path) / "sweeps" / "s.json").write_text('{"runs": {"good": null}, "command": "x"}')
    assert sweeps(["status", store.path]) == 0
    out = capsys.readouterr().out
    assert "1 runs: 1 done" in out and out.count("cannot be read: ") == 8
    assert "run.seed: should be a valid integer" in out and "not the name of the file" in out


def test_a_file_in_place_of_a_folder_is_told(tmp_path: Path, capsys: Any) -> None:
    store = Store(tmp_path / "results")
    put(store, "good")
    (Path(store.path) / "checkpoints").write_text("")
    assert sweeps(["status", store.path]) == 0
    assert "checkpoints: Not a directory" in capsys.readouterr().out
    with pytest.raises(StoreError, match="checkpoints is a file and not a folder. Remove or rename it"):
        Store(store.path)


def test_a_permanent_error_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "results")
    (Path(store.path) / "checkpoints").write_text("")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(StoreError, match="cannot write .*repair the folder"):
        store.write_bytes("checkpoints/a.pt", b"")
    with pytest.raises(StoreError, match="File name too long"):
        store.write_bytes(f"checkpoints2/{'a' * 300}.pt", b"")


def test_what_documents_say_is_shown_and_not_obeyed(tmp_path: Path, capsys: Any) -> None:
    store = Store(tmp_path / "results")
    hostile = {"<script>alert(1)</script>": "=HYPERLINK(1)", "$\\frac$": "[red]@SUM(1)", "=1+1": "-2+3"}
    for number, (agent, group) in enumerate(hostile.items()):
        for task in (1, 2):
            put(store, f"a{number}{task}", agent=agent, task=f"{group}-play-singletask-task{task}-v0")
            put(store, f"b{number}{task}", agent="lps", task=f"{group}-play-singletask-task{task}-v0")
    put(store, "bad", "failed", seed=3)
    assert sweeps(["status", store.path]) == 0
    assert analysis(["compare", store.path]) == 0
    said = capsys.readouterr()
    assert "\\x1b]0;owned\\x07" in said.out and not any(c in said.out + said.err for c in "\x1b\x07")
    out = Path(store.path) / "report"
    assert not [file for file in out.rglob("*.md") if "<script" in file.read_text().replace("\\<", "")]
    tables = list(out.rglob("*.csv"))
    assert tables and not [
        cell
        for file in tables
        for row in csv.reader(file.open())
        for cell in row
        if cell.startswith(("=", "+", "@")) or (cell.startswith("-") and not cell[1:2].isdigit())
    ]


def test_paths_of_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = Store("~/results")
    assert store.path == str(tmp_path / "results")
    put(store, "good")
    assert analysis(["compare", "~/results", "--out=~/files"]) == 0 and (tmp_path / "files" / "tables").exists()
    capsys.readouterr()
    for name in ("x" * 300, "\udcff", "~nobody/x"):
        for call, arguments in (
            (analysis, ["report", name]),
            (analysis, ["compare", name]),
            (sweeps, ["status", name]),
        ):
            assert call(arguments) == 2  # type: ignore[operator]
            error = capsys.readouterr().err
            assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    "setting",
    [
        "base_hidden=[1000000000]",
        "num_critics=10000000",
        "horizon=2000000000",
        "batch_size=2000000000",
        "lr=" + "-" * 5000,
    ],
)
def test_numbers_that_cannot_fit_are_refused_before_memory_is_asked_for(
    setting: str, tmp_path: Path, capsys: Any
) -> None:
    words = ["train", "--agent", "lps", "--task", "ring-bandit-v0", "--results", str(tmp_path / "results")]
    assert lps([*words, "--device", "cpu", "--set", setting]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and len(error) < 300
    assert not (tmp_path / "results" / "runs").exists()
