"""The command line of the library: `python -m lps train | evaluate | video | collect | tasks | agents`."""

from __future__ import annotations

import argparse
import csv
import errno
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lps.errors import UserError, at_least, guarded

if TYPE_CHECKING:  # each command imports what it needs: --help and a typing error do not wait for torch
    from lps.policy.policy import Policy
    from lps.runs.store import Store
    from lps.tasks.task import Task
    from lps.training.trainer import Progress

DEFAULT_RESULTS = "results/local"


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 if it did all, 1 if a run failed, 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m lps", description="Train and evaluate policies without Ray.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands.add_parser("train", help="train an agent on a task; the same command again resumes"))
    _add_evaluate(commands.add_parser("evaluate", help="evaluate a checkpoint"))
    _add_video(commands.add_parser("video", help="film a checkpoint's policy"))
    _add_collect(commands.add_parser("collect", help="make a play dataset with OGBench's oracles"))
    commands.add_parser("tasks", help="list the tasks").set_defaults(call=_tasks)
    _add_agents(commands.add_parser("agents", help="list the agents and their variants, or one's hyperparameters"))
    arguments = parser.parse_args(argv)
    return guarded(arguments.call)(arguments)


# --- train ---------------------------------------------------------------------------------------------------------


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", required=True, help="for example lps, or a variant: dsrl:matched (see `agents`)")
    parser.add_argument(
        "--task", required=True, nargs="+", help="for example cube-single-play-singletask-task1-v0; several of one "
        "group train together",
    )  # fmt: skip
    parser.add_argument("--steps", type=at_least(1), default=1_000_000, help="updates (default: 1000000, the paper's)")
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0], help="one run each, trained together")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="hyperparameters (see `agents AGENT`)",
    )
    parser.add_argument("--results", default=DEFAULT_RESULTS, help=f"folder or s3:// (default: {DEFAULT_RESULTS})")
    parser.add_argument("--dataset", help="name of a dataset file (default: the task's)")
    parser.add_argument("--data-dir", help="where datasets are (default: $LPS_DATA_DIR or ~/.ogbench/data)")
    parser.add_argument("--eval-interval", type=at_least(1), help="updates between evaluations (default: steps / 10)")
    parser.add_argument("--eval-episodes", type=at_least(1), default=50)
    parser.add_argument(
        "--eval-workers", type=at_least(0), default=0, help="processes that evaluate (default: this one)"
    )
    parser.add_argument(
        "--option",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="settings of the task's suite, such as success_timing=pre in OGBench",
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=at_least(1), help="CPU threads of training")
    parser.add_argument(
        "--compile", action="store_true", help="let torch compile the update: minutes first, then faster"
    )
    parser.add_argument(
        "--precision", default="float32", help="float32 (default, the reference), tf32 (on NVIDIA GPUs) or bf16"
    )
    parser.add_argument("--log-interval", type=at_least(1), default=500, help="updates between logged metrics")
    parser.add_argument("--checkpoint-seconds", type=at_least(0.0), default=120.0)
    parser.set_defaults(call=_train)


def _train(arguments: argparse.Namespace) -> int:
    import torch

    from lps.evaluation.evaluators import InlineEvaluator, PoolEvaluator
    from lps.runs.hyperparameters import parse_settings
    from lps.runs.run import Run
    from lps.runs.store import Store
    from lps.tasks.suites import get_task
    from lps.training.trainer import train

    hyperparameters = _hyperparameters(arguments)
    runs = [
        Run.create(
            arguments.agent,
            task,
            seed,
            steps=arguments.steps,
            dataset=arguments.dataset,
            eval_interval=arguments.eval_interval or max(1, arguments.steps // 10),
            eval_episodes=arguments.eval_episodes,
            options=parse_settings(arguments.option, "--option"),
            **hyperparameters,
        )
        for task in dict.fromkeys(arguments.task)
        for seed in dict.fromkeys(arguments.seeds)
    ]
    several = len({run.task for run in runs}) > 1
    names = {run.id: f"{get_task(run.task).title} seed {run.seed}" if several else f"seed {run.seed}" for run in runs}
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    store = Store(arguments.results)
    documents = [store.read_run(run.id) or {} for run in runs]
    done = [document for document in documents if document.get("status") == "done"]
    if done:
        print(f"{len(done)} of {len(runs)} runs are finished already: skipped")
        _warn_of_other_code(done, store)
    evaluator = PoolEvaluator(arguments.eval_workers) if arguments.eval_workers else InlineEvaluator()
    try:
        with _ProgressLine(names) as line:
            status = train(
                runs,
                store,
                sweep="train",
                data_dir=arguments.data_dir,
                device=arguments.device,
                evaluator=evaluator,
                callback=line,
                checkpoint_seconds=arguments.checkpoint_seconds,
                log_interval=arguments.log_interval,
                compiled=arguments.compile,
                precision=arguments.precision,
            )
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    finally:
        evaluator.close()
    _print_results(store, [run.id for run in runs])
    failed = [run for run in runs if status[run.id] == "failed"]
    for run in failed:
        document = store.read_run(run.id) or {}
        print(f"failed: {names[run.id]} (run {run.id}): {document.get('error')}", file=sys.stderr)
    print(f"results: {store.path}\ncheckpoints: {store.path}/checkpoints/<run>.pt")
    return 1 if failed else 0


def _hyperparameters(arguments: argparse.Namespace) -> dict[str, Any]:
    """What --set says. UserError where that is an option of its own."""
    from lps.runs.hyperparameters import parse_settings

    settings = parse_settings(arguments.set)
    for name in settings:
        option = "seeds" if name == "seed" else name
        if option in vars(arguments).keys() - {"call", "command", "set"}:
            raise UserError(
                f"--set takes hyperparameters; {name} is an option of its own: --{option.replace('_', '-')}"
            )
    return settings


def _warn_of_other_code(done: Sequence[Mapping[str, Any]], store: Store) -> None:
    """One line where runs that are skipped were finished by other code than this."""
    from lps.runs.provenance import other_code, short_commit, versions

    if others := other_code(done):
        print(
            f"warning: finished with commit {', '.join(sorted(set(others.values())))}, this is "
            f"{short_commit(versions())}: skipped; to train with this code, use another --results, or "
            f"delete runs/ID.json and checkpoints/ID.pt in {store.path}, ID being {', '.join(others)}",
            file=sys.stderr,
        )


class _ProgressLine:
    """One line: updates done, steps/s, ETA, losses (mean over members) and the latest success of each member.

    It begins with the first update: before it, data may be converted, or an error be all there is to say.
    """

    def __init__(self, names: dict[str, str]):
        self.names = names
        self.bar: Any = None

    def __enter__(self) -> _ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, progress: Progress) -> None:
        from tqdm import tqdm

        if progress.event == "start":
            if self.bar is None:
                self.bar = tqdm(unit="step", dynamic_ncols=True, mininterval=1.0)
            self.bar.reset(total=progress.steps)
            self.bar.initial = progress.step
        bar = self.bar
        if bar is None:  # it failed before the first update
            return
        bar.n = progress.step
        parts = []
        if progress.metrics:
            values = list(progress.metrics.values())
            names = [name for name in values[0] if name.endswith("loss")]
            parts += [f"{name[:-5]} {sum(v[name] for v in values) / len(values):.3g}" for name in names]
        if progress.success:
            parts.append("success " + " ".join(f"{value:.2f}" for value in progress.success.values()))
        bar.set_postfix_str(", ".join(parts))
        if progress.event == "eval":
            found = {self.names.get(run, run): value for run, value in progress.success.items()}
            bar.write(f"step {progress.step}: success " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()))


def _print_results(store: Store, ids: Sequence[str]) -> None:
    episodes = [row for row in store.read_episodes().to_pylist() if row["run_id"] in ids]
    for run_id in ids:
        rows = [row for row in episodes if row["run_id"] == run_id]
        if rows:
            last = max(row["step"] for row in rows)
            results = [row["success"] for row in rows if row["step"] == last]
            mean = sum(results) / len(results)
            print(f"run {run_id}: success {mean:.2f} at step {last} ({len(results)} episodes)")


# --- evaluate, video -----------------------------------------------------------------------------------------------


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="file or URI")
    parser.add_argument("--episodes", type=at_least(1), default=50)
    parser.add_argument("--seed", type=at_least(0), help="evaluation seed (default: the run's, as in training)")
    parser.add_argument("--task", help="another task of the same sizes (default: the run's)")
    parser.add_argument("--workers", type=at_least(0), default=0, help="processes (default: this one)")
    parser.add_argument("--out", metavar="FILE.csv", help="write one row per episode there")
    parser.set_defaults(call=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    import dataclasses

    from lps.evaluation.evaluators import InlineEvaluator, PoolEvaluator
    from lps.policy.policy import load_policy

    policy = load_policy(arguments.checkpoint)
    task = _task_of(policy, arguments.task)
    out = Path(arguments.out).expanduser() if arguments.out is not None else None
    if out:
        _check_writable(out)
    seed = policy.run.seed if arguments.seed is None else arguments.seed
    run = dataclasses.replace(policy.run, task=task.name, seed=seed, eval_episodes=arguments.episodes)
    evaluator = PoolEvaluator(arguments.workers) if arguments.workers else InlineEvaluator()
    try:
        evaluator.submit(policy, run, policy.step)
        ((_, _, episodes),) = evaluator.poll(wait=True)
    finally:
        evaluator.close()
    print("episode  env_seed    success  return   length")
    for row in episodes:
        print(f"{row.episode:7d}  {row.env_seed:10d}  {row.success!s:7s}  {row.return_:7.1f}  {row.length:6d}")
    mean = sum(bool(row.success) for row in episodes) / len(episodes)
    print(f"success {mean:.3f} over {len(episodes)} episodes of {task.name}, {policy.run.agent} at step {policy.step}")
    if out:
        of_run = {
            "run_id": policy.run.id,
            "agent": policy.run.agent,
            "task": task.name,
            "run_seed": policy.run.seed,
            "step": policy.step,
        }
        _write_csv(out, [of_run | row.row() for row in episodes])
        print(f"wrote {out.resolve()}")
    return 0


def _check_writable(path: Path) -> None:
    """UserError where no file can be written to `path`: now, not when the work is done."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another --out") from None


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with the same columns, the whole file or nothing."""
    from lps.files import replacing

    try:
        with replacing(path) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def _add_video(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="file or URI")
    parser.add_argument("output", help="for example out.mp4")
    parser.add_argument("--episodes", type=at_least(1), default=1)
    parser.add_argument("--seed", type=at_least(0), help="evaluation seed (default: the run's)")
    parser.add_argument("--task", help="another task of the same sizes (default: the run's)")
    parser.set_defaults(call=_video)


def _video(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from lps.evaluation.video import record
    from lps.policy.policy import load_policy

    policy = load_policy(arguments.checkpoint)
    task = _task_of(policy, arguments.task)
    with tqdm(unit="frame", desc="filming") as bar:
        episodes = record(
            policy,
            task,
            arguments.output,
            seed=policy.run.seed if arguments.seed is None else arguments.seed,
            step=policy.step,
            episodes=arguments.episodes,
            progress=lambda frames: _advance(bar, frames),
        )
    for row in episodes:
        print(f"episode {row.episode}: {'success' if row.success else 'no success'} after {row.length} steps")
    print(f"wrote {Path(arguments.output).resolve()}")
    return 0


def _advance(bar: Any, count: int) -> None:
    bar.update(count - bar.n)


def _task_of(policy: Policy, name: str | None) -> Task:
    from lps.tasks.suites import get_task

    task = get_task(name or policy.run.task, policy.run.options if name is None else None)
    if dict(task.observation) != policy.observation:
        raise UserError(
            f"{task.name} has the observation {_spaces(task.observation)}, and the policy was trained on "
            f"{policy.run.task} with {_spaces(policy.observation)}. Choose a task with the same observation"
        )
    return task


# --- collect, tasks, agents -------------------------------------------------------------------------------------------


def _add_collect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="kind of dataset, such as cube-single-play or pointmaze-medium-navigate")
    parser.add_argument(
        "--episodes", type=at_least(1), default=1000, help="number of episodes; a tenth as many are added for validation"
    )
    parser.add_argument("--workers", type=at_least(1), default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument(
        "--noise", type=at_least(0.0), help="standard deviation of the oracle's noise (default: OGBench's for this kind)"
    )
    parser.add_argument("--name", help="of the file, for train --dataset (default: such as cube-single-play-1000)")
    parser.add_argument("--data-dir", help="where to put it (default: $LPS_DATA_DIR or ~/.ogbench/data)")
    parser.set_defaults(call=_collect)


def _collect(arguments: argparse.Namespace) -> int:
    from lps.tasks.ogbench import collect

    path = collect(
        arguments.dataset,
        episodes=arguments.episodes,
        workers=arguments.workers,
        seed=arguments.seed,
        name=arguments.name,
        data_dir=arguments.data_dir,
        noise=arguments.noise,
    )
    print(f"dataset: {path}\nto train on it: --dataset {path.stem}")
    return 0


def _tasks(_: argparse.Namespace) -> int:
    from lps.tasks.suites import all_tasks

    for task in all_tasks().values():
        shapes = f"{_spaces(task.observation)}  action {task.action.shape}"
        print(f"{task.name:48s} {shapes}  {task.max_episode_steps} steps  {task.metric}")
    return 0


def _add_agents(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", nargs="?", help="show this one's hyperparameters; perhaps a variant")
    parser.set_defaults(call=_agents)


def _agents(arguments: argparse.Namespace) -> int:
    from lps.agents import AGENTS
    from lps.agents.variants import GROUP_SETTINGS, VARIANTS, resolve
    from lps.runs.hyperparameters import explain

    if arguments.agent is None:
        for name, agent in AGENTS.items():
            print(f"{name:12s} {agent.title}")
            _print_settings({f"{name}:{variant}": settings for variant, settings in VARIANTS.get(name, {}).items()})
        return 0
    name, variant = resolve(arguments.agent, AGENTS)
    print(f"{arguments.agent}: {AGENTS[name].title}")
    for row in explain(name, variant):
        default = str(list(row.default) if isinstance(row.default, tuple) else row.default)
        print(f"  {row.name:20s} {default:22s} {row.allowed:46s} {row.meaning}".rstrip())
    print(f"unless you set it, horizon is the task's: {_horizons()}")
    if tuned := GROUP_SETTINGS.get(name, {}):
        print("set in these groups of tasks, unless you set it:")
        _print_settings(tuned)
    if name == arguments.agent and (variants := VARIANTS.get(name, {})):
        print("variants:")
        _print_settings({f"{name}:{variant}": settings for variant, settings in variants.items()})
    return 0


def _horizons() -> str:
    from lps.tasks import SUITES
    from lps.tasks.suites import tasks_of

    horizons = {suite: sorted({task.horizon for task in tasks_of(suite).values()}) for suite in SUITES}
    return ", ".join(f"{' or '.join(map(str, found))} ({suite})" for suite, found in horizons.items())


def _spaces(observation: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {space}" for name, space in observation.items())


def _print_settings(settings: Mapping[str, Mapping[str, Any]]) -> None:
    for name, values in settings.items():
        shown = " ".join(f"{key}={value}" for key, value in values.items()) or "the agent as it is"
        print(f"  {name:32s} {shown}")


if __name__ == "__main__":
    sys.exit(main())
