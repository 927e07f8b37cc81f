"""What of a results folder is worth carrying away from a machine, in few small files, and back again.

    python benchmarks/carry.py away RESULTS OUT [--mib 60] [--skip RUNS]
    python benchmarks/carry.py back OUT RESULTS

`away` may run beside a training, again and again. It writes, in order of worth, as much as --mib allows:

    OUT/curves.csv             mean success over seeds, by agent, task and update
    OUT/results.tar.gz         everything but checkpoints: a results folder once unpacked
    OUT/state.zip.0, .1, ...   parts of at most 16 MiB of one archive: the policy of each agent's and task's first seed,
                               which `python -m lps evaluate` and `video` take, and whole checkpoints, seed by seed

It says which runs' checkpoints are in. --skip leaves out the policies and the checkpoints of the first RUNS, for a
second call that brings more.
`back` fills a results folder, from which the same `python -m lps train` goes on; a run without a checkpoint there would
begin anew, so name only tasks and seeds that have one. A checkpoint of LPS has 17.0 MiB, 15.6 in the archive; a policy
3.2. So 60 MiB hold five policies and two checkpoints, and each call with --skip brings three more.
"""

import argparse
import csv
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

from lps.errors import UserError, at_least, command_line
from lps.policy.file import policy_of, save_policy
from lps.runs.checkpoint import Checkpoint, checkpoint_path
from lps.runs.record import Status
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.suites import get_task

MIB = 1 << 20
PART = 16 * MIB
LEVEL = 1  # numbers of a network hardly shrink: a higher one takes time only


@command_line
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    one = ways.add_parser("away", help="from RESULTS to OUT")
    one.add_argument("results", help="results folder")
    one.add_argument("out", type=Path, help="folder for the files")
    one.add_argument("--mib", type=at_least(0.0), default=60.0, help="size of all files, in MiB (default: 60)")
    one.add_argument("--skip", type=at_least(0), default=0, metavar="RUNS", help="those that another call has brought")
    two = ways.add_parser("back", help="from OUT to RESULTS")
    two.add_argument("out", type=Path, help="folder with the files")
    two.add_argument("results", type=Path, help="results folder, made where it is not there")
    arguments = parser.parse_args()
    if arguments.way == "back":
        back(arguments.out, arguments.results)
    else:
        away(Store(arguments.results, create=False), arguments.out, int(arguments.mib * MIB), arguments.skip)
    return 0


def away(store: Store, out: Path, limit: int, skip: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    documents = store.runs()
    runs = {doc["id"]: Run.from_dict(doc["run"]) for doc in documents}
    done = {doc["id"] for doc in documents if doc["status"] == Status.DONE}
    curves(store, runs, out / "curves.csv")
    partial = out / "results.part"
    with tarfile.open(partial, "w:gz") as archive:
        for path in sorted(Path(store.path).rglob("*")):
            if path.is_file() and path.parent.name != "checkpoints" and path.suffix != ".part":  # being written
                archive.add(path, str(path.relative_to(store.path)))
    partial.replace(out / "results.tar.gz")
    room = limit - sum((out / name).stat().st_size for name in ("curves.csv", "results.tar.gz"))
    # What still has to be trained comes first.
    order = sorted(runs.values(), key=lambda run: (run.id in done, run.seed, run.task, run.agent))
    stored = [run for run in order if store.exists(checkpoint_path(run))]
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "state.zip"
        for line in write_state(store, stored, skip, whole, room):
            print(line)
        data = whole.read_bytes()
    for old in out.glob("state.zip.*"):
        old.unlink()
    for number, start in enumerate(range(0, len(data), PART)):
        (out / f"state.zip.{number}").write_bytes(data[start : start + PART])
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / MIB:.1f} MiB")


def write_state(store: Store, runs: list[Run], skip: int, path: Path, room: int) -> list[str]:
    """Writes the archive, of at most `room` bytes; what is in it, a line each."""
    lines = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:

        def add(name: str, data: bytes) -> bool:
            directory = 500 * (len(archive.namelist()) + 1)  # more than the archive's own notes on its files
            if path.stat().st_size + len(zlib.compress(data, LEVEL)) + directory > room:
                return False
            archive.writestr(name, data)
            archive.fp.flush()  # type: ignore[union-attr]  # for the size above
            return True

        firsts = {(run.agent, run.task): run for run in sorted(runs, key=lambda run: -run.seed)}
        for run in sorted(firsts.values(), key=lambda run: (run.agent, run.task)) if not skip else ():
            name = f"policies/{run.agent}-{get_task(run.task).title.replace(' ', '-')}.safetensors"
            if not add(name, policy_file(store, run)):
                break
            lines.append(f"{name}: seed {run.seed}")
        for run in runs[skip:]:
            data = store.read_bytes(checkpoint_path(run))
            if not add(checkpoint_path(run), data):
                break
            step = Checkpoint.from_bytes(data, checkpoint_path(run)).step
            lines.append(f"{checkpoint_path(run)}: {run.agent}, {run.task}, seed {run.seed}, update {step}")
    return lines


def policy_file(store: Store, run: Run) -> bytes:
    path = checkpoint_path(run)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "policy.safetensors"
        save_policy(policy_of(Checkpoint.from_bytes(store.read_bytes(path), path)), file)
        return file.read_bytes()


def back(out: Path, results: Path) -> None:
    parts = sorted(out.glob("state.zip.*"), key=lambda path: int(path.suffix[1:]))
    if not (out / "results.tar.gz").exists():
        raise UserError(f"{out} has no results.tar.gz. Give a folder that `carry.py away` has filled")
    with tarfile.open(out / "results.tar.gz") as archive:
        archive.extractall(results, filter="data")
    with tempfile.TemporaryFile() as whole:
        for part in parts:
            whole.write(part.read_bytes())
        try:
            with zipfile.ZipFile(whole) as state:
                if state.testzip():
                    raise zipfile.BadZipFile
                state.extractall(results)
        except zipfile.BadZipFile as error:
            raise UserError(
                f"{out}: the {len(parts)} files state.zip.* are not one whole archive. Bring all parts of one call. "
                f"Curves and rows are in {results} already"
            ) from error
    print(f"{results}: {sum(name.startswith('checkpoints/') for name in state.namelist())} checkpoints")


def curves(store: Store, runs: dict[str, Run], path: Path) -> None:
    """agent, task, step, how many runs were evaluated there, and their mean success; printed too."""
    success: dict[tuple[str, str, int], dict[str, list[bool]]] = {}
    for row in store.read_episodes().to_pylist():
        run = runs[row["run_id"]]
        success.setdefault((run.agent, run.task, row["step"]), {}).setdefault(run.id, []).append(row["success"])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["agent", "task", "step", "runs", "success"])
        for (agent, task, step), of_runs in sorted(success.items()):
            mean = sum(sum(done) / len(done) for done in of_runs.values()) / len(of_runs)
            writer.writerow([agent, task, step, len(of_runs), f"{mean:.4f}"])
    print(path.read_text(), end="")


if __name__ == "__main__":
    sys.exit(main())
