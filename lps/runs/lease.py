"""Leases: no run is trained by two processes at once, on any filesystem with strongly consistent listing (local, S3).

    RESULTS/leases/<owner>.json     the claim of a process: its asked and held runs. Only this process writes the file
    RESULTS/leases/<owner>.ended    another process has found this claim dead. The owner never writes results again

**Acquire.** A process puts the runs that it asks for into its claim, and then lists all other claims. It holds a run
only if no other claim asks for or holds this run. If two processes ask at once, each listing comes after its own write,
so at least one of them sees the other. Then the larger owner id withdraws, and the smaller one waits for that.

**Expire.** The owner raises the number `beat` in its claim every HEARTBEAT_SECONDS. A claim is dead if another process
has seen the same beat for LEASE_SECONDS on its own clock, or if the process is known to be gone: both are on one
machine. The other process writes the .ended file, reads the claim again, and deletes it if its beat is still the same.

**Fence.** The owner calls `check` before every write (`Store.fenced`). Its last beat must be younger than
FENCE_SECONDS, or it beats again first. A beat counts only if no .ended file exists after it was written. So a machine
that was suspended stops instead of writing.

**Guarantee.** At each moment at most one process writes the files of a run, if a single write takes less than
LEASE_SECONDS - FENCE_SECONDS. Clocks are never compared between processes; their rates may differ by a third.

The driver of a sweep holds the runs of its unfinished packs. Each worker takes the runs of its pack for itself, with
the driver as `parent`: parent and child may claim the same run, two children may not. If a driver dies, its workers may
train for a moment longer. A new driver waits until they are gone, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from lps.errors import UserError, printable
from lps.runs.store import Store, StoreError
from lps.runs.values import Count, Id, Text, Time

HEARTBEAT_SECONDS = 10.0
LEASE_SECONDS = 60.0
FENCE_SECONDS = 40.0
LOOK_SECONDS = 3.0
"""Seconds between two looks at the claims of others."""


class LeaseLost(UserError):
    """This process must not write results any more."""


class Busy(UserError):
    """Another process holds the runs."""


@dataclass(frozen=True)
class Claim:
    """The content of a claim file."""

    owner: Id
    parent: Text
    """Owner of the driver's claim, if this is one of its workers; else ""."""
    host: Text
    machine: Text
    """Boot and namespace of the process id; "" if unknown."""
    pid: Count
    born: Text
    """Start of the process, in the units of its machine; "" if unknown."""
    command: Text
    since: Time
    beat: Count = 0
    asked: frozenset[Text] = frozenset()
    held: frozenset[Text] = frozenset()

    def gone(self) -> bool:
        """Whether the process is known to have ended. False if it is on another machine."""
        return bool(self.machine) and self.machine == _machine() and _born(self.pid) != self.born

    def alive(self) -> bool:
        """Whether the process is known to exist. False if it is on another machine."""
        return bool(self.machine) and self.machine == _machine() and _born(self.pid) == self.born

    def __str__(self) -> str:
        since = datetime.fromisoformat(self.since).astimezone(UTC)
        return printable(f"process {self.pid} on {self.host} since {since:%Y-%m-%d %H:%M:%S} UTC ({self.command})")


_CLAIM = TypeAdapter(Claim)


class Lease:
    """The claim of this process on runs of a results store. `with Lease(store) as lease:` releases all at the end.

    Args:
        store: the results store.
        parent: owner of the driver's lease, in its workers.

    Attributes:
        owner: name of the claim.
        held: ids of the held runs.
    """

    def __init__(self, store: Store, parent: str = ""):
        self.store = store
        self.owner = uuid.uuid4().hex[:16]
        self._claim = Claim(
            owner=self.owner,
            parent=parent,
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            born=_born(os.getpid()),
            command="a worker of a sweep"
            if parent
            else shlex.join(sys.orig_argv).encode("utf-8", "backslashreplace").decode()[:1000],
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._lock = threading.RLock()  # the claim is changed by the heartbeat's thread, too
        self._renewed = (-float("inf"), -float("inf"))
        self._lost = False
        self._seen: dict[str, tuple[int, float, bool]] = {}  # owner -> its beat, since when, whether it has changed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, daemon=True, name="lease")

    @property
    def held(self) -> frozenset[str]:
        return self._claim.held

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with contextlib.suppress(StoreError), self._lock:
            if self._thread.ident:
                self.store.delete(_path(self.owner))
                self.store.delete(_ended(self.owner))

    # --- alive -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Return if this process may write results at this moment. LeaseLost if it may not, StoreError if that cannot
        be found out."""
        while _age(self._renewed) > FENCE_SECONDS and not self._lost:
            self.beat(patient=True)
        if self._lost:
            self._lose()

    def beat(self, patient: bool = False) -> None:
        """Tell the others that this process is alive. Errors as in `check`; `patient` as in `Store.write_bytes`."""
        with self._lock:
            began = _clocks()
            if self._lost or (self._thread.ident and not self.store.exists(_path(self.owner))):
                self._lose()
            self._claim = replace(self._claim, beat=self._claim.beat + 1)
            values = {**vars(self._claim), "asked": sorted(self._claim.asked), "held": sorted(self._claim.held)}
            self.store.write_bytes(_path(self.owner), json.dumps(values).encode(), patient)
            if not self._thread.ident:
                self._thread.start()
            if self.store.exists(_ended(self.owner)):
                self._lose()
            self._renewed = began

    def _lose(self) -> None:
        self._lost = True
        self._claim = replace(self._claim, asked=frozenset(), held=frozenset())
        self.store.delete(_path(self.owner))
        self.store.delete(_ended(self.owner))
        raise LeaseLost(
            f"this process gave no sign of life for {LEASE_SECONDS:g} s, so another one may train its runs in "
            f"{self.store.path} now. Run the same command again to go on with what is left"
        )

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(StoreError):
                try:
                    if not self._stop.is_set():
                        self.beat()
                except LeaseLost:
                    return

    def _set(self, asked: Iterable[str], held: Iterable[str]) -> None:
        with self._lock:
            claim = replace(self._claim, asked=frozenset(asked), held=frozenset(held))
            if claim != self._claim:
                self._claim = claim
                self.beat(patient=True)

    # --- acquire and release -----------------------------------------------------------------------------------------

    def take(self, wanted: Collection[str]) -> dict[str, Claim]:
        """Hold those of the runs (ids) that no other process holds. Return the holders of the others by run."""
        try:
            while True:
                others, missing = self._others(), frozenset(wanted) - self.held
                busy = _holders(others, missing)
                free = missing - busy.keys()
                if not free:
                    return busy
                if mine := free - _asked(other for other in others if other.owner < self.owner):
                    self._set(mine, self.held)
                    self._resolve()
                if not free <= self.held:
                    time.sleep(min(LOOK_SECONDS, 0.5))
        finally:
            if self._claim.asked:
                self._set((), self.held)

    def _resolve(self) -> None:
        """Hold or withdraw all asked runs."""
        while asked := self._claim.asked:
            others = self._others()
            mine = asked - _holders(others, asked).keys() - _asked(o for o in others if o.owner < self.owner)
            later = mine & _asked(others)
            self._set(later, self.held | (mine - later))
            if later:
                time.sleep(min(LOOK_SECONDS, 0.5))

    def release(self, runs: Iterable[str]) -> None:
        """Give up held runs (ids)."""
        self._set(self._claim.asked, self.held - frozenset(runs))

    def turns(
        self,
        wanted: Mapping[str, str],
        if_busy: str = "wait",
        unfinished: Callable[[Iterable[str]], Iterable[str]] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> Iterator[list[str]]:
        """Yield the unfinished runs in groups that this process holds; every group is released afterwards. The first
        group are the runs that no other process holds.

        Args:
            wanted: the runs: id -> description.
            if_busy: what to do about the runs of other processes, from lps.training.options.IF_BUSY.
            unfinished: returns the unfinished ones of some ids; default: asks the store for each run.
            tell: is called with a sentence about the runs of other processes.
        Raises:
            Busy: for "stop", if another process holds some of the runs.
        """
        unfinished = unfinished or self._unfinished
        left, told = list(wanted), set[str]()
        while left:
            busy = self.take(left)
            if len(busy) < len(left):
                left = list(unfinished(left))  # the last holder may have finished a run
            mine, others = [run for run in left if run not in busy], [run for run in left if run in busy]
            self.release(self.held.difference(mine))
            if others and if_busy != "wait" and not all(self._proven(busy[run]) for run in others):
                time.sleep(LOOK_SECONDS)  # a dead process is not waited for longer than that takes to find out
                continue
            if others and if_busy == "stop":
                raise Busy(
                    f"{_who_holds({run: wanted[run] for run in others}, busy)}. Wait for that, choose another "
                    "--results, or repeat the command with --if-busy wait or skip"
                )
            holders = {busy[run].owner for run in others}
            if tell and not holders <= told:
                who = _who_holds({run: wanted[run] for run in others}, busy)
                then = "Skipping them" if if_busy == "skip" else "They come last" if mine else "Waiting for them"
                tell(f"{who}. {then}")
                told |= holders
            if mine:
                yield mine
                self.release(self.held)
            elif others and if_busy == "wait":
                time.sleep(LOOK_SECONDS)
            left = others if if_busy == "wait" else []

    def _unfinished(self, runs: Iterable[str]) -> list[str]:
        return [run for run in runs if not self.store.finished(run)]

    # --- the others --------------------------------------------------------------------------------------------------

    def _others(self) -> list[Claim]:
        """Return the claims that can conflict with this one, without dead ones."""
        return [
            claim
            for claim in claims(self.store)
            if claim.owner != self.owner
            and not self._dead(claim)
            and claim.parent != self.owner
            and claim.owner != self._claim.parent
        ]

    def _dead(self, claim: Claim) -> bool:
        """Whether a claim is dead; removes it then."""
        if claim.gone():
            self.store.delete(_path(claim.owner))
            self.store.delete(_ended(claim.owner))
            return True
        now = time.monotonic()
        beat, since, changed = self._seen.get(claim.owner, (claim.beat, now, False))
        if beat != claim.beat:
            since, changed = now, True
        self._seen[claim.owner] = claim.beat, since, changed
        if now - since < LEASE_SECONDS:
            return False
        self.store.write_bytes(_ended(claim.owner), b"")
        for again in claims(self.store):
            if again.owner == claim.owner and again.beat != claim.beat:
                self._seen[claim.owner] = again.beat, time.monotonic(), True
                return False
        self.store.delete(_path(claim.owner))
        return True

    def _proven(self, claim: Claim) -> bool:
        """Whether a claim is known to be alive."""
        return claim.alive() or self._seen.get(claim.owner, (0, 0.0, False))[2]


def claims(store: Store) -> list[Claim]:
    """Return all claims of a results store, dead ones included. StoreError if one cannot be read."""
    found = [_parsed(store, rel, data) for rel, data in store.read_all("leases", ".json").items()]
    return [claim for claim in found if claim]


def in_force(store: Store, owner: str) -> bool:
    """Whether the claim of this owner exists, and no other process has found it dead."""
    return store.exists(_path(owner)) and not store.exists(_ended(owner))


def _holders(others: Iterable[Claim], runs: Collection[str]) -> dict[str, Claim]:
    """Return the claims that hold some of the runs, by run; a driver's claim before its workers'."""
    ordered = sorted(others, key=lambda claim: not claim.parent)
    return {run: claim for claim in ordered for run in claim.held.intersection(runs)}


def _who_holds(wanted: Mapping[str, str], busy: Mapping[str, Claim]) -> str:
    """Say which process holds which runs (id -> description)."""
    by_holder: dict[str, list[str]] = {}
    for run, title in wanted.items():
        by_holder.setdefault(str(busy[run]), []).append(title)
    return "; ".join(
        ", ".join(titles[:3]) + (f" and {len(titles) - 3} more" if len(titles) > 3 else "") + f": trained by {holder}"
        for holder, titles in by_holder.items()
    )


def _asked(others: Iterable[Claim]) -> frozenset[str]:
    return frozenset().union(*(other.asked for other in others))


def _path(owner: str) -> str:
    return f"leases/{owner}.json"


def _ended(owner: str) -> str:
    return f"leases/{owner}.ended"


def _parsed(store: Store, rel: str, data: bytes) -> Claim | None:
    """Return the claim of a file. None if it is damaged, because a process writes its claim whole."""
    try:
        claim = _CLAIM.validate_json(data)
        if _path(claim.owner) != rel:
            raise ValueError(f"its owner is {claim.owner!r}, not the name of the file")
        return claim
    except ValueError as error:
        store.note(rel, error)
        return None


# --- clocks and processes ---


def _clocks() -> tuple[float, float]:
    """Return the seconds of a clock that also runs while the machine sleeps, and the seconds of the calendar."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)), time.time()


def _age(then: tuple[float, float]) -> float:
    """Return the seconds since `then`, by the faster clock."""
    return max(now - before for now, before in zip(_clocks(), then, strict=True))


def _machine() -> str:
    """Identify the machine, its boot, and the namespace of its process ids. "" where /proc does not exist."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """Return the start of a process of this machine. "" if it does not exist, or if it ended unnoticed (a zombie)."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
