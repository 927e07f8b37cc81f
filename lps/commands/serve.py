"""Serve a policy to robots over websockets, in openpi's protocol. Ctrl-C stops the server."""

from __future__ import annotations

import argparse
import os

from lps.errors import at_least
from lps.training.options import DEVICES

HELP = "serve a policy to robots (openpi's websocket protocol)"
TOKEN = "LPS_TOKEN"


def add_token_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--token-file", metavar="FILE", help=f"file with the server's token (default: ${TOKEN})")


def token_of(arguments: argparse.Namespace) -> str:
    """Return the token of --token-file or of the environment, "" where there is none.  UserError for a file that
    cannot be read or holds no token."""
    from lps.errors import UserError
    from lps.files import read_file

    if arguments.token_file is None:
        return os.environ.get(TOKEN, "")
    token = read_file(arguments.token_file).decode(errors="replace").strip()
    if not token or not token.isascii() or not token.isprintable():
        raise UserError(f"{arguments.token_file} holds no token. Write one line of letters and digits into it")
    return token


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", help="path or URI of a policy file or checkpoint")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=at_least(0, 65535), default=8000, help="port (default: 8000; 0: any free port)")
    add_token_argument(parser)
    parser.add_argument("--device", default="cpu", choices=DEVICES, help="device of the policy (default: cpu)")
    parser.add_argument("--threads", type=at_least(1, 1024), default=1, help="CPU threads of inference (default: 1)")
    parser.add_argument(
        "--window-ms", type=at_least(0.0, 1000.0), default=1.0, help="wait for other clients' requests (default: 1)"
    )
    parser.add_argument("--rate", type=at_least(0.001, 1e6), help="control rate in Hz to tell clients")
    parser.add_argument("--record", metavar="DIR", help="folder for requests and answers, one npz file per episode")
    parser.add_argument("--record-gb", type=at_least(0.0), default=10.0, help="largest size of DIR in GB (default: 10)")


def run(arguments: argparse.Namespace) -> int:
    import asyncio
    import contextlib
    import hashlib
    import ipaddress
    import signal
    import sys

    from lps.files import local_path, read_file
    from lps.policy.file import load_policy
    from lps.policy.recorder import Recorder
    from lps.policy.server import PolicyServer
    from lps.training.program import chosen_device

    token = token_of(arguments)
    digest = hashlib.sha256(read_file(arguments.policy)).hexdigest()
    policy = load_policy(arguments.policy).to(chosen_device(arguments.device))
    recorder = Recorder(local_path(arguments.record), int(arguments.record_gb * 1e9)) if arguments.record else None
    about = {"policy_sha256": digest, "control_rate": arguments.rate or policy.run.resolved_task.options.get("rate")}
    server = PolicyServer(
        policy, about, token=token, window=arguments.window_ms / 1e3, threads=arguments.threads, recorder=recorder
    )
    loopback = arguments.host == "localhost"
    with contextlib.suppress(ValueError):
        loopback = ipaddress.ip_address(arguments.host).is_loopback
    if not loopback and not token:
        print(f"warning: everyone who reaches {arguments.host} can use this policy. Set ${TOKEN}", file=sys.stderr)

    def ready(port: int) -> None:
        name = f"{policy.run.agent} for {policy.run.task} at step {policy.step}"
        print(f"serving {name} on ws://{arguments.host}:{port}", flush=True)

    async def serve() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await server.run(arguments.host, arguments.port, ready)

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(serve())
    return 0
