"""Export the policy of a checkpoint as one safetensors file, without optimizer and without networks that acting does
not need."""

from __future__ import annotations

import argparse

HELP = "export the policy of a checkpoint as a safetensors file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="path or URI of a checkpoint")
    parser.add_argument("output", metavar="FILE.safetensors", help="policy file to write")


def run(arguments: argparse.Namespace) -> int:
    import hashlib

    from lps.errors import printable
    from lps.files import local_path, read_file
    from lps.policy.file import policy_of, save_policy
    from lps.runs.checkpoint import Checkpoint
    from lps.runs.provenance import versions

    data = read_file(arguments.checkpoint)
    checkpoint = Checkpoint.from_bytes(data, arguments.checkpoint)
    digest = hashlib.sha256(data).hexdigest()
    policy = policy_of(checkpoint, checkpoint_sha256=digest, exported_with=versions())
    save_policy(policy, arguments.output)
    path = local_path(arguments.output).resolve()
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    for name, value in policy.metadata.items():
        if not isinstance(value, dict) or name == "observation":
            print(printable(f"  {name}: {value}"))
    return 0
