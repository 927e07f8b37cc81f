"""A tuning study with a slow pack on a real Ray, and a driver that is killed and whose database is removed.

    make test-long

One of the first packs is suspended while the others train. The idle share of the other places is the time in which they
have no pack until the suspended pack ends. It is printed and must be below 5 %. Run as a script, this file is the
driver: python tests/long/tuning.py RESULTS TRIALS SLOW_SECONDS.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where it is run as a script

import optuna
from leftovers import environment

from lps.runs.store import Store
from sweeps import tuning
from sweeps.launcher.feed import Pack

import psutil  # isort: skip

TINY = "batch_size=16 base_hidden=16 critic_hidden=16 latent_actor_hidden=16"
STUDY = f"--preset quick --steps 600 --eval-interval 200 --eval-episodes 20 --at-once 2 --set {TINY} --address local"
PLACES = 2


class Watched(tuning.TuningFeed):
    """Notes when packs are handed out and when they end, and suspends the first worker."""

    slow = 0.0
    times: list[tuple[float, str, int]] = []

    def next(self) -> Pack | None:
        pack = super().next()
        if pack:
            self.times.append((time.monotonic(), "start", pack.number))
            if pack.number == 0 and self.slow:
                threading.Thread(target=self.suspend, args=(time.monotonic() + self.slow,), daemon=True).start()
        return pack

    def end(self, pack: Pack) -> None:
        self.times.append((time.monotonic(), "end", pack.number))
        super().end(pack)

    def suspend(self, until: float) -> None:
        workers: list[psutil.Process] = []
        while not workers:
            time.sleep(0.05)
            family = psutil.Process().children(recursive=True)
            workers = [one for one in family if "RayTrainWorker" in "".join(one.cmdline()[:1])][:1]
        workers[0].suspend()
        time.sleep(max(0.0, until - time.monotonic()))
        workers[0].resume()


def idle_share(times: list[tuple[float, str, int]]) -> tuple[float, int]:
    """The idle share of all places but that of the slowest pack, while this pack is at work, and the number of packs
    that end meanwhile."""
    starts = {number: when for when, what, number in times if what == "start"}
    ends = {number: when for when, what, number in times if what == "end"}
    slow = max(starts, key=lambda number: ends[number] - starts[number])
    begin, end = max(starts[0], starts[1]), ends[slow]  # when both places have had their first pack
    others = [(max(starts[number], begin), min(ends[number], end)) for number in starts if number != slow]
    work = sum(stop - start for start, stop in others if start < stop)
    return 1 - work / ((PLACES - 1) * (end - begin)), sum(begin < when < end for when in ends.values())


def driver(results: str, trials: str, slow: str) -> int:
    Watched.slow = float(slow)
    tuning.TuningFeed = Watched  # type: ignore[misc]
    code = tuning.main([*STUDY.split(), "--agents", "lps", "--trials", trials, "--no-mlflow", "--results", results])
    if Watched.slow:
        print(json.dumps(idle_share(Watched.times)))
    return code


def start(results: Path, trials: int, slow: float, output: Path) -> subprocess.Popen:
    command = [sys.executable, __file__, str(results), str(trials), str(slow)]
    with output.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment())


def test_a_slow_pack_leaves_no_other_place_idle(tmp_path: Path) -> None:
    assert start(tmp_path / "results", 40, 60.0, tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    idle, packs = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    print(f"\nidle share of the other places: {100 * idle:.1f} %, {packs} packs ended while one was suspended")
    assert idle < 0.05 and packs >= 4


def test_a_killed_driver_and_a_removed_database_lose_no_trial(tmp_path: Path) -> None:
    results, log = tmp_path / "results", tmp_path / "log"
    first = start(results, 6, 0.0, log)
    while not any(doc["status"] == "done" for doc in runs(results)):
        assert first.poll() is None, log.read_text()
        time.sleep(0.2)
    first.kill()
    first.wait()
    stamps = {doc["id"]: doc["updated"] for doc in runs(results) if doc["status"] == "done"}
    asked = trials(results)
    (results / "tuning.db").unlink()
    assert start(results, 6, 0.0, log).wait() == 0, log.read_text()
    assert {doc["id"]: doc["updated"] for doc in runs(results) if doc["id"] in stamps} == stamps, "trained twice"
    ended = trials(results)
    assert [trial["params"] for trial in ended[: len(asked)]] == [trial["params"] for trial in asked], "lost"
    assert len({json.dumps(trial["params"]) for trial in ended}) == 6 == len(ended)
    (name,) = optuna.get_all_study_names(f"sqlite:///{results}/tuning.db")
    copy = optuna.load_study(study_name=name, storage=f"sqlite:///{results}/tuning.db").trials
    assert [(trial.value, trial.state.name) for trial in copy] == [(trial["value"], trial["state"]) for trial in ended]


def runs(results: Path) -> list[dict]:
    return Store(results, create=False).runs() if (results / "schema.json").exists() else []


def trials(results: Path) -> list[dict]:
    (study,) = Store(results, create=False).studies()
    return study["trials"]


if __name__ == "__main__":
    sys.exit(driver(*sys.argv[1:]))
