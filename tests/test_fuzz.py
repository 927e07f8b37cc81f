"""Hostile input: mutated documents, checkpoints, datasets and arguments end in one sentence, and the rest is shown."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz import NASTY, mutated
from small import small_hyperparameters

from analysis.__main__ import main as analysis
from lps.__main__ import main as lps
from lps.data import npz
from lps.data.readers import Needs
from lps.errors import UserError
from lps.runs.intent import planned, write_intent
from lps.runs.record import Episode, Status
from lps.runs.store import Store
from lps.spaces import Space
from sweeps import STUDIES as STUDY_NAMES
from sweeps.__main__ import main as sweeps

pytestmark = pytest.mark.slow
TASK = "cube-single-play-singletask-task{}-v0"


def call(main: Callable[[Sequence[str]], int], arguments: Sequence[str], capsys: Any) -> tuple[int, str, str]:
    """Exit code, output and errors of a command; fails for a traceback and for control characters."""
    try:
        code = main(arguments)
    except SystemExit as end:  # argparse
        code = end.code if isinstance(end.code, int) else 1
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert all(c.isprintable() or c in "\n\r\t" for c in out + err), ascii(out + err)
    return code, out, err


# --- stored documents ---

STUDIES: dict[str, dict[str, Any]] = {
    "tuning-lps": {
        "agent": "lps",
        "trials": [{"number": i, "params": {"lr": 0.1}, "value": 0.5, "state": "COMPLETE"} for i in range(3)],
        "importances": {"lr": 0.9, "tau": 0.1},
        "held_out": {"best": ["a"], "default": ["b"]},
    },
    "data-scaling": {"datasets": {"play-10": {"group": "cube-single", "episodes": 10, "noise": 0.1}}},
    "compute": {
        "rows": [{"agent": "lps", "update_ms": 1.0, "memory_mib": 2.0, "decision_ms": 3.0, "decision_p99_ms": 3.0}],
        "device": "a machine",
        "torch": "2",
        "threads": 1,
    },
}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with eight finished runs and one that failed, a sweep and three studies."""
    path = tmp_path_factory.mktemp("healthy") / "results"
    store, small = Store(path), {"steps": 40, "eval_interval": 10, "eval_episodes": 2}
    runs = [
        planned(agent, TASK.format(task), seed, **small, **small_hyperparameters(agent))
        for agent in ("lps", "flow_bc")
        for task in (1, 2)
        for seed in (0, 1)
    ]
    runs.append(planned("lps", TASK.format(1), 0, {"axis": "lr", "value": 0.1}, lr=0.1, **small))
    write_intent(store, "mine", runs)
    for one in runs:
        store.write_run(store.record(one.run, "mine").update(Status.DONE, step=40))
        for step in one.run.eval_steps:
            episodes = [Episode(i, i, (i + one.run.seed) % 2 == 0, 0.0, 20) for i in range(2)]
            store.write_episodes(one.run.id, step, episodes)
    failed = planned("dsrl", TASK.format(1), 0, **small)
    store.write_run(store.record(failed.run, "mine").failed("Traceback\nRuntimeError: the arm fell off"))
    for name, study in STUDIES.items():
        store.write_study(name, study)
    store.write_study("flops", {"gflop": {one.run.id: 1.5 for one in runs}})
    return path


def infected(healthy: Path, path: Path, seed: int, count: int) -> int:
    """A copy of the healthy results with mutated documents beside the healthy ones; the number of healthy runs."""
    shutil.copytree(healthy, path)
    rng, kinds = random.Random(seed), ("runs", "runs", "runs", "sweeps", "studies")
    whole = {kind: sorted((healthy / kind).glob("*.json")) for kind in kinds}
    for number in range(count):
        kind = rng.choice(kinds)
        document = json.loads(rng.choice(whole[kind]).read_text())
        name = f"f{number:05d}"
        document |= {"runs": {"id": name}, "studies": {"study": name}}.get(kind, {})
        if kind == "studies" and rng.random() < 0.5:  # some studies are known by their names
            name = rng.choice([*STUDIES, "flops"])
            document["study"] = name
        text = json.dumps(mutated(document, rng))
        if rng.random() < 0.1:
            text = text[: rng.randrange(len(text))] + rng.choice(("", "[" * 5000, "\x00", "9" * 5000))
        (path / kind / f"{name}.json").write_text(text)
    return len(whole["runs"])


@pytest.mark.parametrize("seed", range(5))
def test_mutated_documents_are_listed_and_the_rest_is_shown(healthy, tmp_path, capsys, seed):
    """200 of 1,000 mutations."""
    path = tmp_path / "results"
    count = infected(healthy, path, seed, 200)
    for arguments in (["status"], ["retry"], ["retry", "--from-start"], ["status"]):
        code, out, err = call(sweeps, [*arguments, str(path)], capsys)
        assert code == 0 and not err
    assert "cannot be read: " in out
    assert int(out.split(" runs: ")[0].split("\n")[-1]) >= count
    code, out, err = call(analysis, ["report", str(path), "--out", str(tmp_path / "report.html")], capsys)
    assert code == 0 and not err
    assert "files could not be read" in out
    assert (tmp_path / "report.html").stat().st_size > 10_000


# --- checkpoints ---

TRAIN = ["train", "--agent", "lps", "--task", "ring-bandit-v0", "--steps", "6", "--eval-interval", "3"]
TRAIN += ["--eval-episodes", "2", "--checkpoint-seconds", "0", "--log-interval", "1", "--device", "cpu"]
TRAIN += ["--set", *(f"{k}={v}" for k, v in (small_hyperparameters("lps") | {"horizon": 1}).items())]
TENSORS = [torch.zeros(()), torch.full((16,), torch.nan), torch.zeros(3, 0), torch.zeros(1).expand(10**9)]
TENSORS += [torch.zeros(16, dtype=torch.int64), torch.zeros(16, dtype=torch.complex64), torch.eye(16).to_sparse()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Results of a run that was killed after three of six updates, its checkpoint, and the checkpoint's content."""
    path = tmp_path_factory.mktemp("trained") / "results"
    assert lps([*TRAIN, "--results", str(path)]) == 0
    store = Store(path)
    (document,) = store.runs()
    store.write_run({**document, "status": "running"})
    file = path / document["checkpoint"]
    content = torch.load(file)
    content["step"] = 3
    return path, file, content


@pytest.mark.parametrize("seed", range(5))
def test_mutated_checkpoints_are_refused_or_right(trained, tmp_path, capsys, seed):
    """30 of 150 mutations; each is evaluated, and a run is resumed from it."""
    origin, file, content = trained
    rng = random.Random(seed)
    for number in range(30):
        path = tmp_path / str(number)
        shutil.copytree(origin, path)
        stored = path / file.relative_to(origin)
        buffer = io.BytesIO()
        torch.save(mutated(content, rng, [*NASTY, *TENSORS * 3]), buffer)
        stored.write_bytes(buffer.getvalue())
        code, _, err = call(lps, ["evaluate", str(stored), "--episodes", "1"], capsys)
        assert code == 0 or (code == 2 and err.startswith("error: ") and err.count("\n") == 1), err
        resumed, _, err = call(lps, [*TRAIN, "--results", str(path)], capsys)
        (document,) = Store(path).runs()
        if resumed == 2:
            assert [line for line in err.splitlines() if line.startswith("error: ")], err
        else:  # a checkpoint of finite numbers may diverge
            assert document["status"] == {0: "done", 1: "failed"}[resumed]
            assert resumed or torch.load(stored)["step"] == 6


# --- datasets ---

NEEDS = Needs({"state": Space((2,))}, np.array([-1, -1], np.float32), np.array([1, 1], np.float32), ("walk",))


def _arrays() -> dict[str, np.ndarray]:
    rng, rows = np.random.default_rng(0), 40
    return {
        "observations": rng.normal(0, 1, (rows, 2)),
        "actions": rng.uniform(-1, 1, (rows, 2)),
        "rewards": rng.normal(0, 1, rows),
        "masks": np.ones(rows),
        "terminals": np.arange(rows) % 10 == 9,
    }


SPOILED: list[Callable[[np.ndarray], np.ndarray]] = [
    *(lambda a: a * np.nan, lambda a: a + np.inf, lambda a: 50.0 * a + 7, lambda a: a.astype(float) + 1e300),
    *(lambda a: a.astype(str), lambda a: a.astype(complex), lambda a: a.astype(object), lambda a: a.astype("S0")),
    *(lambda a: np.zeros(a.shape, "datetime64[s]"), lambda a: a[:0], lambda a: a[:-1], lambda a: a[..., None]),
    *(lambda a: a.ravel()[0], lambda a: np.asfortranarray(a.reshape(20, -1)), lambda a: a * 0),
]


def _spoil_bytes(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    match rng.randrange(4):
        case 0:
            del data[rng.randrange(len(data)) :]
        case 1:
            path.unlink()
            path.mkdir()
            return
        case 2:  # flags and method of the first file: encrypted, or of an unknown method
            data[6], data[8] = rng.choice(((1, 8), (0, 97), (0, 14)))
            at = data.find(b"PK\x01\x02")
            data[at + 8], data[at + 10] = data[6], data[8]
        case 3:
            for _ in range(5):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(60))
def test_mutated_datasets_are_refused_or_finite(tmp_path, seed):
    rng, arrays, path = random.Random(seed), _arrays(), tmp_path / "data.npz"
    for name in rng.sample(sorted(arrays), rng.choice((0, 1, 1, 2))):
        arrays[name] = rng.choice(SPOILED)(arrays[name])
    np.savez_compressed(path, **arrays)
    if rng.random() < 0.4:
        _spoil_bytes(path, rng)
    if rng.random() < 0.1:
        (tmp_path / ".converted" / rng.choice(("data.lock", "data.json"))).mkdir(parents=True)
    try:
        dataset = npz.read(path, NEEDS)
    except UserError as error:
        assert str(error).count("\n") == 0 and len(str(error)) < 600
        return
    for array in (*dataset.observations.values(), dataset.actions, dataset.rewards, dataset.masks):
        assert np.isfinite(array).all()
    assert np.abs(dataset.actions).max() <= 1 and dataset.terminals.any()


# --- arguments ---

TEXTS = ["", " ", "-1", "-0.5", "1e400", "nan", "inf", "-inf", "1e-320", "9" * 30, "9" * 5000, "x" * 300, "x" * 5000]
TEXTS += [
    "../x",
    "/etc/passwd",
    "/dev/null/x",
    "~nobody/x",
    "\udcff",
    "=1+1",
    "a=b",
    "lr=",
    "lr=" + "-" * 5000,
]
TEXTS += ["lr=" + "[" * 5000, "lr=nan", "batch_size=1e9", "horizon=" + "9" * 30, "base_hidden=[]", "s3://", "file://"]
TEXTS += ["nowhere://x", "sqlite:///x", "os.path", "this.that", "lps:lps", "lps:", ":", "None", "[]", "{}"]
COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], list[str]]] = {
    "train": (lps, ["train", "--agent", "lps", "--task", "ring-bandit-v0", "--dataset", "none"]),
    "evaluate": (lps, ["evaluate", "none.pt"]),
    "video": (lps, ["video", "none.pt", "none.mp4"]),
    "export": (lps, ["export", "none.pt", "none.safetensors"]),
    "collect": (lps, ["collect", "none"]),
    "agents": (lps, ["agents"]),
    "tasks": (lps, ["tasks"]),
    "status": (sweeps, ["status", "none"]),
    "retry": (sweeps, ["retry", "none"]),
    "report": (analysis, ["report", "none"]),
    "compare": (analysis, ["compare", "none"]),
    **{name: (import_module(f"sweeps.{name}").main, ["--dry-run"]) for name in STUDY_NAMES},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_arguments_are_taken_or_refused_in_one_sentence(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main, words = COMMANDS[name]
    _, out, _ = call(main, [*words[:1], "--help"] if words[0] == name else ["--help"], capsys)
    options = sorted({*re.findall(r"(?<![\w-])--[a-z][a-z-]*", out)} - {"--help", "--verbose", "--no-mlflow"})
    rng = random.Random(name)
    for _ in range(8 if name in STUDY_NAMES else 25):
        given = [*words, *(word for _ in range(rng.choice((1, 1, 2))) for word in _option(options, rng))]
        if not options or rng.random() < 0.2:
            given[rng.randrange(len(given))] = rng.choice(TEXTS)
        code, _, err = call(main, given, capsys)
        assert code in (0, 1, 2), given
        if code:
            assert "error: " in err.splitlines()[-1], (given, err)


def _option(options: list[str], rng: random.Random) -> list[str]:
    return [rng.choice(options), rng.choice(TEXTS)] if options else []
