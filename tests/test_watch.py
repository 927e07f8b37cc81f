"""`python -m sweeps watch`, on stores made by hand."""

import io
import time
from pathlib import Path
from typing import Any

import pytest
from test_status import a_run, note, write

from lps.runs.record import Episode
from lps.runs.store import Store
from sweeps.__main__ import main
from sweeps.watch import follow


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Runs that are done, running, failed and missing."""
    store = Store(tmp_path / "results")
    done, running, failed, missing = (a_run(seed=seed) for seed in range(4))
    note(store, [done, running, failed, missing])
    write(store, done, "done")
    write(store, running, "running")
    store.write_run({**(store.read_run(running.id) or {}), "wall_time_s": 5.0})
    store.write_episodes(running.id, 10, [Episode(e, e, e > 0, 0.0, 1) for e in range(4)])
    write(store, failed, "failed", error="the arm [fell] off")
    return store


def shown(store: Store) -> str:
    out = io.StringIO()
    follow.Console(file=out, width=100).print(follow.View(store)(follow.standings(store)))
    return out.getvalue()


def test_a_view_shows_updates_runs_and_failures(store: Store) -> None:
    text = shown(store)
    lines = [line.split() for line in text.splitlines()]
    assert ["flow_bc", "cube-single", "1", "/", "4"] == lines[1][:5]
    assert lines[1][5].startswith("━" * 14) or "-" in lines[1][5]  # 20 + 10 + 10 of 80 updates
    assert "4 runs: 1 done, 1 running, 1 failed, 1 missing" in text
    assert any(line[-6:] == ["10", "/", "20", "2", "0:00:05", "0.75"] for line in lines)
    assert "failed: flow_bc cube-single task 1 seed 2: the arm [fell] off" in text


def test_long_lists_are_cut(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(follow, "ROWS", 0)
    monkeypatch.setattr(follow, "REASONS", 0)
    assert "and 1 more running" in shown(store) and "and 1 more failed" in shown(store)


def test_watching_ends_with_the_last_run(store: Store, capsys: Any, monkeypatch: Any) -> None:
    def finish(_: float) -> None:
        for document in store.runs():
            if document["status"] == "running":
                store.write_run({**document, "status": "done"})
                return
        write(store, a_run(seed=3), "done")

    monkeypatch.setattr(time, "sleep", finish)
    assert main(["watch", store.path]) == 0
    out = capsys.readouterr().out
    assert out.count("4 runs:") == 3 and "4 runs: 3 done, 1 failed" in out


def test_ctrl_c_ends_watching(store: Store, capsys: Any, monkeypatch: Any) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    assert main(["watch", store.path, "--every", "0.5"]) == 0
    assert capsys.readouterr().out.count("4 runs:") == 1


def test_a_folder_without_results_is_refused(tmp_path: Path, capsys: Any) -> None:
    assert main(["watch", str(tmp_path / "nothing")]) == 2
    assert "error:" in capsys.readouterr().err
