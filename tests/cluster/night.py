"""A night and a morning of a sweep on the project's own cluster.yaml, in a cloud on this machine.

    make test-cluster

`ray up` boots the head, the autoscaler brings spot workers, a sweep of LPS and a baseline runs on them with its results
in S3, one worker is reclaimed without notice, another one with notice, their packs go on elsewhere, and in the middle
of that comes `ray down`. In the morning
`ray up` and the same command bring it to its end, and the idle workers are ended. What is left must be what an
undisturbed training on this machine leaves. It takes minutes and root, so it is not part of `make test`: hence this
file's name.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_tiny_dataset

pytest.importorskip("moto", reason="needs moto[server]: make test-cluster installs it")

import boto3  # noqa: E402
from cloud import IMAGE, REGION, Cloud, host_name, unavailable  # noqa: E402

from lps.runs.checkpoint import (
    Checkpoint,  # noqa: E402
    checkpoint_path,  # noqa: E402
)
from lps.runs.intent import Planned
from lps.runs.run import Run  # noqa: E402
from lps.runs.store import Store  # noqa: E402
from lps.training.options import TrainOptions  # noqa: E402
from lps.training.trainer import train  # noqa: E402
from sweeps import ogbench_all  # noqa: E402

REASON = unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

ROOT = Path(__file__).resolve().parent.parent.parent
BUCKET = "lps-results"
RESULTS = f"s3://{BUCKET}/night"
STEPS = 15000
TINY = (
    f"--agents lps flow_bc --groups cube-single --tasks 1 --seeds 0 1 --steps {STEPS} --eval-interval {STEPS // 2} "
    "--eval-episodes 2 --set batch_size=16 horizon=2 base_hidden=[16,16] critic_hidden=[16,16] "
    "latent_actor_hidden=[16,16]"
).split()
SWEEP = ["--results", RESULTS, "--device", "cpu", "--cpus-per-pack", "8", "--checkpoint-seconds", "15"]
"""A pack takes one of these 8-CPU machines. They have a GPU by name only, so it trains on the CPU."""

NOTICE = 40.0
"""Seconds between a notice and the end of the machine; AWS gives 120."""

PATIENCE = 1200.0
"""Seconds for anything: two cores take minutes to start Ray on three hosts."""


def overlay(config: dict[str, Any], group: str) -> dict[str, Any]:
    """cluster.yaml with all that differs from what is shipped."""
    for node in config["available_node_types"].values():
        node["node_config"] |= {"ImageId": IMAGE, "SecurityGroupIds": [group]}
    config["max_workers"] = 2
    config["idle_timeout_minutes"] = 1
    # The image has the packages, and nothing can be fetched from inside.
    config["initialization_commands"] = [c for c in config["initialization_commands"] if "apt-get" not in c]
    return config


@dataclass
class Night:
    """What was seen."""

    workers: list[dict[str, Any]] = field(default_factory=list)
    """The instances while the sweep ran, before one was reclaimed."""
    reclaimed: dict[str, int] = field(default_factory=dict)
    """Step of each run's checkpoint when the worker was gone and Ray had not noticed yet."""
    noticed: dict[str, int] = field(default_factory=dict)
    """The same when the worker with the notice was gone."""
    down: dict[str, int] = field(default_factory=dict)
    """The same when `ray down` was typed."""
    evening: str = ""
    morning: str = ""
    """What the command printed before `ray down`, and after the second `ray up`."""
    code: int = -1
    """Of the command in the morning."""
    idle_after: float = 0.0
    """Seconds from the end of the sweep to that of the last worker."""
    answer: dict[str, Any] = field(default_factory=dict)
    """Of ask.py, after the sweep."""
    refused: dict[str, bool] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    """Instances that `ray down` has left."""


def runs() -> list[Run]:
    found: list[Run] = []

    def record(wanted: list[Planned], *_: Any, **__: Any) -> int:
        found.extend(planned.run for planned in wanted)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.launcher.cli.launch", record)
        assert ogbench_all.main([*TINY, *SWEEP]) == 0
    return found


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    # Not one of pytest's folders: these are the tester's alone, and the hosts read it as their own user.
    with tempfile.TemporaryDirectory(prefix="lps-mirror-") as folder:
        directory = Path(folder)
        directory.chmod(0o755)
        write_tiny_dataset(directory / "cube-single-play-v0.npz", episodes=4, seed=0)
        yield directory


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[Night]:
    folder, seen = tmp_path_factory.mktemp("night"), Night()
    variables = "PYTHONPATH=$HOME/lps PYTHONFAULTHANDLER=1 RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1"
    image = f"export LPS_DATA_MIRROR={data} {variables}\n"
    with pytest.MonkeyPatch.context() as patch:
        # Ray's client keeps keys, tokens and the state of clusters in the home and temporary directories.
        for name in ("HOME", "TMPDIR", "RAY_TMPDIR"):
            (folder / name).mkdir()
            patch.setenv(name, str(folder / name))
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.chdir(ROOT)
        ray("get-auth-token", "--generate")
        (folder / "cloud").mkdir()
        with Cloud(folder / "cloud", image, binds=(str(data),)) as cloud:
            spend(cloud, folder / "cluster.yaml", seen)
            yield seen


def spend(cloud: Cloud, file: Path, seen: Night) -> None:
    prepare_account()
    group = cloud.ec2.create_security_group(GroupName="lps", Description="lps")["GroupId"]
    file.write_text(yaml.safe_dump(overlay(yaml.safe_load((ROOT / "cluster.yaml").read_text()), group)))
    try:
        up(cloud, file)
        seen.refused = without_token(cloud.head()["PrivateIpAddress"], file)
        with sweep(file, "evening") as (process, output):
            wait_for(lambda: len(cloud.workers()) == 2 and len(checkpoints()) == len(runs()), process, output)
            seen.workers = cloud.workers()
            worker = worker_of_last(cloud)
            # A reclaim without notice costs these updates, and the next checkpoint is some seconds away.
            wait_for(lambda: 300 <= unsaved(output.read_text()) < 700, process, output)
            cloud.reclaim(worker)
            seen.reclaimed = checkpoints()
            cloud.say(f"reclaimed {worker['InstanceId']} at steps {sorted(seen.reclaimed.values())}")
            wait_for(lambda: advanced(seen.reclaimed), process, output)
            worker = worker_of_last(cloud)
            cloud.notify(worker, NOTICE)
            time.sleep(NOTICE)
            cloud.reclaim(worker)
            seen.noticed = checkpoints()
            cloud.say(f"reclaimed {worker['InstanceId']} with notice at steps {sorted(seen.noticed.values())}")
            wait_for(lambda: advanced(seen.noticed), process, output)
            seen.down, seen.evening = checkpoints(), output.read_text()
            assert down(cloud, file) == []
            cloud.say(f"ray down at steps {sorted(seen.down.values())}")
        up(cloud, file)
        with sweep(file, "morning") as (process, output):
            seen.code = process.wait(PATIENCE)
            seen.morning = output.read_text()
        cloud.say(f"the sweep is done: {seen.code}")
        answer = ray("exec", "--no-config-cache", str(file), "cd lps && python tests/cluster/ask.py")
        seen.answer = json.loads(answer.partition("ANSWER ")[2].splitlines()[0])
        began = time.monotonic()
        wait_for(lambda: not cloud.workers())
        seen.idle_after = time.monotonic() - began
        cloud.say("idle workers are gone")
    finally:
        seen.left = down(cloud, file)


def up(cloud: Cloud, file: Path) -> None:
    cloud.say("ray up")
    ray("up", "--yes", "--no-config-cache", str(file))
    cloud.say("ray up is done")


def down(cloud: Cloud, file: Path) -> list[str]:
    """`ray down`; the instances that it has left."""
    subprocess.run(["ray", "down", "--yes", str(file)], capture_output=True, timeout=PATIENCE)
    cloud.say("ray down is done")
    return [i["InstanceId"] for i in cloud.instances("pending", "running", "stopping", "stopped")]


@contextlib.contextmanager
def sweep(file: Path, when: str) -> Iterator[tuple[subprocess.Popen, Path]]:
    """The user's command on the head, and the file of what it prints."""
    command = " ".join(["cd lps && python sweeps/ogbench_all.py", *TINY, *SWEEP])
    output = file.parent / f"{when}.log"
    with output.open("w") as log:
        words = ["ray", "exec", "--no-config-cache", str(file), command]
        process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield process, output
    finally:
        process.kill()
        process.wait()


def prepare_account() -> None:
    iam = boto3.client("iam")
    for name in ("lps-head", "lps-worker"):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    boto3.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})


def without_token(address: str, file: Path) -> dict[str, bool]:
    """What was refused: from another machine of the network, and on the head itself."""
    code = f"from ray._raylet import GcsClient; GcsClient(address='{address}:6379').get_all_node_info()"
    asked = {
        mode: subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "RAY_AUTH_MODE": mode}, capture_output=True, timeout=120
        ).returncode
        for mode in ("token", "disabled")
    }
    assert asked["token"] == 0, "the token itself must do"
    jobs = "curl -s -o /dev/null -w 'CODE %{http_code} ' http://127.0.0.1:8265/api/jobs/"
    answers = ray(
        "exec", "--no-config-cache", str(file), f'{jobs}; {jobs} -H "Authorization: Bearer $(cat ~/.ray/auth_token)"'
    )
    codes = [word for before, word in zip(answers.split(), answers.split()[1:], strict=False) if before == "CODE"]
    assert codes[1] == "200"
    closed = {
        f"port {port}": subprocess.run(["curl", "-s", "-m", "5", f"http://{address}:{port}/"]).returncode == 7
        for port in (8265, 5000)  # the dashboard, MLflow
    }
    return {"state": asked["disabled"] != 0, "jobs": codes[0] == "401", **closed}


def ray(*arguments: str) -> str:
    result = subprocess.run(
        ["ray", *arguments], capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
    )
    assert result.returncode == 0, f"ray {arguments[0]}: {(result.stdout + result.stderr)[-3000:]}"
    return result.stdout


def checkpoints() -> dict[str, int]:
    """The step of each run's checkpoint in S3."""
    try:
        store = Store(RESULTS, create=False)
    except Exception:  # the sweep has not begun
        return {}
    stored = {run.id: checkpoint_path(run) for run in runs() if store.exists(checkpoint_path(run))}
    return {name: Checkpoint.from_bytes(store.read_bytes(path), path).step for name, path in stored.items()}


def advanced(before: dict[str, int]) -> bool:
    """Whether every run has a later checkpoint than before, or is done."""
    return all(step > before[run] or step == STEPS for run, step in checkpoints().items())


def worker_of_last(cloud: Cloud) -> dict[str, Any]:
    """The instance that trains the run with the fewest updates."""
    steps = checkpoints()
    docs = {doc["id"]: doc for doc in Store(RESULTS, create=False).runs()}
    host = docs[min(steps, key=lambda run: steps[run])]["host"]
    return next(worker for worker in cloud.workers() if host == host_name(worker["InstanceId"]))


def rows(log: str) -> list[tuple[str, str, int]]:
    """Agent, state and step in each row of the console's live table, from the oldest to the newest."""
    lines = re.sub(r"\x1b\[[\d;]*[A-Za-z]|\r", "", log).splitlines()
    found = [re.match(rf"(\w+) cube-single .* (starting|training)\b.* (\d+)/{STEPS}", line) for line in lines]
    return [(match[1], match[2], int(match[3])) for match in found if match]


def unsaved(log: str) -> int:
    """The updates that LPS, the slower agent, shows beyond its checkpoint."""
    shown = [step for agent, _, step in rows(log) if agent == "lps"]
    return shown[-1] - min(checkpoints().values()) if shown else 0


def repeated(log: str) -> list[int]:
    """The updates that were repeated after each restart of a pack: from the last step that its worker reported to the
    first step of the next one, as the live table of the console shows them."""
    found, last = [], dict[str, int]()
    for agent, state, step in rows(log):
        if state == "starting":
            last[agent] = step
        elif agent in last:
            found.append(max(0, last.pop(agent) - step))
    return found


def wait_for(condition: Callable[[], bool], process: Any = None, output: Path | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        said = output.read_text()[-5000:] if output else ""
        assert time.monotonic() < deadline, f"took too long: {said}"
        assert process is None or process.poll() is None, f"the sweep ended too early: {said}"
        time.sleep(1)


# --- what must hold ---


def test_the_workers_were_spot_instances_with_encrypted_disks_and_their_own_role(night: Night) -> None:
    assert len(night.workers) == 2
    for worker in night.workers:
        assert worker["tags"]["ray-user-node-type"] == "gpu_spot" and worker["InstanceLifecycle"] == "spot"
        assert worker["MetadataOptions"]["HttpTokens"] == "required"


def test_the_sweep_survived_the_reclaim_from_its_checkpoints(night: Night) -> None:
    assert "restarted" in night.evening
    assert 0 < min(night.reclaimed.values()) <= min(night.noticed.values()) < min(night.down.values())


def test_a_notice_saves_the_updates_since_the_checkpoint(night: Night) -> None:
    without, noticed = repeated(night.evening)
    print(f"updates repeated: {without} without notice, {noticed} with notice", flush=True)
    assert noticed < without


def test_in_the_morning_the_same_command_went_on_from_the_checkpoints(night: Night) -> None:
    assert min(night.down.values()) < STEPS and "runs are done" not in night.evening
    assert night.code == 0, night.morning[-3000:]
    assert "4 of 4 runs are done" in night.morning


def test_every_run_is_done_once_with_the_rows_of_an_undisturbed_training(
    night: Night, data: Path, tmp_path: Path
) -> None:
    alone, ours = Store(tmp_path / "alone"), Store(RESULTS, create=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPS_DATA_MIRROR", str(data))
        train(runs(), alone, TrainOptions("cpu", data_dir=str(tmp_path / "data"), log_interval=150))
    assert {doc["id"]: doc["status"] for doc in ours.runs()} == {run.id: "done" for run in runs()}
    episodes, expected = (sorted(store.read_episodes().to_pylist(), key=str) for store in (ours, alone))
    assert episodes == expected
    rows = [(row["run_id"], row["step"], row["metric"]) for row in ours.read_metrics().to_pylist()]
    assert len(rows) == len(set(rows))
    assert ours.problems == []


def test_mlflow_has_every_run_once(night: Night) -> None:
    assert night.answer["mlflow"] == {run.id: 1 for run in runs()}
    assert night.answer["parents"] == 1 and night.answer["statuses"] == ["FINISHED"]


def test_nothing_is_left(night: Night) -> None:
    assert night.answer["groups"] == []
    assert night.idle_after < 300
    assert night.left == []


def test_without_the_token_nothing_is_answered(night: Night) -> None:
    assert night.refused == {"state": True, "jobs": True, "port 8265": True, "port 5000": True}
