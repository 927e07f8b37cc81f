"""The Ray cluster that a sweep runs on: the one that is there, or one started on this machine for the time it takes."""

import contextlib
import gc
import logging
import os
import shutil
import tempfile
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
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    # Three helper services per pack that a single worker without Ray's checkpoints has no use for.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    # Processes that evaluate stay for the next evaluation; starting one anew takes longer than most episodes. On a
    # machine with few CPUs Ray would end them at once.
    "RAY_num_workers_soft_limit": "64",
    # Relative paths keep their meaning.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The results store is the record; Tune's own loggers would write every number a second time.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C ends the sweep at once instead of waiting for a snapshot that nobody reads.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Tune's older console keeps quiet when told to, the newer one prints boxes regardless.
    "RAY_AIR_NEW_OUTPUT": "0",
    # `uv run` would otherwise make every worker process resolve the environment again.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Settings of Ray that a sweep relies on; what the user has set stays. `pack.py` repeats them where the driver is
elsewhere than its trials."""

HEAD = "node:__internal_head__"
"""A resource that the head node has, and no other."""


def apply_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def find(address: str | None = None) -> str:
    """The address of the cluster to use: `address`, else $RAY_ADDRESS, else the one that `ray start` or `ray up` has
    left on this machine, else 'local'.

    Ray's own 'auto' goes further and attaches to any Ray it finds running, such as the private one of another sweep,
    which would take this sweep down when it ends.
    """
    return address or os.environ.get("RAY_ADDRESS") or _recorded() or "local"


def _recorded() -> str | None:
    """The address that `ray start` has noted on this machine."""
    try:
        return (Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray" / "ray_current_cluster").read_text().strip()
    except OSError:
        return None


@contextlib.contextmanager
def connected(address: str, verbose: bool = False) -> Iterator[str]:
    """Connects this process to the cluster at `address`, or starts one on this machine for 'local', and yields the
    address; a cluster that was found here but is gone is replaced by a local one. On leaving, everything that this
    process has running on the cluster ends.

    Raises UserError where an address that was asked for does not answer.
    """
    apply_environment()
    if address != "local":
        _bring_token()
    import ray  # reads its environment now

    noise = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.ERROR}
    try:
        if address != "local":
            address = _attach(address, noise)
        if address == "local":
            _start(noise)
        yield address
    finally:
        gc.collect()  # Handles of Ray's in cycles: freed after the shutdown, by whatever thread, they end the process.
        ray.shutdown()


def _bring_token() -> None:
    """Ray protects new clusters by a token, but does not show it to an explicit address unless told to."""
    token = Path("~/.ray/auth_token").expanduser()
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or token.exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _attach(address: str, noise: dict[str, Any]) -> str:
    import ray

    try:
        ray.init(address=address, **noise)
        return address
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address == _recorded() and not os.environ.get("RAY_ADDRESS"):
            return "local"
        raise UserError(
            f"no Ray cluster answers at {address} ({_first_line(error)}). Check --address or RAY_ADDRESS, "
            "that the cluster is up, and RAY_AUTH_MODE; --address local starts Ray on this machine"
        ) from error


def _start(noise: dict[str, Any], attempts: int = 3) -> None:
    """Starts Ray on this machine. On a busy one that may take longer than the 30 s that Ray gives itself."""
    import ray

    for attempt in range(1, attempts + 1):
        try:
            ray.init(address="local", include_dashboard=False, **noise)
            return
        except Exception as error:
            ray.shutdown()
            if attempt == attempts:
                raise UserError(f"Ray does not start on this machine: {_first_line(error)}") from error


def nodes() -> list[dict[str, float]]:
    """The resources of each machine of the cluster; where `ray up` has made it, also of those that may join: its
    autoscaler starts them when packs ask for them."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    try:
        config = yaml.safe_load(Path("~/ray_bootstrap_config.yaml").expanduser().read_text())
    except OSError:
        return alive
    head = [resources for resources in alive if HEAD in resources]
    return head + _workers(config)


def has_head() -> bool:
    """Whether the machine lives that all trials are on."""
    import ray

    return any(node["Alive"] and HEAD in node["Resources"] for node in ray.nodes())


def _workers(config: dict[str, Any]) -> list[dict[str, float]]:
    """The machines that a cluster of this configuration (cluster.yaml) has at most, less its head."""
    types = config.get("available_node_types", {})
    found: list[dict[str, float]] = []
    for name, node_type in types.items():
        if name != config.get("head_node_type"):
            found += [node_type.get("resources", {})] * node_type.get("max_workers", 0)
    return found[: config.get("max_workers", len(found))]


def scratch(store: Store, sweep: str) -> str:
    """A new folder on this machine for what Tune and Train insist on writing. Nothing in it is needed again."""
    if not store.local:
        return tempfile.mkdtemp(prefix=f"{sweep}-")
    folder = Path(store.path) / ".ray" / sweep
    shutil.rmtree(folder, ignore_errors=True)  # of a sweep that was killed
    folder.mkdir(parents=True)
    return str(folder)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
