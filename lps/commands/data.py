"""Describe recordings of a robot, or export a dataset in the form of LeRobot or Minari."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lps.errors import UserError, at_least
from lps.files import local_path

if TYPE_CHECKING:
    from lps.data.recordings import Recordings

HELP = "describe recordings, or export them to LeRobot or Minari"
FORMATS = ("lerobot", "minari")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True, metavar="describe|export")
    describe = what.add_parser("describe", help="print episodes, columns, rewards, successes and ranges of actions")
    export = what.add_parser("export", help="write a dataset in the form of LeRobot v3.0 or Minari")
    for command in (describe, export):
        command.add_argument("path", help="file or folder of recordings: LeRobot, robomimic, DROID, Minari or npz")
        command.add_argument(
            "--option",
            nargs="+",
            action="extend",
            default=[],
            metavar="NAME=VALUE",
            help="options of the format, such as filter=train or failures=true",
        )
    describe.add_argument(
        "--horizon", type=at_least(1, 1000), default=5, help="number of actions in a chunk (default: 5)"
    )
    describe.add_argument("--csv", metavar="FILE.csv", help="CSV file for the histograms of the actions")
    describe.add_argument("--write-task", metavar="FILE.toml", help="task file to write, for lps train --task")
    export.add_argument("out", metavar="FOLDER", help="folder to write; must not exist")
    export.add_argument("--format", required=True, choices=FORMATS, help="form of the new dataset")
    export.add_argument("--rate", type=at_least(0.001), help="control rate in Hz (default: the recordings')")
    export.add_argument("--codec", default="h264", help="codec of videos: h264, av1 or lossless (default: h264)")
    export.add_argument("--task", help="task whose rewards and ends are written, for files of lps collect")
    export.add_argument("--instruction", default="task", help="task in words, for LeRobot (default: task)")


def _rewarded(recordings: Recordings, task: str) -> Recordings:
    from lps.data.recordings import Rewarded
    from lps.tasks.suites import get_task, load_dataset

    path = recordings.path
    if path.suffix != ".npz":
        raise UserError(
            f"--task adds rewards to .npz files, and {path} is of format {recordings.format}. Remove --task"
        )
    dataset = load_dataset([get_task(task)], dataset=path.name.removesuffix(".npz"), data_dir=path.parent)
    return Rewarded.of(recordings, dataset)


def run(arguments: argparse.Namespace) -> int:
    from lps.data import describe, export_lerobot, export_minari
    from lps.data.recordings import open_recordings
    from lps.errors import printable
    from lps.runs.hyperparameters import parse_settings

    path = local_path(arguments.path).absolute()
    words = {"true": True, "false": False}
    options = {name: words.get(value, value) for name, value in parse_settings(arguments.option, "--option").items()}
    recordings = open_recordings(path, options)
    if arguments.what == "describe":
        found = describe.describe(recordings, arguments.horizon)
        print(printable("\n".join(found.lines)))
        if arguments.csv:
            describe.write_histograms(found.histograms, arguments.csv)
            print(f"wrote {local_path(arguments.csv).absolute()}")
        if arguments.write_task:
            describe.write_task(recordings, arguments.write_task, arguments.horizon)
            file = local_path(arguments.write_task).absolute()
            print(f"wrote {file}\nto train on it: --task {arguments.write_task} --data-dir {path.parent}")
        return 0
    if arguments.task:
        recordings = _rewarded(recordings, arguments.task)
    out = local_path(arguments.out).absolute()
    if arguments.format == "minari":
        export_minari.export(recordings, out)
    else:
        export_lerobot.export(
            recordings, out, rate=arguments.rate, codec=arguments.codec, instruction=arguments.instruction
        )
    print(f"wrote {out}: {len(recordings.lengths)} episodes, {sum(recordings.lengths)} steps")
    return 0
