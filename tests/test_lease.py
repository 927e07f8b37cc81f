"""Leases: no interleaving lets two processes hold one run, the dead are noticed, and those that come back stop."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs as pafs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lps.runs import lease as leases
from lps.runs.lease import Busy, Lease, LeaseLost, claims, in_force
from lps.runs.store import Store, StoreError

RUNS = ("a", "b", "c")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease of half a second."""
    times = {"HEARTBEAT_SECONDS": 0.1, "LEASE_SECONDS": 0.6, "FENCE_SECONDS": 0.4, "LOOK_SECONDS": 0.02}
    for name, seconds in times.items():
        monkeypatch.setattr(leases, name, seconds)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process can be looked up, as if all others were on other machines."""
    monkeypatch.setattr(leases, "_machine", lambda: "")


def stand_still(lease: Lease) -> None:
    """The machine of this lease is suspended: no heartbeat any more."""
    lease._stop.set()
    lease._thread.join()


def come_back(lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock has run on meanwhile."""
    lease._renewed = tuple(then - 3600 for then in lease._renewed)  # type: ignore[assignment]


# --- one after the other ---


def test_a_run_is_held_by_one(store: Store) -> None:
    with Lease(store) as first, Lease(store) as second:
        assert first.take(RUNS[:2]) == {} and first.held == {"a", "b"}
        busy = second.take(RUNS)
        assert second.held == {"c"} and busy.keys() == {"a", "b"}
        assert f"process {os.getpid()} on " in str(busy["a"]) and "UTC (" in str(busy["a"])
        first.release(["a"])
        assert second.take(RUNS).keys() == {"b"} and second.held == {"a", "c"}
    assert claims(store) == [] and not list(Path(store.path, "leases").iterdir())


def test_a_worker_holds_what_its_driver_holds_and_no_other_worker_has(store: Store) -> None:
    with Lease(store) as driver, Lease(store, driver.owner) as worker, Lease(store, driver.owner) as twin:
        driver.take(RUNS)
        assert worker.take(["a", "b"]) == {} and worker.held == {"a", "b"}
        assert twin.take(["b", "c"]).keys() == {"b"} and twin.held == {"c"}
        with Lease(store) as other:
            assert {claim.owner for claim in other.take(RUNS).values()} == {driver.owner}, "the driver is named"
        driver.__exit__()
        with Lease(store) as other:
            assert other.take(RUNS).keys() == set(RUNS), "workers that outlive their driver keep their runs"


def test_turns(store: Store) -> None:
    wanted = {run: f"run {run}" for run in RUNS}
    said: list[str] = []
    with Lease(store) as other, Lease(store) as own:
        other.take(["a"])
        with pytest.raises(Busy, match=r"run a: trained by process .*--if-busy wait"):
            list(own.turns(wanted, "stop"))
        assert list(own.turns(wanted, "skip", tell=said.append)) == [["b", "c"]]
        assert own.held == frozenset() and said[-1].endswith("Skipping them")
        groups = own.turns(wanted, tell=said.append)
        assert next(groups) == ["b", "c"] and own.held == {"b", "c"}
        threading.Timer(0.1, other.release, [["a"]]).start()
        assert next(groups) == ["a"] and own.held == {"a"}
        assert list(groups) == [] and len(said) == 2 and said[-1].endswith("They come last")


def test_what_the_other_has_finished_is_not_a_turn(store: Store) -> None:
    finished: list[str] = []
    with Lease(store) as other, Lease(store) as own:
        other.take(["a"])
        groups = own.turns({"a": "run a"}, unfinished=lambda ids: [one for one in ids if one not in finished])
        finished.append("a")
        threading.Timer(0.1, other.release, [["a"]]).start()
        assert list(groups) == []


# --- death ---


def test_a_silent_claim_expires_and_its_owner_never_writes_again(
    store: Store, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lease(store) as first, Lease(store) as second:
        first.take(RUNS)
        own = store.fenced(first.check)
        own.write_bytes("checkpoints/a.pt", b"first")
        stand_still(first)
        assert second.take(RUNS).keys() == set(RUNS)
        assert list(second.turns(dict.fromkeys(RUNS, ""))) == [list(RUNS)]
        second.take(RUNS)
        come_back(first, monkeypatch)
        for _ in range(2):
            with pytest.raises(LeaseLost, match="no sign of life for 0.6 s.*Run the same command again"):
                own.write_bytes("checkpoints/a.pt", b"late")
        with pytest.raises(LeaseLost):
            own.delete("checkpoints/a.pt")
        assert store.read_bytes("checkpoints/a.pt") == b"first"
        assert [claim.owner for claim in claims(store)] == [second.owner]


def test_a_machine_that_nobody_missed_goes_on(store: Store, elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease(store) as lease:
        lease.take(RUNS)
        stand_still(lease)
        come_back(lease, monkeypatch)
        store.fenced(lease.check).write_bytes("checkpoints/a.pt", b"")
        assert lease.held == set(RUNS)


def test_a_claim_that_was_removed_by_hand_is_lost(store: Store) -> None:
    with Lease(store) as lease:
        lease.take(RUNS)
        store.delete(f"leases/{lease.owner}.json")
        with pytest.raises(LeaseLost):
            lease.beat()
        assert not in_force(store, lease.owner) and claims(store) == []


def test_a_late_beat_does_not_bring_a_dead_claim_back(store: Store, elsewhere: None) -> None:
    """The owner stood still in the middle of its beat: after the look at its file and before the write."""
    with Lease(store) as first, Lease(store) as second:
        first.take(RUNS)
        stand_still(first)
        write, slept = first.store.write_bytes, threading.Event()

        def late(*arguments: Any) -> None:
            slept.wait()
            write(*arguments)

        first.store = store.fenced(lambda: None)
        first.store.write_bytes = late  # type: ignore[method-assign]
        thread = threading.Thread(target=_beats, args=[first])
        thread.start()
        assert list(second.turns(dict.fromkeys(RUNS, ""))) == [list(RUNS)]
        slept.set()
        thread.join()
        assert first._lost and not in_force(store, first.owner)


def test_a_beat_in_the_last_moment_counts(store: Store, elsewhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner beats after the last look of another process, and before that process ends its claim."""
    with Lease(store) as first, Lease(store) as second:
        first.take(RUNS)
        stand_still(first)
        write = Store.write_bytes

        def late(self: Store, rel: str, *arguments: Any) -> None:
            if rel == f"leases/{first.owner}.ended" and not store.exists(rel):
                first.beat()
            write(self, rel, *arguments)

        monkeypatch.setattr(Store, "write_bytes", late)
        assert next(second.turns(dict.fromkeys(RUNS, ""))) == list(RUNS)
        assert leases._age(first._renewed) > leases.FENCE_SECONDS, "its last permission to write has run out"
        with pytest.raises(LeaseLost):
            first.check()


def _beats(lease: Lease) -> None:
    with contextlib.suppress(LeaseLost):
        lease.beat()


def test_heartbeats_go_on_beside_a_busy_learner(store: Store, elsewhere: None) -> None:
    with Lease(store) as lease, Lease(store) as other:
        lease.take(RUNS)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            sum(range(10_000))
        assert other.take(RUNS).keys() == set(RUNS) and lease._claim.beat >= 5


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(death: int, store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 3600.0)
    script = (
        "import sys, time\nfrom lps.errors import command_line\nfrom lps.runs.lease import Lease\n"
        "from lps.runs.store import Store\n"
        "@command_line\ndef main():\n"
        "    with Lease(Store(sys.argv[1])) as lease:\n"
        "        lease.take(['a'])\n        print('held', flush=True)\n        time.sleep(600)\nmain()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, store.path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in a background job
    )
    assert process.stdout and process.stdout.readline() == b"held\n"
    (claim,) = claims(store)
    assert claim.alive() and not claim.gone()
    process.send_signal(death)
    while claim.alive():  # it is not waited for: a zombie does not train
        time.sleep(0.01)
    assert claim.gone() and bool(claims(store)) == (death == signal.SIGKILL), "others release their runs"
    with Lease(store) as lease:
        assert lease.take(["a"]) == {}
    process.communicate()


# --- claims that nobody should trust, stores that fail ---


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"owner": "../../x"}', b"\xff"])
def test_a_damaged_claim_is_noted_and_passed_over(content: bytes, store: Store) -> None:
    store.write_bytes("leases/damaged.json", content)
    with Lease(store) as lease:
        assert lease.take(RUNS) == {}
    assert len(store.problems) == 1 and "leases/damaged.json" in store.problems[0]


def test_a_claim_under_a_foreign_name_is_passed_over(store: Store) -> None:
    with Lease(store) as lease:
        lease.take(RUNS)
        store.write_bytes("leases/other.json", store.read_bytes(f"leases/{lease.owner}.json"))
        assert [claim.owner for claim in claims(store)] == [lease.owner]
    with Lease(store) as lease:
        assert lease.take(RUNS) == {}


def test_claims_that_cannot_be_read_are_never_taken_for_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease(store) as first, Lease(store) as second:
        first.take(RUNS)
        read = Store.read_bytes

        def fails(self: Store, rel: str) -> bytes:
            if rel.startswith("leases/"):
                raise StoreError("cannot read") from OSError("network")
            return read(self, rel)

        monkeypatch.setattr(Store, "read_bytes", fails)
        with pytest.raises(StoreError):
            second.take(RUNS)
        assert second.held == frozenset()


# --- all interleavings ---


class World:
    """Processes that share a store. An operation takes effect at the end of a drawn time. Only one process runs
    at a time, until its next operation, so that a seed determines everything."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.now, self.files = 0.0, dict[str, bytes]()
        self.events: list[tuple[float, int, Process]] = []
        self.turn = threading.Event()

    def run(self, processes: list["Process"]) -> None:
        for process in processes:
            self.events.append((self.random.uniform(0, 1), process.number, process))
            process.start()
        while self.events:
            self.events.sort(key=lambda event: event[:2])
            self.now, _, process = self.events.pop(0)
            assert self.now < 5000, "a process waits for ever"
            self.turn.clear()
            process.go.set()
            self.turn.wait()


class Process(threading.Thread):
    """A process with a clock of its own and the part of Store that leases need."""

    path = "results"
    note: Any = None
    lease: Lease

    def __init__(self, world: World, number: int, work: "Callable[[Process], None]"):
        super().__init__(daemon=True)
        self.world, self.number, self.work = world, number, work
        self.rate, self.offset = world.random.uniform(0.9, 1.1), world.random.uniform(-1e6, 1e6)
        self.go, self.error = threading.Event(), None

    def run(self) -> None:
        self.go.wait()
        try:
            self.work(self)
        except BaseException as error:
            self.error = error
        self.world.turn.set()

    def clock(self) -> float:
        return self.rate * self.world.now + self.offset

    def pause(self, seconds: float) -> None:
        self.go.clear()
        self.world.events.append((self.world.now + seconds, self.number, self))
        self.world.turn.set()
        self.go.wait()

    def wait(self, seconds: float) -> None:
        """Pause with a heartbeat."""
        self.pause(seconds)
        self.lease.beat()

    def delay(self) -> None:
        self.pause(self.world.random.choice([0, 0.001, 0.1, 1, 3]))

    def write_bytes(self, rel: str, data: bytes, patient: bool = True) -> None:
        self.delay()
        self.world.files[rel] = data

    def read_all(self, folder: str, suffix: str) -> dict[str, bytes]:
        self.delay()
        names = [rel for rel in self.world.files if rel.endswith(suffix)]
        found = {}
        for rel in names:
            self.delay()
            if rel in self.world.files:
                found[rel] = self.world.files[rel]
        return found

    def exists(self, rel: str) -> bool:
        self.delay()
        return rel in self.world.files

    def delete(self, rel: str) -> None:
        self.delay()
        self.world.files.pop(rel, None)

    def finished(self, run: str) -> bool:
        return False


def act(process: Process, writing: dict[str, int], done: list[str]) -> None:
    """Train some runs; sometimes stand still for a while, sometimes die without a word."""
    draw = process.world.random
    process.lease = lease = Lease(process, draw.choice(["", "driver"]))  # type: ignore[arg-type]
    wanted = dict.fromkeys(draw.sample(RUNS, draw.randint(1, 3)), "")
    try:
        for turn in lease.turns(wanted):
            for run in turn:
                for _ in range(draw.randint(1, 4)):
                    lease.check()
                    assert run not in writing, f"processes {process.number} and {writing[run]} write {run} at once"
                    writing[run] = process.number
                    process.delay()
                    del writing[run]
                    fate = draw.random()
                    if fate < 0.05:
                        return  # its claim stays
                    if fate < 0.4:
                        process.pause(draw.choice([5, 30, 50, 60, 65, 70, 80, 200]))  # stands still
                    else:
                        process.wait(1)
                done.append(run)
    except LeaseLost:
        pass
    lease.__exit__()


@given(seed=st.integers(0, 2**32), count=st.integers(2, 5))
@settings(max_examples=200, deadline=None)
def test_at_no_interleaving_do_two_processes_write_one_run(seed: int, count: int) -> None:
    """Nor does any wait for ever. Their clocks differ in rate and origin; some stand still, die or come back."""
    world, writing, done = World(seed), dict[str, int](), list[str]()
    processes = [Process(world, number, lambda process: act(process, writing, done)) for number in range(count)]
    this: Callable[[], Any] = threading.current_thread
    with pytest.MonkeyPatch.context() as patch:
        real = {"HEARTBEAT_SECONDS": 10.0, "LEASE_SECONDS": 60.0, "FENCE_SECONDS": 40.0, "LOOK_SECONDS": 3.0}
        for name, seconds in real.items():
            patch.setattr(leases, name, seconds)
        patch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: this().clock(), sleep=lambda s: this().wait(s)))
        patch.setattr(leases, "_clocks", lambda: (this().clock(),))
        patch.setattr(leases, "_machine", lambda: "")
        patch.setattr(
            leases, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=f"{world.random.random():.16f}"))
        )
        patch.setattr(Lease, "_heartbeat", lambda self: None)
        world.run(processes)
    for process in processes:
        if process.error:
            raise process.error


# --- real stores, threads and processes ---


def contend(store: Store, writers: dict[str, int], clashes: list[str], done: list[str]) -> None:
    """Hold each run once and look whether anybody else does."""
    with Lease(store) as lease:
        for turn in lease.turns(
            dict.fromkeys(RUNS, ""), unfinished=lambda ids: [one for one in ids if one not in done]
        ):
            for run in turn:
                lease.check()
                writers[run] = writers.get(run, 0) + 1
                clashes += [run] if writers[run] > 1 else []
                time.sleep(0.01)
                writers[run] -= 1
                done.append(run)


@pytest.mark.parametrize("kind", ["local", "object store"])
def test_many_threads_train_each_run_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store has no folders, and a put replaces at once."""
    if kind == "object store":
        mock = pafs._MockFileSystem()
        mock.create_dir("results")
        monkeypatch.setattr("lps.runs.store.OBJECT_STORES", {"mock"})
        monkeypatch.setattr("lps.runs.store.open_filesystem", lambda path: ("mock://results", mock, "results"))
    monkeypatch.setattr(leases, "LEASE_SECONDS", 60.0)
    writers, clashes, done = dict[str, int](), list[str](), list[str]()
    stores = [Store(tmp_path / "results") for _ in range(8)]
    if kind == "object store":
        mock.create_dir("results/leases")  # the mock has folders after all
    threads = [threading.Thread(target=contend, args=(store, writers, clashes, done)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == list(RUNS) and clashes == [] and claims(stores[0]) == []
