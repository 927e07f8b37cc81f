"""The values that the results store keeps."""

from __future__ import annotations

from collections.abc import Mapping
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

    @staticmethod
    def of_row(row: Mapping[str, Any]) -> Episode:
        """The episode of a row of the results store."""
        return Episode(row["episode"], row["env_seed"], row["success"], row["return"], row["length"])

    def row(self) -> dict[str, Any]:
        return {name.rstrip("_"): value for name, value in vars(self).items()}
