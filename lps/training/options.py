"""TrainOptions: how runs are trained, as one value from the command line to the trainer. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from lps.errors import UserError, suggest

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "tf32", "bf16")
IF_BUSY = ("wait", "skip", "stop")
"""What to do about runs that another process trains: train them when they are free, leave them out, or train nothing
at all."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of `lps.training.trainer.train`. No option is part of a run's id. UserError for a bad value."""

    device: str = "auto"
    """"cpu", "cuda" or "auto": cuda if a GPU is available."""
    device_share: float = 1.0
    """Fraction of the GPU's memory for this training, in (0, 1]."""
    precision: str = "float32"
    """Precision of the updates, from PRECISIONS; see lps.training.program. "float32" is the reference."""
    compile: bool = False
    """Whether torch compiles the updates: a slow start, then faster updates."""
    data_dir: str | None = None
    """Directory of the datasets. Default: $LPS_DATA_DIR or ~/.ogbench/data."""
    checkpoint_seconds: float = 120.0
    """Seconds between checkpoints. A crash loses at most this much training."""
    log_interval: int = 1000
    """Updates between logged metrics."""

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise UserError(suggest(self.device, DEVICES, "device") + ". Select a GPU with CUDA_VISIBLE_DEVICES")
        check_precision(self.precision, self.device)
        if not 0 < self.device_share <= 1:
            raise UserError(f"device_share is {self.device_share:g}; give a fraction in (0, 1]")
        if not self.checkpoint_seconds >= 0:
            raise UserError(f"checkpoint_seconds is {self.checkpoint_seconds:g}; give 0 or more seconds")
        if self.log_interval < 1:
            raise UserError(f"log_interval is {self.log_interval}; give 1 or more updates")


def check_precision(precision: str, device: str) -> None:
    """Raise UserError if `precision` does not exist or `device` ("cpu", "cuda" or "auto") does not support it."""
    if precision not in PRECISIONS:
        raise UserError(suggest(precision, PRECISIONS, "precision"))
    if precision == "tf32" and device == "cpu":
        raise UserError("precision tf32 requires an NVIDIA GPU; on the CPU, use float32 or bf16")
