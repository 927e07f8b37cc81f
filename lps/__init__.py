"""Latent Policy Steering and its rivals: the library.

Everything scientific lives here: tasks, data, agents, training, evaluation and the result store.  It runs on a
laptop, a robot or a bare GPU machine; orchestration (`sweeps`) and figures (`analysis`) are built on top of it and
never imported from it.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Policy", "Run", "load_policy", "train"]

if TYPE_CHECKING:
    from lps.policy.file import load_policy
    from lps.policy.policy import Policy
    from lps.runs.run import Run
    from lps.training.trainer import train

_HOMES = {
    "Policy": "lps.policy.policy",
    "load_policy": "lps.policy.file",
    "Run": "lps.runs.run",
    "train": "lps.training.trainer",
}


def __getattr__(name: str) -> Any:
    # Names are fetched on first use, so that `import lps` does not pay for torch.
    if name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value  # a submodule of the same name (lps.training.trainer) must not hide it
        return value
    raise AttributeError(f"module 'lps' has no attribute {name!r}")
