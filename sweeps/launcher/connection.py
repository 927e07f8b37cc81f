"""Connect a sweep to a running Ray cluster, or to a temporary one on this machine."""

import contextlib
import gc
import logging
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lps.errors import UserError
from lps.runs.store import Store

ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # Ray Train's controller looks after its worker this often. At its default of 2 s a pack takes 5 s longer to end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Helper processes of a pack that a single worker without Ray's checkpoints does not need.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    # Evaluation processes stay for the next evaluation, because a new process takes longer than most episodes. On a
    # machine with few CPUs Ray would stop them at once.
    "RAY_num_workers_soft_limit": "64",
    # Relative paths keep their meaning.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The results store is the record; Tune's own loggers would write every number a second time.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A pack's document and the console say why a trial ended; Tune would print the traceback of every restart.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Ctrl-C ends the sweep at once instead of waiting for a snapshot that nobody reads.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Tune's older console can be silenced, the newer one cannot.
    "RAY_AIR_NEW_OUTPUT": "0",
    # `uv run` would otherwise make every worker process resolve the environment again.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment variables of Ray that a sweep needs; the user's own values have priority. `pack.py` sets them again,
because trials may run on another machine than the driver."""

TOKEN = Path("~/.ray/auth_token")
"""The token that every request to Ray needs. Ray makes it."""

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Variable that decides whether Ray listens to other machines. At "0" all of Ray listens on the loopback address only,
on Linux too."""

GONE_SECONDS = 45.0
"""Seconds without an answer after which Ray's head service (GCS) is given up. After 60 s Ray ends this process itself,
without a reason."""

HEAD = "node:__internal_head__"
"""Name of a resource that only the head node has."""


def apply_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def find(address: str | None = None) -> str:
    """Return the address of the cluster to use: `address`, else $RAY_ADDRESS, else the cluster that `ray start` or
    `ray up` recorded on this machine, else 'local'.

    Ray's own 'auto' would attach to any running Ray, such as the private cluster of another sweep, and would stop with
    that sweep.
    """
    return address or os.environ.get("RAY_ADDRESS") or _recorded() or "local"


def _recorded() -> str | None:
    """Return the address that `ray start` recorded on this machine. Ray's folder is open to all users, so the record
    counts only if it belongs to this user or to root, and no other user can write it."""
    path = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster"
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)) as file:
            status = os.fstat(file.fileno())
            ours = status.st_uid in (0, os.getuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            return file.read().strip() if ours else None
    except OSError:
        return None


@contextlib.contextmanager
def connected(address: str, verbose: bool = False) -> Iterator[str]:
    """Connect to the cluster at `address`, or start one on this machine for 'local', and yield the address.

    A recorded cluster that no longer runs is replaced by a local one. On exit, all tasks and actors of this process on
    the cluster stop. UserError if a requested address does not answer. SIGTERM ends the process with code 143, and a
    lost head service with code 1, each with a sentence.
    """
    apply_environment()
    if address != "local":
        _bring_token()
    import ray  # reads the environment now

    logging_options = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.ERROR}
    try:
        if address != "local":
            address = _attach(address, logging_options)
        if address == "local":
            _start(logging_options)
        with _ended_by_sigterm(), _ended_without_head(ray.get_runtime_context().gcs_address):
            yield address
    finally:
        gc.collect()  # Ray handles in reference cycles crash the process when they are freed after the shutdown.
        ray.shutdown()


def _bring_token() -> None:
    """Use the token of the cluster: Ray does not send it to an explicit address by default."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN.expanduser().exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _attach(address: str, logging_options: dict[str, Any]) -> str:
    import ray

    try:
        ray.init(address=address, **logging_options)
        return address
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address == _recorded() and not os.environ.get("RAY_ADDRESS"):
            return "local"
        raise UserError(
            f"no Ray cluster answers at {address} ({_first_line(error)}). Check --address, RAY_ADDRESS, RAY_AUTH_MODE "
            "and the cluster, or start Ray on this machine with --address local"
        ) from error


def _start(logging_options: dict[str, Any], attempts: int = 3) -> None:
    """Start Ray on this machine. On a busy machine this can exceed Ray's own timeout of 30 s, hence the attempts."""
    import ray

    os.environ |= {LOOPBACK: "0", "RAY_enable_metrics_collection": "0"}  # for the processes of Ray
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # for this one: Ray has read the variable already
    folder = private_folder()
    for attempt in range(1, attempts + 1):
        try:
            ray.init(address="local", include_dashboard=False, _temp_dir=str(folder / "ray"), **logging_options)
            with contextlib.suppress(FileNotFoundError):  # RAY_AUTH_MODE=disabled, or a token of another place
                TOKEN.expanduser().chmod(0o600)  # Ray makes it readable for all users
            return
        except Exception as error:
            ray.shutdown()
            if attempt == attempts:
                raise UserError(
                    f"Ray did not start on this machine ({_first_line(error)}). Check its memory and Ray's logs"
                ) from error


def private_folder() -> Path:
    """Make and return a folder for Ray's temporary files, sockets and logs that other users cannot open.

    It is in $RAY_TMPDIR or else in /tmp, because a path of a socket has at most 107 bytes. UserError if the folder
    belongs to another user.
    """
    folder = Path(os.environ.get("RAY_TMPDIR") or "/tmp") / f"lps-{os.getuid()}"
    remedy = "Set RAY_TMPDIR to a short folder of your own"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise UserError(f"{folder} belongs to another user. {remedy}")
        folder.chmod(0o700)
    except OSError as error:
        raise UserError(f"cannot make {folder} ({error.strerror}). {remedy}") from error
    return folder


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an orderly end with code 143. Ray's own handler aborts the process with a stack dump."""
    received = False

    def handler(*_: Any) -> None:
        nonlocal received
        received = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt  # the only exception that Ray's C++ passes on

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    except KeyboardInterrupt:
        if not received:
            raise
        print("Stopped by SIGTERM. The same command resumes.", file=sys.stderr, flush=True)
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _ended_without_head(address: str) -> Iterator[None]:
    """End the process when the head service at `address` has not answered for GONE_SECONDS. Calls of Ray wait for the
    service without end, so only another thread can do this."""
    host, _, port = address.rpartition(":")
    every, done = GONE_SECONDS / 9, threading.Event()

    def answers() -> bool:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=every).close()
            return True
        except OSError:
            return False

    def watch() -> None:
        missed = 0
        while not done.wait(every) and missed < 9:
            missed = 0 if answers() else missed + 1
        if not done.is_set():
            print(
                f"error: Ray's head service at {address} has not answered for {GONE_SECONDS:g} s. Only the updates "
                "since the last checkpoints are lost. The same command resumes the sweep",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def nodes() -> list[dict[str, float]]:
    """Return the resources of each machine of the cluster, including those that its autoscaler may start."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    try:
        config = yaml.safe_load(Path("~/ray_bootstrap_config.yaml").expanduser().read_text())
    except OSError:
        return alive
    head = [resources for resources in alive if HEAD in resources]
    return head + _workers(config)


def has_head() -> bool:
    """Whether the head node, which has all trials, is alive."""
    import ray

    return any(node["Alive"] and HEAD in node["Resources"] for node in ray.nodes())


def _workers(config: dict[str, Any]) -> list[dict[str, float]]:
    """Return the resources of all workers that this configuration (cluster.yaml) allows."""
    types = config.get("available_node_types", {})
    found: list[dict[str, float]] = []
    for name, node_type in types.items():
        if name != config.get("head_node_type"):
            found += [node_type.get("resources", {})] * node_type.get("max_workers", 0)
    return found[: config.get("max_workers", len(found))]


def scratch(store: Store, sweep: str) -> str:
    """Make a new folder on this machine for the files of Tune and Train. A sweep never reads them again."""
    if not store.local:
        return tempfile.mkdtemp(prefix=f"{sweep}-")
    folder = Path(store.path) / ".ray" / sweep
    shutil.rmtree(folder, ignore_errors=True)  # of a sweep that was killed
    folder.mkdir(parents=True)
    return str(folder)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
