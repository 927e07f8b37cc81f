"""An EC2 on one machine: moto answers the API, and every instance that it calls running is a real host.

A host is a network namespace with the instance's address, its own processes, files and sshd (host.sh), which accepts
the instance's key pair. A terminated one vanishes without a word, as a reclaimed spot instance does. A metadata service
gives notices before. S3 and IAM are moto's alone. Nothing leaves the machine: the addresses are on a bridge, and behind
it there is no way on.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from metadata import Metadata, served
from moto.ec2.responses.instances import InstanceResponse
from moto.server import ThreadedMotoServer

HERE = Path(__file__).resolve().parent
BRIDGE, GATEWAY, NETWORK, PORT = "lps-cloud", "172.31.255.254", "172.31.0.0/16", 5000
METADATA_PORT = 5001
REGION, IMAGE, USER = "us-west-2", "ami-1e749f67", "ubuntu"
NEEDED = ("ip", "unshare", "setpriv", "nsenter", "tini", "rsync", "ssh", "ssh-keygen", "sshd", "curl", "make")
ENVIRONMENT = {
    "AWS_ENDPOINT_URL": f"http://{GATEWAY}:{PORT}",
    "LPS_METADATA_URL": f"http://{GATEWAY}:{METADATA_PORT}",  # on AWS it is the default
    "AWS_ACCESS_KEY_ID": "test",  # on AWS the instance profile gives the credentials
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
}


def unavailable() -> str | None:
    """Why this machine cannot play a cloud; None if it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        return f"needs {', '.join(missing)} (apt install openssh-server rsync iproute2 tini util-linux curl make)"
    for command in (["unshare", "--pid", "--mount", "--uts", "--ipc", "--fork", "true"], ["ip", "netns", "list"]):
        if (result := subprocess.run(command, capture_output=True, text=True)).returncode:
            return f"namespaces are not allowed here: {result.stderr.strip()}"
    return None


def host_name(instance: str) -> str:
    """The host name of an instance, which is the name of its network namespace too."""
    return f"lps-{instance[-8:]}"


class Cloud:
    """The cloud while a `with` block lasts. `image` are lines of shell that every host's login starts with."""

    def __init__(self, folder: Path, image: str = "", binds: tuple[str, ...] = ()):
        self.folder, self.image = folder, image
        python = [path for path in sys.path if "site-packages" in path]
        self.binds = sorted({sys.prefix, sys.base_prefix, *python, *binds}, key=len)
        self.hosts: dict[str, subprocess.Popen[bytes]] = {}
        self._stop = threading.Event()
        self._metadata = contextlib.ExitStack()
        self._watcher = threading.Thread(target=self._watch, name="cloud")

    def __enter__(self) -> "Cloud":
        os.environ.update(ENVIRONMENT)
        self.down()  # of a test that was killed
        # Before anything else: an address that moto invents must never be looked for outside.
        run("ip", "route", "replace", "blackhole", NETWORK, "metric", "9999")
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{GATEWAY}/16", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "host_key"))
        _launch_as_many_as_asked()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
        self.moto = ThreadedMotoServer(ip_address=GATEWAY, port=PORT, verbose=False)
        self.moto.start()
        self._metadata.enter_context(served(GATEWAY, METADATA_PORT))
        self.ec2: Any = boto3.client("ec2")
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._watcher.join()
        for instance in list(self.hosts):
            self._vanish(instance)
        self._metadata.close()
        self.moto.stop()
        self.down()

    @staticmethod
    def down() -> None:
        for name in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split():
            if name.startswith("lps-"):
                run("ip", "netns", "del", name)
        if Path(f"/sys/class/net/{BRIDGE}").exists():
            run("ip", "link", "del", BRIDGE)
        subprocess.run(["ip", "route", "del", "blackhole", NETWORK, "metric", "9999"], capture_output=True)

    # --- instances ---

    def instances(self, *states: str) -> list[dict[str, Any]]:
        """EC2's instances in these states; each with its tags as `tags`."""
        pages = self.ec2.describe_instances()["Reservations"]
        found = [instance for page in pages for instance in page["Instances"]]
        for instance in found:
            instance["tags"] = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
        return [instance for instance in found if instance["State"]["Name"] in states]

    def workers(self) -> list[dict[str, Any]]:
        return [i for i in self.instances("pending", "running") if i["tags"].get("ray-node-type") == "worker"]

    def head(self) -> dict[str, Any]:
        [head] = [i for i in self.instances("running") if i["tags"].get("ray-node-type") == "head"]
        return head

    def notify(self, instance: dict[str, Any], seconds: float) -> None:
        """Tells a spot instance that it will be taken away after so many seconds."""
        when = datetime.now(UTC) + timedelta(seconds=seconds)
        action = {"action": "terminate", "time": when.strftime("%Y-%m-%dT%H:%M:%SZ")}
        Metadata.notices[instance["PrivateIpAddress"]] = json.dumps(action)

    def reclaim(self, instance: dict[str, Any]) -> None:
        """Takes a spot instance away."""
        self.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            running = {instance["InstanceId"]: instance for instance in self.instances("running")}
            for name in set(self.hosts) - set(running):
                self._vanish(name)
            for name in set(running) - set(self.hosts):
                self._boot(running[name])

    def _boot(self, instance: dict[str, Any]) -> None:
        name, address = instance["InstanceId"], instance["PrivateIpAddress"]
        space, cable, folder = host_name(name), f"v-{name[-8:]}", self.folder / name
        (folder / "memory").mkdir(parents=True)
        pairs = self.ec2.describe_key_pairs(KeyNames=[instance["KeyName"]], IncludePublicKey=True)["KeyPairs"]
        (folder / "key.pub").write_text(pairs[0]["PublicKey"] + "\n")
        shutil.copy(self.folder / "host_key", folder)
        exports = "".join(f"export {key}={value}\n" for key, value in ENVIRONMENT.items())
        (folder / "image.sh").write_text(exports + self.image)
        run("ip", "netns", "add", space)
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "link", "set", cable, "master", BRIDGE, "up")
        run("ip", "-n", space, "addr", "add", f"{address}/16", "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", space, "link", "set", device, "up")
        # Ray takes for its own address the one from which a packet would leave.
        run("ip", "-n", space, "route", "add", "default", "via", GATEWAY)
        unshare = ["unshare", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child"]
        with (folder / "log").open("w") as log:
            self.hosts[name] = subprocess.Popen(
                # A host does not outlive the test, however that ends.
                ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", space, *unshare]
                + [str(HERE / "host.sh"), space, str(folder), USER],
                env={**os.environ, "BINDS": ":".join(self.binds), "VENV": sys.prefix},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.say(f"{name} {instance['InstanceType']} {instance.get('InstanceLifecycle', 'on-demand')} {address}")

    def _vanish(self, name: str) -> None:
        space, cable = host_name(name), f"v-{name[-8:]}"
        run("ip", "link", "set", cable, "down")  # first the cable: nobody hears it die
        host = self.hosts.pop(name)
        host.kill()
        host.wait()
        run("ip", "netns", "del", space)
        self.say(f"{name} gone")

    def say(self, line: str) -> None:
        """Prints what happens, as it happens, for whoever looks at a test that failed."""
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _launch_as_many_as_asked() -> None:
    """moto launches MinCount instances; EC2 launches MaxCount if it can."""
    original = InstanceResponse._get_param

    def get_param(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        most = original(self, "MaxCount", if_none=None) if name == "MinCount" else None
        return most or original(self, name, *args, **kwargs)

    InstanceResponse._get_param = get_param  # type: ignore[method-assign]


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout
