"""Training end to end on a tiny dataset: what is stored, what a second call does, what a crash costs."""

import csv
import dataclasses
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from small import small_hyperparameters

import lps
from lps.__main__ import main
from lps.agents import AGENTS
from lps.commands import COMMANDS
from lps.errors import UserError
from lps.evaluation.rollout import Episode
from lps.runs.checkpoint import Checkpoint, checkpoint_path
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.suites import groups
from lps.training.options import TrainOptions
from lps.training.packs import members, one_per_slot
from lps.training.trainer import train

GROUPS = groups("ogbench")


TASK = "cube-single-play-singletask-task1-v0"


class FakeEvaluator:
    """Answers at once with an episode made of the policy's own action, so that equal rows mean equal policies."""

    def __init__(self, hold: int = 0):
        self.done, self.hold = [], hold

    def submit(self, policy, run, step):
        noise = np.zeros(policy.noise_dim, dtype=np.float32) if policy.noise_dim else None
        value = float(policy.act(np.ones(28, dtype=np.float32), noise).sum())
        self.done.append((run, step, [Episode(0, 1, value > 0, value, 1)]))

    def poll(self, wait=False):
        keep = 0 if wait else self.hold
        ready, self.done = self.done[: len(self.done) - keep], self.done[len(self.done) - keep :]
        return ready

    def close(self):
        pass


class SlowEvaluator(FakeEvaluator):
    """Is done only when waited for."""

    def poll(self, wait=False):
        return super().poll(wait) if wait else []


def make_runs(agent, seeds=(0, 1), steps=30, **settings):
    settings = {"eval_interval": 10, "eval_episodes": 1} | small_hyperparameters(agent) | settings
    return [Run.create(agent, TASK, seed, steps=steps, **settings) for seed in seeds]


def rows_of(store):
    return store.read_episodes().sort_by([("run_id", "ascending"), ("step", "ascending")]).to_pylist()


def metrics_of(store):
    keys = [("run_id", "ascending"), ("step", "ascending"), ("metric", "ascending")]
    return store.read_metrics().sort_by(keys).to_pylist()


def run_train(runs, store, tiny_data_dir, **settings):
    """Train on the CPU; `settings` are fields of TrainOptions, `evaluator` and `callback`."""
    others = {name: settings.pop(name) for name in ("evaluator", "callback") if name in settings}
    options = TrainOptions(**({"device": "cpu", "data_dir": str(tiny_data_dir), "log_interval": 5} | settings))
    return train(runs, store, options, **({"evaluator": FakeEvaluator()} | others))


@pytest.mark.parametrize("agent", AGENTS)
def test_a_pack_of_several_tasks_and_seeds_trains_and_is_skipped_afterwards(agent, tmp_path, tiny_data_dir):
    tasks = [task.name for task in GROUPS["cube-single"]][:2]
    hyperparameters = small_hyperparameters(agent)
    runs = [
        Run.create(agent, task, seed, steps=20, eval_interval=10, eval_episodes=1, **hyperparameters)
        for task in tasks
        for seed in (0, 1)
    ]
    store, events = Store(tmp_path / "r"), []
    status = run_train(runs, store, tiny_data_dir, callback=lambda p: events.append(p.event))
    assert set(status.values()) == {"done"} and events[0] == "start" and events[-1] == "done"
    rows = rows_of(store)
    assert [(r["run_id"], r["step"]) for r in rows] == sorted((run.id, step) for run in runs for step in (10, 20))
    for run in runs:
        document = store.read_run(run.id)
        assert Run.from_dict(document["run"]) == run
        assert document["step"] == 20 and document["dataset_fingerprint"] and document["versions"]["torch"]
    assert len(metrics_of(store)) == len(runs) * 4 * len({r["metric"] for r in metrics_of(store)})
    events.clear()
    run_train(runs, store, tiny_data_dir, callback=lambda p: events.append(p.event))
    assert events == [] and rows_of(store) == rows


@pytest.mark.parametrize("agent", AGENTS)
def test_interrupted_anywhere_and_called_again_gives_the_same_rows(agent, tmp_path, tiny_data_dir):
    """Killed after checkpoints that evaluations lag behind; packed one way before and another way after."""
    runs = make_runs(agent)
    whole = Store(tmp_path / "whole")
    run_train(runs, whole, tiny_data_dir)

    cut = Store(tmp_path / "cut")

    class Killed(BaseException):  # like a signal: nothing may handle it
        pass

    def kill_at(step):
        def callback(progress):
            if progress.step >= step and progress.event in ("log", "checkpoint"):
                raise Killed

        return callback

    for step, hold in ((12, 0), (20, 1), (26, 2)):
        with pytest.raises(Killed):
            run_train(
                runs,
                cut,
                tiny_data_dir,
                callback=kill_at(step),
                checkpoint_seconds=0.0,
                evaluator=FakeEvaluator(hold),
            )
        assert {cut.read_run(run.id)["status"] for run in runs} == {"running"}
    run_train(runs[:1], cut, tiny_data_dir)
    run_train(runs, cut, tiny_data_dir)
    ours, theirs = rows_of(cut), rows_of(whole)
    keys = ("run_id", "step", "episode", "env_seed", "length")
    assert [[r[k] for k in keys] for r in ours] == [[r[k] for k in keys] for r in theirs]
    np.testing.assert_allclose([r["return"] for r in ours], [r["return"] for r in theirs], atol=1e-4)
    assert [(r["run_id"], r["step"], r["metric"]) for r in metrics_of(cut)] == [
        (r["run_id"], r["step"], r["metric"]) for r in metrics_of(whole)
    ]


def test_a_learner_faster_than_its_evaluators_keeps_checkpoints_too(tmp_path, tiny_data_dir):
    kept = []
    run_train(
        make_runs("flow_bc"),
        Store(tmp_path / "r"),
        tiny_data_dir,
        callback=lambda progress: kept.append(progress.step) if progress.event == "checkpoint" else None,
        checkpoint_seconds=0.0,
        evaluator=SlowEvaluator(),
    )
    assert kept == [*range(1, 11), 20]  # an evaluation is waited for only when the next one is due


@pytest.mark.parametrize("agent", AGENTS)
def test_tasks_share_a_training_only_where_no_reward_is_seen(agent, tmp_path, tiny_data_dir, monkeypatch):
    tasks, members = [task.name for task in GROUPS["cube-single"]][:3], []
    settings = {"steps": 20, "eval_interval": 10, "eval_episodes": 1, **small_hyperparameters(agent)}
    runs = [Run.create(agent, task, seed, **settings) for seed in (0, 1) for task in tasks]
    create = AGENTS[agent].__init__

    def counted(self, configs, *rest):
        members.append(len(configs))
        create(self, configs, *rest)

    monkeypatch.setattr(AGENTS[agent], "__init__", counted)
    together, alone = Store(tmp_path / "together"), Store(tmp_path / "alone")
    run_train(runs, together, tiny_data_dir)
    assert members == [2 if AGENTS[agent].reward_free else 6]
    for run in runs:
        run_train([run], alone, tiny_data_dir)
    ours, theirs = rows_of(together), rows_of(alone)
    assert [(r["run_id"], r["step"]) for r in ours] == [(r["run_id"], r["step"]) for r in theirs]
    np.testing.assert_allclose([r["return"] for r in ours], [r["return"] for r in theirs], atol=1e-4)
    assert {document["run"]["task"] for document in together.runs()} == set(tasks)


@pytest.mark.slow
def test_sigkill_of_the_command_and_the_same_command_again(tmp_path, tiny_data_dir):
    settings = [f"{k}={v}" for k, v in small_hyperparameters("lps").items()]
    command = [
        *(sys.executable, "-m", "lps", "train", "--agent", "lps", "--task", TASK, "--steps", "500"),
        *("--seeds", "0", "1", "--eval-interval", "500", "--eval-episodes", "1", "--log-interval", "10"),
        *("--checkpoint-seconds", "0.1", "--data-dir", str(tiny_data_dir), "--set", *settings),
    ]
    killed, whole = Store(tmp_path / "killed"), Store(tmp_path / "whole")
    process = subprocess.Popen(
        [*command, "--results", str(tmp_path / "killed")], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("checkpoints/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert {document["status"] for document in killed.runs()} == {"running"}
    again = subprocess.run([*command, "--results", str(tmp_path / "killed")], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    subprocess.run([*command, "--results", str(tmp_path / "whole")], check=True, capture_output=True)
    assert rows_of(killed) == rows_of(whole)
    assert [(r["step"], r["metric"]) for r in metrics_of(killed)] == [
        (r["step"], r["metric"]) for r in metrics_of(whole)
    ]


def test_the_time_that_evaluation_takes_from_the_learner_is_counted(tmp_path, tiny_data_dir, monkeypatch):
    clock, polls = [0.0], []

    class Slow(FakeEvaluator):
        def poll(self, wait=False):
            clock[0] += 2.0
            polls.append(wait)
            return super().poll(wait)

    monkeypatch.setattr(sys.modules["lps.training.ledger"], "time", SimpleNamespace(monotonic=lambda: clock[0]))
    store, (run,) = Store(tmp_path / "r"), make_runs("flow_bc", seeds=(0,))
    run_train([run], store, tiny_data_dir, evaluator=Slow())
    document = store.read_run(run.id)
    assert document["evaluation_s"] == 2.0 * len(polls) == document["wall_time_s"] and polls[-1]


def test_a_diverged_member_fails_alone(tmp_path, tiny_data_dir):
    runs = [make_runs("lps", seeds=[seed], lr=lr)[0] for seed, lr in ((0, 3e-4), (1, 1e30), (2, 3e-4))]
    store, alone = Store(tmp_path / "packed"), Store(tmp_path / "alone")
    status = run_train(runs, store, tiny_data_dir)
    assert [status[run.id] for run in runs] == ["done", "failed", "done"]
    document = store.read_run(runs[1].id)
    assert document["status"] == "failed" and "diverged" in document["error"] and "step" in document["error"]
    run_train([runs[0], runs[2]], alone, tiny_data_dir)
    healthy = [row for row in rows_of(store) if row["run_id"] != runs[1].id]
    np.testing.assert_allclose([r["return"] for r in healthy], [r["return"] for r in rows_of(alone)], atol=1e-4)


def test_a_member_that_diverges_between_log_lines_is_never_evaluated_nor_kept(tmp_path, tiny_data_dir):
    runs = [make_runs("lps", seeds=[seed], lr=lr)[0] for seed, lr in ((0, 3e-4), (1, 1e30))]
    store = Store(tmp_path / "r")

    class Strict(FakeEvaluator):  # as the real one: a policy that is not finite is an error of the whole call
        def submit(self, policy, run, step):
            super().submit(policy, run, step)
            assert np.isfinite(self.done[-1][2][0].return_)

    status = run_train(runs, store, tiny_data_dir, evaluator=Strict(), log_interval=1000, checkpoint_seconds=0.0)
    assert [status[run.id] for run in runs] == ["done", "failed"]
    assert "diverged" in store.read_run(runs[1].id)["error"]
    assert (
        not store.exists(checkpoint_path(runs[1]))
        or Checkpoint.from_bytes(store.read_bytes(checkpoint_path(runs[1])), "stored")
        .params["base"]["kernel_0"]
        .isfinite()
        .all()
    )


def test_an_exception_marks_the_runs_failed_and_the_next_call_mends_them(tmp_path, tiny_data_dir):
    runs, store = make_runs("flow_bc"), Store(tmp_path / "r")

    class Broken(FakeEvaluator):
        def submit(self, policy, run, step):
            raise RuntimeError("the simulator is gone")

    with pytest.raises(RuntimeError):
        run_train(runs, store, tiny_data_dir, evaluator=Broken())
    for run in runs:
        document = store.read_run(run.id)
        assert document["status"] == "failed" and "the simulator is gone" in document["error"]
    assert set(run_train(runs, store, tiny_data_dir).values()) == {"done"}
    assert all(store.read_run(run.id)["error"] is None for run in runs)


def test_another_dataset_under_the_same_name_is_refused(tmp_path, tiny_data_dir):
    runs, store = make_runs("flow_bc"), Store(tmp_path / "r")
    run_train(runs, store, tiny_data_dir)
    path = checkpoint_path(runs[0])
    checkpoint = Checkpoint.from_bytes(store.read_bytes(path), path)
    checkpoint.fingerprint, checkpoint.step = "other", 10
    store.write_bytes(path, checkpoint.to_bytes())
    store.delete(f"runs/{runs[0].id}.json")
    with pytest.raises(UserError, match="has changed"):
        run_train(runs[:1], store, tiny_data_dir)


def test_damaged_and_foreign_checkpoints_are_named(tmp_path, tiny_data_dir):
    runs, store = make_runs("lps", seeds=[0], steps=5), Store(tmp_path / "r")
    run_train(runs, store, tiny_data_dir)
    whole = store.read_bytes(checkpoint_path(runs[0]))
    policy = lps.load_policy(tmp_path / "r" / checkpoint_path(runs[0]))
    assert policy.act(np.zeros(28)).shape == (2, 5) and policy.step == 5
    with pytest.raises(UserError, match="28"):
        policy.act(np.zeros(27))
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.pt")
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("hello")
    for name in ("foreign.pt", "half.pt", "text.pt", "absent.pt"):
        with pytest.raises(UserError, match=name) as error:
            lps.load_policy(tmp_path / name)
        assert "weights_only" not in str(error.value), "torch's advice is to load what may run any code"
    with pytest.raises(UserError, match="nowhere://x"):
        lps.load_policy("nowhere://x")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--agent", "lsp", "--task", TASK],
        ["--agent", "lps", "--task", "cube"],
        ["--agent", "lps", "--task", TASK, "--set", "lrr=1"],
        ["--agent", "lps", "--task", TASK, "--dataset", "not-there"],
        ["--agent", "lps", "--task", TASK, "--option", "success_timing=now"],
        pytest.param(
            ["--agent", "lps", "--task", TASK, "--device", "cuda"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        ["--agent", "lps", "--task", TASK, "--results", "/proc/nothing/here"],
        ["--agent", "lps", "--task", "cube-double-play-singletask-task1-v0", "--dataset", "cube-single-play-v0"],
    ],
    ids=["agent", "task", "hyperparameter", "dataset", "timing", "device", "unwritable", "sizes"],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, tmp_path, tiny_data_dir, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--steps", "5", "--data-dir", str(tiny_data_dir), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train --steps 0", "a whole number of at least 1, not '0'"),
        ("train --steps 1e3", "a whole number"),
        ("train --seeds 0 -1", "at least 0"),
        ("train --eval-interval 0", "at least 1"),
        ("train --eval-episodes -2", "at least 1"),
        ("train --eval-workers -3", "at least 0"),
        ("train --threads -1", "at least 1"),
        ("train --log-interval 0", "at least 1"),
        ("train --checkpoint-seconds nan", "a number of at least 0"),
        ("evaluate x.pt --episodes 0", "at least 1"),
        ("evaluate x.pt --workers -1", "at least 0"),
        ("evaluate x.pt --seed -1", "at least 0"),
        ("video x.pt out.mp4 --episodes 0", "at least 1"),
        ("video x.pt out.mp4 --seed -1", "at least 0"),
        ("collect cube-single-play --episodes 0", "at least 1"),
        ("collect cube-single-play --workers 0", "at least 1"),
        ("collect cube-single-play --seed -1", "at least 0"),
        ("collect cube-single-play --noise -0.1", "a number of at least 0"),
    ],
)
def test_senseless_numbers_are_refused_by_their_option(arguments, said, capsys):
    with pytest.raises(SystemExit) as left:
        main([*arguments.split(), *(["--agent", "lps", "--task", TASK] if arguments.startswith("train") else [])])
    assert left.value.code == 2
    option = next(word for word in arguments.split() if word.startswith("--"))
    shown = capsys.readouterr().err
    assert f"argument {option}: must be " in shown
    assert said in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0 and shown.startswith(f"usage: lps {command}")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("device", "gpu"),
        ("device_share", 0),
        ("device_share", 1.5),
        ("checkpoint_seconds", -1),
        ("log_interval", 0),
    ],
)
def test_a_bad_option_of_training_is_refused_by_its_name(option, value):
    with pytest.raises(UserError, match=option) as error:
        TrainOptions(**{option: value})
    assert str(value) in str(error.value)


def test_runs_that_see_no_reward_share_a_slot():
    tasks = [TASK, TASK.replace("task1", "task2")]
    for agent, slots in (("flow_bc", [0, 1, 0, 1]), ("lps", [0, 1, 2, 3])):
        runs = [Run.create(agent, task, seed) for task in tasks for seed in (0, 1)]
        pack = members(runs, dict.fromkeys((run.id for run in runs), None))
        assert [member.slot for member in pack] == slots
        assert [member.run for member in one_per_slot(pack)] == runs[: len(set(slots))]


@pytest.mark.parametrize(
    "setting, option", [("steps=7", "--steps"), ("seed=7", "--seeds"), ("log_interval=2", "--log-interval")]
)
def test_an_option_is_no_hyperparameter(setting, option, capsys):
    assert main(["train", "--agent", "lps", "--task", TASK, "--set", setting]) == 2
    assert capsys.readouterr().err.endswith(f"Use {option}\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_data_dir):
    """The command line that trained a run of 6 steps, and its results."""
    results = tmp_path_factory.mktemp("trained")
    settings = [f"{k}={v}" for k, v in small_hyperparameters("meanflow_bc").items()]
    command = ["train", "--agent", "meanflow_bc", "--task", TASK, "--steps", "6", "--data-dir", str(tiny_data_dir)]
    command += ["--eval-interval", "6", "--eval-episodes", "2", "--results", str(results), "--set", *settings]
    assert main(command) == 0
    return SimpleNamespace(command=command, store=Store(results), checkpoint=next(results.glob("checkpoints/*.pt")))


def test_the_command_line_trains_and_evaluates_as_in_training(trained, capsys):
    stored = rows_of(trained.store)
    assert len(stored) == 2 and pc.sum(trained.store.read_episodes()["length"]).as_py() > 0
    assert main(["evaluate", str(trained.checkpoint), "--episodes", "2"]) == 0
    shown = capsys.readouterr().out
    assert all(str(row["env_seed"]) in shown for row in stored)  # the same episodes as in training


def test_an_evaluation_may_act_in_another_way(trained, capsys):
    command = ["evaluate", str(trained.checkpoint), "--episodes", "1", "--set"]
    assert main([*command, "latent_dist=sphere"]) == 0
    assert main([*command, "horizon=1"]) == 2
    assert "--set horizon=1 does not fit the checkpoint's networks" in capsys.readouterr().err
    assert main([*command, "latent_dits=sphere"]) == 2
    assert "did you mean 'latent_dist'" in capsys.readouterr().err


def test_an_evaluation_is_kept_as_a_table(trained, tmp_path):
    out = tmp_path / "new" / "rows.csv"
    checkpoint = trained.checkpoint.as_uri()  # a URI is as good as a path
    assert main(["evaluate", checkpoint, "--episodes", "2", "--out", str(out)]) == 0
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    of_run = {"agent": "meanflow_bc", "task": TASK, "run_seed": "0"}
    expected = [of_run | {key: str(value) for key, value in row.items()} for row in rows_of(trained.store)]
    assert rows == expected and [file.name for file in out.parent.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize("out", ["/proc/nothing/rows.csv", "."])
def test_a_table_that_cannot_be_written_is_refused_before_evaluating(out, trained, capsys, monkeypatch):
    monkeypatch.setattr("lps.evaluation.rollout.evaluate", lambda *_, **__: pytest.fail("evaluated"))
    assert main(["evaluate", str(trained.checkpoint), "--out", out]) == 2
    assert capsys.readouterr().err.startswith("error: cannot write ")


@pytest.mark.parametrize("given, seed", [([], 0), (["--seed", "5"], 5)])
def test_a_video_is_of_the_runs_seed_unless_another_is_asked_for(given, seed, trained, monkeypatch, tmp_path):
    asked = []

    def record(actors, *_, **__):
        asked.extend((actor.seed, actor.step) for actor in actors)
        return [[] for _ in actors]

    monkeypatch.setattr("lps.evaluation.video.record", record)
    load = lps.load_policy
    for own in (0, 7):

        def load_of_seed(path, own=own):
            policy = load(path)
            policy.run = dataclasses.replace(policy.run, seed=own)
            return policy

        monkeypatch.setattr("lps.policy.file.load_policy", load_of_seed)
        assert main(["video", str(trained.checkpoint), str(tmp_path / "v.mp4"), *given]) == 0
    assert asked == [(seed, 6), (seed if given else 7, 6)]  # the first episodes of its evaluation


@pytest.mark.parametrize(
    "then, here, warned",
    [
        ("abc1234567", "abc1234567", False),
        ("abc1234567", "def7654321", True),
        ("abc1234567+dirty", "abc1234567+dirty", True),
        ("unknown", "def7654321", False),
        ("abc1234567", "unknown", False),
    ],
)
def test_a_finished_run_of_other_code_is_skipped_with_a_warning(then, here, warned, trained, capsys, monkeypatch):
    (document,) = trained.store.runs()
    trained.store.write_run({**document, "versions": {"git_commit": then}})
    monkeypatch.setattr("lps.runs.provenance.versions", lambda: {"git_commit": here})
    assert main(trained.command) == 0
    shown = capsys.readouterr()
    assert "already finished" in shown.out
    lines = [line for line in shown.err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == warned
    if warned:
        (line,) = lines
        assert "commit abc1234" in line and here[:7] in line and document["id"] in line


def test_the_command_line_lists_tasks(capsys):
    assert main(["tasks"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert "(28,)" in rows[TASK] and rows[TASK].endswith("200 steps, success")


@pytest.mark.parametrize("agent", AGENTS)
def test_the_command_line_explains_every_hyperparameter(agent, capsys):
    assert main(["agents"]) == 0 and f"{agent} " in capsys.readouterr().out
    assert main(["agents", agent]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {name: rest.strip() for name, _, rest in (line.strip().partition(" ") for line in lines)}
    for field in dataclasses.fields(AGENTS[agent].Config):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert rows[field.name].startswith(f"{default} ") and rows[field.name].count("  ")
    assert "0 < discount <= 1" in rows["discount"]
    if agent == "qcfql":
        assert rows["cube-single"] == "alpha=30.0"
    if agent == "dsrl":
        assert main(["agents", "dsrl:matched"]) == 0 and "[256, 256]" in capsys.readouterr().out
