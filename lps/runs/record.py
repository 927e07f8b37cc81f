"""The values that the results store keeps."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Episode:
    """One evaluation episode: a row of EPISODES, less its run and step."""

    episode: int
    env_seed: int
    success: bool | None
    """None where the task has no success."""
    return_: float
    length: int

    def row(self) -> dict[str, Any]:
        return {name.rstrip("_"): value for name, value in vars(self).items()}
