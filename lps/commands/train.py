"""Train an agent and evaluate it on the way. The same command again resumes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lps.errors import WORKERS, UserError, at_least, printable
from lps.training.options import DEVICES, IF_BUSY, PRECISIONS

if TYPE_CHECKING:
    from lps.runs.intent import Planned
    from lps.runs.run import Run
    from lps.runs.store import Store
    from lps.training.ledger import Progress

HELP = "train an agent on a task; the same command again resumes"
RESULTS = "results/local"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("runs")
    what.add_argument("--agent", required=True, help="agent or variant, such as lps or dsrl:matched; see `lps agents`")
    what.add_argument(
        "--task", required=True, nargs="+", help="tasks of one group, trained together; see `lps tasks` for their names"
    )
    what.add_argument("--seeds", type=at_least(0), nargs="+", default=[0], help="one run for each seed (default: 0)")
    what.add_argument("--steps", type=at_least(1), default=1_000_000, help="number of updates (default: 1000000)")
    what.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="hyperparameters; see `lps agents AGENT`",
    )
    what.add_argument("--dataset", help="name of a dataset (default: the task's dataset)")
    what.add_argument("--eval-interval", type=at_least(1), help="updates between evaluations (default: steps / 10)")
    what.add_argument("--eval-episodes", type=at_least(1), default=50, help="episodes per evaluation (default: 50)")
    what.add_argument("--suite", help="name or import path of the tasks' suite, for example my_package.my_suite")
    what.add_argument(
        "--option",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="settings of the suite, for example success_timing=pre in OGBench",
    )

    how = parser.add_argument_group("training")
    how.add_argument("--results", default=RESULTS, help=f"results folder, a path or s3:// URI (default: {RESULTS})")
    how.add_argument(
        "--if-busy",
        choices=IF_BUSY,
        default="wait",
        help="what to do about runs that another process trains in the same results folder: wait for them after all "
        "others, skip them, or stop at once (default: wait, so that the command always completes its runs)",
    )
    how.add_argument("--data-dir", help="directory of the datasets (default: $LPS_DATA_DIR or ~/.ogbench/data)")
    how.add_argument("--device", default="auto", choices=DEVICES, help="default: cuda if a GPU is available")
    how.add_argument("--precision", default="float32", help=f"{', '.join(PRECISIONS)} (default: float32)")
    how.add_argument("--compile", action="store_true", help="compile the updates: a slow start, then faster updates")
    how.add_argument("--threads", type=at_least(1, os.cpu_count()), help="number of CPU threads for training")
    how.add_argument(
        "--eval-workers",
        type=at_least(0, WORKERS),
        default=0,
        help="number of evaluation processes (default: 0, this process)",
    )
    how.add_argument(
        "--log-interval", type=at_least(1), default=500, help="updates between logged metrics (default: 500)"
    )
    how.add_argument(
        "--checkpoint-seconds", type=at_least(0.0), default=120.0, help="seconds between checkpoints (default: 120)"
    )


def run(arguments: argparse.Namespace) -> int:
    import torch

    from lps.evaluation.evaluators import InlineEvaluator, PoolEvaluator
    from lps.runs.intent import write_intent
    from lps.runs.store import Store
    from lps.training.options import TrainOptions
    from lps.training.trainer import train

    planned = _planned(arguments)
    runs = [one.run for one in planned]
    names = _names(runs)
    options = TrainOptions(
        device=arguments.device,
        precision=arguments.precision,
        compile=arguments.compile,
        data_dir=arguments.data_dir,
        checkpoint_seconds=arguments.checkpoint_seconds,
        log_interval=arguments.log_interval,
    )
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    store = Store(arguments.results)
    _report_finished(runs, store)
    write_intent(store, "train", planned)
    evaluator = PoolEvaluator(arguments.eval_workers) if arguments.eval_workers else InlineEvaluator()
    try:
        with _ProgressLine(names) as line:
            status = train(
                runs,
                store,
                options,
                sweep="train",
                evaluator=evaluator,
                callback=line,
                if_busy=arguments.if_busy,
                tell=lambda text: print(printable(text), flush=True),
            )
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume from the last checkpoint", file=sys.stderr)
        return 130
    finally:
        evaluator.close()
    _print_results(store, runs)
    failed = [run for run in runs if status[run.id] == "failed"]
    if skipped := [names[run.id] for run in runs if status[run.id] == "skipped"]:
        print(f"skipped, because another process trains them: {', '.join(skipped)}")
    for run in failed:
        document = store.read_run(run.id) or {}
        print(f"failed: {names[run.id]} (run {run.id}): {document.get('error')}", file=sys.stderr)
    print(f"results: {store.path}\ncheckpoints: {store.path}/checkpoints/<run>.pt")
    return 1 if failed else 0


def _planned(arguments: argparse.Namespace) -> list[Planned]:
    from lps.runs.hyperparameters import parse_settings
    from lps.runs.intent import planned
    from lps.tasks.suites import full_name

    hyperparameters, options = _hyperparameters(arguments), parse_settings(arguments.option, "--option")
    return [
        planned(
            arguments.agent,
            full_name(task, arguments.suite),
            seed,
            steps=arguments.steps,
            dataset=arguments.dataset,
            eval_interval=arguments.eval_interval or max(1, arguments.steps // 10),
            eval_episodes=arguments.eval_episodes,
            options=options,
            **hyperparameters,
        )
        for task in dict.fromkeys(arguments.task)
        for seed in dict.fromkeys(arguments.seeds)
    ]


def _hyperparameters(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the hyperparameters of --set. UserError for a name that is an option of its own."""
    from lps.runs.hyperparameters import parse_settings

    settings = parse_settings(arguments.set)
    for name in settings:
        option = "seeds" if name == "seed" else name
        if option in vars(arguments).keys() - {"run", "command", "set"}:
            raise UserError(f"--set {name}: {name} is not a hyperparameter. Use --{option.replace('_', '-')}")
    return settings


def _names(runs: Sequence[Run]) -> dict[str, str]:
    """Return a short name for each run, by run id."""
    several = len({run.task for run in runs}) > 1
    return {run.id: f"{run.resolved_task.title} seed {run.seed}" if several else f"seed {run.seed}" for run in runs}


def _report_finished(runs: Sequence[Run], store: Store) -> None:
    """Print the number of finished runs, and a warning if another commit finished them."""
    from lps.runs.provenance import short_commit, trained_by_other_commits, versions

    documents = [store.read_run(run.id) or {} for run in runs]
    finished = [document for document in documents if document.get("status") == "done"]
    if finished:
        print(f"skipping {len(finished)} of {len(runs)} runs: already finished")
    if others := trained_by_other_commits(finished):
        print(
            f"warning: finished runs were trained with commit {', '.join(sorted(set(others.values())))}; the current "
            f"commit is {short_commit(versions())}. To train them again, use another --results, or delete "
            f"runs/ID.json and checkpoints/ID.pt in {store.path} for the IDs {', '.join(others)}",
            file=sys.stderr,
        )


class _ProgressLine:
    """A progress bar: updates, losses (mean over runs) and the latest score of each run.

    It appears with the first update: before, data may be converted or an error may occur.
    """

    def __init__(self, names: Mapping[str, str]):
        self.names = names
        self.bar: Any = None

    def __enter__(self) -> _ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, progress: Progress) -> None:
        from tqdm import tqdm

        from lps.runs.scores import describe_checks

        if progress.event == "start":
            if self.bar is None:
                self.bar = tqdm(unit="step", dynamic_ncols=True, mininterval=1.0)
            self.bar.reset(total=progress.steps)
            self.bar.initial = progress.step
        bar = self.bar
        if bar is None:  # training failed before its first update
            return
        bar.n = progress.step
        parts = []
        if progress.metrics:
            values = list(progress.metrics.values())
            losses = [name for name in values[0] if name.endswith("loss")]
            parts += [f"{name[:-5]} {sum(v[name] for v in values) / len(values):.3g}" for name in losses]
        if progress.success:
            parts.append("score " + " ".join(f"{value:.2f}" for value in progress.success.values()))
        bar.set_postfix_str(", ".join(parts))
        if progress.event == "eval" and not progress.success:
            for run, metrics in progress.metrics.items():
                bar.write(f"step {progress.step}: {self.names.get(run, run)} {describe_checks(metrics)}")
        elif progress.event == "eval":
            scores = [f"{self.names.get(run, run)} {value:.2f}" for run, value in progress.success.items()]
            bar.write(f"step {progress.step}: score {', '.join(scores)}")


def _print_results(store: Store, runs: Sequence[Run]) -> None:
    """Print the score of the last evaluation of each run, or its last held-out checks."""
    from lps.runs.scores import describe_checks, describe_score, last_checks

    for run in runs:
        if episodes := store.episodes(run.id):
            last = max(episodes)
            score = describe_score(episodes[last], run.resolved_task)
            print(f"run {run.id}: {score} at step {last} ({len(episodes[last])} episodes)")
        elif checks := last_checks(store, run):
            print(f"run {run.id}: {describe_checks(checks)}")
